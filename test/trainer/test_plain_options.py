"""What LLaMA-Factory's own parser refuses in a training YAML, `temper validate` refuses; what more is refused is listed here."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from llamafactory.hparams import get_train_args
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "demo" / "tiny-qwen3-vl"
LEAST = {
    "model_name_or_path": str(BASE), "stage": "sft", "do_train": True, "template": "qwen3_vl_nothink", "dataset": "x",
    "use_cpu": True, "output_dir": "saves",
}  # fmt: skip

GOOD: list[str] = [
    "",
    "lora_target: [q_proj, v_proj]\nlora_rank: 16\nlora_alpha: 32",
    "output_dir: saves/a\noverwrite_output_dir: true\nlogging_steps: 10\nresume_from_checkpoint: null\nsave_only_model: false",
    "trust_remote_code: true\nddp_timeout: 180000000\npreprocessing_num_workers: 16\ndataloader_num_workers: 4",
    "learning_rate: 1e-4\nwarmup_ratio: 0.1\nlr_scheduler_type: cosine\nbf16: yes",
    "val_size: 0.1\neval_strategy: steps\neval_steps: 50\nper_device_eval_batch_size: 1",
    "eval_dataset: y, z\neval_strategy: epoch",
    "dataset: x, y\nmix_strategy: interleave_under\ninterleave_probs: '0.5,0.5'",
    "finetuning_type: oft",
    "finetuning_type: full\nuse_llama_pro: false",
    "pissa_init: true",
    "streaming: true\nmax_steps: 10\nval_size: 2",
    "packing: true\nneat_packing: false\nmask_history: true",
    "hf_hub_token: hf_abc\nadd_tokens: <a>,<b>\nresize_vocab: true",
    "quantization_bit: 4\nquantization_method: bnb",
    "save_strategy: 'no'\nreport_to: [tensorboard]",
    "load_best_model_at_end: true\neval_strategy: steps\nval_size: 0.1\nsave_steps: 100\neval_steps: 50",
]
"""Both take these."""

REFUSED: list[tuple[str, str]] = [
    ("lora_rnak: 8", "lora_rnak"),
    ("evaluation_strategy: steps", "evaluation_strategy"),
    ("eval_strategy: no", "eval_strategy"),
    ("lr_scheduler_type: cosin", "lr_scheduler_type"),
    ("bf16: true\nfp16: true", "fp16"),
    ("val_size: 0.1\neval_dataset: y", "val_size"),
    ("mask_history: true\ntrain_on_prompt: true", "mask_history"),
    ("interleave_probs: '0.5,0.5'", "interleave_probs"),
    ("dataset: x,y\nmix_strategy: interleave_over\ninterleave_probs: '0.5'", "interleave_probs"),
    ("dataset: x,y\nmix_strategy: interleave_over\ninterleave_probs: a,b", "interleave_probs"),
    ("streaming: true", "streaming"),
    ("streaming: true\nmax_steps: 5\nmax_samples: 5", "streaming"),
    ("streaming: true\nmax_steps: 5\nval_size: 0.5", "val_size"),
    ("image_max_pixels: 512", "image_max_pixels"),
    ("video_max_pixels: 128", "video_max_pixels"),
    ("finetuning_type: full\nquantization_bit: 4", "quantization_bit"),
    ("finetuning_type: freeze\nadapter_name_or_path: a", "adapter_name_or_path"),
    ("adapter_name_or_path: [a, b]", "adapter_name_or_path"),
    ("add_tokens: [a, b]", "add_tokens"),
    ("add_special_tokens: [a, b]", "add_special_tokens"),
    ("quantization_bit: 4\nresize_vocab: true", "resize_vocab"),
    ("quantization_bit: 4\npissa_init: true", "pissa_init"),
    ("quantization_device_map: auto", "quantization_device_map"),
    ("use_galore: true", "use_galore"),
    ("finetuning_type: full\nuse_dora: true", "use_dora"),
    ("finetuning_type: full\nloraplus_lr_ratio: 16.0", "loraplus_lr_ratio"),
    ("finetuning_type: full\nuse_llama_pro: true", "use_llama_pro"),
    ("finetuning_type: bitfit", "finetuning_type"),
    ("do_predict: true\nval_size: 0.1", "do_predict"),
    ("do_eval: true", "do_eval"),
    ("eval_strategy: steps", "eval_strategy"),
    ("load_best_model_at_end: true", "load_best_model_at_end"),
    ("load_best_model_at_end: true\neval_strategy: steps\nval_size: 0.1\nsave_steps: 100\neval_steps: 30",
     "load_best_model_at_end"),
    ("dataloader_prefetch_factor: 2", "dataloader_prefetch_factor"),
    ("infer_backend: vllm", "infer_backend"),
    ("dataset: null", "dataset"),
    ("model_name_or_path: null", "model_name_or_path"),
]  # fmt: skip
"""Neither takes these, and this option is blamed."""

LATE: list[tuple[str, str]] = [
    ("lora_rank: '8'", "lora_rank"),
    ("do_train: 'False'", "do_train"),
    ("do_train: false", "do_train"),
    ("num_train_epochs: 0", "num_train_epochs"),
    ("val_size: 1.5", "val_size"),
    ("learning_rate: 0", "learning_rate"),
    ("learning_rate: 100", "learning_rate"),
    ("learning_rate: -1e-4", "learning_rate"),
    ("save_steps: 0", "save_steps"),
    ("per_device_train_batch_size: 0", "per_device_train_batch_size"),
    ("gradient_accumulation_steps: 0", "gradient_accumulation_steps"),
    ("cutoff_len: 0", "cutoff_len"),
    ("cutoff_len: -5", "cutoff_len"),
    ("resume_from_checkpoint: nowhere", "resume_from_checkpoint"),
    ("resume_from_checkpoint: data", "resume_from_checkpoint"),
    ("resume_from_checkpoint: true", "resume_from_checkpoint"),
    ("report_to: wandbb", "report_to"),
    ("dataset: x,x", "dataset"),
    ("template: qwen3_vl_nothnk", "template"),
    ("model_name_or_path: /nowhere/base", "model_name_or_path"),
    ("dataset_dir: nowhere", "dataset_dir"),
    ("quantization_bit: 5", "quantization_bit"),
    ("freeze_language_model: true", "freeze_language_model"),
    ("stage: dpo", "stage"),
]
"""LLaMA-Factory's parser takes these, and they go wrong later or never show; or, as `stage`, cannot be judged here."""
EARLY = {"warmup_ratio: 1.5": "warmup_ratio"}
"""Out of range, whatever the parser of the day says."""

