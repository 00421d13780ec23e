"""What makes a start shorter must change nothing else."""

import ctypes
import gc
import mmap
import os
import time
from pathlib import Path

import pytest

import start_up

SIZE = 32 << 20


def test_the_collector_is_off_only_inside_and_later_passes_skip_what_was_made() -> None:
    frozen = gc.get_freeze_count()
    with start_up.without_collecting():
        assert not gc.isenabled()
        made = [[] for _ in range(1000)]
    assert gc.isenabled() and gc.get_freeze_count() >= frozen + len(made)
    gc.unfreeze()


def test_the_collector_is_on_again_after_an_import_that_fails() -> None:
    with pytest.raises(ImportError), start_up.without_collecting():
        raise ImportError
    assert gc.isenabled()
    gc.unfreeze()


def test_weights_are_read_ahead(tmp_path: Path) -> None:
    shard = evicted(tmp_path / "model-00001.safetensors")
    start_up.read_ahead(tmp_path)
    deadline = time.monotonic() + 20
    while resident(shard) < 0.99:
        assert time.monotonic() < deadline, f"only {resident(shard):.0%} are in memory"
        time.sleep(0.02)


def test_no_more_is_read_ahead_than_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = evicted(tmp_path / "model-00001.safetensors")
    monkeypatch.setattr(start_up, "available_memory", lambda: SIZE)
    start_up.advise([shard])
    time.sleep(0.2)
    assert resident(shard) < 0.5


def test_a_base_that_is_not_there_is_left_to_who_loads_it(tmp_path: Path) -> None:
    start_up.read_ahead(tmp_path / "missing")
    start_up.advise([tmp_path / "missing.safetensors"])
    assert start_up.available_memory() > 0


def evicted(path: Path) -> Path:
    """A file that is on the disk and not in memory."""
    path.write_bytes(os.urandom(SIZE))
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if resident(path) > 0.1:
        pytest.skip("this file system keeps all files in memory")
    return path


def resident(path: Path) -> float:
    """The share of a file's pages that are in memory, by mincore(2)."""
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as view,
    ):
        pages = -(-len(view) // mmap.PAGESIZE)
        states = (ctypes.c_ubyte * pages)()
        window = ctypes.c_char.from_buffer(view)
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(window)), ctypes.c_size_t(len(view)), states)
        del window
        assert not failed, os.strerror(ctypes.get_errno())
        return sum(state & 1 for state in states) / pages
