"""What stands for a dataset's clean rows: their texts in order, and the bytes of what they show, not its paths."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from protocol import TemperError

ROW_BYTES = 32
SPLITS = ("train", "held_out", "eval")
_REMEMBERED_FILES = 1 << 16


def digest_of_row(row: dict[str, Any], media_digests: Sequence[str]) -> bytes:
    """sha256 of one row as a split holds it; `media_digests` are the sha256 of all it shows, in order."""
    content = [row["messages"], media_digests, len(row["videos"]), row["tools"]]
    return hashlib.sha256(orjson.dumps(content)).digest()


def digest_of_splits(digests: Mapping[str, str]) -> str:
    """sha256 of the splits' digests, by name; a split's is that of its rows' digests one after the other."""
    return hashlib.sha256(orjson.dumps(dict(digests), option=orjson.OPT_SORT_KEYS)).hexdigest()


def digest_of_folder(folder: Path) -> tuple[str, dict[str, int]]:
    """The digest of the splits in a folder as they lie there now, and how many rows each has.

    Raises DatasetError when a split or something that a row shows is gone.
    """
    digests, rows = {}, {}
    for name in SPLITS:
        path = folder / f"{name}.jsonl"
        if name == "eval" and not path.exists():
            continue
        digest, rows[name] = hashlib.sha256(), 0
        for row in _rows_of(path):
            digest.update(digest_of_row(row, _media_digests(row, f"{path} row {rows[name]}")))
            rows[name] += 1
        digests[name] = digest.hexdigest()
    return digest_of_splits(digests), rows


def _rows_of(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines):
                try:
                    yield orjson.loads(line)
                except ValueError as error:
                    raise TemperError("DatasetError", f"{path} row {number} is not JSON: {error}") from None
    except FileNotFoundError:
        raise TemperError("DatasetError", f"{path} is gone") from None


def _media_digests(row: dict[str, Any], where: str) -> list[str]:
    clips = [frame for video in row["videos"] for frame in (video if isinstance(video, list) else [video])]
    try:
        return [_file_digest(path) for path in [*row["images"], *clips]]
    except OSError as error:
        raise TemperError("DatasetError", f"{where} shows {error.filename}: {error.strerror}") from None


@lru_cache(_REMEMBERED_FILES)
def _file_digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
