"""Where a row's pictures and videos are: LLaMA-Factory's lookup, kept inside the allowed roots."""

import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataset.info import Entry
from dataset.problems import Problem
from dataset.rows import Row


class Locator:
    """Finds media files as LLaMA-Factory does (in `media_dir`, else from the working directory), inside `roots`."""

    def __init__(self, media_dir: str, roots: Sequence[str] | None) -> None:
        self._media_dir = os.path.abspath(media_dir)
        self._roots = None if roots is None else [os.path.realpath(root) for root in roots]
        self._folders: dict[str, str] = {}
        self.found: dict[str, str] = {}
        """Every file that was found, by the path it was found under, with its real path."""
        self.missed = False
        """Whether any file was not found where LLaMA-Factory looks first."""

    def locate(self, name: str, field: str, kind: str, from_here: bool = False) -> tuple[str | None, Problem | None]:
        """The file's absolute path with links resolved, or None; and the problem, perhaps only a warning.

        With `from_here` the name is taken from the working directory alone, as in {"path": …}.
        """
        fix = "Restore the file, or correct the path"
        if "\0" in name:
            return None, Problem(f"{kind}-missing", f"the path {name!r} holds a zero byte", fix, field=field)
        named = os.path.abspath(name) if from_here else os.path.join(self._media_dir, name)
        path = None if from_here else self._resolve(named)
        doubt = None
        if path is None:
            self.missed |= not from_here
            path = None if os.path.isabs(name) and not from_here else self._resolve(os.path.abspath(name))
            if path is None or not name:
                return None, Problem(f"{kind}-missing", self._missing(name), fix, field=field)
            if not from_here:
                what = f"{name!r} is not in {self._media_dir}; the file of that name in the working directory is taken"
                fix = "Move the file, or write its absolute path"
                doubt = Problem(f"{kind}-elsewhere", what, fix, "warning", "trains", field=field)
        if self._roots is not None and not any(path.startswith(root.rstrip("/") + "/") for root in self._roots):
            what = f"{name!r} leads to {path}, outside the folders that this worker may read"
            fix = f"Move it below {' or '.join(self._roots)}, or have that folder allowed in the worker's settings"
            return None, Problem(f"{kind}-outside-roots", what, fix, effect="trains", field=field)
        self.found[named] = path
        return path, doubt

    def _missing(self, name: str) -> str:
        if not name:
            return "the path is empty"
        if os.path.isdir(os.path.join(self._media_dir, name)):
            return f"{name!r} is a folder"
        if name.startswith(("http://", "https://", "data:", "file:")):
            return f"{name[:60]!r} is an address; pictures are read from files only"
        return f"{name!r} does not exist (looked in {self._media_dir})"

    def _resolve(self, path: str) -> str | None:
        folder, name = os.path.split(path)
        real = self._folders.get(folder)
        if real is None:
            try:
                real = os.path.realpath(folder, strict=True)
            except OSError:
                real = ""
            self._folders[folder] = real
        if not real or name in ("", ".", ".."):
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


class MediaFinder:
    """Turns what a row lists into files; pictures that the dataset holds itself are written to `folder`."""

    def __init__(self, locator: Locator, folder: Path) -> None:
        self._locator, self._folder = locator, folder
        self.wrote = False
        """Whether the dataset itself holds pictures."""

    def find(self, row: Row, entry: Entry) -> None:
        """Fill in the row's pictures and videos, or the problems of finding them."""
        conversation = row.conversation
        assert conversation is not None
        for position, value in enumerate(conversation.images):
            path = self._file(row, value, f"{entry.columns['images']}[{position}]", "picture")
            if path is not None:
                row.pictures.append(path)
        for position, value in enumerate(conversation.videos):
            where = f"{entry.columns['videos']}[{position}]"
            if not isinstance(value, list):
                path = self._file(row, value, where, "video")
                if path is not None:
                    row.videos.append(path)
                continue
            frames = [self._file(row, frame, f"{where}[{number}]", "frame") for number, frame in enumerate(value)]
            row.videos.append([frame for frame in frames if frame is not None])

    def _file(self, row: Row, value: Any, where: str, kind: str) -> str | None:
        if isinstance(value, str):
            path, problem = self._locator.locate(value, where, kind)
        elif kind != "video" and isinstance(value, bytes):
            return self._write(value)
        elif kind != "video" and isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
            return self._write(value["bytes"])
        elif kind != "video" and isinstance(value, dict) and "bytes" in value and isinstance(value.get("path"), str):
            path, problem = self._locator.locate(value["path"], where, kind, from_here=True)
        else:
            shown = "null" if value is None else f"a {type(value).__name__}"
            what = f"the {kind} is given as {shown}, not as a path"
            path, problem = None, Problem(f"{kind}-form", what, "Write the file's path", field=where)
        if problem is not None:
            row.problems.append(problem)
        return path

    def _write(self, data: bytes) -> str:
        self.wrote = True
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder.resolve() / hashlib.sha256(data).hexdigest()
        if not path.is_file() or path.stat().st_size != len(data):
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            temporary.write_bytes(data)
            os.replace(temporary, path)
        return str(path)
