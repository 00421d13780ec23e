"""Where a row's pictures are: LLaMA-Factory's lookup, kept inside the allowed roots."""

import os
import stat
from collections.abc import Sequence

from dataset.problems import Problem


class Locator:
    """Finds media files as LLaMA-Factory does (in `media_dir`, else from the working directory), inside `roots`."""

    def __init__(self, media_dir: str, roots: Sequence[str] | None) -> None:
        self._media_dir = os.path.abspath(media_dir)
        self._roots = None if roots is None else [os.path.realpath(root) for root in roots]
        self._folders: dict[str, str] = {}

    def locate(self, name: str, field: str, kind: str) -> tuple[str | None, Problem | None]:
        """The file's absolute path with links resolved, or None; and the problem, perhaps only a warning."""
        if "\0" in name:
            return None, Problem(
                f"{kind}-missing", f"the path {name!r} holds a zero byte", "Correct the path", field=field
            )
        path = self._resolve(os.path.join(self._media_dir, name))
        doubt = None
        if path is None:
            path = self._resolve(os.path.abspath(name))
            if path is None or os.path.isabs(name):
                what = f"{name!r} does not exist (looked in {self._media_dir})"
                if os.path.isdir(os.path.join(self._media_dir, name)):
                    what = f"{name!r} is a folder" if name else "the path is empty"
                return None, Problem(f"{kind}-missing", what, "Restore the file, or correct the path", field=field)
            what = f"{name!r} is not in {self._media_dir}; the file of that name in the working directory is taken"
            fix = "Move the file, or write its absolute path"
            doubt = Problem(f"{kind}-elsewhere", what, fix, severity="warning", effect="trains", field=field)
        if self._roots is not None and not any(path == r or path.startswith(r.rstrip("/") + "/") for r in self._roots):
            what = f"{name!r} leads to {path}, outside the folders that this worker may read"
            fix = f"Move it below {' or '.join(self._roots)}, or have that folder allowed in the worker's settings"
            return None, Problem(f"{kind}-outside-roots", what, fix, effect="trains", field=field)
        return path, doubt

    def _resolve(self, path: str) -> str | None:
        folder, name = os.path.split(path)
        real = self._folders.get(folder)
        if real is None:
            real = self._folders[folder] = os.path.realpath(folder)
        if name in ("", ".", ".."):
            return None
        path = f"{real.rstrip('/')}/{name}"
        try:
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                path = os.path.realpath(path)
                mode = os.stat(path).st_mode
        except (OSError, ValueError):
            return None
        return path if stat.S_ISREG(mode) else None
