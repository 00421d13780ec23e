"""Validation: rows a second, ours cold and warm beside LLaMA-Factory's own preprocessing, and a million rows of text.

    trainer/.venv/bin/python bench/validate_dataset.py --work DIR [--processes 2] [--rows 2000] [--text-rows 1000000]

Draws pictures of 1024 × 768 as JPEG, once, and validates rows of one picture each with the demo's tokenizer and
Qwen3-VL's picture limits. Ours is the whole command, interpreter included; of LLaMA-Factory's only `get_dataset` counts,
after its 10 s of imports. DIR needs 1 GB.
"""

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "trainer" / "validate_dataset.py"
LIMITS = {"longest_edge": 16777216, "shortest_edge": 65536}
TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
        "observation_tag": "observation", "function_tag": "function", "system_tag": "system"}  # fmt: skip
WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--text-rows", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--llama-factory", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.llama_factory:
        _run_llama_factory(arguments)
        return
    base = _make_base(arguments.work / "base")
    _draw(arguments.work / "pictures", arguments.rows)
    _write_text(arguments.work / "text", arguments.text_rows)
    figures = {
        "rows": arguments.rows,
        "processes": arguments.processes,
        "llamaFactory": _time_llama_factory(arguments),
        "cold": _time_ours(arguments, "pictures", base, forget=True),
        "warm": _time_ours(arguments, "pictures", base),
        "text": _time_ours(arguments, "text", None, forget=True),
        "textWarm": _time_ours(arguments, "text", None),
    }
    figures["timesFaster"] = round(figures["llamaFactory"]["seconds"] / figures["cold"]["seconds"], 1)
    print(json.dumps(figures, indent=2))


def _make_base(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "demo" / "tiny-qwen3-vl", folder)
    for name, key in (("processor_config.json", "image_processor"), ("preprocessor_config.json", None)):
        path = folder / name
        if path.is_file():
            content = json.loads(path.read_text())
            (content[key] if key else content)["size"] = LIMITS
            path.write_text(json.dumps(content))
    return folder


def _draw(folder: Path, count: int) -> None:
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    chance = random.Random(1)
    rows = []
    for number in range(count):
        path = images / f"{number}.jpg"
        if not path.is_file():
            shapes = Image.frombytes("RGB", (32, 24), chance.randbytes(32 * 24 * 3)).resize((1024, 768))
            grain = Image.effect_noise((256, 192), 20).resize((1024, 768)).convert("RGB")
            Image.blend(shapes, grain, 0.15).save(path, "JPEG", quality=85)
        answer = " ".join(chance.choices(WORDS, k=20))
        rows.append(
            {"messages": _turns(f"<image>What is in picture {number}?", answer), "images": [f"images/{number}.jpg"]}
        )
    _write(folder, rows, {"messages": "messages", "images": "images"})


def _write_text(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(2)
    rows = (
        {
            "messages": _turns(
                f"Question {n}: {' '.join(chance.choices(WORDS, k=8))}", " ".join(chance.choices(WORDS, k=25))
            )
        }
        for n in range(count)
    )
    _write(folder, rows, {"messages": "messages"})


def _turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _write(folder: Path, rows: Any, columns: dict[str, str]) -> None:
    with (folder / "data.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    entry = {"file_name": "data.jsonl", "formatting": "sharegpt", "columns": columns, "tags": TAGS}
    (folder / "dataset_info.json").write_text(json.dumps({"x": entry}))


def _time_ours(arguments: argparse.Namespace, dataset: str, base: Path | None, forget: bool = False) -> dict[str, Any]:
    work = arguments.work
    if forget:
        shutil.rmtree(work / "cache", ignore_errors=True)
    command = [sys.executable, PROGRAM, "--dataset-dir", work / dataset, "--dataset", "x", "--out", work / "out"]
    command += ["--cache-dir", work / "cache", "--processes", arguments.processes]
    command += ["--model", base] if base else []
    started = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    result = json.loads(process.stdout.read().splitlines()[-1])
    _, _, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    assert result.get("ok"), result
    return {
        "seconds": round(seconds, 2),
        "rowsPerSecond": round(result["rows"] / seconds),
        "rowsPerSecondOnceStarted": round(result["rows"] / result["seconds"]),
        "cpuSeconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peakMiB": usage.ru_maxrss // 1024,
    }


def _time_llama_factory(arguments: argparse.Namespace) -> dict[str, Any]:
    command = [
        sys.executable,
        __file__,
        "--work",
        arguments.work,
        "--processes",
        arguments.processes,
        "--llama-factory",
    ]
    done = subprocess.run(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    )
    seconds, cpu_seconds = map(float, done.stdout.split()[-2:])
    return {
        "seconds": round(seconds, 2),
        "rowsPerSecond": round(arguments.rows / seconds, 1),
        "cpuSeconds": round(cpu_seconds, 2),
    }


def _run_llama_factory(arguments: argparse.Namespace) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    options = {
        "model_name_or_path": str(arguments.work / "base"), "stage": "sft", "do_train": True, "finetuning_type": "lora",
        "template": "qwen3_vl_nothink", "output_dir": str(arguments.work / "output"), "use_cpu": True,
        "cache_dir": str(arguments.work / "hub"), "overwrite_cache": True, "dataset": "x",
        "dataset_dir": str(arguments.work / "pictures"), "preprocessing_num_workers": arguments.processes,
    }  # fmt: skip
    model, data, training, _, _ = get_train_args(options)
    module = load_tokenizer(model)
    template = get_template_and_fix_tokenizer(module["tokenizer"], data)
    started, cpu = time.perf_counter(), _cpu_seconds()
    get_dataset(template, model, data, training, "sft", **module)
    print(time.perf_counter() - started, _cpu_seconds() - cpu)


def _cpu_seconds() -> float:
    """Of this process and the children it has waited for."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


if __name__ == "__main__":
    main()
