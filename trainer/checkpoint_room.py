"""Whether the disk holds the checkpoints that a training has still to write."""

import math
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerState, TrainingArguments

from checkpoints import KEEP_AT_LEAST, checkpoints_of, files_of
from disk_room import free_bytes
from protocol import TemperError

FREE_SPACE_FACTOR = 1.2


def require_space(output_dir: Path, trainer: Trainer) -> None:
    """Raise DiskFullError unless the next checkpoint will fit."""
    needed = int(checkpoint_bytes(output_dir, trainer.model) * FREE_SPACE_FACTOR)
    free = free_bytes(output_dir)
    if free < needed:
        raise TemperError(
            "DiskFullError",
            f"a checkpoint at step {trainer.state.global_step} needs about {needed / 1e9:.2f} GB and {output_dir} has "
            f"{free / 1e9:.2f} GB free: free some space, and the training goes on from its last checkpoint",
            neededBytes=needed,
            freeBytes=free,
        )


def require_space_for_all(output_dir: Path, args: TrainingArguments, state: TrainerState, model: Any) -> None:
    """Raise DiskFullError, before the first step, unless as many checkpoints fit as there will be at once."""
    left = saves_left(args, state)
    limit = max(args.save_total_limit, KEEP_AT_LEAST) + 1 if args.save_total_limit else math.inf
    more = min(left, max(limit - len(checkpoints_of(output_dir)), 1 if left else 0))
    each = checkpoint_bytes(output_dir, model)
    free = free_bytes(output_dir)
    if free < more * each:
        raise TemperError(
            "DiskFullError",
            f"this training will keep {more} more checkpoints of about {each / 1e9:.2f} GB at once and {output_dir} "
            f"has {free / 1e9:.2f} GB free: free some space, lower save_total_limit or save less often",
            neededBytes=int(more * each),
            freeBytes=free,
        )


def saves_left(args: TrainingArguments, state: TrainerState) -> int:
    """How many checkpoints a training has still to write."""
    steps = state.max_steps - state.global_step
    if args.save_strategy == "steps":
        return math.ceil(steps / state.save_steps)
    if args.save_strategy == "epoch":
        return math.ceil(state.num_train_epochs * steps / max(state.max_steps, 1))
    return 0


def checkpoint_bytes(output_dir: Path, model: Any) -> int:
    """The size of a checkpoint: the last one's or, at first, as the model says."""
    saved = checkpoints_of(output_dir)
    if saved:
        return sum((saved[0] / name).stat().st_size for name in files_of(saved[0]))
    # The weights as they are, and the optimizer's two float32 states for each.
    return sum(item.numel() * (item.element_size() + 8) for item in model.parameters() if item.requires_grad)
