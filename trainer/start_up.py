"""What makes a start shorter without changing what it does: `bench/start_up.py` measures it."""

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Of a larger piece the kernel reads only the beginning.
CHUNK = 1 << 20


@contextmanager
def without_collecting() -> Iterator[None]:
    """Leave the garbage collector off: each of its passes looks at all modules imported so far, and none is garbage.

    What was made stays out of later passes, too.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def read_ahead(model: Path) -> None:
    """Have the kernel read a base's weights while Python imports, as far as half the free memory holds them."""
    if model.is_dir():
        threading.Thread(target=advise, args=(sorted(model.glob("*.safetensors")),), daemon=True).start()


def advise(files: list[Path]) -> None:
    room = available_memory() // 2
    for file in files:
        try:
            size = file.stat().st_size
            if size > room:
                return
            room -= size
            descriptor = os.open(file, os.O_RDONLY)
            try:
                for start in range(0, size, CHUNK):
                    os.posix_fadvise(descriptor, start, CHUNK, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(descriptor)
        except OSError:
            return  # whoever loads it will say what is wrong


def available_memory() -> int:
    """Bytes, by /proc/meminfo."""
    with open("/proc/meminfo") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["MemAvailable"].split()[0]) * 1024
