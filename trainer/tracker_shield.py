"""A tracker that fails costs what it would have shown, and never the training."""

import functools
from collections.abc import Callable
from typing import Any

import llamafactory.train.tuner as tuner
from llamafactory.train.callbacks import ReporterCallback
from transformers import TrainerCallback
from transformers.integrations import INTEGRATION_TO_CALLBACK, TensorBoardCallback

import trackers
from training_run import TrainingRun


def install(run: TrainingRun, resumed_at_step: int) -> Callable[[], None]:
    """Catch what trackers raise, and have TensorBoard forget the steps that are trained again.

    Returns what ends them: LLaMA-Factory has metrics for them after the training's end, for which MLflow would begin
    another run and Trackio has none.
    """
    forget_repeated_steps(resumed_at_step)
    ends: list[Callable[[], Any]] = []

    def failed(tracker: str, error: Exception) -> None:
        trackers.tell(run.events, tracker, error, run.step)

    for name, callback in INTEGRATION_TO_CALLBACK.items():
        shield(callback, name, failed, ends)
    # Adds to the runs of W&B, Trackio and SwanLab; where it can't, they have told why.
    shield(ReporterCallback, "reporter", lambda _, error: print(trackers.without_secrets(str(error)), flush=True), ends)
    make = tuner.get_swanlab_callback

    @functools.wraps(make)
    def make_shielded(*args: Any) -> TrainerCallback:
        callback = make(*args)
        shield(type(callback), "swanlab", failed, ends)
        return callback

    tuner.get_swanlab_callback = make_shielded

    def end_trackers() -> None:
        for end in ends:
            end()

    return end_trackers


def shield(
    callback: type[TrainerCallback],
    tracker: str,
    failed: Callable[[str, Exception], None],
    ends: list[Callable[[], Any]],
) -> None:
    """Guard each of a callback's methods; one that can't begin is not asked again, which might take minutes a step."""
    told: set[str] = set()
    off = False

    def guarded(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> None:
            nonlocal off
            if off:
                return
            try:
                method(*args, **kwargs)
            except Exception as error:
                off = name == "on_train_begin"
                if name not in told:
                    told.add(name)
                    failed(tracker, error)

        return call

    def later(method: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: ends.append(functools.partial(method, *args, **kwargs))

    for name in [name for name in dir(callback) if name.startswith("on_")]:
        call = guarded(name, getattr(callback, name))
        setattr(callback, name, later(call) if name == "on_train_end" else call)


def forget_repeated_steps(resumed_at_step: int) -> None:
    """Readers of a log drop what earlier writers said of the steps from `purge_step` on."""
    purge_step: int | None = resumed_at_step + 1 if resumed_at_step > 0 else 0

    def open_writer(self: TensorBoardCallback, args: Any) -> None:
        nonlocal purge_step
        self.tb_writer = self._SummaryWriter(log_dir=self.logging_dir, purge_step=purge_step)
        # Opened again for the metrics after the training.
        purge_step = None

    TensorBoardCallback._init_summary_writer = open_writer