TABLE = [*((text, None) for text in GOOD), *REFUSED, *LATE, *EARLY.items()]
ASK = """
const { loadPlain } = await import(process.argv[1]);
const names = process.argv.slice(2);
console.log(JSON.stringify(names.map((name) => loadPlain(name, name, process.cwd()).issues)));
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[dict[str, Any]]]]:
    """Each YAML of the table, written, and what Temper has against it."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "data").mkdir()
    files = []
    for number, (text, _) in enumerate(TABLE):
        own = OmegaConf.to_container(OmegaConf.create(text or "{}"))
        rest = {name: value for name, value in LEAST.items() if name not in own}
        files.append(folder / f"{number}.yaml")
        files[-1].write_text(OmegaConf.to_yaml(OmegaConf.create(rest)) + text + "\n")
    module = ROOT / "dist" / "configs" / "load-plain.js"
    command = ["node", "--input-type=module", "-e", ASK, str(module), *map(str, files)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    issues = json.loads(done.stdout)
    return {text: (file, found) for (text, _), file, found in zip(TABLE, files, issues, strict=True)}


def llama_factory_refuses(file: Path, monkeypatch: pytest.MonkeyPatch) -> str | None:
    monkeypatch.chdir(file.parent)
    try:
        get_train_args(OmegaConf.to_container(OmegaConf.load(file)))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


@pytest.mark.parametrize(("text", "blamed"), TABLE)
def test_options_are_judged_as_llama_factory_does_and_more(
    text: str, blamed: str | None, answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, issues = answers[text]
    assert {issue["path"] for issue in issues} == ({blamed} if blamed else set()), issues
    refused = llama_factory_refuses(file, monkeypatch)
    if text not in EARLY:
        assert (refused is not None) == ((text, blamed) in REFUSED), refused
