"""From rows to an answer at Qwen3-VL's true shape: the programs that Temper's stages run, beside the procedure by hand.

    python3 bench/gpu/pipeline.py --work DIR [--shape 4b|tiny] [--rows 320]

One epoch over the same rows, 16 a step: by hand with LLaMA-Factory's usual YAML (1 × 16, neither bf16 nor fp16), export, edit,
api (bench/by_hand.py); Temper's trainer as planned, merge straight to fp16, the fp16 proof on rows, server. Each in one run,
in turn. DIR needs 40 GB at 4b.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from model_and_rows import ROOT, Rows, make_model, make_rows

from train import BY_HAND, GLOBAL_BATCH, PLAN, gpu_name, training_options

sys.path.insert(0, str(ROOT / "bench"))
from by_hand import ask, by_hand, timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--shape", default="4b")
    parser.add_argument("--rows", type=int, default=320)
    options = parser.parse_args()
    model = make_model(options.work, options.shape)
    rows = make_rows(options.work / "pipeline-rows", model, Rows(options.rows, 1, (4, 200)))
    picture = rows / "0.jpg"
    common = training_options(model, rows, options.shape, options.rows // GLOBAL_BATCH)
    result: dict[str, Any] = {"gpu": gpu_name(), "rows": options.rows, "temper": temper(common, options.work, picture)}
    print(json.dumps(result), flush=True)
    yaml = options.work / "by-hand.yaml"
    yaml.write_text(json.dumps({**common, **BY_HAND, "gradient_accumulation_steps": GLOBAL_BATCH}))
    result["byHand"] = by_hand(yaml, options.work / "by-hand", picture)
    result["ratio"] = round(result["byHand"]["all"] / result["temper"]["all"], 2)
    print(json.dumps(result))


def temper(common: dict[str, Any], work: Path, picture: Path) -> dict[str, float]:
    """Seconds of the programs that trainModel, mergeAdapter, patchFp16 and deployModel run."""
    folder = work / "temper"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yaml, output, merged = folder / "config.yaml", folder / "output", folder / "merged"
    precision = {"bf16": False} if common.get("use_cpu") else {}
    yaml.write_text(json.dumps({**common, **PLAN, **precision, "gradient_accumulation_steps": 1}))
    seconds: dict[str, float] = {}
    with timed(seconds, "train"):
        python(folder, "trainer/train.py", "--config", yaml, "--output-dir", output, "--events", folder / "events.jsonl",
               "--tokenized-cache", folder / "tokenized")  # fmt: skip
    with timed(seconds, "merge"):
        python(folder, "trainer/merge_adapter.py", common["model_name_or_path"], output, merged, "--dtype", "fp16", "--clamp")
    with timed(seconds, "patch"):
        python(folder, "trainer/patch_fp16.py", merged, "--in-place", "--clamp")
    with timed(seconds, "serve and answer"):
        serve_and_ask(folder, merged, picture, on_cpu=bool(common.get("use_cpu")))
    return {**{name: round(each, 1) for name, each in seconds.items()}, "all": round(sum(seconds.values()), 1)}


def python(folder: Path, program: str, *arguments: Any) -> None:
    log = folder / f"{Path(program).stem}.log"
    with log.open("w") as output:
        command = [sys.executable, str(ROOT / program), *map(str, arguments)]
        if subprocess.run(command, stdout=output, stderr=output, check=False).returncode != 0:
            raise SystemExit(f"{program} failed:\n{log.read_text()[-3000:]}")


def serve_and_ask(folder: Path, merged: Path, picture: Path, on_cpu: bool) -> None:
    ready, log = folder / "ready.json", folder / "serve.log"
    command = [str(ROOT / "serving/serve.py"), "--model", str(merged), "--name", "bench", "--port", "0"]
    command += ["--cpu"] if on_cpu else []
    with log.open("w") as output:
        server = subprocess.Popen([sys.executable, *command, "--ready-file", str(ready)], stdout=output, stderr=output)
    try:
        while not ready.exists():
            if server.poll() is not None:
                raise SystemExit(f"serve.py failed:\n{log.read_text()[-3000:]}")
            time.sleep(0.1)
        ask(json.loads(ready.read_text())["url"], picture, "bench")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
