"""Judges files in a pool of processes, each file once for as long as it does not change."""

import json
import os
import signal
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from protocol import TemperError

_POOL_FROM = 32
"""Fewer files than this are judged in the process itself; starting others would take longer."""
_LOOKUP = 500


class Verdict(Protocol):
    """What every verdict on a file says."""

    sha256: str
    error: str | None


V = TypeVar("V", bound=Verdict)


@dataclass(frozen=True)
class Kind(Generic[V]):
    """A kind of file: its name, the version that verdicts hang on, how to judge one, and the verdict's class."""

    name: str
    version: str
    judge: Callable[[str], tuple[int, int, V]]
    verdict: type[V]


class Pool:
    """Processes, started when first needed."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self._executor: ProcessPoolExecutor | None = None

    def map(self, function: Callable[[str], Any], paths: list[str]) -> Iterator[Any]:
        """`function` of each path, in order, in the pool if it is worth it."""
        if len(paths) < _POOL_FROM or self.processes < 2:
            return map(function, paths)
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                self.processes, mp_context=get_context("fork"), initializer=_die_with, initargs=(os.getpid(),)
            )
        return self._executor.map(function, paths, chunksize=max(1, min(16, len(paths) // (self.processes * 4))))

    def close(self) -> None:
        """End the processes."""
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)


def _die_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends, however that happens."""
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class FileJudge(Generic[V]):
    """Verdicts on files of one kind by absolute path; remembered in `cache` by (path, size, mtime, version)."""

    def __init__(self, kind: Kind[V], pool: Pool, cache: sqlite3.Connection | None) -> None:
        self._kind, self._pool, self._cache = kind, pool, cache
        self._verdicts: dict[str, V] = {}
        self.judged = 0
        if cache is not None:
            cache.execute(
                f"CREATE TABLE IF NOT EXISTS {kind.name} "
                "(path TEXT PRIMARY KEY, size INT, mtime INT, version TEXT, verdict TEXT) WITHOUT ROWID"
            )

    def __getitem__(self, path: str) -> V:
        return self._verdicts[path]

    def values(self) -> Iterable[V]:
        """All verdicts so far."""
        return self._verdicts.values()

    def judge(self, paths: Iterable[str]) -> None:
        """Judge those of `paths` that have not been judged yet."""
        new = [path for path in dict.fromkeys(paths) if path not in self._verdicts]
        if new and self._cache is not None:
            new = self._recall(new)
        if not new:
            return
        remembered = []
        try:
            for path, (size, mtime, verdict) in zip(new, self._pool.map(self._kind.judge, new), strict=True):
                self._verdicts[path] = verdict
                if size:
                    values = json.dumps(list(asdict(verdict).values()))  # type: ignore[call-overload]
                    remembered.append((path, size, mtime, self._kind.version, values))
        except (BrokenProcessPool, MemoryError) as error:
            last = next((path for path in new if path not in self._verdicts), new[-1])
            message = (
                f"A process that decodes {self._kind.name} was killed at or after {last}, most likely for memory: "
                "free some, or give the validation fewer --processes"
            )
            raise TemperError("HostError", message) from error
        self.judged += len(new)
        if self._cache is not None:
            self._cache.executemany(f"REPLACE INTO {self._kind.name} VALUES (?, ?, ?, ?, ?)", remembered)
            self._cache.commit()

    def _recall(self, paths: list[str]) -> list[str]:
        """Take what the cache knows and what still holds; returns the other paths."""
        assert self._cache is not None
        unknown = []
        for start in range(0, len(paths), _LOOKUP):
            part = paths[start : start + _LOOKUP]
            marks = ", ".join("?" * len(part))
            rows = self._cache.execute(f"SELECT * FROM {self._kind.name} WHERE path IN ({marks})", part)
            known = {row[0]: row[1:] for row in rows}
            for path in part:
                row = known.get(path)
                if row is None or row[:3] != (*_identity(path), self._kind.version):
                    unknown.append(path)
                else:
                    self._verdicts[path] = self._kind.verdict(*json.loads(row[3]))
        return unknown


def open_cache(folder: Path) -> sqlite3.Connection:
    """The database of verdicts in `folder`; losing it costs only time, so it is not synced."""
    folder.mkdir(parents=True, exist_ok=True)
    cache = sqlite3.connect(folder / "media-verdicts.sqlite", timeout=60)
    cache.execute("PRAGMA journal_mode = WAL")
    cache.execute("PRAGMA synchronous = OFF")
    return cache


def read_file(path: str) -> tuple[int, int, bytes]:
    """A file's size in bytes, its mtime in ns and its content, all of one moment."""
    with open(path, "rb") as file:
        stat = os.fstat(file.fileno())
        return stat.st_size, stat.st_mtime_ns, file.read()


def _identity(path: str) -> tuple[int, int]:
    try:
        stat = os.stat(path)
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns
