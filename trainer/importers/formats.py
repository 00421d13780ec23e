"""The formats by name, and which one a file is of."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from importers import Draft, NotThisFormat, Options, coco_caption, conversations, csv_pictures

READERS: dict[str, Callable[[Path, Options], Iterator[Draft]]] = {
    "coco-caption": coco_caption.rows,
    "llava": conversations.rows,
    "qwen-vl": conversations.rows,
    "openai-chat": conversations.rows,
    "csv": csv_pictures.rows,
}


def detect(path: Path) -> str:
    """By the file's name and first row. Raises NotThisFormat when it is none of them."""
    if path.suffix.lower() in (".csv", ".tsv"):
        return "csv"
    try:
        with path.open(encoding="utf-8-sig") as file:
            start = file.read(256 * 1024)
    except UnicodeDecodeError as error:
        raise NotThisFormat(f"it is no UTF-8 text ({error.reason} at byte {error.start})") from error
    if start.lstrip().startswith("{") and is_coco(path, start):
        return "coco-caption"
    if "<img>" in start:
        return "qwen-vl"
    if '"image_url"' in start:
        return "openai-chat"
    if '"conversations"' in start:
        return "llava"
    if '"messages"' in start:
        return "qwen-vl" if '"type"' in start else "openai-chat"
    known = ", ".join(READERS)
    raise NotThisFormat(f"its first rows are of none of the formats {known}; name one with --from")


def is_coco(path: Path, start: str) -> bool:
    """One object over the whole file; rows of JSON lines end with their line."""
    first = start.lstrip().split("\n", 1)[0]
    try:
        return {"images", "annotations"} <= json.loads(first).keys()
    except ValueError:
        pass
    try:
        return {"images", "annotations"} <= json.loads(path.read_text("utf-8-sig")).keys()
    except ValueError:
        return False
