"""What a training takes of the host, estimated from the base's headers and the options, beside what the host has."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints import KEEP_AT_LEAST
from disk_room import free_bytes
from environment.items import Item
from environment.packages import installed
from merge.safetensors_file import FLOATS, StoredTensor, read_folder
from protocol import TemperError

GB = 1e9
# Tokenized rows, logs, the report.
_REST_BYTES = 1 * GB
# The CUDA context and what PyTorch holds ready.
_GPU_START_BYTES = 1 * GB
# A logit in half precision, its fp32 copy and its gradient; the largest part of what a row takes.
_BYTES_PER_LOGIT = 10
_SHM_BYTES_PER_LOADER = 0.25 * GB
# The oldest driver of each CUDA major version: docs.nvidia.com/cuda/cuda-toolkit-release-notes, "CUDA Driver".
_OLDEST_DRIVER = {"11": (450, 80), "12": (525, 60), "13": (580, 65)}


@dataclass(frozen=True)
class Needs:
    """Bytes, and parameters where it says so; lower bounds but for the disk."""

    parameters: int
    trained_parameters: int
    checkpoint: float
    checkpoints: int
    merged: float
    weights: float
    states: float
    logits: float

    @property
    def disk(self) -> float:
        return self.checkpoints * self.checkpoint + 4 * self.trained_parameters + self.merged + _REST_BYTES


def estimate(config: dict[str, Any], model: Path, on_cpu: bool) -> Needs | None:
    """What training `model` with these options takes; None for a folder that is not a whole model."""
    try:
        tensors = [tensor for file in read_folder(model) for tensor in file.tensors if tensor.dtype in FLOATS]
    except TemperError:
        return None
    parameters = sum(tensor.elements for tensor in tensors)
    trained = trained_parameters(config, tensors)
    # On a GPU LLaMA-Factory loads a half-precision base as such even where neither bf16 nor fp16 is set.
    halved = bool(not on_cpu or config.get("bf16") or config.get("fp16"))
    width = config["quantization_bit"] / 8 if config.get("quantization_bit") else 2 if halved else 4
    # Trained weights, their gradients and Adam's two states are fp32, unless all of it is bf16.
    item = 2 if config.get("pure_bf16") else 4
    rows = int(config.get("per_device_train_batch_size") or 1)  # left open, the plan chooses it
    vocabulary = max((tensor.shape[0] for tensor in tensors if tensor.name.endswith("embed_tokens.weight")), default=0)
    return Needs(
        parameters=parameters,
        trained_parameters=trained,
        checkpoint=trained * 3 * item,
        checkpoints=_checkpoints_at_once(config),
        merged=2 * parameters,
        weights=(parameters - trained if _trains_base(config) else parameters) * width,
        states=trained * 4 * item,
        logits=rows * int(config.get("cutoff_len") or 2048) * vocabulary * _BYTES_PER_LOGIT,
    )


def trained_parameters(config: dict[str, Any], tensors: list[StoredTensor]) -> int:
    """How many values training changes: LoRA's factors on the chosen layers, or the weights that are not frozen."""
    if _trains_base(config):
        return sum(tensor.elements for tensor in tensors if not _is_frozen(config, tensor.name))
    rank = int(config.get("lora_rank") or 8)
    targets = _names(config.get("lora_target") or "all")
    saved_whole = _names(config.get("additional_target") or "")
    count = 0
    for tensor in tensors:
        module = tensor.name.removesuffix(".weight")
        last = module.rsplit(".", 1)[-1]
        if last in saved_whole:
            count += tensor.elements
        elif len(tensor.shape) == 2 and not _is_frozen(config, tensor.name) and _is_target(module, last, targets):
            count += rank * sum(tensor.shape)
    return count


def _trains_base(config: dict[str, Any]) -> bool:
    return config.get("finetuning_type") in ("full", "freeze")


def _is_frozen(config: dict[str, Any], name: str) -> bool:
    """LLaMA-Factory's three switches, with its defaults."""
    if "merger" in name:
        return config.get("freeze_multi_modal_projector") is not False
    if "visual." in name:
        return config.get("freeze_vision_tower") is not False
    return config.get("freeze_language_model") is True


def _is_target(module: str, last: str, targets: list[str]) -> bool:
    if targets == ["all"]:
        return last not in ("embed_tokens", "lm_head", "pos_embed")
    return any(last == target or module.endswith(f".{target}") for target in targets)


def _names(value: Any) -> list[str]:
    return [name.strip() for name in (value.split(",") if isinstance(value, str) else value) if name.strip()]


def _checkpoints_at_once(config: dict[str, Any]) -> int:
    """An old checkpoint goes only when a new one is whole."""
    most = max(KEEP_AT_LEAST, int(config.get("save_total_limit") or 3)) + 1
    steps, every = int(config.get("max_steps") or 0), float(config.get("save_steps") or 500)
    if steps > 0 and config.get("save_strategy", "steps") == "steps":
        return min(most, math.ceil(steps / every) if every >= 1 else math.ceil(1 / every))
    return most


