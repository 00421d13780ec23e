"""The files of clean rows: written as rows come, in an order that LLaMA-Factory can read, whole or not at all."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from dataset.info import complete_entry
from dataset.late_columns import LateColumns
from dataset.report import LineFile
from dataset.rows_digest import ROW_BYTES, digest_of_row, digest_of_splits
from dataset.split import is_held_out
from dataset.structure import Conversation
from protocol import write_whole

TRAIN, HELD_OUT, EVAL = "train", "held_out", "eval"
_IMAGES, _VIDEOS = 1, 2
_SETTLED_BYTES = 8 << 20
"""A little less than what datasets' JSON reader takes the columns' types from."""


class _Split:
    def __init__(self, path: Path, batch_rows: int) -> None:
        self.file = LineFile(path)
        self.late = LateColumns(("images", "videos"), batch_rows)
        self.shows = bytearray()
        self.media: set[bytes] = set()
        self._digests = bytearray()

    def add(self, row: dict[str, Any], media_digests: Sequence[str]) -> None:
        self.file.write(orjson.dumps(row))
        images, videos = bool(row["images"]), bool(row["videos"])
        self.late.see((images, videos))
        self.shows.append((_IMAGES if images else 0) | (_VIDEOS if videos else 0))
        self.media.update(bytes.fromhex(digest)[:12] for digest in media_digests)
        self._digests += digest_of_row(row, media_digests)

    def order(self) -> list[int] | None:
        """The order that the rows must be put into; None if they may stay as they came."""
        return _order(self.shows) if self.late.any() or self._first_late() else None

    def digest(self) -> str:
        """sha256 of the rows' digests in the order of the file."""
        digest = hashlib.sha256()
        for number in self.order() or range(self.file.lines):
            digest.update(self._digests[number * ROW_BYTES : (number + 1) * ROW_BYTES])
        return digest.hexdigest()

    def _first_late(self) -> bool:
        """Whether a first picture or video stands beyond the bytes that settle the columns' types."""
        firsts = [next((row for row, kind in enumerate(self.shows) if kind & bit), 0) for bit in (_IMAGES, _VIDEOS)]
        return self.file.start_of(max(firsts)) > _SETTLED_BYTES


class Splits:
    """Writes train.jsonl, held_out.jsonl, eval.jsonl when `evaluated`, and their dataset_info.json into a folder."""

    def __init__(self, out: Path, held_out_fraction: float, batch_rows: int, evaluated: bool = False) -> None:
        self._out, self._fraction = out, held_out_fraction
        names = (TRAIN, HELD_OUT, EVAL) if evaluated else (TRAIN, HELD_OUT)
        self._splits = {name: _Split(out / f"{name}.jsonl", batch_rows) for name in names}
        self.evaluating = False
        """Whether the rows that come are those of eval_dataset."""
        self.video_forms: set[type] = set()
        """str for a file, list for frames: a column holds only one of them."""
        self._has = {"images": False, "videos": False, "tools": False}

    def keep(self, conversation: Conversation, images: list[str], videos: list[Any], digests: Sequence[str]) -> None:
        """Write one row with absolute media paths; `digests` are the sha256 of all it shows, in order."""
        held_out = not self.evaluating and is_held_out(digests, conversation.turns[0][1], self._fraction)
        name = EVAL if self.evaluating else HELD_OUT if held_out else TRAIN
        turns = [("system", conversation.system), *conversation.turns] if conversation.system else conversation.turns
        row: dict[str, Any] = {"messages": [{"role": role, "content": content} for role, content in turns]}
        row["images"] = images
        row["videos"] = videos
        row["tools"] = conversation.tools
        self._splits[name].add(row, digests)
        self.video_forms.update(map(type, videos))
        for column in self._has:
            self._has[column] |= bool(row[column])

    @property
    def rows(self) -> dict[str, int]:
        """Rows written so far, by split."""
        return {name: split.file.lines for name, split in self._splits.items()}

    @property
    def digest(self) -> str:
        """What `digest_of_folder` makes of the files of all rows so far."""
        return digest_of_splits({name: split.digest() for name, split in self._splits.items()})

    def leaked(self) -> int:
        """Pictures and videos that stand in rows of both splits, each beside a held-out one."""
        return len(self._splits[TRAIN].media & self._splits[HELD_OUT].media)

    def commit(self) -> None:
        """Give all files their names; an eval.jsonl of an earlier time goes."""
        if EVAL not in self._splits:
            (self._out / f"{EVAL}.jsonl").unlink(missing_ok=True)
        for split in self._splits.values():
            if (order := split.order()) is not None:
                split.file.reorder(order)
            split.file.commit()
        entries = {name: complete_entry(f"{name}.jsonl", self._has) for name in self._splits}
        write_whole(self._out / "dataset_info.json", orjson.dumps(entries, option=orjson.OPT_INDENT_2) + b"\n")

    def discard(self) -> None:
        """Leave nothing that somebody could take for the splits."""
        for split in self._splits.values():
            split.file.discard()
        (self._out / f"{EVAL}.jsonl").unlink(missing_ok=True)
        (self._out / "dataset_info.json").unlink(missing_ok=True)


def _order(shows: bytearray) -> list[int]:
    """Row numbers such that any stretch of rows has its pictures and videos near its start, if it has any."""
    kinds: dict[int, list[int]] = {kind: [] for kind in (_IMAGES | _VIDEOS, _IMAGES, _VIDEOS, 0)}
    for number, kind in enumerate(shows):
        kinds[kind].append(number)
    both, images, videos, none = kinds.values()
    mixed = [((place + 0.5) / len(part), number) for part in (images, videos) for place, number in enumerate(part)]
    return [*both, *(number for _, number in sorted(mixed)), *none]
