"""Without PEFT's casts a training under autocast is the same, bit for bit, in fewer operations."""

import copy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.profiler import ProfilerActivity, profile
from transformers import Qwen3VLForConditionalGeneration

from rounding import leave_casts_to_autocast

BASE = Path(__file__).resolve().parents[2] / "demo/tiny-qwen3-vl"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_losses_and_gradients_are_the_same_bit_for_bit(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    base = Qwen3VLForConditionalGeneration.from_pretrained(BASE, dtype=dtype)
    names = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    model = get_peft_model(base, LoraConfig(r=8, target_modules=names, init_lora_weights=False))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    spared = copy.deepcopy(model)
    leave_casts_to_autocast(spared)
    one, other = step(model, dtype), step(spared, dtype)
    assert one["loss"] == other["loss"]
    assert len(one["gradients"]) == len(other["gradients"]) == 3 * 7 * 2
    for gradient, same in zip(one["gradients"], other["gradients"], strict=True):
        assert gradient.abs().max() > 0
        assert torch.equal(gradient, same)
    assert other["casts"] <= one["casts"] - 2 * 3 * 7


def step(model: torch.nn.Module, dtype: torch.dtype) -> dict:
    tokens = torch.arange(8, 40).repeat(2, 1)
    with torch.enable_grad(), profile(activities=[ProfilerActivity.CPU]) as seen:
        with torch.autocast("cpu", dtype):
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
    casts = sum(event.count for event in seen.key_averages() if event.key == "aten::_to_copy")
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    return {"loss": loss.item(), "gradients": gradients, "casts": casts}
