"""Pictures, fully decoded by the decoder that training uses, each file judged once as long as it does not change."""

import hashlib
import os
import sqlite3
import warnings
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path

import PIL
from PIL import Image

_POOL_FROM = 32
"""Fewer pictures than this are decoded in the process itself; starting others would take longer."""


@dataclass(slots=True, frozen=True)
class Picture:
    """What a picture file is: digest of its bytes, size in pixels as decoded, and what is wrong or doubtful with it."""

    sha256: str
    width: int
    height: int
    mode: str
    format: str
    error: str | None = None
    orientation: int = 1
    hidden: bool = False
    """Some pixels are transparent; training shows the colors under them."""
    clipped: bool = False
    """16 bits a pixel: training clips everything above 255 to white."""


def judge_bytes(data: bytes) -> Picture:
    """Decode every pixel of an encoded picture and say what it is; never raises."""
    digest = hashlib.sha256(data).hexdigest()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(BytesIO(data)) as image:
                return _judge_image(image, digest)
    except Exception as error:
        return Picture(digest, 0, 0, "", "", error=_reason(error, data))


def _judge_image(image: Image.Image, digest: str) -> Picture:
    width, height = image.size
    kind, mode = image.format or "", image.mode
    orientation = image.getexif().get(0x0112, 1)
    # A smaller JPEG of the same coefficients: every byte is still decoded, only fewer pixels are computed.
    image.draft(None, (max(1, width // 8), max(1, height // 8)))
    image.load()
    clipped = hidden = False
    if mode != "RGB":
        image.crop((0, 0, 1, 1)).convert("RGB")
        if mode.startswith("I") or mode == "F":
            extrema = image.getextrema()
            clipped = isinstance(extrema[1], (int, float)) and extrema[1] > 255
        elif image.has_transparency_data:
            extrema = image.convert("RGBA").getchannel("A").getextrema()
            hidden = extrema[0] < 255
    return Picture(
        digest,
        width,
        height,
        mode,
        kind,
        orientation=orientation if isinstance(orientation, int) else 1,
        hidden=hidden,
        clipped=clipped,
    )


def _reason(error: Exception, data: bytes) -> str:
    if not data:
        return "the file is empty"
    text = str(error)
    if "cannot identify image file" in text:
        return f"it is no picture that Pillow knows (it begins with {data[:8]!r})"
    return f"{text or type(error).__name__}"


def judge_file(path: str) -> tuple[int, int, Picture]:
    """Read and judge one file; returns its size in bytes, its mtime in ns, and the verdict."""
    try:
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            return stat.st_size, stat.st_mtime_ns, judge_bytes(file.read())
    except OSError as error:
        return 0, 0, Picture("", 0, 0, "", "", error=f"it cannot be read ({error.strerror})")


def _judge_files(paths: list[str]) -> list[tuple[int, int, Picture]]:
    return [judge_file(path) for path in paths]


class PictureJudge:
    """Judges pictures in a pool of processes and remembers verdicts in a SQLite file by (path, size, mtime, Pillow)."""

    def __init__(self, cache_dir: Path | None, processes: int) -> None:
        self._verdicts: dict[str, Picture] = {}
        self._processes = processes
        self._pool: ProcessPoolExecutor | None = None
        self._cache = _open_cache(cache_dir) if cache_dir else None
        self.decoded = 0

    def __getitem__(self, path: str) -> Picture:
        return self._verdicts[path]

    def verdicts(self) -> Iterable[tuple[str, Picture]]:
        """All pictures seen so far, by absolute path."""
        return self._verdicts.items()

    def judge(self, paths: Iterable[str]) -> None:
        """Judge the files of `paths` that have not been judged yet."""
        new = [path for path in dict.fromkeys(paths) if path not in self._verdicts]
        if self._cache is not None:
            new = [path for path in new if not self._recall(path)]
        if not new:
            return
        for path, (size, mtime, verdict) in zip(new, self._run(new), strict=True):
            self._verdicts[path] = verdict
            if self._cache is not None and size:
                self._remember(path, size, mtime, verdict)
        self.decoded += len(new)
        if self._cache is not None:
            self._cache.commit()

    def close(self) -> None:
        """Stop the pool and close the cache."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        if self._cache is not None:
            self._cache.close()

    def _run(self, paths: list[str]) -> list[tuple[int, int, Picture]]:
        if len(paths) < _POOL_FROM or self._processes < 2:
            return _judge_files(paths)
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self._processes, mp_context=get_context("fork"))
        chunk = max(1, min(16, len(paths) // (self._processes * 4)))
        parts = [paths[start : start + chunk] for start in range(0, len(paths), chunk)]
        return [verdict for part in self._pool.map(_judge_files, parts) for verdict in part]

    def _recall(self, path: str) -> bool:
        assert self._cache is not None
        row = self._cache.execute("SELECT * FROM pictures WHERE path = ?", (path,)).fetchone()
        if row is None:
            return False
        try:
            stat = os.stat(path)
        except OSError:
            return False
        if (row[1], row[2], row[3]) != (stat.st_size, stat.st_mtime_ns, PIL.__version__):
            return False
        sha256, width, height, mode, kind, error, orientation, hidden, clipped = row[4:]
        self._verdicts[path] = Picture(
            sha256, width, height, mode, kind, error, orientation, bool(hidden), bool(clipped)
        )
        return True

    def _remember(self, path: str, size: int, mtime: int, verdict: Picture) -> None:
        assert self._cache is not None
        values = (path, size, mtime, PIL.__version__, verdict.sha256, verdict.width, verdict.height, verdict.mode)
        values += (verdict.format, verdict.error, verdict.orientation, verdict.hidden, verdict.clipped)
        self._cache.execute(f"REPLACE INTO pictures VALUES ({', '.join('?' * 13)})", values)


def _open_cache(folder: Path) -> sqlite3.Connection:
    folder.mkdir(parents=True, exist_ok=True)
    cache = sqlite3.connect(folder / "pictures-1.sqlite", timeout=30)
    cache.execute("PRAGMA journal_mode = WAL")
    cache.execute("PRAGMA synchronous = OFF")
    cache.execute(
        "CREATE TABLE IF NOT EXISTS pictures (path TEXT PRIMARY KEY, size INT, mtime INT, pillow TEXT, sha256 TEXT, "
        "width INT, height INT, mode TEXT, format TEXT, error TEXT, orientation INT, hidden INT, clipped INT)"
    )
    return cache
