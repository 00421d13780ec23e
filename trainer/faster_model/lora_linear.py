"""LoRA's branch added into the base's output while it is computed, forward and backward.

PEFT computes the branch, scales it and adds it: three times over the whole output, and as often for the gradients. Here
the matrix product adds into what is there (addmm). The sum is rounded to 16 bits once instead of after each of these.
"""

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch.nn.functional import linear


class AddedBranch(torch.autograd.Function):
    """x (…, in) → x Wᵀ + bias + scaling · (x Aᵀ) Bᵀ; W (out, in) frozen, A (rank, in), B (out, rank).

    Computed in W's type, 16 bits; A, B and their gradients are in A's.
    """

    @staticmethod
    def forward(
        context: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        a16, b16 = a.to(weight.dtype), b.to(weight.dtype)
        low = rows @ a16.t()
        out = linear(rows, weight, bias).addmm_(low, b16.t(), alpha=scaling)
        context.save_for_backward(rows, weight, a16, b16, low)
        context.type_of_gradients = a.dtype
        context.scaling, context.shape = scaling, x.shape
        return out.view(*x.shape[:-1], out.shape[-1])

    @staticmethod
    def backward(context: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight, a, b, low = context.saved_tensors
        of_x, _, _, of_a, of_b, _ = context.needs_input_grad
        grad = grad.reshape(-1, grad.shape[-1])
        grad_low = (grad @ b) * context.scaling
        grad_x = (grad @ weight).addmm_(grad_low, a).view(context.shape) if of_x else None
        grad_a = (grad_low.t() @ rows).to(context.type_of_gradients) if of_a else None
        grad_b = (grad.t() @ low * context.scaling).to(context.type_of_gradients) if of_b else None
        return grad_x, None, None, grad_a, grad_b, None


def add_branches_at_once(model: torch.nn.Module) -> int:
    """Let all plain LoRA layers of `model` compute so wherever it is trained under autocast; returns how many can."""
    layers = [module for module in model.modules() if type(module) is Linear and can_add(module)]
    for layer in layers:
        layer.forward = MethodType(forward, layer)
    return len(layers)


def can_add(layer: Linear) -> bool:
    """One plain adapter without dropout over a frozen, unquantized linear layer."""
    base = layer.get_base_layer()
    return (
        type(base) is torch.nn.Linear
        and not base.weight.requires_grad
        and (base.bias is None or not base.bias.requires_grad)
        and len(layer.lora_A) == 1
        and not layer.lora_variant
        and not any(layer.lora_bias.values())
        and all(isinstance(each, torch.nn.Identity) for each in layer.lora_dropout.values())
    )


def forward(self: Linear, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    base = self.get_base_layer()
    device = x.device.type
    type_of_step = torch.get_autocast_dtype(device)
    plain = not (args or kwargs or self.disable_adapters or self.merged)
    if not (plain and torch.is_autocast_enabled(device) and base.weight.dtype == type_of_step):
        return Linear.forward(self, x, *args, **kwargs)
    (adapter,) = self.lora_A
    a, b = self.lora_A[adapter].weight, self.lora_B[adapter].weight
    return AddedBranch.apply(x.to(type_of_step), base.weight, base.bias, a, b, self.scaling[adapter])
