"""Files to rows: what LLaMA-Factory's loader would read, or why it would not."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from dataset.info import Entry
from dataset.problems import Problem

BATCH_ROWS = 1000
FILE_TYPES = {
    "arrow": "arrow",
    "csv": "csv",
    "json": "json",
    "jsonl": "json",
    "parquet": "parquet",
    "txt": "text",
}


@dataclass(slots=True)
class Batch:
    """Some rows of one file, with their numbers in it."""

    file: str
    rows: list[tuple[int, dict[str, Any]]]
    done_bytes: int = 0
    problems: list[Problem] = field(default_factory=list)
    """Problems of rows that could not even be read, and of the file."""
    unreadable: int = 0
    """Rows of the file that could not even be read."""


def list_files(dataset_dir: Path, entry: Entry) -> tuple[list[str], list[Problem]]:
    """The entry's files as absolute paths, or the problem that keeps LLaMA-Factory from reading them."""
    path = os.path.join(dataset_dir, entry.source)
    if os.path.isdir(path):
        files = [os.path.join(path, name) for name in sorted(os.listdir(path))]
        if not files:
            return [], [Problem("folder-empty", f"the folder {path} is empty", "Put the data there", file=entry.source)]
    elif os.path.isfile(path):
        files = [path]
    else:
        fix = "Correct file_name, which is relative to dataset_dir"
        return [], [Problem("file-missing", f"{path} does not exist", fix, file=entry.source)]
    types = [FILE_TYPES.get(os.path.splitext(name)[1][1:]) for name in files]
    if None in types or len(set(types)) > 1:
        common = max(set(types) - {None}, key=types.count, default=None)
        odd = [name for name, kind in zip(files, types, strict=True) if kind is None or kind != common]
        names = ", ".join(os.path.basename(name) for name in odd[:5])
        if len(files) == 1:
            what = f"{names} is of no type that LLaMA-Factory reads ({', '.join(FILE_TYPES)})"
            return [], [Problem("file-type", what, "Convert it, or correct its ending", file=entry.source)]
        what = f"a dataset folder must hold files of one type only; these differ: {names}"
        return [], [Problem("file-type", what, "Move them out of the folder", file=entry.source)]
    return [os.path.abspath(name) for name in files], []


def read_batches(path: str, label: str) -> Iterator[Batch]:
    """The rows of one file in batches, in order; `label` is the file's name in problems."""
    kind = FILE_TYPES[os.path.splitext(path)[1][1:]]
    if kind == "json":
        yield from _read_json(path, label)
    else:
        what = f"files of type {kind} are not supported yet"
        yield Batch(label, [], problems=[Problem("file-type", what, "Convert it to jsonl", file=label)])


def _read_json(path: str, label: str) -> Iterator[Batch]:
    with open(path, "rb") as file:
        start = file.read(4096).lstrip()
    if start.startswith(b"\xef\xbb\xbf"):
        start = start[3:].lstrip()
    yield from _read_array(path, label) if start.startswith(b"[") else _read_lines(path, label)


def _read_array(path: str, label: str) -> Iterator[Batch]:
    data = Path(path).read_bytes()
    problems = []
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
        what = "the file begins with a byte order mark, which LLaMA-Factory's JSON reader refuses"
        problems.append(Problem("file-bom", what, "Save it as UTF-8 without BOM", file=label, healed=True))
    try:
        rows = loads(data)
    except ValueError as error:
        what = f"the file is no JSON: {_where(error, data)}"
        yield Batch(label, [], len(data), [Problem("file-syntax", what, "Correct it at the place named", file=label)])
        return
    for start in range(0, len(rows), BATCH_ROWS):
        batch = Batch(label, [], len(data) * min(1, (start + BATCH_ROWS) / len(rows)).__int__(), problems)
        problems = []
        for index, row in enumerate(rows[start : start + BATCH_ROWS], start):
            _add(batch, index, row)
        yield batch


def _read_lines(path: str, label: str) -> Iterator[Batch]:
    batch = Batch(label, [])
    index = 0
    done = 0
    with open(path, "rb") as file:
        for line in file:
            done += len(line)
            if not line.strip():
                continue
            if index == 0 and line.startswith(b"\xef\xbb\xbf"):
                line = line[3:]
            try:
                _add(batch, index, loads(line))
            except ValueError as error:
                what = f"the line is no JSON: {_where(error, line)}"
                batch.problems.append(Problem("row-syntax", what, "Correct the line", row=index, file=label))
                batch.unreadable += 1
            index += 1
            if len(batch.rows) + batch.unreadable >= BATCH_ROWS:
                batch.done_bytes = done
                yield batch
                batch = Batch(label, [])
    batch.done_bytes = done
    yield batch


def loads(data: bytes) -> Any:
    """JSON as LLaMA-Factory's readers take it: NaN allowed, a lone surrogate dropped, big integers kept."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return _without_surrogates(json.loads(data.decode("utf-8")))


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "ignore").decode("utf-8")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_surrogates(item) for key, item in value.items()}
    return value


def _add(batch: Batch, index: int, row: Any) -> None:
    if isinstance(row, dict):
        batch.rows.append((index, row))
        return
    what = f"the row is a {type(row).__name__}, not an object"
    batch.problems.append(Problem("row-shape", what, "Write an object", row=index, file=batch.file))
    batch.unreadable += 1


def _where(error: ValueError, data: bytes) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno}, column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} ({data[error.start : error.start + 1]!r}) is not UTF-8"
    return str(error)
