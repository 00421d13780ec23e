"""The same Qwen3-VL in less time: fewer waits for the GPU, fewer kernels; each part says what it rounds otherwise."""

from typing import Any

import torch
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from faster_model.liger import use_liger_kernels
from faster_model.lora_linear import add_branches_at_once
from faster_model.vision_tower import hasten
from faster_model.walks import spare_walks, trained_parameters

__all__ = ["base_of", "make_faster", "spare_walks", "trained_parameters", "use_liger_kernels"]


def make_faster(model: Any, compiled: bool) -> None:
    """Change how `model`, with its adapter if it has one, computes when it is trained under autocast on a GPU.

    A compiled model keeps PEFT's LoRA layers, whose branches the compiler fuses by itself; so does one whose weights
    DeepSpeed gathers layer by layer, since that happens where PEFT's layers call those below them.
    """
    base = base_of(model)
    hasten(getattr(getattr(base, "model", None), "visual", None))
    if not compiled and not is_deepspeed_zero3_enabled():
        add_branches_at_once(model)


def base_of(model: torch.nn.Module) -> torch.nn.Module:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
