"""JSON files: lines as pyarrow reads them, arrays as pandas does, since those are what LLaMA-Factory's loader asks.

Both are asked themselves where they decide; this module reads the rows beside them to say which row is at fault.
"""

import io
import json
import os
import re
from collections.abc import Iterator
from typing import Any

import orjson

from dataset.columns import NULL, Conflict, TooLarge, Type, extend, from_arrow
from dataset.problems import Problem
from dataset.sources import BATCH_ROWS, Batch, Source, Unreadable, add_row, batched

_BOM = b"\xef\xbb\xbf"
_CHUNK = 10 << 20
"""Bytes of lines whose types are settled together (`chunksize` of datasets' JSON reader)."""
_WINDOW = 8 << 20
"""Bytes of an array that are parsed together."""
_LENIENT_LIMIT = 512 << 20
"""Arrays larger than this are not read a second time by pandas when the strict parser refuses them."""

_DECODER = json.JSONDecoder(strict=False)
_SPACE = re.compile(r"[ \t\r\n]*")


def open_json(path: str) -> Source:
    """Open a .json or .jsonl file by what it holds, as the loader does: an array, or objects one after another."""
    with open(path, "rb") as file:
        start = file.read(1 << 16)
    text = start.removeprefix(_BOM).lstrip()
    if not text and os.path.getsize(path) <= len(start):
        raise Unreadable(Problem("dataset-empty", "the file has no rows", "Put rows into it, or leave it out"))
    if text.startswith(b"["):
        return _Array(path)
    if not text.startswith(b"{"):
        what = f"the file is no JSON: it begins with {start[:12]!r}"
        raise Unreadable(Problem("file-syntax", what, "Write an array of objects, or one object a line, in UTF-8"))
    return _Lines(path)


class _Array:
    """A file that is one array: read whole by pandas there, in windows here; twice, for types are known at the end."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._size = os.path.getsize(path)
        self._lenient: list[Any] | None = None
        self.types: dict[str, Type] = {}
        self.problems: list[Problem] = []
        self._rows = 0
        try:
            self._infer()
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            self._read_leniently(error)

    def batches(self) -> Iterator[Batch]:
        """The rows in order, a thousand at a time."""
        rows = iter_array(self._path) if self._lenient is None else iter(self._lenient)
        return batched(enumerate(rows), self._size, self._rows)

    def _infer(self) -> None:
        settled: set[str] = set()
        for index, row in enumerate(iter_array(self._path) if self._lenient is None else self._lenient):
            self._rows = index + 1
            if type(row) is not dict:
                continue
            for column, value in row.items():
                if column in settled:
                    continue
                try:
                    self.types[column] = extend(self.types.get(column, NULL), value, column)
                except (Conflict, TooLarge) as error:
                    settled.add(column)
                    code = "column-types" if isinstance(error, Conflict) else "number-too-large"
                    fix = "Write one type of value in the whole column, or remove the column"
                    self.problems.append(Problem(code, str(error), fix, row=index, field=column, healed=True))
        for column in self.types:
            if _looks_like_date(column):
                self._check_dates(column)
        with open(self._path, "rb") as file:
            if file.read(3) == _BOM:
                what = "the file begins with a byte order mark, which the JSON reader refuses"
                self.problems.append(Problem("file-bom", what, "Save it as UTF-8 without BOM", healed=True))

    def _check_dates(self, column: str) -> None:
        """pandas makes times of a column that is named like one, if every value can be read as one."""
        if self.types[column] not in ("text", "int", "float"):
            return
        import pandas

        values = [row.get(column) for row in iter_array(self._path) if isinstance(row, dict)]
        try:
            pandas.to_datetime(pandas.Series(values, dtype=object), errors="raise")
        except (ValueError, TypeError, OverflowError):
            return
        self.types[column] = "time"

    def _read_leniently(self, error: ValueError) -> None:
        """What the strict parser refuses, pandas may take: it is asked, and its rows are used."""
        with open(self._path, "rb") as file:
            data = file.read(_LENIENT_LIMIT + 1)
        if len(data) <= _LENIENT_LIMIT and not data.startswith(_BOM):
            from pandas.io.json import ujson_loads

            try:
                rows = ujson_loads(data.decode("utf-8"), precise_float=False)
            except ValueError:
                rows = None
            if isinstance(rows, list):
                self._lenient = [without_surrogates(row) for row in rows]
                self.types, self.problems = {}, []
                self._infer()
                return
        what = f"the file is no JSON: {where(error, data)}"
        raise Unreadable(Problem("file-syntax", what, "Correct it at the place named")) from error


def iter_array(path: str) -> Iterator[Any]:
    """The items of a JSON array, one after another, in bounded memory; raises JSONDecodeError or UnicodeDecodeError."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        text, position, line = file.read(_WINDOW), 0, 1
        ended = len(text) < _WINDOW
        position = _SPACE.match(text).end() + 1  # type: ignore[union-attr]
        first = True
        while True:
            position = _SPACE.match(text, position).end()  # type: ignore[union-attr]
            if len(text) - position < 2 and not ended:
                more = file.read(_WINDOW)
                line += text.count("\n", 0, position)
                text, position, ended = text[position:] + more, 0, not more
                continue
            if first and text.startswith("]", position):
                break
            first = False
            try:
                value, end = _DECODER.raw_decode(text, position)
                if end >= len(text) and not ended:
                    raise json.JSONDecodeError("Unterminated", text, position)
            except json.JSONDecodeError as error:
                more = "" if ended else file.read(max(_WINDOW, len(text)))
                if more:
                    line += text.count("\n", 0, position)
                    text, position = text[position:] + more, 0
                    continue
                ended = True
                error.lineno += line - 1
                raise
            yield without_surrogates(value) if _has_surrogate(text, position, end) else value
            position = _SPACE.match(text, end).end()  # type: ignore[union-attr]
            if position >= len(text) and not ended:
                more = file.read(_WINDOW)
                line += text.count("\n")
                text, position, ended = more, 0, not more
                position = _SPACE.match(text).end()  # type: ignore[union-attr]
            separator = text[position : position + 1]
            position += 1
            if separator == "]":
                break
            if separator != ",":
                raise _syntax("Expecting ',' or ']'" if separator else "The array has no end", text, position - 1, line)
        rest = text[position:] + file.read()
        if rest.strip():
            raise _syntax("Text after the end of the array", text, position, line)


