"""Peaks of GPU memory by shape, method, rows at once, tokens and checkpointing: what host/planning/memory.ts is fitted to.

    python3 bench/gpu/memory.py --work DIR --out memory.jsonl [--only 4b-lora] [--shape tiny]

Each point is a training of three steps in a process of its own, by Temper's trainer, on rows of one length; a line of JSON
for each as it is done. Out of memory is a result, too. DIR needs 10 GB for 4b and 18 GB for 8b.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from model_and_rows import Rows, make_model, make_rows

from train import gpu_name, run, training_options

STEPS = 3
# shape, method, precision, rows at once, pictures a row, tokens of an answer, gradient checkpointing, compiled
POINTS: list[tuple[str, str, str, int, int, int, bool, bool]] = [
    ("4b", "lora", "bf16", 1, 1, 16, True, False),
    ("4b", "lora", "bf16", 16, 1, 16, True, False),
    ("4b", "lora", "bf16", 16, 1, 16, False, False),
    ("4b", "lora", "bf16", 4, 1, 16, False, False),
    ("4b", "lora", "bf16", 16, 1, 200, True, False),
    ("4b", "lora", "bf16", 8, 1, 200, False, False),
    ("4b", "lora", "bf16", 4, 4, 16, True, False),
    ("4b", "lora", "bf16", 4, 4, 16, False, False),
    ("4b", "lora", "bf16", 16, 4, 16, True, False),
    ("4b", "full", "bf16", 1, 1, 16, True, False),
    ("4b", "full", "bf16", 4, 1, 200, True, False),
    ("4b", "lora", "fp16", 4, 1, 16, True, False),
    ("4b", "lora", "fp16", 16, 1, 16, False, False),
    ("8b", "lora", "bf16", 1, 1, 16, True, False),
    ("8b", "lora", "bf16", 16, 1, 200, True, False),
    ("8b", "lora", "bf16", 8, 1, 16, False, False),
    ("8b", "lora", "bf16", 4, 4, 16, True, False),
    ("4b", "lora", "bf16", 8, 1, 16, False, True),
    ("4b", "lora", "bf16", 16, 1, 16, True, True),
    ("4b", "lora", "bf16", 1, 1, 16, False, False),
    ("4b", "lora", "bf16", 1, 4, 200, False, False),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="SHAPE-METHOD of the points wanted")
    parser.add_argument("--shape", help="train this shape instead of each point's, to try the bench out")
    options = parser.parse_args()
    for point in POINTS:
        if f"{point[0]}-{point[1]}".startswith(options.only):
            with options.out.open("a") as out:
                out.write(json.dumps(measure(point, options)) + "\n")


def measure(point: tuple[str, str, str, int, int, int, bool, bool], options: argparse.Namespace) -> dict[str, Any]:
    shape, method, precision, rows, pictures, answer, checkpointing, compiled = point
    model = make_model(options.work, options.shape or shape)
    count = STEPS * rows
    data = make_rows(options.work / f"rows-{pictures}-{answer}", model, Rows(count, pictures, (answer, answer)))
    config = training_options(model, data, options.shape or shape, STEPS) | {
        "per_device_train_batch_size": rows, "gradient_accumulation_steps": 1, precision: True,
        "disable_gradient_checkpointing": not checkpointing, "torch_compile": compiled, "finetuning_type": method,
    }  # fmt: skip
    result = {
        "shape": shape, "finetuning": method, "precision": precision, "rows": rows, "pictures": pictures,
        "answerTokens": answer, "gradientCheckpointing": checkpointing, "compiled": compiled, "gpu": gpu_name(),
    }  # fmt: skip
    try:
        steps = run("memory", config, options.work / "train-memory", STEPS, 1)
    except SystemExit as failed:
        reason = "out of memory" if "OutOfMemoryError" in str(failed) else str(failed)[-1500:]
        return {**result, "failed": reason}
    return {
        **result,
        "tokensPerRow": round(steps[0]["tokens"] / rows),
        "allocatedBytes": max(step.get("memoryAllocatedBytes", 0) for step in steps),
        "reservedBytes": max(step.get("memoryReservedBytes", 0) for step in steps),
        "secondsPerStep": steps[-1]["secondsPerStep"],
    }


if __name__ == "__main__":
    main()
