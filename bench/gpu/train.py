"""What a training takes at Qwen3-VL's true shape on a GPU host: the plan beside the YAML that people write by hand.

    python3 bench/gpu/train.py --work DIR [--shape 4b|8b|tiny] [--only by-hand,reference,plan] [--steps 12] [--out FILE]

Random weights, 512 × 512 pictures, answers of varying length, LoRA of rank 8 on all language layers, 16 rows an optimizer
step. `by-hand` is LLaMA-Factory alone on its usual YAML (one row × 16, neither bf16 nor fp16); all others run Temper's
trainer, `reference` as 1 × 16 in bf16 with the model as transformers and PEFT compute it. Every way sees the same rows
in the same order. Prints a table with ratios to `by-hand` and the largest distance of a step's loss to `reference`. DIR
needs 10 GB at 4b; python3 must have torch, llamafactory and liger-kernel.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from model_and_rows import ROOT, Rows, make_model, make_rows

BY_HAND = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 16, "dataloader_num_workers": 0}
BF16 = {"bf16": True, "dataloader_num_workers": 4}
NO_LIGER = {**BF16, "per_device_train_batch_size": 16, "disable_gradient_checkpointing": True}
PLAN = {**NO_LIGER, "enable_liger_kernel": True}
FULL = {**BF16, "finetuning_type": "full", "learning_rate": 1e-5, "per_device_train_batch_size": 4}
WAYS: dict[str, dict[str, Any]] = {
    "by-hand": BY_HAND,
    "reference": {**BF16, **BY_HAND},
    "plan": PLAN,
    "no-liger": NO_LIGER,
    "plan-compiled": {**NO_LIGER, "torch_compile": True},
    "checkpointing-compiled": {**NO_LIGER, "disable_gradient_checkpointing": False, "torch_compile": True},
    "checkpointing": {**PLAN, "disable_gradient_checkpointing": False},
    "8x2": {**PLAN, "per_device_train_batch_size": 8},
    "4x4": {**PLAN, "per_device_train_batch_size": 4},
    "fp16": {**PLAN, "bf16": False, "fp16": True},
    "two-gpus": {**PLAN, "per_device_train_batch_size": 8},
    "full": {**FULL, "per_device_train_batch_size": 2},
    "two-gpus-zero2": {**FULL, "deepspeed": str(ROOT / "configs/deepspeed/zero2.json")},
    "two-gpus-zero3": {**FULL, "deepspeed": str(ROOT / "configs/deepspeed/zero3.json")},
}
GLOBAL_BATCH = 16
LISTS = ("losses", "gradNorms", "secondsOfSteps")


def main() -> None:
    options = parse()
    model = make_model(options.work, options.shape)
    rows = make_rows(options.work / "rows", model, Rows(640, pictures=1, answers=(4, options.longest_answer)))
    results = []
    for way in options.only.split(","):
        result = train(way, model, rows, options)
        results.append(result)
        print(json.dumps({key: value for key, value in result.items() if key not in LISTS}), flush=True)
        if options.out:
            options.out.write_text(json.dumps(results, indent=1) + "\n")
    print_table(results)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--shape", default="4b")
    parser.add_argument("--only", default="by-hand,reference,plan,plan-compiled,checkpointing")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--longest-answer", type=int, default=200, help="tokens; the shortest has 4")
    parser.add_argument("--most", default="by-hand=8,reference=12", help="fewer steps where a step takes long")
    parser.add_argument("--out", type=Path, help="JSON of all results, written after each")
    return parser.parse_args()


def train(way: str, model: Path, rows: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train one way in a process of its own; its steps by the events that it leaves."""
    fewer = dict(each.split("=") for each in options.most.split(",") if each)
    many = min(options.steps, int(fewer.get(way, options.steps)))
    folder = options.work / f"train-{way}"
    config = {**training_options(model, rows, options.shape, options.steps), **WAYS[way]}
    processes = 2 if way.startswith("two-gpus") else 1
    config["gradient_accumulation_steps"] = GLOBAL_BATCH // config["per_device_train_batch_size"] // processes
    # The learning rate's schedule is that of `steps`, whatever a way is cut short to.
    began = time.time()
    steps = run(way, config, folder, many, processes)[:many]
    seconds = [event["secondsPerStep"] for event in steps]
    return {
        "way": way, "shape": options.shape, "gpu": gpu_name(), "steps": len(steps),
        "secondsPerStep": round(statistics.median(seconds[2:] or seconds), 4), "firstStepSeconds": round(seconds[0], 2),
        "startUpSeconds": round(steps[0]["time"] - began - seconds[0], 1), "secondsOfSteps": [round(each, 3) for each in seconds],
        "allocatedBytes": max(event.get("memoryAllocatedBytes", 0) for event in steps),
        "reservedBytes": max(event.get("memoryReservedBytes", 0) for event in steps),
        "losses": [event["loss"] for event in steps], "gradNorms": [event.get("gradNorm") for event in steps],
        "work": steps[-1].get("work"), "longestAnswer": options.longest_answer,
    }  # fmt: skip


