"""The base model's folder: complete to the last shard, of a type that can be trained, with a template that fits."""

import json
import re
import struct
from pathlib import Path
from typing import Any

from environment.items import Item

_KNOWN = ("qwen3_vl", "qwen3_vl_moe")
_LEFTOVERS = ("*.incomplete", "*.part", "*.aria2", "*.tmp", "._____temp")


def check_base(model: Path, template: str | None) -> list[Item]:
    """Everything in the folder that loading for training reads; nothing of it is loaded."""
    if not model.is_dir():
        fix = f"Download the model to {model}, or correct model_name_or_path"
        return [Item("base folder", f"{model} does not exist", "a folder on this host", "error", fix)]
    items = [_check_weights(model)]
    config, item = _read_json(model, "config.json")
    items.append(item)
    if config is not None:
        items.append(_check_type(config))
    items += [_check_tokenizer(model, config or {}), _check_processor(model)]
    leftovers = sorted(path.name for pattern in _LEFTOVERS for path in model.glob(pattern))
    if leftovers:
        found = f"unfinished downloads: {', '.join(leftovers[:3])}"
        items.append(Item("base downloads", found, "none", "warning", "Finish the download, or remove them"))
    items.append(_check_template(model, config or {}, template))
    return items


def _read_json(model: Path, name: str) -> tuple[dict[str, Any] | None, Item]:
    path = model / name
    item = Item(f"base {name}", "present", "a JSON object")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content, item
        item.found = f"a {type(content).__name__}"
    except FileNotFoundError:
        item.found = "missing"
    except (OSError, ValueError) as error:
        item.found = f"unreadable: {error}"
    item.verdict, item.fix = "error", f"Download {name} again into {model}"
    return None, item


def _check_type(config: dict[str, Any]) -> Item:
    found = config.get("model_type")
    item = Item("base model type", str(found), " or ".join(_KNOWN))
    if found not in _KNOWN:
        item.verdict = "error" if found is None else "warning"
        item.fix = "Use a Qwen3-VL base; for others nothing here has been tried"
    elif not isinstance(config.get("vision_config"), dict) or not isinstance(config.get("text_config"), dict):
        item.verdict, item.found = "error", f"{found}, without text_config or vision_config"
        item.fix = "Download config.json again"
    return item


def _check_weights(model: Path) -> Item:
    item = Item("base weights", "", "every shard of the index, whole")
    index = model / "model.safetensors.index.json"
    wanted: dict[str, set[str]] = {}
    try:
        if index.is_file():
            for tensor, shard in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items():
                wanted.setdefault(shard, set()).add(tensor)
        elif (model / "model.safetensors").is_file():
            wanted["model.safetensors"] = set()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        item.found, item.verdict = f"the index is unreadable: {error}", "error"
        item.fix = f"Download {index.name} again into {model}"
        return item
    if not wanted:
        others = any(model.glob("*.bin"))
        item.found = "only .bin weights" if others else "no weights"
        item.verdict, item.fix = "error", f"Download the model's .safetensors files into {model}"
        return item
    faults = [fault for shard, tensors in sorted(wanted.items()) if (fault := _shard_fault(model / shard, tensors))]
    size = sum((model / shard).stat().st_size for shard in wanted if (model / shard).is_file())
    shards = f"{len(wanted)} file{'' if len(wanted) == 1 else 's'}"
    item.found = f"{shards}, {size / 1e9:.2f} GB"
    if faults:
        more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
        item.found = "; ".join(faults[:3]) + more
        item.verdict, item.fix = "error", f"Download these files again into {model}"
    return item


def _shard_fault(path: Path, tensors: set[str]) -> str | None:
    """What is wrong with a safetensors file, judged by its header and size; None when nothing is."""
    if not path.is_file():
        return f"{path.name} is missing"
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            start = file.read(8)
            if len(start) < 8:
                return f"{path.name} is cut off after {size} bytes"
            if start.startswith(b"version"):
                return f"{path.name} is a Git LFS pointer, not the weights"
            (length,) = struct.unpack("<Q", start)
            if length > size - 8:
                return f"{path.name} is cut off or damaged: its header would be {length} bytes, the file has {size}"
            header = json.loads(file.read(length))
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        return f"{path.name} has an unreadable header ({error})"
    if size != 8 + length + end:
        return f"{path.name} is {size} bytes, its header says {8 + length + end}"
    lacking = tensors - header.keys()
    if lacking:
        return f"{path.name} lacks {len(lacking)} tensors of the index, such as {min(lacking)}"
    return None


