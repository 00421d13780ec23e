"""The faster ways of computing Qwen3-VL are the same computation: bit for bit, or by one rounding where they say so."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen3VLForConditionalGeneration

from faster_model import lora_linear, make_faster, spare_walks, trained_parameters, vision_tower

BASE = Path(__file__).resolve().parents[2] / "demo/tiny-qwen3-vl"
GRIDS = {
    "one picture": [(1, 8, 12)],
    "equal pictures": [(1, 16, 16)] * 3,
    "pictures of all sizes": [(1, 4, 4), (1, 32, 18), (1, 16, 16), (1, 4, 50), (1, 32, 18)],
    "a video among them": [(3, 8, 4), (1, 8, 8)],
    "the whole of the learned grid": [(1, 48, 48)],
}


@pytest.fixture(scope="module")
def tower() -> torch.nn.Module:
    model = Qwen3VLForConditionalGeneration.from_pretrained(BASE, dtype=torch.float32)
    return model.model.visual


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
def test_a_picture_comes_out_of_the_vision_tower_the_same_bit_for_bit(
    tower: torch.nn.Module, grids: list, dtype: torch.dtype
) -> None:
    plain, faster = copy.deepcopy(tower).to(dtype), copy.deepcopy(tower).to(dtype)
    vision_tower.hasten(faster)
    grid = torch.tensor(grids)
    assert torch.equal(faster.fast_pos_embed_interpolate(grid), plain.fast_pos_embed_interpolate(grid))
    assert torch.equal(faster.rot_pos_emb(grid), plain.rot_pos_emb(grid))
    pixels = torch.randn(int(grid.prod(-1).sum()), plain.patch_embed.proj.weight[0].numel(), dtype=dtype)
    wanted, seen = plain(pixels, grid_thw=grid), faster(pixels, grid_thw=grid)
    assert torch.equal(seen.pooler_output, wanted.pooler_output)
    assert all(torch.equal(*each) for each in zip(seen.deepstack_features, wanted.deepstack_features, strict=True))


def test_a_grid_is_computed_once_and_forgotten_in_the_end(
    tower: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[tuple] = []
    compute = vision_tower.tables_of
    monkeypatch.setattr(vision_tower, "tables_of", lambda of, *grid: computed.append(grid) or compute(of, *grid))
    monkeypatch.setattr(vision_tower, "GRIDS_KEPT", 2)
    grids = vision_tower.Grids(copy.deepcopy(tower))
    for grid in [(1, 4, 4), (1, 8, 8), (1, 4, 4), (1, 6, 6), (1, 4, 4), (1, 8, 8)]:
        grids.look_up(torch.tensor([grid]))
    assert computed == [(1, 4, 4), (1, 8, 8), (1, 6, 6), (1, 8, 8)]


def test_a_vision_tower_that_is_trained_gets_the_same_gradients(tower: torch.nn.Module) -> None:
    plain, faster = copy.deepcopy(tower), copy.deepcopy(tower)
    make_faster_tower = vision_tower.hasten
    make_faster_tower(faster)
    grid = torch.tensor(GRIDS["pictures of all sizes"])
    pixels = torch.randn(int(grid.prod(-1).sum()), plain.patch_embed.proj.weight[0].numel())
    for each in (plain, faster):
        with torch.enable_grad():
            each(pixels, grid_thw=grid).pooler_output.square().sum().backward()
    for (name, one), other in zip(plain.named_parameters(), faster.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-5, msg=name)


def lora(dtype: torch.dtype, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    base = Qwen3VLForConditionalGeneration.from_pretrained(BASE, dtype=dtype)
    names = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    settings = {"r": 8, "lora_alpha": 16, "target_modules": names, "init_lora_weights": False, **options}
    model = get_peft_model(base, LoraConfig(**settings))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def step(model: torch.nn.Module, dtype: torch.dtype | None) -> tuple[float, list[torch.Tensor]]:
    tokens = torch.arange(8, 40).repeat(2, 1)
    with torch.enable_grad():
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
    return loss.item(), [each.grad for each in model.parameters() if each.requires_grad]


@pytest.mark.parametrize("scaling", [16, 12], ids=["times 2", "times 1.5"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_an_added_branch_is_no_farther_from_exact_arithmetic_than_pefts(dtype: torch.dtype, scaling: int) -> None:
    plain = lora(dtype, lora_alpha=scaling)
    faster, exact = copy.deepcopy(plain), copy.deepcopy(plain).double()
    make_faster(faster, compiled=False)
    (loss, gradients), (plain_loss, plain_gradients), (true_loss, true_gradients) = (
        step(faster, dtype), step(plain, dtype), step(exact, None),
    )  # fmt: skip
    assert loss == pytest.approx(plain_loss, abs=0.01)
    assert abs(loss - true_loss) < abs(plain_loss - true_loss) + 0.01
    assert len(gradients) == 3 * 7 * 2
    distance = [error(*each) for each in zip(gradients, true_gradients, strict=True)]
    plain_distance = [error(*each) for each in zip(plain_gradients, true_gradients, strict=True)]
    assert sum(distance) < 1.1 * sum(plain_distance)
    assert max(distance) < 2 * max(plain_distance)


def error(gradient: torch.Tensor, true: torch.Tensor) -> float:
    return float((gradient.double() - true.double()).norm() / true.double().norm())


def test_in_double_precision_it_is_pefts_layer() -> None:
    x, weight, bias = torch.randn(2, 5, 12).double(), torch.randn(7, 12).double(), torch.randn(7).double()
    a, b = torch.randn(3, 12).double(), torch.randn(7, 3).double()
    x, a, b = (each.requires_grad_() for each in (x, a, b))
    with torch.enable_grad():
        out = lora_linear.AddedBranch.apply(x, weight, bias, a, b, 1.5)
        torch.testing.assert_close(out, x @ weight.t() + bias + 1.5 * (x @ a.t()) @ b.t())
        assert torch.autograd.gradcheck(lambda *each: lora_linear.AddedBranch.apply(each[0], weight, bias, *each[1:], 1.5), (x, a, b))


@pytest.mark.parametrize(
    "options",
    [{"lora_dropout": 0.1}, {"use_dora": True}, {"target_modules": ["embed_tokens"]}],
    ids=["dropout", "DoRA", "an embedding"],
)
def test_other_adapters_stay_pefts(options: dict) -> None:
    assert lora_linear.add_branches_at_once(lora(torch.bfloat16, **options)) == 0


def test_without_autocast_switched_off_or_merged_it_stays_pefts() -> None:
    model = lora(torch.float32)
    plain = copy.deepcopy(model)
    assert lora_linear.add_branches_at_once(model) == 3 * 7
    tokens = torch.arange(8, 40)[None]
    assert torch.equal(model(input_ids=tokens).logits, plain(input_ids=tokens).logits)
    with model.disable_adapter(), plain.disable_adapter(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(input_ids=tokens).logits, plain(input_ids=tokens).logits)
    model.merge_adapter()
    plain.merge_adapter()
    assert torch.equal(model(input_ids=tokens).logits, plain(input_ids=tokens).logits)


def test_the_trainers_walks_are_spared_and_their_results_kept() -> None:
    model = lora(torch.float32)
    trained = trained_parameters(model)
    assert trained is not None and len(trained) == 3 * 7 * 2
    spare_walks(model, trained)
    model.eval()
    assert not any(module.training for module in model.modules())
    assert model.train() is model
    assert all(module.training for module in model.modules())
    step(model, None)
    model.zero_grad(set_to_none=False)
    assert all(not each.grad.any() for each in trained)
    model.zero_grad()
    assert all(each.grad is None for each in model.parameters())


def test_a_model_without_an_adapter_is_searched_for_what_is_trained() -> None:
    model = Qwen3VLForConditionalGeneration.from_pretrained(BASE, dtype=torch.float32)
    assert trained_parameters(model) is None
    spare_walks(model, None)
    step(model, None)
    model.zero_grad()
    assert all(each.grad is None for each in model.parameters())


def test_ligers_kernels_take_the_place_of_every_norm_and_mlp_of_the_text() -> None:
    """In a process of its own, since they stay in place; what they compute was compared on a GPU (bench/gpu/train.py)."""
    pytest.importorskip("liger_kernel", reason="Liger's kernels are for x86-64 on Linux")
    look = f"""
import torch
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextMLP
from liger_kernel.transformers.rms_norm import LigerRMSNorm
from faster_model import liger, use_liger_kernels
model = Qwen3VLForConditionalGeneration.from_pretrained({str(BASE)!r})
assert not use_liger_kernels(torch.nn.Linear(1, 1)) and use_liger_kernels(model)
text = model.model.language_model
norms = [module for name, module in text.named_modules() if name.endswith("norm")]
mlps = [module for module in text.modules() if isinstance(module, Qwen3VLTextMLP)]
assert len(norms) == 4 * len(text.layers) + 1 and len(mlps) == len(text.layers)
assert all(norm.forward.__func__ is LigerRMSNorm.forward for norm in norms)
assert all(mlp.forward.__func__ is liger.swiglu for mlp in mlps)
"""
    subprocess.run([sys.executable, "-c", look], check=True, cwd=Path(__file__).parents[2] / "trainer")