def training_options(model: Path, rows: Path, shape: str, steps: int) -> dict[str, Any]:
    on_cpu = {"use_cpu": True} if shape == "tiny" else {}
    return {
        "model_name_or_path": str(model), "stage": "sft", "do_train": True, "finetuning_type": "lora", "lora_rank": 8,
        "lora_alpha": 16, "lora_target": "all", "template": "qwen3_vl_nothink", "cutoff_len": 2048, "dataset": "rows",
        "dataset_dir": str(rows), "image_max_pixels": 262144, "learning_rate": 1e-4, "max_steps": steps,
        "lr_scheduler_type": "cosine", "logging_steps": 1, "save_strategy": "no", "report_to": "none", "seed": 42,
        "preprocessing_num_workers": 4, **on_cpu,
    }  # fmt: skip


def run(way: str, config: dict[str, Any], folder: Path, steps: int, processes: int) -> list[dict[str, Any]]:
    """The steps of a training that is ended after `steps`, or ends by itself; a failure ends the bench with its log."""
    folder.mkdir(parents=True, exist_ok=True)
    yaml, events = folder / "config.yaml", folder / "events.jsonl"
    events.unlink(missing_ok=True)
    yaml.write_text(json.dumps({**config, "output_dir": str(folder / "output")}))
    if way == "by-hand":
        command = [str(Path(__file__).with_name("by_hand.py")), str(yaml), str(events)]
    else:
        program = Path(__file__).with_name("unchanged_model.py") if way == "reference" else ROOT / "trainer/train.py"
        command = [str(program), "--config", str(yaml), "--output-dir", str(folder / "output")]
        command += ["--events", str(events), "--tokenized-cache", str(folder.parent / "tokenized"), "--no-resume"]
        if processes > 1:
            command += ["--processes", str(processes)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, *command], stdout=log, stderr=log, env=dict(os.environ))
        while process.poll() is None:
            if len(read_steps(events)) >= steps:
                process.terminate()
                process.wait(60)
            time.sleep(0.2)
    if len(read_steps(events)) < steps:
        raise SystemExit(f"{way} failed:\n{(folder / 'log').read_text()[-4000:]}")
    return read_steps(events)


def read_steps(events: Path) -> list[dict[str, Any]]:
    lines = events.read_text().splitlines() if events.exists() else []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [event for event in found if event.get("type", "step") == "step"]


def gpu_name() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def print_table(results: list[dict[str, Any]]) -> None:
    by_way = {result["way"]: result for result in results}
    slow = by_way.get("by-hand", {}).get("secondsPerStep")
    reference = by_way.get("reference", {}).get("losses", [])
    print("| way | s/step | times by-hand | first step | peak GiB allocated / reserved | loss from reference |")
    print("|---|---|---|---|---|---|")
    for result in results:
        ratio = f"{slow / result['secondsPerStep']:.1f}" if slow else "–"
        distances = [abs(a - b) for a, b in zip(result["losses"], reference, strict=False)]
        peak = f"{result['allocatedBytes'] / 2**30:.1f} / {result['reservedBytes'] / 2**30:.1f}"
        print(
            f"| {result['way']} | {result['secondsPerStep']:.3f} | {ratio} | {result['firstStepSeconds']:.1f} | {peak} "
            f"| {max(distances, default=float('nan')):.4f} |"
        )


if __name__ == "__main__":
    main()
