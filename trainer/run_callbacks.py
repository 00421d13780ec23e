"""The callback that watches the training: step and evaluation events, and stopping between two steps."""

import functools
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training_run import GO_ON, INTERRUPTED, TrainingRun


def guarded(body: Callable[..., None]) -> Callable[..., None]:
    """An exception in a callback would kill the training: print it and go on."""

    @functools.wraps(body)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            body(*args, **kwargs)
        except Exception:
            traceback.print_exc()

    return run


class EvaluationCut(BaseException):
    """A signal came during an evaluation of a training: nothing of it is worth waiting for."""


class RunCallback(TrainerCallback):
    """Goes first in run_exp's callbacks; on every rank."""

    def __init__(self, run: TrainingRun) -> None:
        self.run = run
        self.step_began = time.monotonic()
        self.seconds_per_step = 0.0
        # What the step at hand asks of the model, by step_work.COUNTS; TokenMeanTrainer tells.
        self.work: dict[str, int] = {}

    @guarded
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # A checkpoint brings the save, evaluation and logging steps of its time: the config's count.
        state.compute_steps(args, state.max_steps)
        self.run.between_steps_only = True
        self.run.step, self.run.max_steps = state.global_step, state.max_steps
        parameters = kwargs["model"].parameters()
        # ZeRO stage 3 leaves an empty shell of a parameter, with its size beside it.
        sizes = [getattr(item, "ds_numel", None) or item.numel() for item in parameters if item.requires_grad]
        self.run.trainable_parameters = sum(sizes)
        self.run.events.emit(
            "setup",
            device=device_name(),
            devices=args.world_size,
            precision=precision_of(args, kwargs["model"]),
            trainableParameters=self.run.trainable_parameters,
        )
        self.run.enter("training")
        self.step_began = time.monotonic()

    @guarded
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.run.step = state.global_step
        self.seconds_per_step = time.monotonic() - self.step_began
        self.step_began = time.monotonic()
        wish = agree(self.run.wish(), args)
        if wish != GO_ON:
            control.should_save = True
            control.should_training_stop = True
            control.should_evaluate = control.should_evaluate and wish != INTERRUPTED
            self.run.stopped = wish != INTERRUPTED and state.global_step < state.max_steps

    @guarded
    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        self.run.events.emit(
            "step",
            step=state.global_step,
            loss=logs["loss"],
            learningRate=logs.get("learning_rate"),
            gradNorm=logs.get("grad_norm"),
            epoch=logs.get("epoch"),
            maxSteps=state.max_steps,
            secondsPerStep=round(self.seconds_per_step, 4),
            **({"tokens": state.num_input_tokens_seen} if state.num_input_tokens_seen else {}),
            **({"work": self.work} if self.work else {}),
            **memory(),
        )

    @guarded
    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        for name, value in (metrics or {}).items():
            if name.startswith("eval_") and name.endswith("_loss") or name == "eval_loss":
                dataset = name.removeprefix("eval_").removesuffix("loss").removesuffix("_")
                named = {"dataset": dataset} if dataset else {}
                self.run.events.emit("evaluation", atStep=state.global_step, evalLoss=value, **named)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Several ranks would have to agree at every step of the evaluation: they stop after it.
        if self.run.signal is not None and args.world_size == 1:
            raise EvaluationCut

    @guarded
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.run.between_steps_only = False
        self.run.step, self.run.max_steps = state.global_step, state.max_steps
        self.run.enter("finishing")

    def time_from_here(self) -> None:
        """Saving and evaluating are no part of the next step's time."""
        self.step_began = time.monotonic()


def agree(wish: int, args: TrainingArguments) -> int:
    """The strongest wish of all ranks, so that they stop at the same step."""
    if args.world_size == 1:
        return wish
    shared = torch.tensor(wish, device=args.device)
    torch.distributed.all_reduce(shared, op=torch.distributed.ReduceOp.MAX)
    return int(shared.item())


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def precision_of(args: TrainingArguments, model: torch.nn.Module) -> str:
    """What the matrix products are done in: bf16, fp16 or fp32; without autocast the base's own type."""
    if args.bf16 or args.fp16:
        return "bf16" if args.bf16 else "fp16"
    weights = next((item.dtype for item in model.parameters() if item.is_floating_point()), torch.float32)
    return {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(weights, "fp32")


def memory() -> dict[str, int]:
    """Peak bytes on this process's GPU; nothing on a CPU."""
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return {}
    return {
        "memoryAllocatedBytes": torch.cuda.max_memory_allocated(),
        "memoryReservedBytes": torch.cuda.max_memory_reserved(),
    }


def ended_by_early_stopping(callbacks: list[TrainerCallback]) -> bool:
    return any(
        isinstance(callback, EarlyStoppingCallback)
        and callback.early_stopping_patience_counter >= callback.early_stopping_patience
        for callback in callbacks
    )
