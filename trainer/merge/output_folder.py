"""A folder that is being written, shard by shard: whose it is, what of it is finished, and what may be replaced."""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from merge.stream import file_digest
from protocol import TemperError, write_whole

STATE_NAME = ".merge.json"
RECORD_NAME = "merge.json"


class OutputFolder:
    """Holds a lock on the folder while open; `finished` has what earlier attempts completed and recorded.

    `identity` names all that goes in. A folder with another identity is replaced only if it has the same `owner`;
    one without a record is refused unless it is empty.
    """

    def __init__(self, path: Path, identity: str, owner: str | None, record_name: str = RECORD_NAME) -> None:
        self.path = path
        self.identity = identity
        self.owner = owner
        self.record_name = record_name
        self.finished: dict[str, dict[str, Any]] = {}
        self._put: dict[str, bytes] = {}
        self._lock = -1

    def __enter__(self) -> "OutputFolder":
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise TemperError("HostError", f"another process is writing {self.path}: wait for it, or stop it") from None
        try:
            self._begin()
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        os.close(self._lock)

    def reuse(self, name: str) -> dict[str, Any] | None:
        """What is recorded of a finished shard, if the file is still what was recorded."""
        row = self.finished.get(name)
        path = self.path / name
        if row is None or not path.is_file() or path.stat().st_size != row["bytes"]:
            return None
        return row if file_digest(path) == row["digest"] else None

    def add(self, row: dict[str, Any]) -> None:
        """Record a finished shard: `file`, `bytes`, `digest` and more."""
        self.finished[row["file"]] = row
        self._save(self.identity)

    def put(self, name: str, content: bytes) -> None:
        """Write a small file, unless it already says just this."""
        path = self.path / name
        self._put[name] = content
        if not path.is_file() or path.is_symlink() or path.read_bytes() != content:
            _replace(path, content)
        path.chmod(0o644)

    def digest(self) -> str:
        """Hex sha256 over the names and digests of the finished shards and of all small files that were put."""
        return _digest_of_files(self.finished.values(), self._small_files())

    def finish(self, record: dict[str, Any]) -> None:
        """Write the record that makes the folder a finished one, last of all."""
        self.path.chmod(0o755)
        parts = {"files": self._small_files(), "shards": list(self.finished.values())}
        content = {"identity": self.identity, "owner": self.owner, **record, **parts}
        write_whole(self.path / self.record_name, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        (self.path / STATE_NAME).unlink(missing_ok=True)

    def _small_files(self) -> dict[str, str]:
        return {name: hashlib.sha256(content).hexdigest() for name, content in self._put.items()}

    def _begin(self) -> None:
        for leftover in [*self.path.glob(".*.tmp"), *self.path.glob(".*.partial")]:
            leftover.unlink()
        record = self._read(STATE_NAME) or self._read(self.record_name)
        present = sorted(entry.name for entry in self.path.iterdir())
        if record is None:
            if present:
                raise TemperError(
                    "ConfigError",
                    f"{self.path} is not empty and was not written by a merge: choose a new folder",
                    present=present[:20],
                )
        elif record.get("identity") == self.identity:
            self.finished = {row["file"]: row for row in record.get("shards", [])}
        elif self.owner is None or record.get("owner") != self.owner:
            whose = f" of {record['owner']}" if record.get("owner") else ""
            raise TemperError(
                "ConfigError",
                f"{self.path} holds another merge{whose} (other base, adapter, type or owner): choose a new folder or "
                "delete this one",
            )
        else:
            self._clear(present)
        self._save(self.identity)

    def _clear(self, present: list[str]) -> None:
        """Empty a folder that this owner wrote; until that is done its state belongs to no merge at all."""
        self._save(None)
        for name in present:
            path = self.path / name
            if name != STATE_NAME and (path.is_file() or path.is_symlink()):
                path.unlink()

    def _save(self, identity: str | None) -> None:
        content = {"identity": identity, "owner": self.owner, "shards": list(self.finished.values())}
        write_whole(self.path / STATE_NAME, json.dumps(content))

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            record = json.loads((self.path / name).read_bytes())
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) else None


def check_folder(path: Path) -> tuple[str, list[str]]:
    """The digest of what a merge recorded of its folder, and the names of the files that are not so any more."""
    record = json.loads((path / RECORD_NAME).read_bytes())
    small: dict[str, str] = record["files"]
    changed = [row["file"] for row in record["shards"] if _digest(path / row["file"], file_digest) != row["digest"]]
    changed += [name for name, digest in small.items() if _digest(path / name, _sha256) != digest]
    return _digest_of_files(record["shards"], small), changed


def _digest(path: Path, digest: Callable[[Path], str]) -> str | None:
    return digest(path) if path.is_file() else None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digest_of_files(shards: Iterable[dict[str, Any]], small: dict[str, str]) -> str:
    return digest_of({row["file"]: row["digest"] for row in shards} | small)


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole; its name becomes durable with the next state or record, which syncs the folder."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def index_file(shards: Iterable[Any]) -> bytes:
    """The index that names the file of each tensor, for the shards of a whole model."""
    names = {tensor.name: shard.name for shard in shards for tensor in shard.tensors}
    parameters = sum(tensor.source.elements for shard in shards for tensor in shard.tensors)
    size = sum(shard.size - len(shard.header) for shard in shards)
    index = {
        "metadata": {"total_parameters": parameters, "total_size": size},
        "weight_map": dict(sorted(names.items())),
    }
    return (json.dumps(index, indent=2) + "\n").encode()


def digest_of(parts: dict[str, Any]) -> str:
    """Hex sha256 of plain values, independent of their order."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
