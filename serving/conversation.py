"""Gradio's history and the newest message as OpenAI's messages: one user message a turn, pictures before text."""

from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from pictures import PictureError, to_data_uri


def to_messages(history: list[dict[str, Any]], newest: dict[str, Any]) -> list[dict[str, Any]]:
    """Turn a conversation into messages, pictures as PNG data URIs; PictureError for a file that is no picture.

    Gradio keeps each picture and each text of a turn as an entry of its own. Turns that ended in a notice are left out.
    """
    messages: list[dict[str, Any]] = []
    asked: list[dict[str, Any]] = []
    for entry in history:
        if entry["role"] == "user":
            asked.extend(_items(entry["content"]))
        elif (entry.get("metadata") or {}).get("title"):
            asked = []
        elif asked:
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": entry["content"]}]
            asked = []
    pictures = [item for file in newest.get("files") or [] for item in _items((file,))]
    return [*messages, {"role": "user", "content": [*pictures, *_items(newest.get("text") or "")]}]


def _items(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content.strip() else []
    paths = (
        [content["path"]]
        if isinstance(content, dict)
        else [file["path"] if isinstance(file, dict) else file for file in content]
    )
    return [{"type": "image_url", "image_url": {"url": _read_picture(path)}} for path in paths if path]


def _read_picture(path: str) -> str:
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("RGB", "L", "I;16"):
                return to_data_uri(picture.convert("RGB"), "PNG")
            return to_data_uri(picture, "PNG")
    except UnidentifiedImageError:
        raise PictureError(f"{Path(path).name} is not a picture of a type that can be read") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PictureError(f"{Path(path).name} cannot be read: {error}") from None
