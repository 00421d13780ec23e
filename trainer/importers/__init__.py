"""What each format of pictures and texts becomes: rows as LLaMA-Factory's ShareGPT form has them, or why one can't."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PICTURE = "<image>"


class BadRow(Exception):
    """One row is no good; the message says what is wrong and what to do."""


class NotThisFormat(Exception):
    """The file as a whole is not of the format; the message says what it lacks."""


@dataclass
class Draft:
    """A row on its way: turns of (role, text), and its pictures as paths or, from data: addresses, as bytes."""

    where: int
    """Row or line of the source, from 1."""
    turns: list[tuple[str, str]] = field(default_factory=list)
    pictures: list[str | bytes] = field(default_factory=list)
    fault: str | None = None


@dataclass
class Options:
    """What the command line says of how to read."""

    prompt: str = "Describe the picture."
    picture_column: str | None = None
    text_column: str | None = None
    question_column: str | None = None
    first_caption: bool = False


def read_json(path: Path) -> Any:
    """A whole JSON file; NotThisFormat with the place where it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, UnicodeDecodeError) as error:
        raise NotThisFormat(f"it is no JSON: {error}") from error


def json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Rows of a JSON list or of JSON lines, which are read one by one; numbered from 1."""
    with path.open(encoding="utf-8-sig") as lines:
        start = lines.read(64).lstrip()
        if start.startswith("["):
            yield from enumerate(read_json(path), 1)
            return
        lines.seek(0)
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except ValueError as error:
                yield number, BadRow(f"the line is no JSON ({error}); one object a line is wanted")


def text_of(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise BadRow(f"{what} is {json.dumps(value, ensure_ascii=False)[:60]} and not a text; correct it")
    return value
