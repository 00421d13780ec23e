"""The finished model as a folder that transformers 4.57 and 5 both load, with the digests of its files."""

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLProcessor

DIGESTS = "digests.json"
_PACKAGES = ("torch", "transformers", "tokenizers", "pillow", "numpy")


def save_model(model: Qwen3VLForConditionalGeneration, processor: Qwen3VLProcessor, folder: Path) -> None:
    """Write weights in bf16, configuration, tokenizer and processors into `folder`, all readable by everyone."""
    model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    # transformers 5 keeps these inside processor_config.json, where 4.57 does not look.
    processor.image_processor.save_pretrained(folder)
    processor.video_processor.save_pretrained(folder)
    _speak_both_dialects(folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes 0600, which a container's user could not read


def write_digests(folder: Path, recipe: dict[str, int]) -> dict[str, Any]:
    """Record in DIGESTS how the model was made, and the sha256 of each file; returns the record.

    The same recipe gives the same bytes on the same kind of machine only: kernels differ in their last bits.
    """
    record = {
        **recipe,
        "versions": {"python": platform.python_version(), **{package: version(package) for package in _PACKAGES}},
        "files": digests(folder),
    }
    (folder / DIGESTS).write_text(json.dumps(record, indent=2) + "\n")
    return record


def digests(folder: Path) -> dict[str, str]:
    """The sha256 of each file in `folder` but DIGESTS itself, by name."""
    files = sorted(file for file in folder.iterdir() if file.name != DIGESTS)
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _speak_both_dialects(folder: Path) -> None:
    config = _read(folder / "config.json")
    text = config["text_config"]
    rope = text["rope_parameters"]
    text["rope_theta"] = rope["rope_theta"]
    text["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    for part in (config, text, config["vision_config"]):  # where they disagree, the versions take different ones
        part["dtype"] = "bfloat16"
    _write(folder / "config.json", config)

    tokenizer = _read(folder / "tokenizer_config.json")
    # The name that both know: 5 writes a list under a name for which 4.57 wants a mapping.
    tokenizer["additional_special_tokens"] = tokenizer.pop("extra_special_tokens")
    _write(folder / "tokenizer_config.json", tokenizer)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
