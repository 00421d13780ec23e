"""Rows of turns: LLaVA's and Qwen-VL's `conversations`, and the `messages` of Qwen-VL and of OpenAI's chat format.

LLaVA: {"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat?"}, …]}
Qwen-VL: the same with `Picture 1: <img>a.jpg</img>` in the text, or messages whose content is a list of
{"type": "image", "image": "file:///a.jpg"} and {"type": "text", "text": "What?"}.
OpenAI: messages with {"type": "image_url", "image_url": {"url": "data:image/png;base64,…"}}.
"""

import base64
import binascii
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from importers import PICTURE, BadRow, Draft, NotThisFormat, Options, json_rows, text_of

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
}
TAGGED = re.compile(r"(?:Picture \d+:\s*)?<img>(.*?)</img>\n?", re.DOTALL)


def rows(path: Path, options: Options) -> Iterator[Draft]:
    """All of these forms, told apart row by row."""
    for where, row in json_rows(path):
        draft = Draft(where)
        try:
            if isinstance(row, BadRow):
                raise row
            read(row, draft)
        except BadRow as fault:
            draft.fault = str(fault)
        yield draft


def read(row: Any, draft: Draft) -> None:
    if not isinstance(row, dict):
        raise NotThisFormat(f"row {draft.where} is no object")
    turns = row.get("conversations", row.get("messages"))
    if not isinstance(turns, list):
        raise BadRow('it has neither "conversations" nor "messages"; is the file of this format?')
    if row.get("tools"):
        raise BadRow("it has tools; conversations with tools are not converted, take the row out")
    listed = row.get("images", row.get("image")) or []
    own = [picture(name) for name in (listed if isinstance(listed, list) else [listed])]
    for turn in turns:
        if not isinstance(turn, dict):
            raise BadRow("a turn is no object; correct it")
        if turn.get("tool_calls") or turn.get("role") in ("tool", "function") or turn.get("from") == "function_call":
            raise BadRow("it calls a tool; conversations with tools are not converted, take the row out")
        if turn.get("weight") == 0:
            raise BadRow(
                "a turn has weight 0, so that it is not learned, which LLaMA-Factory can't do; take the row out"
            )
        role = ROLES.get(str(turn.get("from", turn.get("role"))))
        if role is None:
            raise BadRow(f"the role {turn.get('from', turn.get('role'))!r} is not known; user and assistant are wanted")
        draft.turns.append((role, content(turn.get("value", turn.get("content")), draft)))
    if own and draft.pictures:
        raise BadRow("its pictures are listed, and others stand in the texts; name each of them in one way")
    draft.pictures += own
    if own and not any(PICTURE in text for _, text in draft.turns):
        place = next((index for index, (role, _) in enumerate(draft.turns) if role == "user"), None)
        if place is not None:
            role, text = draft.turns[place]
            draft.turns[place] = (role, PICTURE * len(draft.pictures) + text)


def content(value: Any, draft: Draft) -> str:
    """A turn's text with a mark where each picture is; the pictures go into the draft."""
    if isinstance(value, list):
        return "".join(part(each, draft) for each in value)

    def tagged(match: re.Match[str]) -> str:
        draft.pictures.append(picture(match.group(1).strip()))
        return PICTURE

    return TAGGED.sub(tagged, text_of(value, "a turn's text"))


def part(value: Any, draft: Draft) -> str:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind in ("text", "input_text"):
        return text_of(value.get("text"), "a text")
    if kind in ("image", "image_url", "input_image"):
        url = value.get("image", value.get("image_url"))
        place = url.get("url") if isinstance(url, dict) else url
        if kind != "image" or place is not None:  # without an address it is the next one of the row's list
            draft.pictures.append(picture(place))
        return PICTURE
    raise BadRow(f"a part of type {kind!r} is not converted; text and pictures are")


def picture(value: Any) -> str | bytes:
    """A path, or the bytes of a data: address; BadRow for what would have to be fetched."""
    name = text_of(value, "a picture")
    if name.startswith("data:"):
        head, _, data = name.partition(",")
        try:
            return (
                base64.b64decode(data, validate=True) if head.endswith(";base64") else unquote(data).encode("latin-1")
            )
        except (binascii.Error, UnicodeEncodeError) as error:
            raise BadRow(f"a data: address can't be decoded ({error}); write the picture into a file") from error
    if name.startswith("file://"):
        path = name.removeprefix("file://").removeprefix("localhost")
        return path if Path(path).exists() else unquote(path)
    if re.match(r"[a-z][a-z0-9+.-]*://", name):
        raise BadRow(f"{name[:80]} is an address; fetch the pictures first (wget -i), and name the files")
    return name
