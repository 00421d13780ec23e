"""The demo's whole pipeline beside the procedure by hand on the same rows, one after the other in one run.

    trainer/.venv/bin/python bench/demo.py

`npm run demo`'s run: host, rows, plan, training, merge, fp16 proof, judging base and candidate on held-out rows, deployment
behind the proxy and ten seconds of watching it. By hand (bench/by_hand.py): LLaMA-Factory's train, export, edit, api, one
answer, by the run's own train/config.yaml. Takes five minutes on two cores; ports are the demo's.
"""

import json
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

from by_hand import by_hand

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="temper-bench-") as folder:
        home = Path(folder) / "home"
        began = time.monotonic()
        demo = subprocess.run(
            ["node", str(ROOT / "cli/temper.mjs"), "demo"],
            env={**os.environ, "TEMPER_HOME": str(home)}, stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        command = time.monotonic() - began
        stages = {name: float(seconds) for name, seconds in re.findall(r"(\w+) +done +([\d.]+) s", demo.stdout)}
        (config,) = home.glob("runs/*/train/config.yaml")
        picture = sorted((ROOT / "demo/cards").rglob("*.png"))[0]
        hand = by_hand(config, Path(folder) / "by-hand", picture)
    pipeline = sum(stages.values())
    result = {"stages": stages, "pipeline": round(pipeline, 1), "command": round(command, 1), "byHand": hand}
    print(json.dumps({**result, "ratio": round(hand["all"] / pipeline, 2)}, indent=1))


if __name__ == "__main__":
    main()
