"""What the machine has for a merge: where to compute, room on the disk, and the memory that was used."""

from pathlib import Path
from typing import Any

from disk_room import free_bytes, nearest_existing
from protocol import TemperError


def choose_device(name: str) -> Any:
    """The torch device; `auto` is the processor, which keeps up with a disk and which no GPU beat in bench/merge.py."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise TemperError("HostError", "there is no GPU that PyTorch can use: leave --device out, or mend the driver")
    torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device("cuda" if name == "cuda" else "cpu")


def require_space(out: Path, needed: int) -> None:
    """Raise DiskFullError when `out` and the free space around it do not hold `needed` bytes."""
    present = sum(entry.stat().st_size for entry in out.iterdir() if entry.is_file()) if out.is_dir() else 0
    free = free_bytes(out)
    if free + present < needed:
        raise TemperError(
            "DiskFullError",
            f"{nearest_existing(out)} has {free / 1e6:,.0f} MB free and the merged model takes "
            f"{needed / 1e6:,.0f} MB: make room",
        )


def peak_rss_bytes() -> int:
    """This process's own peak, from its VmHWM: `ru_maxrss` also counts the parent's before exec."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
