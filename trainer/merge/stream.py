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

# What is written and digested in one go; part of the digest's definition.
PART_BYTES = 8 * 1024 * 1024
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
    """Writes one file, past the page cache where the disk allows, under a temporary name until it is whole.

    Threads `put` its parts where they belong, in any order. Used as a context; `finish` syncs, renames and returns the
    digest, see `file_digest`. Left without it, the temporary file is removed.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self._temporary = path.with_name(f".{path.name}.partial")
        self._parts: dict[int, tuple[int, bytes]] = {}
        self._temporary.unlink(missing_ok=True)
        self._file, self._direct = _open_for_writing(self._temporary)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._temporary.unlink(missing_ok=True)

    def put(self, buffer: mmap.mmap, count: int, position: int) -> None:
        """Write the first `count` bytes of a page-aligned buffer at `position`, which no other call writes to."""
        self._parts[position] = count, hashlib.sha256(memoryview(buffer)[:count]).digest()
        # Direct writes must be whole blocks; the tail of the last one is cut off again in `finish`.
        is_last = position + count == self.size
        padded = -(-count // ALIGNMENT) * ALIGNMENT if self._direct and is_last else count
        try:
            _write(self._file, memoryview(buffer)[:padded], position, self._direct)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            place = self.path.parent
            raise TemperError(
                "DiskFullError", f"the disk of {place} is full: make room and start again, finished shards are kept"
            ) from error

    def finish(self) -> str:
        """Make the content durable; its new name is with the next sync of the folder. Returns the digest."""
        written = sum(count for count, _ in self._parts.values())
        if written != self.size:
            raise TemperError("TrainerError", f"{self.path} came to {written} bytes instead of {self.size}")
        os.ftruncate(self._file, self.size)
        os.fchmod(self._file, 0o644)
        os.fsync(self._file)
        os.close(self._file)
        self._file = -1
        os.replace(self._temporary, self.path)
        if sorted(self._parts) != list(range(0, self.size, PART_BYTES)):
            return file_digest(self.path)
        return _digest_of(digest for _, (_, digest) in sorted(self._parts.items()))


def file_digest(path: Path) -> str:
    """Hex sha256 of the sha256 of each 8 MiB of a file in turn, which many threads can work out at once."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size

        def part(position: int) -> bytes:
            data = memoryview(bytearray(min(PART_BYTES, size - position)))
            read_into(descriptor, data, position)
            return hashlib.sha256(data).digest()

        with ThreadPoolExecutor(len(os.sched_getaffinity(0)), "hash") as pool:
            return _digest_of(pool.map(part, range(0, size, PART_BYTES)))
    finally:
        os.close(descriptor)


def _digest_of(parts: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


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
