"""The environment check finds what would stop a training, before it starts."""

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import environment.imports
import environment.packages
from check_environment import _kernel_item
from environment.base import check_base
from environment.imports import explain, import_item, parser_item, probe
from environment.packages import check_packages

PROGRAM = Path(__file__).resolve().parents[2] / "trainer" / "check_environment.py"
NOTHINK, THINK = "{{- '<|im_start|>assistant\\n' }}", "{{- '<|im_start|>assistant\\n<think>\\n' }}"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base folder with two shards and everything that training reads, in miniature."""
    folder = tmp_path / "qwen3-vl-4b-instruct"
    folder.mkdir()
    config = {"model_type": "qwen3_vl", "text_config": {}, "vision_config": {}, "image_token_id": 7}
    write(folder, "config.json", config)
    write(folder, "tokenizer.json", {"added_tokens": [{"id": 7, "content": "<|image_pad|>", "special": True}]})
    write(folder, "tokenizer_config.json", {})
    write(folder, "preprocessor_config.json", {"patch_size": 16})
    (folder / "chat_template.jinja").write_text(NOTHINK)
    for number in (1, 2):
        shard(folder / f"model-0000{number}-of-00002.safetensors", f"layer.{number}")
    weights = {f"layer.{number}": f"model-0000{number}-of-00002.safetensors" for number in (1, 2)}
    write(folder, "model.safetensors.index.json", {"weight_map": weights})
    return folder


def write(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(json.dumps(content))


def shard(path: Path, tensor: str) -> None:
    header = json.dumps({tensor: {"dtype": "BF16", "shape": [8], "data_offsets": [0, 16]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))


def verdicts(folder: Path, template: str | None = "qwen3_vl_nothink") -> dict[str, tuple[str, str]]:
    return {item.name: (item.verdict, item.found) for item in check_base(folder, template)}


def test_a_complete_base_has_nothing_to_mend(base: Path) -> None:
    assert {verdict for verdict, _ in verdicts(base).values()} == {"ok"}


SHARD, INDEX = "model-00002-of-00002.safetensors", "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("damage", "item", "says"),
    [
        (lambda b: (b / SHARD).unlink(), "base weights", f"{SHARD} is missing"),
        (lambda b: (b / SHARD).write_bytes((b / SHARD).read_bytes()[:-1]), "base weights", "header says"),
        (lambda b: (b / SHARD).write_bytes((b / SHARD).read_bytes() + b"x"), "base weights", "header says"),
        (lambda b: (b / SHARD).write_bytes(b""), "base weights", "cut off after 0 bytes"),
        (lambda b: (b / SHARD).write_text("version https://git-lfs…"), "base weights", "LFS pointer"),
        (lambda b: (b / SHARD).write_text("<html>Sign in</html>"), "base weights", "damaged"),
        (lambda b: shard(b / SHARD, "other"), "base weights", "lacks 1 tensors of the index"),
        (lambda b: (b / INDEX).write_text("{"), "base weights", "unreadable"),
        (lambda b: (b / "config.json").unlink(), "base config.json", "missing"),
        (lambda b: (b / "config.json").write_text('{"model'), "base config.json", "unreadable"),
        (lambda b: (b / "tokenizer.json").unlink(), "base tokenizer", "missing"),
        (lambda b: (b / "tokenizer_config.json").unlink(), "base tokenizer", "is missing"),
        (lambda b: write(b, "tokenizer.json", {"added_tokens": []}), "base tokenizer", "config.json says 7"),
        (lambda b: (b / "preprocessor_config.json").unlink(), "base processor", "missing"),
    ],
)
def test_a_damaged_base_is_refused(base: Path, damage: Callable[[Path], object], item: str, says: str) -> None:
    damage(base)
    verdict, found = verdicts(base)[item]
    assert verdict == "error"
    assert says in found


def test_a_base_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    assert [item.verdict for item in check_base(tmp_path / "none", None)] == ["error"]


@pytest.mark.parametrize(
    ("chat_template", "template", "verdict"),
    [
        (NOTHINK, "qwen3_vl_nothink", "ok"),
        (THINK, "qwen3_vl", "ok"),
        (NOTHINK, "qwen3_vl", "warning"),
        (THINK, "qwen3_vl_nothink", "warning"),
        (NOTHINK, "qwen2_vl", "warning"),
        (NOTHINK, "llama3", "error"),
        (NOTHINK, None, "error"),
    ],
)
def test_the_template_must_fit_the_variant(base: Path, chat_template: str, template: str | None, verdict: str) -> None:
    (base / "chat_template.jinja").write_text(chat_template)
    assert verdicts(base, template)["template"][0] == verdict


@pytest.mark.parametrize(
    ("package", "version", "verdict"),
    [
        ("torch", "2.9.1", "error"),
        ("torch", "2.5.1", "error"),
        ("torchaudio", "2.11.0", "warning"),
        ("torchvision", "0.24.0", "warning"),
        ("transformers", "4.56.2", "error"),
        ("transformers", "5.18.0", "error"),
        ("peft", "0.21.0", "error"),
        ("accelerate", "1.12.0", "warning"),
        ("datasets", None, "error"),
    ],
)
def test_versions_that_do_not_work_together_are_named(
    monkeypatch: pytest.MonkeyPatch, package: str, version: str | None, verdict: str
) -> None:
    real = environment.packages.installed
    monkeypatch.setattr(environment.packages, "installed", lambda name: version if name == package else real(name))
    item = next(item for item in check_packages({}) if item.name == package)
    assert item.verdict == verdict
    assert item.fix


@pytest.mark.parametrize(
    ("config", "package", "verdict"),
    [
        ({"flash_attn": "fa2"}, "flash-attn", "warning"),
        ({"quantization_bit": 4}, "bitsandbytes", "error"),
        ({"deepspeed": "ds.json"}, "deepspeed", "error"),
        ({"report_to": ["wandb"]}, "wandb", "error"),
    ],
)
def test_optional_packages_are_asked_for_only_when_the_config_needs_them(
    config: dict[str, Any], package: str, verdict: str
) -> None:
    assert {item.name: item.verdict for item in check_packages(config)}[package] == verdict
    assert package not in {item.name for item in check_packages({})}


def test_a_tracker_that_is_missing_is_told_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.packages, "install_command", lambda *names: "npm run setup")
    monkeypatch.setattr(environment.packages, "installed", lambda name: None)
    [item] = environment.packages.check_optional({"report_to": "trackio"})
    assert item.fix == "npm run setup:trackers, or remove report_to: trackio"


@pytest.mark.parametrize(
    ("variables", "warned"), [({}, True), ({"WANDB_API_KEY": "k"}, False), ({"WANDB_MODE": "offline"}, False)]
)
def test_a_tracker_without_a_key_is_a_warning_unless_offline_is_meant(
    variables: dict[str, str], warned: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    items = environment.packages.check_tracker_keys({"report_to": ["wandb", "tensorboard"]})
    assert [item.name for item in items] == (["wandb's key"] if warned else [])


@pytest.mark.parametrize(
    ("message", "config", "says", "mend"),
    [
        (
            "Some keys are not used by the HfArgumentParser: ['lora_rnak']",
            {"lora_rnak": 8},
            "knows no option lora_rnak",
            "write lora_rank instead of lora_rnak",
        ),
        (
            "Your setup doesn't support bf16/gpu. You need to assign use_cpu if you want to train the model on CPU.",
            {"bf16": True},
            "bf16: this machine has no GPU with bfloat16",
            "fp16: true",
        ),
        (
            "The 'deepspeed>=0.9.3' distribution was not found and is required by this application. To fix: …",
            {"deepspeed": "ds.json"},
            "deepspeed needs the package deepspeed",
            "or remove the option",
        ),
        (
            "cosin is not a valid SchedulerType, please select one of ['linear', 'cosine']",
            {"lr_scheduler_type": "cosin"},
            "lr_scheduler_type: cosin is not a valid",
            "Correct lr_scheduler_type",
        ),
        ("Cannot specify `val_size` if `dataset` is None.", {"val_size": 0.1}, "val_size: Cannot", "Correct val_size"),
        ("Adapter is only valid for the LoRA method.", {"lora_rank": 8}, "Adapter is only", "Correct the option"),
    ],
)
def test_a_parser_error_names_the_option(message: str, config: dict[str, Any], says: str, mend: str) -> None:
    options = ["lora_rank", "bf16", "deepspeed", "lr_scheduler_type", "val_size"]
    found, fix = explain({"type": "ValueError", "message": message}, config, options)
    assert says in found
    assert mend.lower() in fix.lower()


def test_a_failed_import_is_one_sentence_and_the_parser_is_not_blamed() -> None:
    error = {
        "type": "RuntimeError",
        "message": "PyTorch and TorchAudio were compiled with different CUDA versions.\nMore",
    }
    answer = {"imported": error, "parsed": None, "options": [], "versions": {}}
    item = import_item(answer)
    assert item.verdict == "error"
    assert "must be of the same release" in item.found
    assert "\n" not in item.found
    assert parser_item(answer, Path("c.yaml"), {}).found.startswith("not tried")


def test_a_good_answer_is_remembered_for_other_folders_but_not_for_other_options(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Path] = []
    answer: dict[str, Any] = {"imported": None, "parsed": None, "options": [], "versions": {}}
    monkeypatch.setattr(environment.imports, "_run_probe", lambda path: asked.append(path) or answer)
    for config in ({"lora_rank": 8, "output_dir": "a"}, {"lora_rank": 8, "output_dir": "b"}, {"lora_rank": 9}):
        probe(tmp_path / "c.yaml", config, tmp_path)
    assert len(asked) == 2
    answer["parsed"] = {"type": "ValueError", "message": "no"}
    for _ in range(2):
        probe(tmp_path / "c.yaml", {"lora_rank": 10}, tmp_path)
    assert len(asked) == 4


@pytest.mark.parametrize(
    ("capability", "archs", "verdict"),
    [
        ("7.0", ["sm_70", "sm_80"], "ok"),
        ("7.0", ["sm_75", "sm_80", "sm_90"], "error"),
        ("8.6", ["sm_80"], "ok"),
        ("8.0", ["sm_86"], "error"),
        ("12.0", ["sm_90", "compute_90"], "ok"),
    ],
)
def test_the_wheel_must_have_kernels_for_the_gpu(capability: str, archs: list[str], verdict: str) -> None:
    assert _kernel_item(capability, archs).verdict == verdict


def test_the_program_reports_what_the_real_parser_says(base: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    options = {
        "model_name_or_path": base,
        "output_dir": tmp_path,
        "use_cpu": "true",
        "lora_rnak": 8,
        "template": "qwen2_vl",
    }
    config.write_text("".join(f"{key}: {value}\n" for key, value in options.items()))
    done = subprocess.run([sys.executable, PROGRAM, "--config", config], capture_output=True, text=True)
    line = json.loads(done.stdout.splitlines()[-1])
    items = {item["name"]: item for item in line["items"]}
    assert (done.returncode, line["event"], line["ok"]) == (0, "result", False)
    assert items["options in config.yaml"]["fix"] == "Write lora_rank instead of lora_rnak"
    assert items["training's imports"]["verdict"] == "ok"
    assert "sm_70" in line["versions"]["cudaArchs"]


@pytest.mark.parametrize(("text", "says"), [("a: [", "is no YAML"), ("- a", "holds no options")])
def test_a_config_that_cannot_be_read_is_an_error_line(tmp_path: Path, text: str, says: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(text)
    done = subprocess.run([sys.executable, PROGRAM, "--config", config], capture_output=True, text=True)
    line = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, line["event"], line["type"]) == (1, "error", "ConfigError")
    assert says in line["message"]
