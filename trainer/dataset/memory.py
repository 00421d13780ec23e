"""Whole results, remembered: a dataset whose files, pictures and settings are as they were is not judged again.

Files count as unchanged when path, size and mtime are. Only accepted datasets are remembered, and none with pictures
that were not found or that the dataset itself holds.
"""

import hashlib
import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dataset.info import read_entries
from dataset.settings import Settings
from dataset.sources import list_files
from protocol import sync_folder

_KEPT = 8
"""Results that are kept, the latest."""
_FILES = ("train.jsonl", "held_out.jsonl", "dataset_info.json", "problems.jsonl", "dropped.jsonl", "report.json")
_EVAL_FILE = "eval.jsonl"
_BASE_FILES = ("tokenizer.json", "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
_MEDIA = "media.json"


class Memory:
    """The folder of remembered results for one set of settings."""

    def __init__(self, settings: Settings) -> None:
        assert settings.cache_dir is not None
        self._settings = settings
        self._results = settings.cache_dir / "datasets"
        self._folder = self._results / _key(settings)
        self._files = (*_FILES, _EVAL_FILE) if settings.eval_datasets else _FILES

    def recall(self) -> dict[str, Any] | None:
        """Put the remembered files into `out` and return the report, if nothing has changed since."""
        try:
            report = json.loads((self._folder / "report.json").read_bytes())
            media = json.loads((self._folder / _MEDIA).read_bytes())
        except (OSError, ValueError):
            return None
        if not _unchanged(media):
            return None
        out = self._settings.out
        out.mkdir(parents=True, exist_ok=True)
        for name in self._files:
            _copy_whole(self._folder / name, out / name)
        if not self._settings.eval_datasets:
            (out / _EVAL_FILE).unlink(missing_ok=True)
        sync_folder(out)
        os.utime(self._folder)
        return report

    def remember(self, files: Mapping[str, str]) -> None:
        """Keep what is in `out`; `files` are the media files: the path they were found under, and the real one."""
        folders: dict[str, str] = {}
        stats = {}
        for named, real in files.items():
            folder = os.path.dirname(named)
            folders.setdefault(folder, os.path.realpath(folder))
            stat = os.stat(real)
            stats[named] = [real, stat.st_size, stat.st_mtime_ns]
        temporary = self._results / f".{self._folder.name}.{os.getpid()}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name in self._files:
            shutil.copyfile(self._settings.out / name, temporary / name)
        (temporary / _MEDIA).write_text(json.dumps({"folders": folders, "files": stats}))
        shutil.rmtree(self._folder, ignore_errors=True)
        os.replace(temporary, self._folder)
        others = sorted(self._results.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in others[_KEPT:]:
            shutil.rmtree(old, ignore_errors=True)


def _key(settings: Settings) -> str:
    """Digest of all that the result depends on, pictures and videos aside."""
    asked = {name: value for name, value in asdict(settings).items() if name not in ("out", "cache_dir", "processes")}
    entries, problems = read_entries(settings.dataset_dir, settings.datasets + settings.eval_datasets)
    files = [path for entry in entries for path in list_files(settings.dataset_dir, entry)[0]]
    if settings.model is not None:
        files += [str(settings.model / name) for name in _BASE_FILES]
    if settings.new_special_tokens_config is not None:
        files.append(str(settings.new_special_tokens_config))
    packages = Path(sysconfig.get_path("purelib"))
    parts = [
        asked,
        [asdict(entry) for entry in entries],
        [problem.message for problem in problems],
        [(path, os.path.realpath(path), _identity(path)) for path in files],
        os.getcwd(),
        sys.version,
        sorted(name for name in os.listdir(packages) if name.endswith(".dist-info")),
        [path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("*.py"))],
    ]
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()


def _identity(path: str) -> tuple[int, int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _unchanged(media: dict[str, Any]) -> bool:
    """Whether every media file is still the same file with the same size and mtime."""
    if any(os.path.realpath(folder) != real for folder, real in media["folders"].items()):
        return False
    try:
        for named, (real, size, mtime) in media["files"].items():
            stat = os.stat(named)
            if stat.st_size != size or stat.st_mtime_ns != mtime:
                return False
            if os.path.basename(named) != os.path.basename(real) and os.path.realpath(named) != real:
                return False
    except OSError:
        return False
    return True


def _copy_whole(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.copyfile(source, temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, target)
