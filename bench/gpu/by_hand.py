"""LLaMA-Factory alone on a YAML, as `llamafactory-cli train` runs it; a line of JSON for each step: by_hand.py YAML EVENTS."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from llamafactory.train.tuner import run_exp
from omegaconf import OmegaConf
from transformers import TrainerCallback


class Steps(TrainerCallback):
    """Writes what each step took, from the end of the one before: reading its rows is part of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ended = self.seconds = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ended = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds = time.monotonic() - self.ended
        self.ended = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if "loss" not in (logs or {}):
            return
        memory = {}
        if torch.cuda.is_available():
            memory["memoryAllocatedBytes"] = torch.cuda.max_memory_allocated()
            memory["memoryReservedBytes"] = torch.cuda.max_memory_reserved()
        event = {"step": state.global_step, "loss": logs["loss"], "secondsPerStep": self.seconds, "time": time.time()}
        with self.path.open("a") as file:
            file.write(json.dumps({**event, **memory}) + "\n")


if __name__ == "__main__":
    run_exp(OmegaConf.to_container(OmegaConf.load(sys.argv[1])), [Steps(Path(sys.argv[2]))])
