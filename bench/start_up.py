"""How long the real trainer takes to its first step, and from SIGKILL to the next one, part by part.

    python bench/start_up.py --rounds 3

Each round trains the demo's config from nothing, kills it, and lets it resume; once as the environment was set up, once
without Python's bytecode, as where PYTHONDONTWRITEBYTECODE is set and nothing was compiled; side by side, so that a busy
machine is busy for both. Then the imports alone, with and without the garbage collector. Prints medians in seconds.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).parents[1]
TRAINER = CHECKOUT / "trainer"
PARTS = ("process", "importing", "parsing", "preprocessing", "loading", "training")
KILL_AT_STEP = 7
SAVE_STEPS = 5
IMPORTS = "from llamafactory.train.tuner import run_exp; import hooks"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the trainer's start.")
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    times: dict[tuple[str, str], list[dict[str, float]]] = {}
    imports: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "no-bytecode"
        settings = {"as set up": {}, "without bytecode": no_bytecode(empty)}
        for round_number in range(rounds):
            for name, environment in settings.items():
                run = Path(folder) / f"{round_number}-{len(environment)}"
                for which, parts in zip(("start", "resume"), start_and_resume(run, environment), strict=True):
                    times.setdefault((name, which), []).append(parts)
            imports.setdefault("with the collector", []).append(seconds_of(IMPORTS))
            quiet = f"import start_up\nwith start_up.without_collecting(): {IMPORTS}"
            imports.setdefault("without the collector", []).append(seconds_of(quiet))
            print(f"round {round_number + 1} of {rounds} done", file=sys.stderr, flush=True)
    report(times, imports)


def no_bytecode(empty: Path) -> dict[str, str]:
    return {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": str(empty)}


def start_and_resume(run: Path, environment: dict[str, str]) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of each part from the process's start to its first step; of the resume from the kill."""
    run.mkdir()
    config = yaml.safe_load((CHECKOUT / "configs/demo.yaml").read_text())["train"]
    config |= {"per_device_train_batch_size": 4, "save_steps": SAVE_STEPS, "plot_loss": False}
    config |= {"output_dir": str(run / "by-hand")}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    began = time.time()
    trainer = start(run, environment)
    events = watch(run, trainer, KILL_AT_STEP)
    trainer.send_signal(signal.SIGKILL)
    killed = time.time()
    trainer.wait()
    resumed = start(run, environment)
    later = watch(run, resumed, SAVE_STEPS + 1, past=len(events))
    resumed.send_signal(signal.SIGKILL)
    resumed.wait()
    assert next(event for event in later if event["type"] == "started")["resumedAtStep"] == SAVE_STEPS
    return parts_of(events, began), parts_of(later, killed)


def start(run: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    places = ["--config", "config.yaml", "--output-dir", "output", "--events", "events.jsonl"]
    argv = [sys.executable, str(TRAINER / "train.py"), *places, "--tokenized-cache", "rows"]
    argv = [str(run / each) if (each in places[1::2] or each == "rows") else each for each in argv]
    env = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **environment}
    with open(run / "trainer.log", "ab") as log:
        return subprocess.Popen(argv, cwd=CHECKOUT, env=env, stdout=log, stderr=log)


def watch(run: Path, trainer: subprocess.Popen[bytes], step: int, past: int = 0) -> list[dict[str, Any]]:
    """The events from number `past` on, as soon as the step is among them."""
    while True:
        path = run / "events.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        events = [json.loads(line) for line in lines][past:]
        if any(event["type"] == "step" and event["step"] >= step for event in events):
            return events
        if trainer.poll() is not None:
            raise SystemExit((run / "trainer.log").read_text()[-4000:])
        time.sleep(0.01)


def parts_of(events: list[dict[str, Any]], began: float) -> dict[str, float]:
    parts, part, since = dict.fromkeys(PARTS, 0.0), "process", began
    for event in events:
        if event["type"] not in ("phase", "step"):
            continue
        parts[part] += event["time"] - since
        if event["type"] == "step":
            break
        part, since = event["phase"], event["time"]
    return {**parts, "total": sum(parts.values())}


def seconds_of(code: str) -> float:
    """What a fresh Python takes for the code, without its own start."""
    timed = f"import time; began = time.monotonic()\n{code}\nprint(time.monotonic() - began)"
    done = subprocess.run([sys.executable, "-c", timed], cwd=TRAINER, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def report(times: dict[tuple[str, str], list[dict[str, float]]], imports: dict[str, list[float]]) -> None:
    names = {"training": "first step"}
    print(f"{'seconds, median':28}", *(f"{names.get(part, part):>13}" for part in (*PARTS, "total")))
    totals = {}
    for (name, which), runs in times.items():
        medians = {part: statistics.median(run[part] for run in runs) for part in (*PARTS, "total")}
        totals[name, which] = medians["total"]
        print(f"{which + ', ' + name:28}", *(f"{medians[part]:13.2f}" for part in medians))
    for name in dict.fromkeys(name for name, _ in times):
        print(f"{name}: a start takes {totals[name, 'start'] / totals[name, 'resume']:.2f} × a resume")
    for which in ("start", "resume"):
        ratio = totals["without bytecode", which] / totals["as set up", which]
        print(f"{which}: {ratio:.2f} × as long without bytecode")
    for name, values in imports.items():
        print(f"imports {name}: {statistics.median(values):.2f}")


if __name__ == "__main__":
    main()
