"""A merge in a process that a test kills: a module of its own, so that such a process imports only what merging does."""

from pathlib import Path
from typing import Any

from merge_adapter import Options, merge


class Silent:
    """Stands for the protocol where nobody listens."""

    def progress(self, *_: Any) -> None:
        pass


def merge_silently(base: Path, adapter: Path, out: Path) -> None:
    """Merge as the command does, without lines."""
    merge(Options(base, adapter, out), Silent())
