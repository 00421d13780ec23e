"""dataset_info.json, read as LLaMA-Factory reads it (`data/parser.py`, 0.9.5), traps included."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataset.problems import Problem

INFO_FILE = "dataset_info.json"

_ENTRY_KEYS = {"formatting", "ranking", "subset", "split", "folder", "num_samples", "columns", "tags"}
_SOURCE_KEYS = {"hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name", "file_name"}
_COLUMNS = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "history": None,
    "messages": "conversations",
    "system": None,
    "tools": None,
    "images": None,
    "videos": None,
    "audios": None,
    "chosen": None,
    "rejected": None,
    "kto_tag": None,
}
_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}


@dataclass
class Entry:
    """One dataset of dataset_info.json; `columns` and `tags` map LLaMA-Factory's names to the file's, or to None."""

    name: str
    source: str
    formatting: str = "alpaca"
    ranking: bool = False
    split: str = "train"
    num_samples: int | None = None
    columns: dict[str, str | None] = field(default_factory=lambda: dict(_COLUMNS))
    tags: dict[str, str | None] = field(default_factory=lambda: dict(_TAGS))


def read_entries(dataset_dir: Path, names: list[str]) -> tuple[list[Entry], list[Problem]]:
    """Read the entries of `names`; whatever makes LLaMA-Factory fail or read something else becomes a problem."""
    path = dataset_dir / INFO_FILE
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        fix = f"Write {INFO_FILE} there, or correct dataset_dir"
        return [], [Problem("info-missing", f"{path} does not exist", fix, file=INFO_FILE)]
    except (ValueError, OSError) as error:
        what = f"{path} cannot be read: {error}"
        return [], [Problem("info-invalid", what, "Correct the JSON at the place named", file=INFO_FILE)]
    if not isinstance(info, dict):
        what = f"{path} holds a {type(info).__name__}, not an object of datasets"
        return [], [Problem("info-invalid", what, 'Write {"<name>": {"file_name": …}}', file=INFO_FILE)]
    entries, problems = [], []
    for name in dict.fromkeys(names):
        if name not in info:
            near = _nearest(name, info)
            what = f"dataset {name!r} is not in {path}"
            fix = f"Did you mean {near!r}?" if near else f"It has: {', '.join(sorted(info)) or 'nothing'}"
            problems.append(Problem("dataset-undefined", what, fix.rstrip("."), dataset=name, file=INFO_FILE))
            continue
        entry, found = read_entry(name, info[name])
        problems += found
        if entry is not None:
            entries.append(entry)
    return entries, problems


def read_entry(name: str, raw: Any) -> tuple[Entry | None, list[Problem]]:
    """One entry as LLaMA-Factory reads it, None where its rows can't be judged; and what is wrong with it."""
    problems: list[Problem] = []

    def problem(code: str, what: str, fix: str, **more: Any) -> None:
        problems.append(Problem(code, what, fix, dataset=name, file=INFO_FILE, **more))

    if not isinstance(raw, dict):
        problem("info-invalid", f"the entry is a {type(raw).__name__}, not an object", 'Write {"file_name": …}')
        return None, problems
    remote = [key for key in ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name") if key in raw]
    if remote:
        what = f"{remote[0]} is a source that Temper cannot judge beforehand"
        if "file_name" in raw:
            what += f", and LLaMA-Factory takes it before file_name {raw['file_name']!r}"
        fix = "Download the data once and name the local copy in file_name alone"
        problem("source-remote", what, fix, how="without network, or when the source has changed")
        return None, problems
    source = raw.get("file_name")
    if not isinstance(source, str) or not source:
        problem("source-missing", "the entry names no file_name", "Add file_name, relative to dataset_dir")
        return None, problems
    entry = Entry(name, source)
    entry.formatting = raw.get("formatting", "alpaca")
    if entry.formatting not in ("alpaca", "sharegpt", "openai"):
        problem("formatting-unknown", f"formatting {entry.formatting!r} does not exist", "Use sharegpt or alpaca")
        return None, problems
    entry.ranking = bool(raw.get("ranking", False))
    if entry.ranking:
        what = "ranking data (chosen and rejected answers) does not suit supervised fine-tuning"
        problem("ranking", what, "Use a dataset without ranking: true")
        return None, problems
    entry.split = raw.get("split", "train")
    entry.num_samples = raw.get("num_samples")
    if entry.num_samples is not None and (type(entry.num_samples) is not int or entry.num_samples < 1):
        problem("num-samples", f"num_samples is {entry.num_samples!r}", "Use a whole number above 0, or leave it out")
        return None, problems
    for block, defaults, target in (("columns", _COLUMNS, entry.columns), ("tags", _TAGS, entry.tags)):
        if block not in raw:
            continue
        given = raw[block]
        if not isinstance(given, dict):
            problem("info-invalid", f"{block} is a {type(given).__name__}, not an object", "Write it as an object")
            return None, problems
        # Once the block exists, a key left out of it is None, not its default.
        target.update({key: given.get(key) for key in defaults})
        for key in given.keys() - defaults.keys():
            near = _nearest(key, defaults)
            fix = f"Did you mean {near!r}?" if near else f"Known: {', '.join(defaults)}"
            what = f"{block}.{key} is no key that LLaMA-Factory knows"
            problem(
                "info-key-unknown", what, fix.rstrip("."), severity="warning", effect="differs", how="it is ignored"
            )
    for key in raw.keys() - _ENTRY_KEYS - _SOURCE_KEYS:
        near = _nearest(key, _ENTRY_KEYS | _SOURCE_KEYS)
        fix = f"Did you mean {near!r}?" if near else "Remove it"
        what = f"{key} is no key that LLaMA-Factory knows"
        problem("info-key-unknown", what, fix.rstrip("."), severity="warning", effect="differs", how="it is ignored")
    return entry, problems


def complete_entry(file_name: str, media: dict[str, bool]) -> dict[str, Any]:
    """An entry with every key written out; `media` says which of images, videos and tools the file's rows have."""
    columns: dict[str, str | None] = {key: None for key in _COLUMNS}
    columns["messages"] = "messages"
    columns.update({key: key for key, present in media.items() if present})
    return {
        "file_name": file_name,
        "formatting": "sharegpt",
        "ranking": False,
        "subset": None,
        "split": "train",
        "folder": None,
        "num_samples": None,
        "columns": columns,
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "observation_tag": "observation",
            "function_tag": "function",
            "system_tag": "system",
        },
    }


def local_path(dataset_dir: Path, entry: Entry) -> str:
    """Where LLaMA-Factory looks for the entry's file or folder."""
    return os.path.join(dataset_dir, entry.source)


def _nearest(word: str, known: Any) -> str | None:
    import difflib

    found = difflib.get_close_matches(word, [str(key) for key in known], n=1, cutoff=0.6)
    return found[0] if found else None
