"""What can be said about a model folder in milliseconds, before anything heavy is imported."""

import json
from pathlib import Path
from typing import Any

MODEL_TYPE = "qwen3_vl"
PICTURE_FILES = ("preprocessor_config.json", "processor_config.json")


class StartError(Exception):
    """Serving cannot begin; the message is one sentence that says what is wrong, where, and the fix."""


def check_model_folder(folder: Path) -> dict[str, Any]:
    """Return config.json of a servable Qwen3-VL folder, or raise StartError naming the first thing that is wrong."""
    if not folder.is_dir():
        raise StartError(f"there is no model folder {folder}")
    config = _read_json(folder / "config.json")
    if config.get("model_type") != MODEL_TYPE:
        raise StartError(
            f"{folder / 'config.json'} describes model_type {config.get('model_type')!r}, not {MODEL_TYPE!r}"
        )
    if not any((folder / name).is_file() for name in PICTURE_FILES):
        raise StartError(f"{folder} has no {PICTURE_FILES[0]}: copy it there from the base model")
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        raise StartError(f"{folder} has no tokenizer.json: copy the tokenizer's files there from the base model")
    for weights in _weight_files(folder):
        _check_weights(weights)
    return config


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return sorted({folder / name for name in _read_json(index).get("weight_map", {}).values()})
    return [folder / "model.safetensors"]


def _check_weights(file: Path) -> None:
    """A safetensors file says in its first bytes how long it must be, so a cut one is known without reading it."""
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            header_size = int.from_bytes(opened.read(8), "little")
            if header_size > size - 8:
                raise StartError(f"{file} is cut short: its header alone is longer than the file's {size} bytes")
            header = json.loads(opened.read(header_size))
    except FileNotFoundError:
        raise StartError(f"there are no weights {file}") from None
    except PermissionError:
        raise StartError(f"this user may not read {file}: chmod a+r it") from None
    except ValueError as error:
        raise StartError(f"{file} is not a safetensors file ({error})") from None
    wanted = (
        8
        + header_size
        + max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    )
    if wanted != size:
        raise StartError(f"{file} is damaged: it has {size} bytes where its header wants {wanted}")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StartError(f"{file.parent} has no {file.name}") from None
    except PermissionError:
        raise StartError(f"this user may not read {file}: chmod a+r it") from None
    except ValueError as error:
        raise StartError(f"{file} is not JSON ({error})") from None
