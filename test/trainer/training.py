"""A tiny real training to test with: importing LLaMA-Factory once and forking it for every run saves 12 s a run."""

import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from tqdm import tqdm

TRAINER = Path(__file__).parents[2] / "trainer"

ANSWER_LENGTHS = (1, 2, 3, 12, 30)


def make_dataset(folder: Path, rows: int = 22) -> Path:
    """Pictures of one color each, with answers of very different lengths."""
    chance = random.Random(0)
    (folder / "images").mkdir(parents=True)
    lines = []
    for row in range(rows):
        Image.new("RGB", (64, 32), tuple(chance.randrange(256) for _ in range(3))).save(folder / f"images/{row}.png")
        answer = "".join(chance.choice("ABCDEFGH") for _ in range(ANSWER_LENGTHS[row % len(ANSWER_LENGTHS)]))
        turns = [{"role": "user", "content": "<image>What is this?"}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"messages": turns, "images": [f"images/{row}.png"]}) + "\n")
    (folder / "train.jsonl").write_text("".join(lines))
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}
    columns = {"messages": "messages", "images": "images", "system": None, "tools": None, "videos": None, "audios": None}
    entry = {"file_name": "train.jsonl", "formatting": "sharegpt", "columns": columns, "tags": tags}
    (folder / "dataset_info.json").write_text(json.dumps({"train": entry}))
    return folder


class Training:
    """One run's folder, config and processes."""

    def __init__(self, folder: Path, base: Path, dataset: Path, **options: Any) -> None:
        self.folder = folder
        self.output = folder / "output"
        self.rows = folder.parent / "rows"
        folder.mkdir(parents=True)
        self.config = {
            "model_name_or_path": str(base), "stage": "sft", "do_train": True, "finetuning_type": "lora",
            "lora_target": "all", "lora_rank": 4, "dataset": "train", "dataset_dir": str(dataset),
            "media_dir": str(dataset), "template": "qwen3_vl_nothink", "cutoff_len": 256,
            "output_dir": str(folder / "by-hand"), "save_steps": 2, "save_total_limit": 2,
            "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "learning_rate": 5e-3, "max_steps": 8,
            "num_train_epochs": 100, "lr_scheduler_type": "cosine", "report_to": "none", "use_cpu": True, **options,
        }  # fmt: skip
        (folder / "config.yaml").write_text(yaml.safe_dump(self.config))

    def argv(self, *options: str) -> list[str]:
        return [
            "--config", str(self.folder / "config.yaml"), "--output-dir", str(self.output),
            "--events", str(self.folder / "events.jsonl"), "--stop-file", str(self.folder / "stop-request.json"),
            "--tokenized-cache", str(self.rows), *options,
        ]  # fmt: skip

    def start(self, *options: str, first: Callable[[], object] = lambda: None) -> int:
        """Fork a trainer that calls `first` and then is train.py; returns its pid."""
        import train

        sys.stdout.flush()
        pid = os.fork()
        if pid:
            return pid
        try:
            log = os.open(self.folder / "trainer.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
            sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
            own_progress_bars()
            first()
            os._exit(train.main(self.argv(*options)))
        finally:
            os._exit(99)

    def run(self, *options: str, first: Callable[[], object] = lambda: None) -> int:
        """Train to the end; returns the exit status as a shell would."""
        return ended(self.start(*options, first=first))

    def kill_at_step(self, step: int, signal: int, *options: str) -> int:
        """Start, send the signal as soon as the step's event is there, and return the exit status."""
        pid = self.start(*options)
        self.wait_for_step(step, pid)
        os.kill(pid, signal)
        return ended(pid)

    def wait_for_step(self, step: int, pid: int) -> None:
        deadline = time.monotonic() + 120
        while not any(event["step"] >= step for event in self.events("step")):
            assert os.waitpid(pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline, self.log()
            time.sleep(0.005)

    def run_ranks(self, count: int, *options: str) -> int:
        return ended(self.start_ranks(count, *options))

    def start_ranks(self, count: int, *options: str) -> int:
        """As `start`, with ranks that torch's agent forks off the warm trainer."""
        options = ("--processes", str(count), *options)
        return self.start(*options, first=lambda: fork_ranks(self.argv(*options)))

    def events(self, type: str | None = None) -> list[dict[str, Any]]:
        path = self.folder / "events.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [event for event in map(json.loads, lines) if type in (None, event["type"])]

    def losses(self) -> dict[int, float]:
        """The loss of each step, the last one told where a step was trained again."""
        return {event["step"]: event["loss"] for event in self.events("step")}

    def log(self) -> str:
        return (self.folder / "trainer.log").read_text()[-4000:]


def fork_ranks(argv: list[str]) -> None:
    """Have this trainer's ranks forked off it, instead of starting a Python for each."""
    import launch

    launch.program = lambda: (forked_rank, [argv])


def forked_rank(argv: list[str]) -> None:
    import train

    own_progress_bars()
    code = train.main(argv)
    sys.stdout.flush()
    if code:
        os._exit(code)


def own_progress_bars() -> None:
    """Give this fork locks of its own: tqdm's are shared, and a fork killed while it holds one would stop every later one."""
    lock = threading.RLock()
    classes = [tqdm]
    while classes:
        kind = classes.pop()
        kind.set_lock(lock)  # a class that was used in a thread pool has a lock beside its parent's
        classes += kind.__subclasses__()


def ended(pid: int) -> int:
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status if status >= 0 else 128 - status


def apart(one: dict[int, float], other: dict[int, float]) -> float:
    """The largest difference of two loss curves over the same steps."""
    assert sorted(one) == sorted(other)
    return max(abs(one[step] - other[step]) for step in one)
