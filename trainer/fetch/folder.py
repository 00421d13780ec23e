"""A base's folder while it is fetched: the record of what it holds, the lock, and which files are the hub's."""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from environment.base import check_base
from fetch.hubs import WORK, HubFile
from protocol import write_whole

RECORD = ".temper-source.json"
_BLOCK = 8 * 1024 * 1024


def read_record(folder: Path) -> dict[str, Any] | None:
    """What was fetched into the folder, if each file still has its size; None without a record or with other files."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        sizes = {file["name"]: file["size"] for file in record["files"]}
        whole = sizes and all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if whole and {"source", "revision", "commit"} <= record.keys() else None


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """The last thing of a fetch: from now on the folder is whole."""
    write_whole(folder / RECORD, json.dumps(record, indent=2) + "\n")


def is_own_and_complete(folder: Path) -> bool:
    """Whether somebody has put a whole base there by other means."""
    if not folder.is_dir() or is_begun(folder) or (folder / RECORD).exists():
        return False
    return all(item.verdict != "error" for item in check_base(folder, None) if item.name != "template")


def is_begun(folder: Path) -> bool:
    """Whether a fetch into the folder was begun and not ended, so that a wrong file in it is the fetch's own."""
    return (folder / WORK / "begun").exists()


def begin(folder: Path, source: str) -> None:
    write_whole(folder / WORK / "begun", f"{source}\n")


def end(folder: Path) -> None:
    """Remove all that was of use only to the fetch; under the lock."""
    shutil.rmtree(folder / WORK)


def undo(folder: Path) -> None:
    """Leave no trace of a fetch that has fetched nothing; under the lock."""
    if not is_begun(folder):
        end(folder)
        with suppress(OSError):
            folder.rmdir()


@contextmanager
def locked(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the folder against other fetches; `waiting` is called each second until they are done."""
    path = folder / WORK / "lock"
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # another fetch has just ended and taken its folder away
            continue
        while not _lock(descriptor):
            waiting()
            time.sleep(1)
        if _is_at(descriptor, path):
            break
        os.close(descriptor)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def fault(path: Path, file: HubFile) -> tuple[str | None, str]:
    """What is wrong with a file by the hub's listing (None: nothing), and its sha256; it is on the disk then."""
    size = path.stat().st_size
    if size != file.size:
        return f"it has {size} bytes, the hub lists {file.size}", ""
    sha256, git_sha1 = hashlib.sha256(), hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as content:
        while block := content.read(_BLOCK):
            sha256.update(block)
            if file.git_sha1 is not None:
                git_sha1.update(block)
        os.fsync(content.fileno())
    found = sha256.hexdigest()
    if file.sha256 is not None and found != file.sha256:
        return f"its sha256 is {found}, the hub states {file.sha256}", found
    if file.git_sha1 is not None and git_sha1.hexdigest() != file.git_sha1:
        return f"its git id is {git_sha1.hexdigest()}, the hub states {file.git_sha1}", found
    return None, found


def set_aside(path: Path) -> Path:
    """Rename somebody's file that is not the hub's, so that nothing of theirs is lost."""
    number, aside = 1, path.with_name(f"{path.name}.before-fetch")
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{path.name}.before-fetch-{number}")
    path.rename(aside)
    return aside
