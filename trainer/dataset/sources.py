"""Files to rows: what LLaMA-Factory's loader would read, or why it would not."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from dataset.columns import Type
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
    """Some rows of one file, with their numbers in it, and the problems of reading them."""

    rows: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unreadable: int = 0
    """Rows that could not even be read; each has its problem."""
    done_bytes: int = 0
    types: dict[str, Type] | None = None
    """The columns' types, where the reader settles them block by block."""


class Source(Protocol):
    """One file, opened; `types` are its columns', as far as the first block that LLaMA-Factory reads tells."""

    types: dict[str, Type]
    problems: list[Problem]

    def batches(self) -> Iterator[Batch]:
        """The rows in order."""
        ...


class Unreadable(Exception):
    """The file cannot be read at all; carries the problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.what)
        self.problem = problem


def list_files(dataset_dir: Path, entry: Entry) -> tuple[list[str], list[Problem]]:
    """The entry's files as absolute paths, by name, or the problem that keeps LLaMA-Factory from reading them."""
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
        what = f"a dataset folder must hold files of one type and nothing else; these differ: {names}"
        return [], [Problem("file-type", what, "Move them out of the folder", file=entry.source)]
    return [os.path.abspath(name) for name in files], []


def open_source(path: str) -> Source:
    """Open one file by its ending; raises Unreadable with the problem when LLaMA-Factory could not read it at all."""
    kind = FILE_TYPES[os.path.splitext(path)[1][1:]]
    if kind == "json":
        from dataset.json_files import open_json

        return open_json(path)
    if kind == "text":
        what = "plain text has no answers to learn from"
        fix = "Use a file of questions and answers"
        raise Unreadable(Problem("file-text", what, fix, how="Cannot find valid samples"))
    from dataset.table_files import open_table

    return open_table(path, kind)


def batched(rows: Iterator[tuple[int, Any]], total_bytes: int, total_rows: int) -> Iterator[Batch]:
    """Rows in batches; those that are no objects become problems."""
    batch = Batch()
    for index, row in rows:
        add_row(batch, index, row)
        if len(batch.rows) + batch.unreadable >= BATCH_ROWS:
            batch.done_bytes = total_bytes * (index + 1) // max(1, total_rows)
            yield batch
            batch = Batch()
    batch.done_bytes = total_bytes
    yield batch


def add_row(batch: Batch, index: int, row: Any) -> None:
    """Put a row into the batch, or its problem when it is no object."""
    if isinstance(row, dict):
        batch.rows.append((index, row))
        return
    what = f"the row is {'null' if row is None else f'a {type(row).__name__}'}, not an object"
    batch.problems.append(Problem("row-shape", what, "Write an object", row=index))
    batch.unreadable += 1
