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

_FREE_LOOKS = 3
"""Bad lines of a chunk after which it is no more asked whether rows are not one a line."""

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
        problems: list[Problem] = []
        for batch in batched(enumerate(self._whole_rows(problems)), self._size, self._rows):
            batch.problems += problems
            problems.clear()
            yield batch

    def _whole_rows(self, problems: list[Problem]) -> Iterator[Any]:
        rows = _items(self._path) if self._lenient is None else ((row, True) for row in self._lenient)
        for index, (row, doubtful) in enumerate(rows):
            whole = without_surrogates(row) if doubtful else row
            if doubtful and whole != row:
                what, fix = "a text holds half a surrogate pair, which is left out", "Write the whole character"
                problems.append(Problem("surrogate", what, fix, "warning", "differs", row=index))
            yield whole

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
                self._lenient = rows
                self.types, self.problems = {}, []
                self._infer()
                return
        what = f"the file is no JSON: {where(error, data)}"
        raise Unreadable(Problem("file-syntax", what, "Correct it at the place named")) from error


def iter_array(path: str) -> Iterator[Any]:
    """The items of a JSON array, one after another, in bounded memory; raises JSONDecodeError or UnicodeDecodeError."""
    return (without_surrogates(value) if doubtful else value for value, doubtful in _items(path))


def _items(path: str) -> Iterator[tuple[Any, bool]]:
    """Each item, and whether it may hold half a surrogate pair."""
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
            yield value, text.find("\\ud", position, end) >= 0 or text.find("\\uD", position, end) >= 0
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


class _Lines:
    """A file of objects one after another, mostly one a line: types are settled for each 10 MB, the first the model."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.problems: list[Problem] = []
        with open(path, "rb") as file:
            self.types = _arrow_types(_read_chunk(file)) or {}

    def batches(self) -> Iterator[Batch]:
        """The rows in order, a thousand at a time."""
        count = 0
        with open(self._path, "rb") as file:
            while chunk := _read_chunk(file):
                types = _arrow_types(chunk)
                reader = _ChunkReader(chunk.removeprefix(_BOM) if count == 0 else chunk, count, types is not None)
                batch = Batch(types=types, done_bytes=file.tell())
                for number, row in reader.rows():
                    if row is _REFUSED:
                        batch.unreadable += 1
                    else:
                        add_row(batch, number, {} if row is None else row)
                    if len(batch.rows) + batch.unreadable >= BATCH_ROWS:
                        batch.problems += reader.take_problems()
                        yield batch
                        batch = Batch(done_bytes=file.tell())
                batch.problems += reader.take_problems()
                yield batch
                count = reader.count


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


class _ChunkReader:
    """Reads the rows of one chunk beside pyarrow; where pyarrow refuses the chunk, finds what it refuses."""

    def __init__(self, chunk: bytes, first: int, accepted: bool) -> None:
        self._chunk, self._accepted = chunk, accepted
        self.count = first
        """Rows of the file up to and including those read."""
        self._problems: list[Problem] = []
        self._explained = False
        self._free_looks = 0
        self._types: dict[str, Type] = {}
        self._conflicts: set[str] = set()

    def take_problems(self) -> list[Problem]:
        """The problems found since the last time."""
        taken, self._problems = self._problems, []
        return taken

    def rows(self) -> Iterator[tuple[int, Any]]:
        """(number in the file, row) of each row; _REFUSED in place of one that cannot be read."""
        start = self.count
        lines = self._chunk.splitlines(keepends=True) if b"\r" in self._chunk else self._chunk.split(b"\n")
        end_length = 0 if b"\r" in self._chunk else 1
        position = 0
        for line in lines:
            if line and not line.isspace():
                try:
                    row = orjson.loads(line)
                except orjson.JSONDecodeError:
                    if self._is_free_form(line, position):
                        yield from self._free_rows(position)
                        break
                    row = self._reread(line)
                yield self.count, self._checked(row, line)
                self.count += 1
            position += len(line) + end_length
        if not self._accepted and not self._explained:
            what = f"pyarrow cannot read the lines from row {start} on: {_arrow_refusal(self._chunk)}"
            self._problem("file-syntax", what, "Correct these lines", row=start)

    def _problem(self, code: str, what: str, fix: str, **more: Any) -> None:
        self._explained = True
        self._problems.append(Problem(code, what, fix, **{"row": self.count, **more}))

    def _checked(self, row: Any, line: bytes) -> Any:
        """The row, after a look for what pyarrow refuses in the chunk, if it does."""
        if self._accepted or row is _REFUSED:
            return row
        if not isinstance(row, dict):
            self._explained |= row is not None
            return row
        for column, value in row.items():
            if column in self._conflicts:
                continue
            try:
                self._types[column] = extend(self._types.get(column, NULL), value, column)
            except Conflict as error:
                self._conflicts.add(column)
                fix = "Write one type of value in the whole column, or remove the column"
                self._problem("column-types", str(error), fix, field=column, healed=True)
            except TooLarge:
                self._types[column] = "float"
        if again := _repeated_key(line):
            what = f"the key {again!r} stands twice in one object"
            self._problem("key-repeated", what, "Keep one of them", field=again, healed=True)
        return row

    def _is_free_form(self, line: bytes, position: int) -> bool:
        """Whether rows are not one a line from here on: a row ends within this line, or far behind it."""
        if self._free_looks == _FREE_LOOKS:
            return False
        try:
            _DECODER.decode(line.decode("utf-8"))
            return False
        except (ValueError, RecursionError):
            self._free_looks += 1
        try:
            text = self._chunk[position:].decode("utf-8")
            _, end = _DECODER.raw_decode(text, _SPACE.match(text).end())  # type: ignore[union-attr]
        except (ValueError, RecursionError):
            return False
        return end != len(line.decode("utf-8").rstrip())

    def _free_rows(self, position: int) -> Iterator[tuple[int, Any]]:
        text = self._chunk[position:].decode("utf-8", "replace")
        place = _SPACE.match(text).end()  # type: ignore[union-attr]
        while place < len(text):
            start = place
            try:
                row, place = _DECODER.raw_decode(text, place)
            except (json.JSONDecodeError, RecursionError) as error:
                self._problem("row-syntax", f"the row is no JSON: {error}", "Correct the row")
                yield self.count, _REFUSED
                self.count += 1
                return
            yield self.count, self._checked(without_surrogates(row), text[start:place].encode())
            self.count += 1
            place = _SPACE.match(text, place).end()  # type: ignore[union-attr]

    def _reread(self, line: bytes) -> Any:
        """The row of a line that the strict parser refuses, if pyarrow takes it; else a problem."""
        try:
            row = without_surrogates(_DECODER.decode(line.decode("utf-8")))
        except (ValueError, RecursionError) as error:
            code = "row-encoding" if isinstance(error, UnicodeDecodeError) and self._accepted else "row-syntax"
            self._problem(code, f"the line is no JSON: {where(error, line)}", "Correct the line")
            return _REFUSED
        if not self._accepted and _arrow_types(line) is None:
            what = f"pyarrow refuses the line: {_arrow_refusal(line)}"
            fix = "Correct the line; an array of objects in a .json file is read by a more lenient parser"
            self._problem("row-syntax", what, fix, healed=True)
        return row


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
