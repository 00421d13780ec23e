"""A table of pictures and texts, with a header: commas, semicolons or tabs between, quoted as RFC 4180 has it."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from importers import PICTURE, Draft, NotThisFormat, Options

PICTURE_NAMES = ("picture", "image", "file", "filename", "file_name", "path", "image_path", "图片")
TEXT_NAMES = ("text", "answer", "caption", "label", "output", "target", "response", "文本", "答案", "标签")
LONGEST_FIELD = 16 << 20
"""A quote that is never closed would else have the rest of the file for its field."""
QUESTION_NAMES = ("question", "prompt", "instruction", "query", "问题")


def rows(path: Path, options: Options) -> Iterator[Draft]:
    """A row for each line of the table but the header, numbered as the lines are."""
    csv.field_size_limit(LONGEST_FIELD)
    with path.open("rb") as file:
        encoding = "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"  # as Excel's Unicode text
    with path.open(encoding=encoding, newline="") as file:
        start = file.read(64 * 1024)
        file.seek(0)
        first = start.split("\n", 1)[0]
        delimiter = max("\t;,", key=first.count)
        table = csv.reader(file, delimiter=delimiter, strict=True)
        header = [name.strip() for name in next(table, [])]
        picture = column(header, options.picture_column, PICTURE_NAMES, "--picture-column")
        text = column(header, options.text_column, TEXT_NAMES, "--text-column")
        asked = options.question_column is not None or any(name.lower() in QUESTION_NAMES for name in header)
        question = column(header, options.question_column, QUESTION_NAMES, "--question-column") if asked else None
        try:
            for line in table:
                if not any(line):
                    continue
                yield draft_of(line, table.line_num, len(header), picture, text, question, options.prompt)
        except csv.Error as error:
            raise NotThisFormat(f"line {table.line_num} can't be read: {error}") from error


def draft_of(
    line: Sequence[str], where: int, width: int, picture: int, text: int, question: int | None, prompt: str
) -> Draft:
    draft = Draft(where)
    if len(line) != width:
        draft.fault = f"it has {len(line)} fields and the header {width}; quote a field that holds the delimiter"
        return draft
    ask = prompt if question is None else line[question].strip()
    draft.turns = [("user", ask if PICTURE in ask else PICTURE + ask), ("assistant", line[text].strip())]
    draft.pictures = [line[picture].strip()]
    return draft


def column(header: Sequence[str], wanted: str | None, usual: Sequence[str], option: str) -> int:
    names = [name.lower() for name in header]
    for name in [wanted] if wanted is not None else usual:
        if name.lower() in names:
            return names.index(name.lower())
    named = f"no column {wanted!r}" if wanted is not None else f"no column named {', '.join(usual[:5])}"
    raise NotThisFormat(f"it has {named}; its header is {', '.join(header) or 'empty'}: name one by {option}")