def disk_item(needs: Needs | None, run_dir: Path) -> Item:
    """Checkpoints, merged model and the rest together, beside what is free and what this run has written already."""
    free = free_bytes(run_dir)
    own = sum(path.lstat().st_size for path in run_dir.rglob("*") if path.is_file() and not path.is_symlink())
    item = Item("disk for the run", f"{free / GB:.1f} GB free at {run_dir}", f"{_REST_BYTES / GB:.0f} GB at least")
    needed = _REST_BYTES
    if needs is not None:
        needed = needs.disk
        item.needed = (
            f"{needed / GB:.1f} GB: {needs.checkpoints} checkpoints of {needs.checkpoint / GB:.2f} GB, the merged "
            f"model with {needs.merged / GB:.2f} GB, {_REST_BYTES / GB:.0f} GB for rows and logs"
        )
    if free + own < needed:
        item.verdict = "error"
        item.fix = "Free some space, set TEMPER_HOME to a folder on a larger disk, or lower save_total_limit"
    return item


def memory_items(needs: Needs | None, config: dict[str, Any], on_cpu: bool) -> list[Item]:
    """The host's own memory, and the shared memory through which loader processes hand over pictures."""
    items = []
    available = _available_memory()
    if available is not None:
        items.append(Item("memory", f"{available / GB:.1f} GB available", "4 GB beside the training's own"))
        wanted = 4 * GB
        if needs is not None and on_cpu:
            # The base is read as fp32 where neither bf16 nor fp16 is asked for.
            wanted = needs.weights + needs.states + 1 * GB
            items[0].needed = f"{wanted / GB:.1f} GB for weights and states on the CPU"
        if available < wanted:
            items[0].verdict = "error" if on_cpu else "warning"
            items[0].fix = "Stop other programs, add memory or swap, or take a smaller base"
    loaders = int(config.get("dataloader_num_workers") or 0)
    shared = Path("/dev/shm")
    if loaders and shared.is_dir():
        free, wanted = shutil.disk_usage(shared).free, loaders * _SHM_BYTES_PER_LOADER
        items.append(
            Item("/dev/shm", f"{free / GB:.2f} GB free", f"{wanted / GB:.2f} GB for {loaders} loader processes")
        )
        if free < wanted:
            items[-1].verdict = "warning"
            items[-1].fix = "In a container: --shm-size 16gb; else set dataloader_num_workers: 0"
    return items


def gpu_items(needs: Needs | None, gpus: list[dict[str, Any]], cuda: str | None) -> list[Item]:
    """Driver against the wheel's CUDA, and free memory against the least that training takes, with who holds it."""
    items = []
    major = (cuda or "").split(".")[0]
    if gpus and cuda is None:
        fix = "Install torch with CUDA: npm run setup, or pip install torch==2.10.0"
        items.append(Item("CUDA", "torch without CUDA", "a torch built for the GPU", "error", fix))
    elif gpus and major in _OLDEST_DRIVER:
        oldest = _OLDEST_DRIVER[major]
        driver = str(gpus[0].get("driverVersion", ""))
        item = Item("CUDA driver", driver, f"{oldest[0]}.{oldest[1]} or newer for torch's CUDA {cuda}")
        if _version(driver) < oldest:
            item.verdict, item.fix = "error", "Install a newer NVIDIA driver, or a torch with an older CUDA"
        items.append(item)
    for gpu in gpus if needs is not None else []:
        items.append(_gpu_memory(needs, gpu, may_share=len(gpus) > 1 or installed("deepspeed") is not None))
    return items


def _gpu_memory(needs: Needs, gpu: dict[str, Any], may_share: bool) -> Item:
    """Whether weights and states fit; where GPUs may share them, the plan decides, after the rows are known."""
    least = needs.weights + needs.states + _GPU_START_BYTES
    free = gpu["freeMemoryBytes"]
    held = [f"{each['name']} (pid {each['pid']}) {each['bytes'] / GB:.1f} GB" for each in gpu.get("holders", [])]
    found = f"{free / GB:.1f} of {gpu['totalMemoryBytes'] / GB:.1f} GB free"
    item = Item(
        f"memory of GPU {gpu['index']}",
        found + (f"; held by {', '.join(held)}" if held else ""),
        f"{least / GB:.1f} GB for weights and states, up to {needs.logits / GB:.1f} GB more for the longest rows",
    )
    if free < least:
        item.verdict = "warning" if may_share else "error"
        item.fix = (
            "Stop what holds the GPU's memory" if held else "Take a smaller base, LoRA, or a GPU with more memory"
        )
    elif free < least + needs.logits:
        item.verdict = "warning"
        item.fix = (
            "Lower cutoff_len or per_device_train_batch_size; if memory runs out, the batch is cut and training resumes"
        )
    return item


def _version(text: str) -> tuple[int, int]:
    parts = [int(part) if part.isdigit() else 0 for part in text.split(".")] + [0, 0]
    return parts[0], parts[1]


def _available_memory() -> float | None:
    """MemAvailable, or what a container's own limit leaves."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
        if limit.exists() and (text := limit.read_text().strip()) != "max":
            available = min(available, int(text) - int(used.read_text()))
        return float(available)
    except (OSError, StopIteration, ValueError):
        return None
