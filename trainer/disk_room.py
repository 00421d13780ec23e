"""How much room a disk has."""

import shutil
from pathlib import Path


def free_bytes(folder: Path) -> int:
    """Bytes that an ordinary user may still write to a folder, or to where it would be made."""
    return shutil.disk_usage(nearest_existing(folder)).free


def nearest_existing(folder: Path) -> Path:
    """The folder itself, or the closest of those above it that is there."""
    return next(parent for parent in [folder, *folder.resolve().parents] if parent.exists())
