"""Merging: what comes out is PEFT's fp32 merge rounded once, whatever the adapter and whenever it was killed."""

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen3VLForConditionalGeneration,
)

from base_digest import base_digest
from killed_merge import Silent, merge_silently
from merge.output_folder import check_folder
from merge.safetensors_file import INDEX_NAME, make_header, read_folder
from merge_adapter import COUNTED, NO_ADAPTER, Options, merge
from protocol import TemperError
from random_qwen3_vl import save_random_model

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "trainer" / "merge_adapter.py"
TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
LLAMA_FACTORY_NAMES = [
    f"model.language_model.layers.{layer}.{name}"
    for layer in range(2)
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                 "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    name: str
    lora: dict[str, Any]
    tied: bool = True
    dtype: str = "fp16"
    base_dtype: torch.dtype = torch.bfloat16
    untied: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


EVERYTHING = ["qkv", "proj", "linear_fc1", "linear_fc2", "q_proj", "down_proj"]
PLAIN = {"r": 4, "target_modules": ["q_proj", "down_proj"]}
CASES = [
    Case("LoRA as LLaMA-Factory names it", {"r": 8, "lora_alpha": 16, "target_modules": LLAMA_FACTORY_NAMES}),
    Case("LoRA as PEFT names it", PLAIN),
    Case("to bf16", PLAIN, dtype="bf16"),
    Case("to the type of an fp16 base", PLAIN, dtype="base", base_dtype=torch.float16),
    Case("to the type of an fp32 base", PLAIN, dtype="base", base_dtype=torch.float32),
    Case("an fp32 base to fp16", PLAIN, base_dtype=torch.float32),
    Case("vision tower, mergers and the patch convolution", {"r": 4, "target_modules": EVERYTHING}),
    Case("rsLoRA", {"r": 3, "lora_alpha": 5, "use_rslora": True, "target_modules": EVERYTHING}),
    Case("DoRA", {"r": 4, "use_dora": True, "target_modules": EVERYTHING}),
    Case("DoRA with rsLoRA", {"r": 3, "use_dora": True, "use_rslora": True, "target_modules": LLAMA_FACTORY_NAMES}),
    Case("rank and alpha patterns", PLAIN | {
        "rank_pattern": {"layers.0.self_attn.q_proj": 2, "down_proj": 6}, "alpha_pattern": {"q_proj": 3}
    }),
    Case("modules to save", PLAIN | {"modules_to_save": ["input_layernorm", "visual.merger"]}),
    Case("trained biases", {"r": 4, "target_modules": ["qkv"], "bias": "all"}),
    Case("biases of the LoRA itself", {"r": 4, "target_modules": ["qkv", "linear_fc1"], "lora_bias": True}),
    Case("untied", PLAIN, tied=False),
    Case("untied, embeddings and head saved", PLAIN | {"modules_to_save": ["embed_tokens", "lm_head"]}, tied=False),
    Case("untied, LoRA on embeddings and head", {"r": 4, "target_modules": ["embed_tokens", "lm_head"]}, tied=False),
]  # fmt: skip
# What a tied model becomes when only one of the two changes: PEFT's own merge is no reference for these, the trained
# model's answers are.
TIED_CASES = [
    Case("embeddings saved", PLAIN | {"modules_to_save": ["embed_tokens"]}, untied=True),
    Case("embeddings and head saved", PLAIN | {"modules_to_save": ["embed_tokens", "lm_head"]}, untied=True),
    Case("saved as one", PLAIN | {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
    Case("LoRA on the embeddings", {"r": 4, "target_modules": ["embed_tokens", "q_proj"]}, untied=True),
    Case("LoRA on the head", {"r": 4, "target_modules": ["lm_head", "q_proj"]}, untied=True),
]
named = pytest.mark.parametrize
# The bench kills the command twenty times, on a model of gigabytes.
KILLS = 6


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Random bases, made when first asked for."""
    made: dict[tuple[bool, torch.dtype], Path] = {}

    def base(tied: bool = True, dtype: torch.dtype = torch.bfloat16) -> Path:
        if (tied, dtype) not in made:
            folder = tmp_path_factory.mktemp("bases") / f"{'tied' if tied else 'untied'}-{dtype}".replace(".", "-")
            made[tied, dtype] = save_random_model(folder, tied, dtype, processor=True)
        return made[tied, dtype]

    return base


@pytest.fixture(scope="module")
def simple(bases: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base and a plain adapter for it."""
    adapter = tmp_path_factory.mktemp("adapter") / "adapter"
    make_adapter(bases(), adapter, PLAIN)
    return bases(), adapter


def make_adapter(base: Path, folder: Path, lora: dict[str, Any], scale: float = 0.02) -> PeftModel:
    """Save an adapter with random factors; returns the model that has it, in fp32."""
    torch.manual_seed(11)
    model = get_peft_model(
        Qwen3VLForConditionalGeneration.from_pretrained(base, dtype=torch.float32), LoraConfig(**lora)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * scale)
    model.save_pretrained(folder)
    return model


def merged_tensors(folder: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for file in read_folder(folder):
        tensors |= load_file(file.path)
    return tensors


def run_merge(base: Path, adapter: Path, out: Path, **options: Any) -> dict[str, Any]:
    return merge(Options(base, adapter, out, **options), Silent())


@named("case", CASES, ids=lambda case: case.name)
def test_the_result_is_pefts_fp32_merge_rounded_once(case: Case, bases: Any, tmp_path: Path) -> None:
    base = bases(case.tied, case.base_dtype)
    model = make_adapter(base, tmp_path / "adapter", case.lora)
    result = run_merge(base, tmp_path / "adapter", tmp_path / "out", dtype=case.dtype)
    expected = model.merge_and_unload().state_dict()
    ours = merged_tensors(tmp_path / "out")
    kind = TYPES.get(case.dtype, case.base_dtype)
    wanted = {name for name in expected if not (case.tied and name == "lm_head.weight")}
    assert ours.keys() == wanted
    values = different = 0
    for name, tensor in ours.items():
        assert tensor.dtype == kind
        reference = expected[name].to(kind)
        values += tensor.numel()
        unequal = tensor != reference
        different += int(unequal.sum())
        # Where sums come out in another order the two may be neighbors in the last place.
        step = torch.finfo(kind).eps * reference[unequal].float().abs() + torch.finfo(kind).smallest_normal
        limit = step * (32 if kind == torch.float32 else 1)
        assert ((tensor - reference)[unequal].float().abs() <= limit).all(), name
    assert different <= (values * 0.02 if kind == torch.float32 else values * 1e-4)
    assert result["tensors"] == len(ours) and result["merged"] > 0 and result["changed"] > 0
    assert result["overflow"] == result["nonFinite"] == 0


def put_odd_tensor_first(base: Path) -> None:
    """Give the first file a tensor of odd size, so that the values behind it straddle what is cut at even places."""
    file = read_folder(base)[0]
    rest = file.path.read_bytes()[len(file.header) :]
    header, _ = make_header([("model.odd", "U8", (4099,)), *((t.name, t.dtype, t.shape) for t in file.tensors)])
    file.path.write_bytes(header + b"7" * 4099 + rest)
    index = json.loads((base / INDEX_NAME).read_text())
    index["weight_map"]["model.odd"] = file.path.name
    (base / INDEX_NAME).write_text(json.dumps(index))


@named("lora", [PLAIN | {"r": 8}, PLAIN | {"use_dora": True}], ids=["LoRA", "DoRA"])
def test_files_come_out_the_same_however_finely_the_work_is_cut(
    lora: dict[str, Any], bases: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    shutil.copytree(bases(), base)
    put_odd_tensor_first(base)
    make_adapter(bases(), tmp_path / "adapter", lora)
    for name in ("whole", "cut"):
        if name == "cut":
            monkeypatch.setattr("merge.convert.PART_BYTES", 4096)
            monkeypatch.setattr("merge.convert.BLOCK_VALUES", {"cpu": 300})
        run_merge(base, tmp_path / "adapter", tmp_path / name)
        run_merge(base, NO_ADAPTER, tmp_path / f"{name}-only-rounded")
    for file in read_folder(tmp_path / "whole-only-rounded"):
        assert (tmp_path / "cut-only-rounded" / file.path.name).read_bytes() == file.path.read_bytes()
    record = {
        name: json.loads((tmp_path / name / "merge.json").read_text())
        for name in ("whole", "whole-only-rounded", "cut", "cut-only-rounded")
    }
    assert record["whole-only-rounded"]["shards"] == record["cut-only-rounded"]["shards"]
    counts = [record["whole"], record["cut"]]
    assert [abs(counts[0][key] - counts[1][key]) <= 3 for key in COUNTED] == [True] * len(COUNTED)
    whole, cut = merged_tensors(tmp_path / "whole"), merged_tensors(tmp_path / "cut")
    # A product of few rows may be summed in another order.
    different = sum(int((whole[name] != cut[name]).sum()) for name in whole)
    assert different <= 1e-4 * sum(tensor.numel() for tensor in whole.values())
    assert all(torch.allclose(whole[name].float(), cut[name].float(), rtol=1e-3, atol=1e-7) for name in whole)


@named("case", TIED_CASES, ids=lambda case: case.name)
def test_a_tied_model_computes_what_the_trained_one_did(case: Case, bases: Any, tmp_path: Path) -> None:
    base = bases(True, torch.float32)
    trained = make_adapter(base, tmp_path / "adapter", case.lora).eval()
    result = run_merge(base, tmp_path / "adapter", tmp_path / "out", dtype="base")
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    tokens = torch.arange(20, 52).unsqueeze(0)
    with torch.no_grad():
        difference = (trained(input_ids=tokens).logits - merged(input_ids=tokens).logits).abs().max()
    assert difference < 1e-5
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (result["untied"], config["tie_word_embeddings"]) == (case.untied, not case.untied)


def test_a_small_delta_survives_where_rounding_twice_would_lose_it(bases: Any, tmp_path: Path) -> None:
    make_adapter(bases(), tmp_path / "adapter", PLAIN | {"r": 8}, scale=0.002)
    run_merge(bases(), tmp_path / "adapter", tmp_path / "once")
    once, base = merged_tensors(tmp_path / "once"), merged_tensors(bases())
    lora = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    module = "model.language_model.layers.0.mlp.down_proj"
    up, down = (lora[f"base_model.model.{module}.lora_{part}.weight"].double() for part in "BA")
    old = base[f"{module}.weight"].double()
    wanted = up @ down
    errors = [
        ((merged - old) - wanted).square().mean().sqrt()
        for merged in (once[f"{module}.weight"].double(), (old + wanted).bfloat16().half().double())
    ]
    assert errors[1] > 5 * errors[0]


def test_a_merged_folder_loads_with_every_parameter_in_its_type(simple: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = simple
    out = tmp_path / "out"
    result = run_merge(base, adapter, out)
    model = AutoModelForImageTextToText.from_pretrained(out, dtype="auto")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
    config = json.loads((out / "config.json").read_text())
    levels = (config, config["text_config"], config["vision_config"])
    assert [level["dtype"] for level in levels] == ["float16"] * 3
    assert not any("torch_dtype" in level for level in levels)
    assert {"rope_theta", "rope_scaling", "rope_parameters"} <= config["text_config"].keys()
    assert AutoProcessor.from_pretrained(out).chat_template
    expected = {"preprocessor_config.json", "video_preprocessor_config.json", "chat_template.jinja", "merge.json"}
    assert expected <= {path.name for path in out.iterdir()}
    assert out.stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {0o644}
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(2 * tensor.numel() for tensor in merged_tensors(out).values())
    audit = json.loads((out / "merge.json").read_text())
    assert audit["mergeDigest"] == result["mergeDigest"]
    assert audit["inputs"] == {
        "format": 1, "base": result["baseDigest"], "adapter": result["adapterDigest"], "dtype": "fp16", "clamp": False
    }  # fmt: skip
    assert sum(len(shard["tensors"]) for shard in audit["shards"]) == result["tensors"]


def test_the_files_that_are_not_as_the_merge_left_them_are_named(simple: tuple[Path, Path], tmp_path: Path) -> None:
    result = run_merge(*simple, tmp_path / "out")
    assert check_folder(tmp_path / "out") == (result["mergeDigest"], [])
    weights = max((tmp_path / "out").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    (tmp_path / "out" / "config.json").write_text("{}")
    (tmp_path / "out" / "chat_template.jinja").unlink()
    digest, changed = check_folder(tmp_path / "out")
    assert digest == result["mergeDigest"]
    assert set(changed) == {weights.name, "config.json", "chat_template.jinja"}


def test_a_single_file_base_gives_a_single_file(bases: Any, tmp_path: Path) -> None:
    base = save_random_model(tmp_path / "base", shard="10GB")
    make_adapter(base, tmp_path / "adapter", PLAIN)
    run_merge(base, tmp_path / "adapter", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").glob("model*")] == ["model.safetensors"]


def test_without_an_adapter_a_model_is_only_brought_to_the_type(bases: Any, tmp_path: Path) -> None:
    result = run_merge(bases(), Path("none"), tmp_path / "out")
    assert (result["merged"], result["changed"]) == (0, 0) and "adapterDigest" in result
    old, new = merged_tensors(bases()), merged_tensors(tmp_path / "out")
    assert old.keys() == new.keys()
    assert all(torch.equal(tensor, old[name].half()) for name, tensor in new.items())


def test_older_names_of_the_same_tensors_match(simple: tuple[Path, Path], tmp_path: Path) -> None:
    """Qwen2-VL checkpoints call the text model `model.` and the tower `visual.`, and so did adapters of that time."""
    base, adapter = simple

    def older(name: str) -> str:
        return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")

    old_base, old_adapter = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(base, old_base)
    (old_base / "model.safetensors.index.json").unlink()
    tensors = {older(name): tensor for name, tensor in merged_tensors(base).items()}
    for path in old_base.glob("model-*"):
        path.unlink()
    save_file(tensors, old_base / "model.safetensors", metadata={"format": "pt"})
    shutil.copytree(adapter, old_adapter)
    state = load_file(adapter / "adapter_model.safetensors")
    save_file({older(name).replace("lora_A", "lora_A.default"): t for name, t in state.items()},
              old_adapter / "adapter_model.safetensors")  # fmt: skip
    run_merge(base, adapter, tmp_path / "new")
    run_merge(old_base, old_adapter, tmp_path / "old")
    new, old = merged_tensors(tmp_path / "new"), merged_tensors(tmp_path / "old")
    assert {older(name) for name in new} == old.keys()
    assert all(torch.equal(tensor, old[older(name)]) for name, tensor in new.items())


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder: Path, change: Any) -> None:
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def edit_base(folder: Path, change: Any) -> None:
    for path in folder.glob("*.safetensors"):
        state = load_file(path)
        change(state)
        save_file(state, path, metadata={"format": "pt"})


FIRST = "model.language_model.layers.0.self_attn.q_proj"


def poison(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = f"base_model.model.{FIRST}.lora_B.weight"
    return state | {name: state[name].fill_(float("nan"))}


def enlarge(state: dict[str, torch.Tensor]) -> None:
    for name in state.keys() & {"model.language_model.norm.weight"}:
        state[name][3] = 70000.0


def set_option(**options: Any) -> Any:
    return lambda _, adapter: edit_config(adapter, **options)


def halve_a_pair(_: Path, adapter: Path) -> None:
    dropped = f"base_model.model.{FIRST}.lora_A.weight"
    edit_tensors(adapter, lambda state: {name: tensor for name, tensor in state.items() if name != dropped})


def add_a_layer(_: Path, adapter: Path) -> None:
    def change(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        layer = {name: tensor.clone() for name, tensor in state.items() if "layers.0." in name}
        return state | {name.replace("layers.0.", "layers.9."): tensor for name, tensor in layer.items()}

    edit_tensors(adapter, change)


def double_the_columns(_: Path, adapter: Path) -> None:
    def double(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat([tensor, tensor], 1) if "q_proj.lora_A" in name else tensor

    edit_tensors(adapter, lambda state: {name: double(name, tensor) for name, tensor in state.items()})


def pickle_it(_: Path, adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")


def quantize_the_config(base: Path, _: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq"}
    (base / "config.json").write_text(json.dumps(config))


def quantize_the_weights(base: Path, _: Path) -> None:
    def quantize(state: dict[str, torch.Tensor]) -> None:
        for name in [name for name in state if name.endswith("o_proj.weight")]:
            state[name] = state[name].to(torch.float8_e4m3fn)

    edit_base(base, quantize)


def lose_a_shard(base: Path, _: Path) -> None:
    (base / "model-00003-of-00007.safetensors").unlink()


def cut_a_shard(base: Path, _: Path) -> None:
    path = base / "model-00002-of-00007.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


REFUSALS = [
    ("another kind of adapter", set_option(peft_type="OFT"), "ConfigError", ["OFT", "only LORA"]),
    ("PiSSA", set_option(init_lora_weights="pissa_niter_4"), "ConfigError", ["pissa_niter_4"]),
    ("tokens trained singly", set_option(trainable_token_indices=[1]), "ConfigError", ["trainable_token_indices"]),
    ("biases that PEFT lost", set_option(bias="lora_only"), "ConfigError", ["did not save"]),
    ("DoRA without magnitudes", set_option(use_dora=True), "ConfigError", ["use_dora", "layers."]),
    ("another rank", set_option(r=8), "ConfigError", [", 4]", "rank 8"]),
    ("half a pair", halve_a_pair, "ConfigError", [FIRST, "only one"]),
    ("a layer that the base has not", add_a_layer, "ConfigError", ["4 of 12 tensors", "layers.9.", "another model"]),
    ("other shapes", double_the_columns, "ConfigError", [FIRST, "[64, 64]", "[4, 128]"]),
    ("an adapter in a pickle", pickle_it, "ConfigError", ["adapter_model.bin", "safetensors"]),
    (
        "no adapter",
        lambda _, adapter: shutil.rmtree(adapter),
        "HostError",
        ["adapter_config.json", "no adapter folder"],
    ),
    ("a quantized base", quantize_the_config, "ConfigError", ["quantized", "awq"]),
    ("an 8-bit base", quantize_the_weights, "ConfigError", ["o_proj", "F8_E4M3"]),
    ("a missing shard", lose_a_shard, "HostError", ["model-00003-of-00007.safetensors is missing"]),
    ("a shard cut short", cut_a_shard, "HostError", ["model-00002-of-00007.safetensors", "145,", "cut short"]),
    ("no base", lambda base, _: shutil.rmtree(base), "HostError", ["config.json is missing"]),
]


@named("_, damage, type, words", REFUSALS, ids=[row[0] for row in REFUSALS])
def test_what_cannot_be_merged_is_refused_by_name_before_writing(
    _: str, damage: Any, type: str, words: list[str], simple: tuple[Path, Path], tmp_path: Path
) -> None:
    base, adapter, out = tmp_path / "base", tmp_path / "adapter", tmp_path / "out"
    shutil.copytree(simple[0], base)
    shutil.copytree(simple[1], adapter)
    damage(base, adapter)
    with pytest.raises(TemperError) as caught:
        run_merge(base, adapter, out)
    assert caught.value.type == type
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert not out.exists()


def test_another_base_than_the_one_trained_on_is_refused(simple: tuple[Path, Path], bases: Any, tmp_path: Path) -> None:
    base, adapter = simple
    digest = run_merge(base, adapter, tmp_path / "out")["baseDigest"]
    run_merge(base, adapter, tmp_path / "again", expect_base_digest=digest)
    other = tmp_path / "base"
    shutil.copytree(base, other)
    edit_base(other, lambda state: [tensor.mul_(1.01) for tensor in state.values()])
    with pytest.raises(TemperError, match="is not the base that this adapter was trained on"):
        run_merge(other, adapter, tmp_path / "wrong", expect_base_digest=digest)
    assert not (tmp_path / "wrong").exists()


def test_not_enough_disk_is_said_before_writing(
    simple: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(tmp_path)
    full = os.statvfs_result([*real[:4], 1, *real[5:]])
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    with pytest.raises(TemperError, match="free and the merged model takes") as caught:
        run_merge(*simple, tmp_path / "out")
    assert caught.value.type == "DiskFullError" and not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_is_named_and_what_is_finished_is_kept(
    simple: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.pwrite, []

    def pwrite(descriptor: int, data: Any, position: int) -> int:
        calls.append(position)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data, position)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(TemperError, match=r"the disk of .*out is full: make room") as caught:
        run_merge(*simple, tmp_path / "out")
    assert caught.value.type == "DiskFullError"
    monkeypatch.undo()
    assert run_merge(*simple, tmp_path / "out")["reusedShards"] == 3


def test_a_folder_of_links_with_another_config_is_the_same_base(simple: tuple[Path, Path], tmp_path: Path) -> None:
    """The way an fp16 GPU gets its base: the weights are links, config.json is a changed copy."""
    for path in simple[0].iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({"dtype": "float16"}))
    assert base_digest(read_folder(tmp_path)) == base_digest(read_folder(simple[0]))


def test_overflow_names_the_tensor_and_its_size_unless_clamping_is_allowed(
    simple: tuple[Path, Path], tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(simple[0], base)
    edit_base(base, enlarge)
    with pytest.raises(TemperError, match=r"language_model\.norm\.weight has 1 values too large for F16, up to 70144"):
        run_merge(base, simple[1], tmp_path / "out")
    assert not (tmp_path / "out" / "model.safetensors.index.json").exists()
    result = run_merge(base, simple[1], tmp_path / "clamped", clamp=True)
    assert result["overflow"] == 1
    assert merged_tensors(tmp_path / "clamped")["model.language_model.norm.weight"][3] == 65504


def test_an_adapter_with_nan_fails_by_name(simple: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(simple[1], tmp_path / "adapter")
    edit_tensors(tmp_path / "adapter", poison)
    with pytest.raises(TemperError, match=rf"{FIRST}\.weight has .* not finite") as caught:
        run_merge(simple[0], tmp_path / "adapter", tmp_path / "out")
    assert caught.value.type == "TrainerError"


def test_counts_say_what_rounding_did_to_each_tensor(simple: tuple[Path, Path], tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(simple[0], base)
    name = "model.language_model.layers.1.mlp.up_proj.weight"

    def shrink(state: dict[str, torch.Tensor]) -> None:
        for key in state.keys() & {name}:
            state[key].view(-1)[:7] = 1e-9
            state[key].view(-1)[7:12] = 1e-6
            state[key].view(-1)[12:15] = 0.0

    edit_base(base, shrink)
    run_merge(base, simple[1], tmp_path / "out")
    audit = json.loads((tmp_path / "out" / "merge.json").read_text())
    counts = next(shard["tensors"][name] for shard in audit["shards"] if name in shard["tensors"])
    values = merged_tensors(base)[name].float()
    expected = int(((values.abs() < 2**-14) & (values.abs() > 2**-25)).sum())
    assert counts == {"values": values.numel(), "overflow": 0, "underflow": 7, "subnormal": expected, "nonFinite": 0}


def content(folder: Path) -> dict[str, bytes]:
    """All files but the audit, whose times differ."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "merge.json"}


def test_a_folder_that_another_made_is_never_taken_over(simple: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = simple
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "precious.txt").write_text("mine")
    with pytest.raises(TemperError, match="not empty and was not written by a merge"):
        run_merge(base, adapter, foreign)
    assert content(foreign) == {"precious.txt": b"mine"}
    run_merge(base, adapter, tmp_path / "out", owner="run-1")
    before = content(tmp_path / "out")
    for changed in ({"dtype": "bf16", "owner": "run-2"}, {"dtype": "bf16"}):
        with pytest.raises(TemperError, match="holds another merge of run-1"):
            run_merge(base, adapter, tmp_path / "out", **changed)
    assert content(tmp_path / "out") == before


def test_the_same_owner_replaces_its_folder_whole(simple: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = simple
    out = tmp_path / "out"
    run_merge(base, adapter, out, owner="run-1")
    (out / "left-over.txt").write_text("of the old one")
    run_merge(base, adapter, out, owner="run-1", dtype="bf16")
    run_merge(base, adapter, tmp_path / "fresh", owner="run-1", dtype="bf16")
    assert content(out) == content(tmp_path / "fresh")


def test_a_finished_folder_is_verified_and_a_damaged_shard_made_again(
    simple: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = run_merge(*simple, out)
    before = content(out)
    assert run_merge(*simple, out)["reusedShards"] == 7
    path = out / "model-00004-of-00007.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    (out / "config.json").write_text("{}")
    again = run_merge(*simple, out)
    assert (again["reusedShards"], again["mergeDigest"]) == (6, first["mergeDigest"])
    assert content(out) == before


def test_two_merges_never_write_one_folder_at_a_time(simple: tuple[Path, Path], tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "out").mkdir()
    held = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(TemperError, match="another process is writing"):
        run_merge(*simple, tmp_path / "out")
    os.close(held)
    run_merge(*simple, tmp_path / "out")


def test_killed_at_random_moments_the_folder_comes_out_byte_identical(bases: Any, tmp_path: Path) -> None:
    base = save_random_model(tmp_path / "base", shard="60KB", processor=True)
    make_adapter(base, tmp_path / "adapter", PLAIN)
    started = time.monotonic()
    run_merge(base, tmp_path / "adapter", tmp_path / "whole")
    undisturbed = time.monotonic() - started
    whole = content(tmp_path / "whole")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killed_merge", "merge.convert"])
    dice = random.Random(5)
    out = tmp_path / "out"
    kills = 0
    while kills < KILLS:
        child = context.Process(target=merge_silently, args=(base, tmp_path / "adapter", out))
        child.start()
        deadline = time.monotonic() + 30
        while not out.exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        child.join(dice.uniform(0, undisturbed))
        if child.exitcode is None:
            os.kill(child.pid or 0, signal.SIGKILL)
            child.join()
            kills += 1
        else:
            assert child.exitcode == 0
            assert content(out) == whole
            shutil.rmtree(out)
    run_merge(base, tmp_path / "adapter", out)
    assert content(out) == whole


def test_the_command_reports_progress_and_a_result_and_starts_without_transformers(
    simple: tuple[Path, Path], tmp_path: Path
) -> None:
    command = [sys.executable, "-X", "importtime", PROGRAM, *simple, tmp_path / "out"]
    done = subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert (lines[-2]["event"], lines[-2]["unit"], lines[-2]["done"]) == ("progress", "bytes", lines[-2]["total"])
    assert lines[-1]["event"] == "result"
    assert lines[-1]["peakRssBytes"] < 1.5 * 2**30
    assert not any(f"| {name}" in done.stderr.replace("|   ", "| ") for name in ("transformers", "peft"))
    with safe_open(tmp_path / "out" / "model-00001-of-00007.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_an_error_is_one_line_with_its_type(simple: tuple[Path, Path], tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), str(simple[0]), str(tmp_path / "nothing"), str(tmp_path / "out")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    line = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, line["event"], line["type"]) == (1, "error", "HostError")
