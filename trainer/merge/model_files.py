"""Everything a served folder needs beside its weights, in the form that transformers 4.57 and 5 both load."""

import json
from pathlib import Path
from typing import Any

from protocol import TemperError

LEVELS = ("text_config", "vision_config")
DTYPE_NAMES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}
KEPT_SUFFIXES = (".json", ".jinja", ".txt", ".model", ".tiktoken")
KEPT_STEMS = ("LICENSE", "NOTICE")
# Weights' own files, and what fetching, training, merging and patching leave in a folder.
LEFT_OUT = (
    "model.safetensors.index.json", "pytorch_model.bin.index.json", "adapter_config.json", "trainer_state.json",
    "all_results.json", "train_results.json", "eval_results.json", "merge.json", "fp16.json", ".merge.json",
    "digests.json", ".temper-source.json",
)  # fmt: skip
LARGEST_BYTES = 100_000_000


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json; raises HostError without one, ConfigError for a quantized model."""
    path = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise TemperError("HostError", f"{path} is missing: the model folder is incomplete, get it again") from None
    except ValueError as error:
        raise TemperError("HostError", f"{path} is damaged: {error}") from error
    quantization = config.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        raise TemperError("ConfigError", f"{folder} is quantized ({method}): take the model before quantization")
    return config


def serving_files(folder: Path, dtype: str | None, untied: bool) -> dict[str, bytes]:
    """All files but the weights, by name, for a folder made from `folder` and stating `dtype` (None: as it was)."""
    config = read_config(folder)
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if _kept(path)}
    files["config.json"] = _json(set_config(config, dtype, untied))
    if "tokenizer_config.json" in files:
        files["tokenizer_config.json"] = _json(_tokenizer_config(json.loads(files["tokenizer_config.json"])))
    files |= _preprocessors(files)
    template = _chat_template(files)
    if template:
        files["chat_template.jinja"] = template.encode()
    return files


def set_config(config: dict[str, Any], dtype: str | None, untied: bool = False) -> dict[str, Any]:
    """A config.json with `dtype` at every level, no older name of it, and rope keys for both transformers."""
    config = dict(config)
    for level in LEVELS:
        if isinstance(config.get(level), dict):
            config[level] = _set_level(config[level], dtype)
    config = _set_level(config, dtype)
    if untied:
        config["tie_word_embeddings"] = False
        if isinstance(config.get("text_config"), dict):
            config["text_config"]["tie_word_embeddings"] = False
    return config


def config_levels(config: dict[str, Any]) -> dict[str, Any]:
    """The dtype that each level of a config.json states, under either name."""
    levels = {"root": config} | {level: config[level] for level in LEVELS if isinstance(config.get(level), dict)}
    return {name: level.get("dtype", level.get("torch_dtype")) for name, level in levels.items()}


def _set_level(level: dict[str, Any], dtype: str | None) -> dict[str, Any]:
    level = dict(level)
    if dtype is not None:
        level.pop("torch_dtype", None)
        level["dtype"] = DTYPE_NAMES[dtype]
    rope = level.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope:
        # transformers 4.57 knows only these two; 5 reads rope_parameters and ignores them.
        level.setdefault("rope_theta", rope["rope_theta"])
        level.setdefault("rope_scaling", {key: value for key, value in rope.items() if key != "rope_theta"})
    return level


def _kept(path: Path) -> bool:
    if path.name in LEFT_OUT or not path.is_file() or path.stat().st_size > LARGEST_BYTES:
        return False
    return path.suffix in KEPT_SUFFIXES or path.stem in KEPT_STEMS


def _tokenizer_config(config: dict[str, Any]) -> dict[str, Any]:
    """transformers 4.57 takes `extra_special_tokens` only as a mapping; as a list it has another name there."""
    config = dict(config)
    extra = config.get("extra_special_tokens")
    if isinstance(extra, list):
        del config["extra_special_tokens"]
        config.setdefault("additional_special_tokens", extra)
    return config


def _preprocessors(files: dict[str, bytes]) -> dict[str, bytes]:
    """The two files that transformers 4.57 reads, from the one that transformers 5 writes."""
    if "processor_config.json" not in files:
        return {}
    processor = json.loads(files["processor_config.json"])
    made = {}
    parts = {"preprocessor_config.json": "image_processor", "video_preprocessor_config.json": "video_processor"}
    for name, part in parts.items():
        if name not in files and isinstance(processor.get(part), dict):
            made[name] = _json(processor[part] | {"processor_class": processor.get("processor_class")})
    return made


def _chat_template(files: dict[str, bytes]) -> str | None:
    """The chat template where the processors of both versions look for it; a tokenizer's alone does not reach them."""
    if "chat_template.jinja" in files:
        return None
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        template = json.loads(files[name]).get("chat_template") if name in files else None
        if isinstance(template, str):
            return template
    return None


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
