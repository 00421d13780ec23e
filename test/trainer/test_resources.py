"""What training will take is known from headers and options, and compared with what the host has."""

import json
import math
import struct
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText

from environment import resources
from environment.resources import Needs, disk_item, estimate, gpu_items, memory_items

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "demo" / "tiny-qwen3-vl"
LORA = {
    "finetuning_type": "lora",
    "lora_rank": 8,
    "lora_target": "all",
    "bf16": True,
    "max_steps": 100,
    "save_steps": 50,
}
NEEDS = Needs(
    parameters=4_000_000_000, trained_parameters=33_000_000, checkpoint=0.4e9, checkpoints=4, merged=8e9, weights=8e9,
    states=0.5e9, logits=5e9,
)  # fmt: skip
GPU = {"index": 0, "freeMemoryBytes": 23e9, "totalMemoryBytes": 24e9, "driverVersion": "570.86.10", "holders": []}


@pytest.mark.parametrize(
    ("options", "suffixes"),
    [
        ({}, ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]),
        ({"lora_rank": 4, "lora_target": "q_proj, down_proj"}, ["q_proj", "down_proj"]),
    ],
)
def test_trained_parameters_are_those_that_peft_would_make(options: dict[str, Any], suffixes: list[str]) -> None:
    config = LORA | options
    model = AutoModelForImageTextToText.from_pretrained(TINY, dtype=torch.float32)
    names = [name for name, _ in model.named_modules() if "language_model" in name and name.split(".")[-1] in suffixes]
    peft = get_peft_model(model, LoraConfig(r=config["lora_rank"], target_modules=names))
    needs = estimate(config, TINY, on_cpu=False)
    assert needs is not None
    assert needs.trained_parameters == sum(item.numel() for item in peft.parameters() if item.requires_grad)


def test_full_fine_tuning_trains_all_but_the_frozen_towers() -> None:
    model = AutoModelForImageTextToText.from_pretrained(TINY, dtype=torch.float32)
    sizes = {name: item.numel() for name, item in model.named_parameters()}
    needs = estimate({"finetuning_type": "full", "pure_bf16": True}, TINY, on_cpu=False)
    assert needs is not None
    assert needs.parameters == sum(sizes.values())
    assert needs.trained_parameters == sum(size for name, size in sizes.items() if "visual" not in name)
    assert needs.checkpoint == 6 * needs.trained_parameters
    whole = estimate(
        {"finetuning_type": "full", "freeze_vision_tower": False, "freeze_multi_modal_projector": False},
        TINY,
        on_cpu=False,
    )
    assert whole is not None and whole.trained_parameters == whole.parameters and whole.weights == 0


def test_a_checkpoint_is_as_large_as_said(tmp_path: Path) -> None:
    """A checkpoint of the recorded fixture's kind: fp32 factors and Adam's two states for each."""
    model = AutoModelForImageTextToText.from_pretrained(TINY, dtype=torch.float32)
    peft = get_peft_model(model, LoraConfig(r=8, target_modules=r".*language_model.*proj"))
    optimizer = torch.optim.AdamW([item for item in peft.parameters() if item.requires_grad])
    with torch.enable_grad():
        peft(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()
    optimizer.step()
    peft.save_pretrained(tmp_path)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    written = sum((tmp_path / name).stat().st_size for name in ("adapter_model.safetensors", "optimizer.pt"))
    needs = estimate(LORA, TINY, on_cpu=False)
    assert needs is not None
    assert 0.9 < written / needs.checkpoint < 1.2


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 2),
        ({"max_steps": 0}, 4),
        ({"max_steps": 10_000, "save_total_limit": 5}, 6),
        ({"max_steps": 10_000, "save_total_limit": 1}, 3),
        ({"max_steps": 100, "save_steps": 0.5}, 2),
        ({"max_steps": 100, "save_steps": 500}, 1),
        ({"save_strategy": "epoch"}, 4),
    ],
)
def test_as_many_checkpoints_as_there_will_be_at_once(options: dict[str, Any], count: int) -> None:
    needs = estimate(LORA | options, TINY, on_cpu=False)
    assert needs is not None and needs.checkpoints == count


@pytest.mark.parametrize(
    ("options", "on_cpu", "width"),
    [
        ({}, False, 2),
        ({"bf16": False}, False, 2),
        ({"bf16": False}, True, 4),
        ({}, True, 2),
        ({"quantization_bit": 4}, False, 0.5),
    ],
)
def test_weights_are_as_wide_as_llamafactory_loads_them(options: dict[str, Any], on_cpu: bool, width: float) -> None:
    needs = estimate(LORA | options, TINY, on_cpu)
    assert needs is not None and needs.weights == width * needs.parameters


