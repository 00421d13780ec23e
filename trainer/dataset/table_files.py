"""CSV, Parquet and Arrow files, read by the libraries that LLaMA-Factory's loader uses, block by block."""

import os
from collections.abc import Iterator
from typing import Any

from dataset.columns import Type, from_arrow
from dataset.problems import Problem
from dataset.sources import BATCH_ROWS, Batch, Source, Unreadable, add_row

_CSV_CHUNK = 10_000
"""Rows of a CSV file whose types are settled together (`chunksize` of datasets' CSV reader)."""


def open_table(path: str, kind: str) -> Source:
    """Open a file of `kind` csv, parquet or arrow; raises Unreadable."""
    source = _Table(path, kind)
    if not source.types and not source.rows_seen:
        raise Unreadable(Problem("dataset-empty", "the file has no rows", "Put rows into it, or leave it out"))
    return source


class _Table:
    """A file of record batches."""

    def __init__(self, path: str, kind: str) -> None:
        self._path, self._kind = path, kind
        self._size = os.path.getsize(path)
        self.problems: list[Problem] = []
        self.types: dict[str, Type] = {}
        self.rows_seen = 0
        try:
            for table, _ in self._tables():
                self.types = _types(table)
                self.rows_seen = table.num_rows
                break
        except Exception as error:
            raise Unreadable(_unreadable(error, kind)) from error

    def batches(self) -> Iterator[Batch]:
        """The rows in order, a thousand at a time."""
        index = 0
        try:
            for table, done in self._tables():
                types: dict[str, Type] | None = _types(table)
                for start in range(0, table.num_rows, BATCH_ROWS):
                    batch = Batch(done_bytes=int(done * self._size), types=types)
                    types = None
                    for row in table.slice(start, BATCH_ROWS).to_pylist():
                        add_row(batch, index, row)
                        index += 1
                    yield batch
        except Exception as error:
            problem = _unreadable(error, self._kind)
            problem.row = index
            yield Batch(problems=[problem], done_bytes=self._size)

    def _tables(self) -> Iterator[tuple[Any, float]]:
        """Arrow tables and the share of the file that is read with each."""
        if self._kind == "csv":
            yield from self._csv_tables()
        elif self._kind == "parquet":
            yield from self._parquet_tables()
        else:
            yield from self._arrow_tables()

    def _csv_tables(self) -> Iterator[tuple[Any, float]]:
        import pandas
        import pyarrow

        self._check_csv_shape()
        with pandas.read_csv(self._path, iterator=True, chunksize=_CSV_CHUNK, encoding_errors="strict") as reader:
            for frame in reader:
                table = pyarrow.Table.from_pandas(frame)
                names = [name for name in table.column_names if not name.startswith("__index_level_")]
                yield table.select(names), 0.5

    def _check_csv_shape(self) -> None:
        """A first line with one field less than the others shifts every column."""
        import csv

        if self.problems:
            return
        with open(self._path, encoding="utf-8-sig", errors="replace", newline="") as file:
            try:
                rows = [row for row, _ in zip(csv.reader(file), range(2), strict=False)]
            except csv.Error:
                return
        if len(rows) == 2 and len(rows[1]) == len(rows[0]) + 1:
            what = "the lines have one field more than the header, so every field is taken for the next column's"
            self.problems.append(Problem("csv-shifted", what, "Name every column in the header", effect="differs"))

    def _parquet_tables(self) -> Iterator[tuple[Any, float]]:
        import pyarrow
        from pyarrow import parquet

        with parquet.ParquetFile(self._path) as file:
            total, done = max(1, file.metadata.num_rows), 0
            for batch in file.iter_batches(batch_size=BATCH_ROWS * 10):
                done += batch.num_rows
                yield pyarrow.Table.from_batches([batch]), done / total

    def _arrow_tables(self) -> Iterator[tuple[Any, float]]:
        import pyarrow

        with open(self._path, "rb") as file:
            try:
                batches: Any = pyarrow.ipc.open_stream(file)
            except (OSError, pyarrow.ArrowInvalid):
                file.seek(0)
                reader = pyarrow.ipc.open_file(file)
                batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
            for batch in batches:
                yield pyarrow.Table.from_batches([batch]), min(1.0, file.tell() / max(1, self._size))


def _types(table: Any) -> dict[str, Type]:
    return {field.name: from_arrow(field.type) for field in table.schema}


def _unreadable(error: Exception, kind: str) -> Problem:
    text = " ".join(str(error).split())
    if kind == "csv" and type(error).__name__ == "EmptyDataError":
        return Problem("dataset-empty", "the file has no rows", "Put rows into it, or leave it out")
    return Problem("file-syntax", f"the file cannot be read as {kind}: {text}", "Write it anew")