def _syntax(message: str, text: str, position: int, line: int) -> json.JSONDecodeError:
    error = json.JSONDecodeError(message, text, position)
    error.lineno += line - 1
    return error


def _has_surrogate(text: str, start: int, end: int) -> bool:
    return text.find("\\ud", start, end) >= 0 or text.find("\\uD", start, end) >= 0


class _Lines:
    """A file of objects one after another, mostly one a line: types are settled for each 10 MB, the first the model."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.problems: list[Problem] = []
        with open(path, "rb") as file:
            self.types = _arrow_types(_read_chunk(file)) or {}

    def batches(self) -> Iterator[Batch]:
        """The rows in order, a thousand at a time."""
        index = 0
        with open(self._path, "rb") as file:
            while chunk := _read_chunk(file):
                types = _arrow_types(chunk)
                found = _Chunk(chunk, index, accepted=types is not None)
                done = file.tell()
                for start in range(0, max(1, len(found.rows)), BATCH_ROWS):
                    batch = Batch(done_bytes=done)
                    if start == 0:
                        batch.types, batch.problems, batch.unreadable = types, found.problems, found.unreadable
                    for number, row in found.rows[start : start + BATCH_ROWS]:
                        add_row(batch, number, {} if row is None else row)
                    yield batch
                index += found.count


def _read_chunk(file: io.BufferedReader) -> bytes:
    return file.read(_CHUNK) + file.readline()


def _arrow_types(chunk: bytes) -> dict[str, Type] | None:
    """The columns' types if pyarrow reads the chunk as datasets has it do; None if it refuses."""
    if b"{" not in chunk:  # pyarrow crashes on a block of nothing but null
        return None if chunk.strip() else {}
    import pyarrow
    from pyarrow import json as arrow_json

    block = _CHUNK // 32
    while True:
        try:
            table = arrow_json.read_json(io.BytesIO(chunk), read_options=arrow_json.ReadOptions(block_size=block))
            return {field.name: from_arrow(field.type) for field in table.schema}
        except pyarrow.ArrowNotImplementedError:
            return None
        except pyarrow.ArrowInvalid as error:
            if "straddling" not in str(error) or block > len(chunk):
                return None
            block *= 2


