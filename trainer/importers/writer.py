"""Checks the rows and writes them as a dataset of LLaMA-Factory; what is not whole is never seen."""

import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from dataset.info import complete_entry, read_entry
from dataset.pictures import judge_picture
from dataset.rows import Row, check_text
from dataset.structure import convert
from dataset.tokens import CONTROL_TOKENS
from importers import PICTURE, BadRow, Draft
from protocol import TemperError, sync_folder, write_whole

KEPT_FAULTS = 20
ENTRY, _ = read_entry("", complete_entry("rows.jsonl", {"images": True}))
assert ENTRY is not None


class DatasetWriter:
    """Writes into a temporary folder beside `out` until `finish`; leaves nothing otherwise."""

    def __init__(self, out: Path, name: str, pictures_from: Path, how: str, replace: bool) -> None:
        self.out, self.name, self.pictures_from, self.how = out, name, pictures_from, how
        self.entries = registered(out, name, replace)
        out.parent.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        self.pictures = self.folder / "images"
        self.file = (self.folder / f"{name}.jsonl").open("w", encoding="utf-8")
        self.skipped = (self.folder / "skipped.jsonl").open("w", encoding="utf-8")
        self.faults: list[dict[str, Any]] = []
        self.rows = self.bad = self.duplicates = 0
        self.seen: set[bytes] = set()
        self.good: dict[str, str] = {}
        self.head: str | None = None
        """The first row with pictures, which goes before all others: the type of `images` is read there."""

    def add(self, draft: Draft) -> None:
        """One row, or a note of why it is none."""
        try:
            if draft.fault is not None:
                raise BadRow(draft.fault)
            check_turns(draft)
            messages = [{"role": role, "content": text} for role, text in draft.turns]
            check_as_validation(messages, len(draft.pictures))
            images = [self.place(picture) for picture in draft.pictures]
        except BadRow as fault:
            self.skip(draft.where, str(fault))
            return
        line = json.dumps({"messages": messages, "images": images}, ensure_ascii=False)
        digest = hashlib.sha256(line.encode()).digest()[:16]
        self.duplicates += digest in self.seen
        self.seen.add(digest)
        if images and self.head is None:
            self.head = line
        else:
            self.file.write(line + "\n")
        self.rows += 1

    def skip(self, where: int, fault: str) -> None:
        self.bad += 1
        noted = {"row": where, "fault": fault}
        if len(self.faults) < KEPT_FAULTS:
            self.faults.append(noted)
        self.skipped.write(json.dumps(noted, ensure_ascii=False) + "\n")

    def place(self, picture: str | bytes) -> str:
        """The picture's name in the dataset; BadRow where it can't be opened."""
        if isinstance(picture, bytes):
            return self.keep_bytes(picture)
        path = (self.pictures_from / picture).resolve()
        if str(path) not in self.good:
            digest = picture_digest(path, picture)
            self.good[str(path)] = str(path) if self.how == "keep" else self.copy(path, digest)
        return self.good[str(path)]

    def keep_bytes(self, data: bytes) -> str:
        try:
            with Image.open(io.BytesIO(data)) as picture:
                picture.verify()
                suffix = (picture.format or "bin").lower()
        except (OSError, SyntaxError, ValueError) as error:
            raise BadRow(f"a data: address holds no picture ({error}); correct it") from error
        self.pictures.mkdir(exist_ok=True)
        name = f"{hashlib.sha256(data).hexdigest()[:32]}.{suffix}"
        (self.pictures / name).write_bytes(data)
        return f"images/{name}"

    def copy(self, path: Path, digest: str) -> str:
        """Named by its content: no other picture of that name takes its place, nor a later one of that path."""
        self.pictures.mkdir(exist_ok=True)
        name = f"{path.stem[:40]}-{digest[:16]}{path.suffix}"
        if (self.pictures / name).exists():
            return f"images/{name}"
        if self.how == "link":
            try:
                os.link(path, self.pictures / name)
                return f"images/{name}"
            except OSError:
                pass  # another file system
        shutil.copyfile(path, self.pictures / name)
        return f"images/{name}"

    def finish(self, source: Path, skip_bad: bool) -> None:
        """Put all in its place. Raises DatasetError, leaving nothing, for bad rows that are not to be skipped."""
        self.file.close()
        self.skipped.close()
        if self.bad and not skip_bad:
            raise TemperError("DatasetError", refusal(source, self.faults, self.bad))
        if self.rows == 0:
            raise TemperError("DatasetError", f"{source}: there is no row to convert.")
        if not self.bad:
            (self.folder / "skipped.jsonl").unlink()
        self.put_head_first()
        self.out.mkdir(exist_ok=True)
        if self.pictures.is_dir():
            (self.out / "images").mkdir(exist_ok=True)
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                os.replace(path, self.out / path.relative_to(self.folder))
        entry = complete_entry(f"{self.name}.jsonl", {"images": self.head is not None})
        info = json.dumps({**self.entries, self.name: entry}, ensure_ascii=False, indent=2) + "\n"
        write_whole(self.out / "dataset_info.json", info)
        sync_folder(self.out)

    def put_head_first(self) -> None:
        written = self.folder / f"{self.name}.jsonl"
        whole = self.folder / f"{self.name}.jsonl.whole"
        with written.open("rb") as rest, whole.open("wb") as file:
            file.write(b"" if self.head is None else self.head.encode() + b"\n")
            shutil.copyfileobj(rest, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(whole, written)

    def discard(self) -> None:
        self.file.close()
        self.skipped.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def registered(out: Path, name: str, replace: bool) -> dict[str, Any]:
    """The entries that there are. Raises ConfigError for a name that is taken, unless it is to be replaced."""
    if not re.fullmatch(r"\w[\w.-]{0,99}", name):
        what = f"a dataset can't be called {name!r}: give a --name of letters, digits and . _ -"
        raise TemperError("ConfigError", f"{what}, since it names a file and stands in lists.")
    path, rows = out / "dataset_info.json", out / f"{name}.jsonl"
    entries = read_info(path)
    if name in entries and not replace:
        raise TemperError(
            "ConfigError", f"{path} has a dataset {name} already; give another --name, or --replace to write over it."
        )
    entry = entries.get(name)
    if rows.exists() and not (isinstance(entry, dict) and entry.get("file_name") == rows.name):
        raise TemperError(
            "ConfigError", f"{rows} is there already and is no dataset of that name; give another --name, or move it."
        )
    return entries


def read_info(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(entries, dict):
            raise ValueError("it is no object of datasets")
    except ValueError as error:
        raise TemperError(
            "ConfigError", f"{path} can't be read ({error}); correct it, or convert into another folder."
        ) from error
    return entries


def check_turns(draft: Draft) -> None:
    """Raises BadRow where LLaMA-Factory would drop the row or learn from nothing."""
    turns = draft.turns[1:] if draft.turns[:1] and draft.turns[0][0] == "system" else draft.turns
    if not turns or turns[0][0] != "user" or turns[-1][0] != "assistant":
        raise BadRow("it does not begin with the user and end with the assistant; add what is missing")
    for (one, _), (two, _) in zip(turns, turns[1:], strict=False):
        if one == two:
            raise BadRow(f"two turns of the {one} follow each other; join them")
    if any(role == "assistant" and not text.strip() for role, text in turns):
        raise BadRow("an answer is empty; fill it in, or take the row out")
    if any(mark in text for _, text in draft.turns for mark in ("<video>", "<audio>")):
        raise BadRow("a text has <video> or <audio> in it, which would be taken for a clip; take it out")
    marks = sum(text.count(PICTURE) for _, text in draft.turns)
    if marks != len(draft.pictures):
        raise BadRow(f"it has {marks} {PICTURE} in its texts and {len(draft.pictures)} pictures; they must be as many")


def check_as_validation(messages: list[dict[str, str]], pictures: int) -> None:
    """Raises BadRow for what `temper validate` would refuse of a row's texts."""
    row = Row(0, {"messages": messages, "images": [""] * pictures})
    row.conversation, row.problems = convert(row.raw, ENTRY)
    if row.conversation is not None:
        check_text(row, frozenset(CONTROL_TOKENS))
    for problem in row.problems:
        if problem.severity == "error":
            raise BadRow(f"{problem.what}; {problem.fix[:1].lower()}{problem.fix[1:]}")


def picture_digest(path: Path, named: str) -> str:
    """Of a picture that is decoded whole, as training decodes it. Raises BadRow."""
    if not named:
        raise BadRow("the picture's name is empty; fill it in")
    if not path.is_file():
        raise BadRow(f"the picture {named} is not there ({path}); restore it, or give its folder as --pictures-from")
    _, _, picture = judge_picture(str(path))
    if picture.error:
        raise BadRow(f"the picture {named} can't be opened ({picture.error}); replace it")
    if picture.clipped:
        raise BadRow(f"the picture {named} has more than 8 bits, which training makes white; save it with 8")
    return picture.sha256


def refusal(source: Path, faults: Iterable[dict[str, Any]], count: int) -> str:
    shown = [f"- {source}, row {fault['row']}: {fault['fault']}" for fault in faults]
    more = f"\n- and {count - KEPT_FAULTS} more" if count > KEPT_FAULTS else ""
    rows = "1 row" if count == 1 else f"{count} rows"
    head = f"{rows} of {source} can't be converted; mend them, or leave them out with --skip-bad:"
    return "\n".join([head, *shown]) + more