def test_what_is_no_model_has_no_estimate(tmp_path: Path) -> None:
    assert estimate(LORA, tmp_path, on_cpu=False) is None
    assert estimate(LORA, tmp_path / "none", on_cpu=False) is None


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(("free", "verdict"), [(11e9, "ok"), (10e9, "error")])
def test_checkpoints_and_merged_model_must_fit_together(
    free: float, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda _: Usage(0, 0, free))
    item = disk_item(NEEDS, tmp_path / "runs" / "first")
    assert item.verdict == verdict
    assert "4 checkpoints of 0.40 GB, the merged model with 8.00 GB" in item.needed
    assert bool(item.fix) == (verdict == "error")


def test_what_the_run_has_written_counts_as_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(2_000_000_000)
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda _: Usage(0, 0, 9e9))
    assert disk_item(NEEDS, tmp_path).verdict == "ok"


def test_memory_of_the_host_is_an_error_only_where_the_model_is_to_be_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_available_memory", lambda: 3e9)
    assert [item.verdict for item in memory_items(NEEDS, {}, on_cpu=True)] == ["error"]
    assert [item.verdict for item in memory_items(NEEDS, {}, on_cpu=False)] == ["warning"]
    monkeypatch.setattr(resources, "_available_memory", lambda: 30e9)
    assert [item.verdict for item in memory_items(NEEDS, {}, on_cpu=True)] == ["ok"]


@pytest.mark.parametrize(
    ("loaders", "free", "verdicts"), [(0, 0, ["ok"]), (4, 2e9, ["ok", "ok"]), (4, 64e6, ["ok", "warning"])]
)
def test_shared_memory_matters_where_loaders_use_it(
    loaders: int, free: float, verdicts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "_available_memory", lambda: 30e9)
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda _: Usage(0, 0, free))
    found = memory_items(NEEDS, {"dataloader_num_workers": loaders}, on_cpu=False)
    assert [item.verdict for item in found] == verdicts
    assert loaders == 0 or "/dev/shm" in found[1].name


@pytest.mark.parametrize(
    ("free", "verdict"),
    [(23e9, "ok"), (12e9, "warning"), (9e9, "error")],
)
def test_a_gpus_free_memory_must_hold_weights_and_states(free: float, verdict: str) -> None:
    item = gpu_items(NEEDS, [GPU | {"freeMemoryBytes": free}], "12.8")[-1]
    assert item.verdict == verdict


def test_who_holds_a_gpus_memory_is_named() -> None:
    held = GPU | {"freeMemoryBytes": 2e9, "holders": [{"pid": 4711, "name": "python3", "bytes": 21e9}]}
    item = gpu_items(NEEDS, [held], "12.8")[-1]
    assert "python3 (pid 4711) 21.0 GB" in item.found
    assert item.fix == "Stop what holds the GPU's memory"


@pytest.mark.parametrize(
    ("driver", "cuda", "verdict"),
    [
        ("570.86.10", "12.8", "ok"),
        ("525.60.13", "12.8", "ok"),
        ("470.199.02", "12.8", "error"),
        ("570.86.10", "13.0", "error"),
        ("580.159.04", "13.0", "ok"),
        ("570.86.10", None, "error"),
    ],
)
def test_the_driver_must_be_new_enough_for_the_wheels_cuda(driver: str, cuda: str | None, verdict: str) -> None:
    assert gpu_items(None, [GPU | {"driverVersion": driver}], cuda)[0].verdict == verdict


def test_the_command_says_it_for_a_folder_of_a_4b_models_size(tmp_path: Path) -> None:
    """Headers of the true size over files that are holes: nothing of them is read."""
    base, hidden = tmp_path / "base", 2560
    base.mkdir()
    shapes = {"model.language_model.embed_tokens.weight": [151_936, hidden]} | {
        f"model.language_model.layers.{layer}.mlp.up_proj.weight": [9728, hidden] for layer in range(140)
    }
    offset, header = 0, {}
    for name, shape in shapes.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + 2 * math.prod(shape)]}
        offset += 2 * math.prod(shape)
    text = json.dumps(header).encode()
    with (base / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
    config = tmp_path / "config.yaml"
    config.write_text(f"model_name_or_path: {base}\nfinetuning_type: lora\nbf16: true\nlora_rank: 8\n")
    gpus = [GPU | {"freeMemoryBytes": 4e9, "computeCapability": 8.9}]
    done = subprocess.run(
        [sys.executable, ROOT / "trainer" / "check_environment.py", "--config", config, "--run-dir", tmp_path / "run",
         "--gpus", json.dumps(gpus)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    items = {item["name"]: item for item in json.loads(done.stdout.splitlines()[-1])["items"]}
    assert items["memory of GPU 0"]["verdict"] == "error"
    assert items["memory of GPU 0"]["needed"].startswith("9.")
    assert "4 checkpoints of 0.17 GB, the merged model with 7.75 GB" in items["disk for the run"]["needed"]
    assert items["torch kernels for compute capability 8.9"]["verdict"] == "ok"
