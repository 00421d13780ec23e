"""Working ahead and writing behind, so that disk, arithmetic and hashing go on at the same time in little memory."""

import errno
import fcntl
import hashlib
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from protocol import TemperError

WRITE_BYTES = 8 * 1024 * 1024
ALIGNMENT = 4096


Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    pool: Executor, work: Callable[[Item], Result], items: Iterable[Item], depth: int
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with its result, in the items' order, while the next `depth` are being worked on."""
    pending: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            pending.append((item, pool.submit(work, item)))
            if len(pending) > depth:
                done, future = pending.popleft()
                yield done, future.result()
        while pending:
            done, future = pending.popleft()
            yield done, future.result()
    finally:
        for _, future in pending:
            future.cancel()


def read_into(descriptor: int, view: memoryview, offset: int) -> None:
    """Fill `view` from a file's `offset`; raises OSError if the file ends before."""
    done = 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], offset + done)
        if count == 0:
            raise OSError(None, "a weight file became shorter while it was read")
        done += count


class ShardWriter:
    """Writes one file in order, past the page cache where the disk allows, under a temporary name until it is whole.

    Used as a context; `finish` syncs, renames and returns the sha256. Left without it, the temporary file is removed.
    """

    def __init__(self, path: Path, size: int, depth: int = 4) -> None:
        self.path = path
        self.size = size
        self._temporary = path.with_name(f".{path.name}.partial")
        self._digest = hashlib.sha256()
        self._position = 0
        self._filled = 0
        self._free = [mmap.mmap(-1, WRITE_BYTES) for _ in range(depth)]
        self._current = self._free.pop()
        self._busy: deque[tuple[mmap.mmap, Future[None], Future[None]]] = deque()
        self._temporary.unlink(missing_ok=True)
        self._file, self._direct = _open_for_writing(self._temporary)
        self._hashing = ThreadPoolExecutor(1, "hash")
        self._writing = ThreadPoolExecutor(2, "write")

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._hashing.shutdown(cancel_futures=True)
        self._writing.shutdown(cancel_futures=True)
        if self._file >= 0:
            os.close(self._file)
            self._temporary.unlink(missing_ok=True)

    def write(self, data: memoryview | bytes) -> None:
        """Append bytes; they are copied before this returns."""
        view = memoryview(data)
        while view:
            count = min(len(view), WRITE_BYTES - self._filled)
            self._current[self._filled : self._filled + count] = view[:count]
            self._filled += count
            view = view[count:]
            if self._filled == WRITE_BYTES:
                self._send()

    def finish(self) -> str:
        """Make the content durable; its new name is with the next sync of the folder. Returns the hex sha256."""
        if self._filled:
            self._send()
        while self._busy:
            self._reclaim()
        if self._position != self.size:
            raise TemperError("TrainerError", f"{self.path} came to {self._position} bytes instead of {self.size}")
        os.ftruncate(self._file, self.size)
        os.fchmod(self._file, 0o644)
        os.fsync(self._file)
        os.close(self._file)
        self._file = -1
        os.replace(self._temporary, self.path)
        return self._digest.hexdigest()

    def _send(self) -> None:
        view = memoryview(self._current)[: self._filled]
        # Direct writes must be whole blocks; the tail of the last one is cut off again in `finish`.
        padded = -(-self._filled // ALIGNMENT) * ALIGNMENT if self._direct else self._filled
        hashing = self._hashing.submit(self._digest.update, view)
        writing = self._writing.submit(
            _write, self._file, memoryview(self._current)[:padded], self._position, self._direct
        )
        self._busy.append((self._current, hashing, writing))
        self._position += self._filled
        self._filled = 0
        if not self._free:
            self._reclaim()
        self._current = self._free.pop()

    def _reclaim(self) -> None:
        buffer, hashing, writing = self._busy.popleft()
        hashing.result()
        try:
            writing.result()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            place = self.path.parent
            raise TemperError(
                "DiskFullError", f"the disk of {place} is full: make room and start again, finished shards are kept"
            ) from error
        self._free.append(buffer)


def file_digest(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_for_writing(path: Path) -> tuple[int, bool]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    try:
        return os.open(path, flags | os.O_DIRECT, 0o644), True
    except OSError as error:  # tmpfs and some network file systems know no direct writes
        if error.errno != errno.EINVAL:
            raise
        return os.open(path, flags, 0o644), False


def _write(descriptor: int, view: memoryview, position: int, direct: bool) -> None:
    done = 0
    while done < len(view):
        try:
            done += os.pwrite(descriptor, view[done:], position + done)
        except OSError as error:
            if error.errno != errno.EINVAL or not direct:
                raise
            # Some file systems open a file for direct writes and then refuse them.
            direct = False
            fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~os.O_DIRECT)
    if not direct:
        # Begins to write to the disk now what `finish` would else wait for.
        os.posix_fadvise(descriptor, position, len(view), os.POSIX_FADV_DONTNEED)