class _Chunk:
    """The rows of one chunk, read beside pyarrow; where it refuses the chunk, what it refuses."""

    def __init__(self, chunk: bytes, first: int, accepted: bool) -> None:
        self.rows: list[tuple[int, Any]] = []
        self.problems: list[Problem] = []
        self.unreadable = self.count = 0
        if first == 0:
            chunk = chunk.removeprefix(_BOM)
        lines = [line for line in chunk.splitlines() if line.strip()] if b"\r" in chunk else chunk.split(b"\n")
        types: dict[str, Type] = {}
        conflicts: set[str] = set()
        for line in lines:
            if not line or line.isspace():
                continue
            number = first + self.count
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError:
                if accepted:
                    self._read_freely(chunk, first)
                    return
                row = self._reread(line, number)
            self.count += 1
            if row is _REFUSED:
                continue
            self.rows.append((number, row))
            if accepted:
                continue
            if isinstance(row, dict):
                self._find_conflict(row, number, types, conflicts)
                if b'":' in line and (again := _repeated_key(line)):
                    what = f"the key {again!r} stands twice in one object"
                    fix = "Keep one of them"
                    self.problems.append(Problem("key-repeated", what, fix, row=number, field=again, healed=True))
        if (
            not accepted
            and not self.problems
            and not any(row is not None and type(row) is not dict for _, row in self.rows)
        ):
            what = f"pyarrow cannot read the lines from row {first} on: {_arrow_refusal(chunk)}"
            self.problems.append(Problem("file-syntax", what, "Correct these lines", row=first))

    def _reread(self, line: bytes, number: int) -> Any:
        """The row of a line that the strict parser refuses, if pyarrow takes it; else a problem."""
        try:
            row = without_surrogates(_DECODER.decode(line.decode("utf-8")))
        except (ValueError, RecursionError) as error:
            what = f"the line is no JSON: {where(error, line)}"
            self.problems.append(Problem("row-syntax", what, "Correct the line", row=number))
            self.unreadable += 1
            return _REFUSED
        if _arrow_types(line) is None:
            what = f"pyarrow refuses the line: {_arrow_refusal(line)}"
            fix = "Correct the line; an array of objects in a .json file is read by a more lenient parser"
            self.problems.append(Problem("row-syntax", what, fix, row=number, healed=True))
        return row

    def _read_freely(self, chunk: bytes, first: int) -> None:
        """Rows that are not one a line, or hold what only pyarrow takes (NaN): read one after another."""
        self.rows, self.problems, self.unreadable, self.count = [], [], 0, 0
        try:
            text = chunk.decode("utf-8")
        except UnicodeDecodeError:
            self._read_by_line(chunk, first)
            return
        position = _SPACE.match(text).end()  # type: ignore[union-attr]
        while position < len(text):
            number = first + self.count
            try:
                row, position = _DECODER.raw_decode(text, position)
            except (json.JSONDecodeError, RecursionError) as error:
                what = f"the row is no JSON: {error}"
                self.problems.append(Problem("row-syntax", what, "Correct the row", row=number))
                self.unreadable += 1
                self.count += 1
                return
            self.rows.append((number, without_surrogates(row)))
            self.count += 1
            position = _SPACE.match(text, position).end()  # type: ignore[union-attr]

    def _read_by_line(self, chunk: bytes, first: int) -> None:
        """pyarrow takes bytes that are not UTF-8, but the row that holds them dies when it is used."""
        for line in chunk.split(b"\n"):
            if not line or line.isspace():
                continue
            number = first + self.count
            self.count += 1
            try:
                self.rows.append((number, without_surrogates(_DECODER.decode(line.decode("utf-8")))))
            except ValueError as error:
                what = f"the line is no UTF-8: {where(error, line)}"
                self.problems.append(Problem("row-encoding", what, "Save the file as UTF-8", row=number))
                self.unreadable += 1

    def _find_conflict(self, row: dict[str, Any], number: int, types: dict[str, Type], conflicts: set[str]) -> None:
        for column, value in row.items():
            if column in conflicts:
                continue
            try:
                types[column] = extend(types.get(column, NULL), value, column)
            except Conflict as error:
                conflicts.add(column)
                fix = "Write one type of value in the whole column, or remove the column"
                self.problems.append(Problem("column-types", str(error), fix, row=number, field=column, healed=True))
            except TooLarge:
                types[column] = "float"


_REFUSED = object()


def _arrow_refusal(chunk: bytes) -> str:
    from pyarrow import ArrowInvalid, ArrowNotImplementedError
    from pyarrow import json as arrow_json

    try:
        options = arrow_json.ReadOptions(block_size=max(len(chunk) + 1, 1024))
        arrow_json.read_json(io.BytesIO(chunk), read_options=options)
    except (ArrowInvalid, ArrowNotImplementedError) as error:
        return str(error).removeprefix("JSON parse error: ").strip()
    return "for no reason it names"


def _repeated_key(line: bytes) -> str | None:
    """A key that stands twice in one object of the line, which pyarrow refuses and other parsers take."""

    class Found(Exception):
        pass

    def check(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) < len(keys):
            raise Found(next(key for key in keys if keys.count(key) > 1))
        return dict(pairs)

    try:
        json.loads(line, object_pairs_hook=check, strict=False)
    except Found as found:
        return str(found)
    except (ValueError, RecursionError):
        pass
    return None


def without_surrogates(value: Any) -> Any:
    """The value without half surrogate pairs in its texts, as training sees it."""
    if isinstance(value, str):
        return value.encode("utf-8", "ignore").decode("utf-8")
    if isinstance(value, list):
        return [without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(item) for key, item in value.items()}
    return value


def where(error: Exception, data: bytes) -> str:
    """A parser's complaint, with the place."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno}, column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} ({error.object[error.start : error.start + 1]!r}) is not UTF-8"
    return str(error)


def _looks_like_date(column: str) -> bool:
    """pandas' own list of column names that it tries to read as dates (`read_json`, `keep_default_dates`)."""
    name = column.lower()
    return name.endswith(("_at", "_time")) or name == "modified" or name == "date" or name.startswith("timestamp")
