"""Which adapter tensors change which tensor of the base, and how; what cannot be merged is refused by name."""

import hashlib
import json
import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from merge.safetensors_file import FLOATS, SafetensorsFile, StoredTensor, read_file
from protocol import TemperError

EMBEDDING = "model.language_model.embed_tokens.weight"
HEAD = "lm_head.weight"
# Initializations after which the adapter belongs to another base than the one on disk.
CHANGES_BASE = ("pissa", "olora", "corda", "loftq")


@dataclass(frozen=True)
class Change:
    """new = magnitude / |row| * (old + scale * up @ down); `old` is `replacement` where the adapter brings one.

    For an embedding PEFT stores both factors transposed; a bias has only `added`, which counts `scale` times.
    """

    scale: float = 1.0
    down: StoredTensor | None = None
    up: StoredTensor | None = None
    magnitude: StoredTensor | None = None
    replacement: StoredTensor | None = None
    added: StoredTensor | None = None
    transposed: bool = False

    @property
    def used(self) -> list[str]:
        parts = (self.down, self.up, self.magnitude, self.replacement, self.added)
        return [part.name for part in parts if part is not None]


@dataclass(frozen=True)
class OutputTensor:
    """One tensor of the merged model: where its base values lie, and what the adapter does to them."""

    name: str
    source: StoredTensor
    change: Change | None

    @property
    def origin(self) -> StoredTensor:
        """Where the values lie that the adapter adds to: its own full copy, if it has one."""
        return self.change.replacement if self.change and self.change.replacement else self.source


@dataclass(frozen=True)
class Adapter:
    """An adapter folder, read: `changes` are keyed by canonical tensor names."""

    folder: Path
    digest: str
    file: SafetensorsFile
    changes: dict[str, Change]
    keeps_tied: bool


def canonical(name: str) -> str:
    """The name that current transformers give a Qwen-VL tensor or module, from any of the older layouts."""
    if name.startswith("visual."):
        return f"model.{name}"
    return re.sub(r"^model\.(?!language_model\.|visual\.)", "model.language_model.", name)


def read_adapter(folder: Path) -> Adapter:
    """Read and check an adapter; raises ConfigError for what cannot be merged, HostError for missing or cut files."""
    try:
        config_bytes = (folder / "adapter_config.json").read_bytes()
        config: dict[str, Any] = json.loads(config_bytes)
    except FileNotFoundError:
        raise TemperError("HostError", f"{folder} holds no adapter_config.json: it is no adapter folder") from None
    except ValueError as error:
        raise TemperError("HostError", f"{folder / 'adapter_config.json'} is damaged: {error}") from error
    _refuse_unsupported(folder, config)
    path = folder / "adapter_model.safetensors"
    if not path.exists() and (folder / "adapter_model.bin").exists():
        raise _refusal(folder, "it is stored as adapter_model.bin: save it again as safetensors")
    file = read_file(path)
    changes = _changes(folder, config, file)
    if config.get("bias") == "lora_only" and not any(name.endswith(".bias") for name in changes):
        raise _refusal(folder, 'it was trained with bias "lora_only", and PEFT did not save the trained biases')
    digest = hashlib.sha256(config_bytes)
    with path.open("rb") as stream:
        digest.update(hashlib.file_digest(stream, "sha256").digest())
    return Adapter(folder, digest.hexdigest(), file, changes, bool(config.get("ensure_weight_tying")))


def plan(
    files: list[SafetensorsFile], adapter: Adapter | None, config: dict[str, Any]
) -> tuple[list[list[OutputTensor]], bool]:
    """The tensors of each output file, in the base's own names and order, and whether the embeddings come untied.

    Raises ConfigError, naming the tensors, when a change finds no base tensor, does not fit it, or is used twice.
    """
    changes = dict(adapter.changes) if adapter else {}
    tied = is_tied(config)
    untied = tied and (EMBEDDING in changes or HEAD in changes)
    if untied and adapter and _stays_tied(adapter):
        untied = False
    consumed: list[str] = []
    shards: list[list[OutputTensor]] = []
    seen: set[str] = set()
    for file in files:
        outputs: list[OutputTensor] = []
        for tensor in file.tensors:
            key = canonical(tensor.name)
            if key in seen:
                raise TemperError("ConfigError", f"{tensor.file} holds {key} a second time: the base is not usable")
            seen.add(key)
            if untied and key == HEAD:
                continue
            outputs.append(_output(tensor.name, tensor, changes.get(key)))
            if key == EMBEDDING and untied:
                outputs.append(_output(HEAD, tensor, changes.get(HEAD)))
        consumed += [name for output in outputs if output.change for name in output.change.used]
        shards.append(outputs)
    if adapter:
        _check_consumed(adapter, consumed, tied and not untied and HEAD in changes)
    return shards, untied


