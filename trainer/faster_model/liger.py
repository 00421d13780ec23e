"""Liger's fused kernels for Qwen3-VL, which LLaMA-Factory 0.9.5's own `enable_liger_kernel` leaves out for this model.

RMS norm and SwiGLU round to 16 bits where transformers' own do; the rotary embedding rounds its sum once.
"""

from types import MethodType
from typing import Any

import torch
from transformers.models.qwen3_vl import modeling_qwen3_vl


def use_liger_kernels(model: torch.nn.Module) -> bool:
    """Change how `model` (a Qwen3VLForConditionalGeneration) computes; False where it is another."""
    if not isinstance(model, modeling_qwen3_vl.Qwen3VLForConditionalGeneration):
        return False
    from liger_kernel.transformers import apply_liger_kernel_to_qwen3_vl

    apply_liger_kernel_to_qwen3_vl(rope=True, rms_norm=True, fused_linear_cross_entropy=False, model=model)
    for module in model.modules():
        if isinstance(module, modeling_qwen3_vl.Qwen3VLTextMLP):
            module.forward = MethodType(swiglu, module)
    return True


def swiglu(self: Any, x: torch.Tensor) -> torch.Tensor:
    from liger_kernel.ops import LigerSiLUMulFunction

    return self.down_proj(LigerSiLUMulFunction.apply(self.gate_proj(x), self.up_proj(x)))