def _check_tokenizer(model: Path, config: dict[str, Any]) -> Item:
    item = Item(
        "base tokenizer", "tokenizer.json", "tokenizer.json, or vocab.json with merges.txt; tokenizer_config.json"
    )
    if not (model / "tokenizer_config.json").is_file():
        item.found, item.verdict = "tokenizer_config.json is missing", "error"
        item.fix = f"Download it into {model}; without it pictures find no tokens at the first step"
        return item
    path = model / "tokenizer.json"
    if not path.is_file():
        item.found = "vocab.json and merges.txt"
        if not ((model / "vocab.json").is_file() and (model / "merges.txt").is_file()):
            item.found, item.verdict, item.fix = "missing", "error", f"Download tokenizer.json into {model}"
        return item
    try:
        added = {token["content"]: token["id"] for token in json.loads(path.read_text("utf-8")).get("added_tokens", [])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        item.found, item.verdict, item.fix = (
            f"unreadable: {error}",
            "error",
            f"Download tokenizer.json again into {model}",
        )
        return item
    for key, token in (("image_token_id", "<|image_pad|>"), ("video_token_id", "<|video_pad|>")):
        if key in config and added.get(token) != config[key]:
            item.found = f"{token} is token {added.get(token)}, config.json says {config[key]}"
            item.verdict, item.fix = "error", "Take tokenizer and config.json from the same model"
    return item


def _check_processor(model: Path) -> Item:
    names = [name for name in ("preprocessor_config.json", "processor_config.json") if (model / name).is_file()]
    item = Item("base processor", ", ".join(names), "preprocessor_config.json or processor_config.json")
    if not names:
        item.found, item.verdict = "missing", "error"
        item.fix = (
            f'Download preprocessor_config.json into {model}; training dies with "Processor was not found" without'
        )
        return item
    for name in names:
        _, read = _read_json(model, name)
        if read.verdict == "error":
            item.found, item.verdict, item.fix = f"{name} is {read.found}", "error", read.fix
    return item


def _check_template(model: Path, config: dict[str, Any], template: str | None) -> Item:
    thinking = _is_thinking(model)
    fits = "qwen3_vl" if thinking else "qwen3_vl_nothink"
    variant = "Thinking" if thinking else "Instruct"
    item = Item("template", template or "none", f"{fits}, for a{'n' if variant[0] == 'I' else ''} {variant} model")
    if config.get("model_type") not in _KNOWN or template == fits:
        return item
    item.fix = f"Set template: {fits}"
    if template is None:
        item.verdict = "error"
        item.needed += "; without a template, training on pictures dies"
    elif template == "qwen2_vl":
        item.verdict = "warning"
        item.needed += (
            "; qwen2_vl puts 'You are a helpful assistant.' before every row, which Qwen3-VL is not served with,"
            " and gives videos no time stamps"
        )
    elif template == "qwen3_vl":
        item.verdict = "warning"
        item.needed += "; qwen3_vl would teach it to begin every answer with empty <think></think> tags"
    elif template == "qwen3_vl_nothink":
        item.verdict = "warning"
        item.needed += "; qwen3_vl_nothink would teach it to answer without thinking"
    else:
        item.verdict = "error"
        item.needed += f"; {template} is another model's"
    return item


def _is_thinking(model: Path) -> bool:
    """Whether the base's own chat template opens a <think> for the assistant; else the folder's name decides."""
    text = ""
    for name in ("chat_template.jinja", "chat_template.json", "tokenizer_config.json"):
        path = model / name
        if path.is_file():
            text += path.read_text(encoding="utf-8", errors="replace")
    if "<|im_start|>assistant" in text:
        return re.search(r"<\|im_start\|>assistant(\\n|\\\\n|\n)<think>", text) is not None
    return "thinking" in model.name.lower()