def is_tied(config: dict[str, Any]) -> bool:
    """Whether transformers ties the head of the base with this config.json to its embeddings."""
    text = config.get("text_config") or {}
    return bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))


def _refuse_unsupported(folder: Path, config: dict[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise _refusal(folder, f"its type is {config.get('peft_type')}, and only LORA can be merged")
    if config.get("fan_in_fan_out"):
        raise _refusal(folder, "it has fan_in_fan_out, which no Qwen-VL layer has")
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(CHANGES_BASE):
        raise _refusal(folder, f"init_lora_weights is {init}, which changes the base: convert it to plain LoRA first")
    options = ("use_qalora", "alora_invocation_tokens", "layer_replication", "megatron_config", "target_parameters",
               "trainable_token_indices", "arrow_config")  # fmt: skip
    for option in options:
        if config.get(option):
            raise _refusal(folder, f"it uses {option}, which has no merged form here")


def _changes(folder: Path, config: dict[str, Any], file: SafetensorsFile) -> dict[str, Change]:
    modules: dict[str, dict[str, StoredTensor]] = {}
    for tensor in file.tensors:
        if tensor.dtype not in FLOATS:
            raise _refusal(folder, f"{tensor.name} is stored as {tensor.dtype}")
        module, part = _split(tensor.name)
        parts = modules.setdefault(module, {})
        if part in parts:
            raise _refusal(folder, f"{tensor.name} is there twice, under two names")
        parts[part] = tensor
    changes: dict[str, Change] = {}
    for module, parts in modules.items():
        for suffix, change in _module_changes(folder, config, module, parts).items():
            name = canonical(f"{module}.{suffix}")
            if name in changes:
                raise _refusal(folder, f"{name} is changed twice, under two names")
            changes[name] = change
    return changes


def _split(name: str) -> tuple[str, str]:
    """A saved tensor's module, as PEFT saw it in training, and its part in it."""
    match = re.fullmatch(
        r"(?:base_model\.model\.)?(?P<module>.+?)\."
        r"(?:(?P<lora>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
        r"(?:\.(?!weight$|bias$)[^.]+)?(?P<end>\.weight|\.bias)?"
        r"|(?:base_layer\.|modules_to_save\.[^.]+\.|modules_to_save\.)?(?P<plain>[^.]+))",
        name,
    )
    if not match:
        return name, "weight"
    lora = match["lora"]
    if lora:
        return match["module"], f"{lora}.bias" if match["end"] == ".bias" else lora
    return match["module"], match["plain"]


def _module_changes(
    folder: Path, config: dict[str, Any], module: str, parts: dict[str, StoredTensor]
) -> dict[str, Change]:
    """What one module's adapter tensors do to the module's own tensors, by the name of the latter."""
    parts = dict(parts)
    changes = {}
    transposed = "lora_embedding_A" in parts
    down = parts.pop("lora_embedding_A" if transposed else "lora_A", None)
    up = parts.pop("lora_embedding_B" if transposed else "lora_B", None)
    magnitude = parts.pop("lora_magnitude_vector", None)
    added = parts.pop("lora_B.bias", None)
    if (down is None) != (up is None) or (down is None and (magnitude or added)):
        raise _refusal(folder, f"{module} has only one of its two LoRA factors")
    if down is not None and up is not None:
        if bool(config.get("use_dora")) != (magnitude is not None):
            raise _refusal(folder, f"use_dora is {config.get('use_dora')}, which does not fit the tensors of {module}")
        if magnitude is not None and transposed:
            raise _refusal(folder, f"it has DoRA on an embedding ({module})")
        scale = _scale(folder, config, module, down, up)
        changes["weight"] = Change(scale, down, up, magnitude, parts.pop("weight", None), None, transposed)
        if added is not None:
            changes["bias"] = Change(scale=scale, added=added, replacement=parts.pop("bias", None))
    for part, tensor in parts.items():
        if part.startswith(("lora_", "token_adapter", "trainable_tokens")):
            raise _refusal(folder, f"{tensor.name} is of no kind that can be merged")
        changes[part] = Change(replacement=tensor)
    return changes


def _scale(folder: Path, config: dict[str, Any], module: str, down: StoredTensor, up: StoredTensor) -> float:
    rank = int(_by_pattern(config.get("rank_pattern"), module, config.get("r")))
    alpha = float(_by_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha")))
    ranks = (down.shape[0], up.shape[1])
    if ranks != (rank, rank) or len(down.shape) != len(up.shape) or math.prod(up.shape[2:]) != 1:
        raise _refusal(
            folder, f"{module} has factors of {list(down.shape)} and {list(up.shape)} where its config says rank {rank}"
        )
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _by_pattern(patterns: dict[str, Any] | None, module: str, default: Any) -> Any:
    """The first pattern's value that matches the end of the module's name (`peft.utils.other.get_pattern_key`)."""
    return next((v for key, v in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _stays_tied(adapter: Adapter) -> bool:
    """Whether embeddings and head were trained as one, so that the adapter holds the same values for both."""
    embedding, head = adapter.changes.get(EMBEDDING), adapter.changes.get(HEAD)
    lora = any(change is not None and change.down is not None for change in (embedding, head))
    if lora and adapter.keeps_tied:
        raise _refusal(adapter.folder, "it has ensure_weight_tying with LoRA on the embeddings or the head")
    if lora or embedding is None or head is None or not embedding.replacement or not head.replacement:
        return False
    return _same_bytes(embedding.replacement, head.replacement)


def _same_bytes(a: StoredTensor, b: StoredTensor) -> bool:
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    step = 1 << 22
    with a.file.open("rb") as first, b.file.open("rb") as second:
        first.seek(a.offset)
        second.seek(b.offset)
        left = a.size
        while left:
            count = min(step, left)
            if first.read(count) != second.read(count):
                return False
            left -= count
    return True


def _output(name: str, tensor: StoredTensor, change: Change | None) -> OutputTensor:
    """Check one change against its tensor and reshape a convolution's factors to matrices."""
    if change is None:
        return OutputTensor(name, tensor, None)
    if tensor.dtype not in FLOATS:
        raise TemperError("ConfigError", f"{name} of the base is {tensor.dtype}: take the base before quantization")
    if change.replacement and change.replacement.shape != tensor.shape:
        raise _misfit(name, tensor, change.replacement)
    if change.added and change.added.shape != tensor.shape:
        raise _misfit(name, tensor, change.added)
    if change.down and change.up:
        down, up = change.down, change.up
        fits = (
            down.shape[1:] == tensor.shape[:1] and up.shape[:1] == tensor.shape[1:]
            if change.transposed
            else down.shape[1:] == tensor.shape[1:] and up.shape[0] == tensor.shape[0]
        )
        if not fits or len(tensor.shape) < 2:
            raise _misfit(name, tensor, down, up)
        if change.magnitude and change.magnitude.elements != tensor.shape[0]:
            raise _misfit(name, tensor, change.magnitude)
        change = replace(change, down=_matrix(down, down.shape[0]), up=_matrix(up, up.shape[0]))
    return OutputTensor(name, tensor, change)


def _matrix(tensor: StoredTensor, rows: int) -> StoredTensor:
    return replace(tensor, shape=(rows, tensor.elements // rows))


def _check_consumed(adapter: Adapter, consumed: list[str], head_is_copy: bool) -> None:
    present = {tensor.name for tensor in adapter.file.tensors}
    left = present - set(consumed)
    if head_is_copy:
        left -= set(adapter.changes[HEAD].used)
    if left:
        names = ", ".join(sorted(left)[:5])
        raise TemperError(
            "ConfigError",
            f"{len(left)} of {len(present)} tensors of the adapter {adapter.folder} fit no tensor of the base: another "
            f"model was trained. They are {names}",
            left=sorted(left)[:100],
        )
    twice = sorted(name for name, uses in Counter(consumed).items() if uses > 1)
    if twice:
        raise TemperError("TrainerError", f"the adapter's tensor {twice[0]} would be applied twice", twice=twice[:100])


def _misfit(name: str, tensor: StoredTensor, *others: StoredTensor) -> TemperError:
    shapes = " and ".join(f"{other.name} {list(other.shape)}" for other in others)
    return TemperError(
        "ConfigError",
        f"{name} {list(tensor.shape)} of the base does not fit the adapter's {shapes}: another base was trained",
    )


def _refusal(folder: Path, reason: str) -> TemperError:
    return TemperError("ConfigError", f"the adapter in {folder} cannot be merged: {reason}")
