"""Where Temper's training differs from LLaMA-Factory's own: each hook replaces one function and says why."""

import functools
import shutil
import signal
from collections.abc import Callable
from typing import Any

import llamafactory.data.collator
import llamafactory.train.sft.workflow as workflow
import torch
import torch.utils.data
import transformers.trainer
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

import picture_grids
import picture_runs
from checkpoint_room import require_space, require_space_for_all
from checkpoints import KEEP_AT_LEAST, begin, mark_complete
from failures import RowError
from faster_model import base_of, use_liger_kernels
from run_callbacks import EvaluationCut, RunCallback, agree, ended_by_early_stopping
from token_mean_loss import TokenMeanTrainer
from training_run import INTERRUPTED, Interrupted, TrainingRun


def install(run: TrainingRun, callback: RunCallback, check_rows: Callable[[dict[str, Any]], None]) -> None:
    """Replace what must be replaced, in this process. `check_rows` sees the datasets before the model is loaded."""
    workflow.CustomSeq2SeqTrainer = TokenMeanTrainer
    shield_loader_workers()
    read_checkpoints_of_cpu_ranks()
    report_phases(run, check_rows)
    name_rows_that_end_training()
    carry_on_from_the_last_step()
    save_verified_checkpoints(run, callback)
    watch_evaluations(run, callback)


def report_phases(run: TrainingRun, check_rows: Callable[[dict[str, Any]], None]) -> None:
    get_dataset, load_model = workflow.get_dataset, workflow.load_model

    @functools.wraps(get_dataset)
    def get_dataset_reported(*args: Any, **kwargs: Any) -> dict[str, Any]:
        run.enter("preprocessing")
        with picture_grids.from_headers(), picture_runs.encoded_once():
            datasets = get_dataset(*args, **kwargs)
        check_rows(datasets)
        run.enter("loading")
        return datasets

    @functools.wraps(load_model)
    def load_model_reported(*args: Any, **kwargs: Any) -> Any:
        run.enter("loading")
        model = load_model(*args, **kwargs)
        if args[1].enable_liger_kernel:
            use_liger_kernels(base_of(model))
        return model

    workflow.get_dataset, workflow.load_model = get_dataset_reported, load_model_reported


def shield_loader_workers() -> None:
    """torchrun and terminals signal whole process groups: without its data loader's workers a rank could save nothing.

    They end with their trainer, for which they look every few seconds.
    """
    handlers = torch.utils.data._utils.signal_handling
    set_handlers = handlers._set_worker_signal_handlers

    def set_handlers_and_ignore_requests() -> None:
        set_handlers()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    handlers._set_worker_signal_handlers = set_handlers_and_ignore_requests


def read_checkpoints_of_cpu_ranks() -> None:
    """Several ranks on a CPU load their optimizer onto "cpu:0", a place that torch.load doesn't know."""
    torch.serialization.register_package(
        11, lambda storage: None, lambda storage, location: storage if location.startswith("cpu:") else None
    )


def name_rows_that_end_training() -> None:
    """Name the row whose pictures and picture tokens don't match.

    When that surfaces as a StopIteration, the Trainer takes it for the end of an epoch and training "succeeds" early.
    """
    collator = llamafactory.data.collator.MultiModalDataCollatorForSeq2Seq
    collate = collator.__call__

    @functools.wraps(collate)
    def collate_or_say(self: Any, features: list[dict[str, Any]]) -> Any:
        rows = [(feature["input_ids"], list(feature.get("images") or [])) for feature in features]
        try:
            return collate(self, features)
        except (StopIteration, RuntimeError, ValueError) as error:
            fault = next((said for row in rows if (said := picture_fault(self, *row))), None)
            if fault is None and isinstance(error, StopIteration):
                fault = "the rows of a batch have more picture or video tokens than pictures and videos"
            if fault is None:
                raise
            raise RowError(fault) from error

    collator.__call__ = collate_or_say


def picture_fault(collator: Any, tokens: list[int], pictures: list[Any]) -> str | None:
    """How a tokenized row's runs of picture tokens differ in number from its pictures, or None."""
    picture = collator.tokenizer.convert_tokens_to_ids(collator.template.mm_plugin.image_token)
    runs = sum(1 for before, token in zip([None, *tokens], tokens, strict=False) if token == picture != before)
    if runs == len(pictures):
        return None
    which = f"the row with {pictures[0]}" if pictures else "a row without pictures"
    words = collator.tokenizer.decode([token for token in tokens if token != picture])[-200:]
    why = (
        "take special tokens such as <|image_pad|> out of its text"
        if runs > len(pictures)
        else "its end was cut off at cutoff_len: raise cutoff_len or lower image_max_pixels"
    )
    return f"{which} has {len(pictures)} pictures and places for {runs}: {why}. It ends in {words!r}"


def carry_on_from_the_last_step() -> None:
    """Resumed at its last step, the Trainer would train one step too many; and it forgets losses before a resume."""
    run_epoch = Trainer._run_epoch

    @functools.wraps(run_epoch)
    def run_epoch_or_end(self: Trainer, **kwargs: Any) -> None:
        if self.state.global_step >= self.state.max_steps > 0:
            self.control.should_training_stop = True
            self._total_loss_scalar = self._total_loss_scalar or logged_losses(self.state)
            return
        if self._globalstep_last_logged == self.state.global_step and self._total_loss_scalar == 0:
            self._total_loss_scalar = logged_losses(self.state)
        run_epoch(self, **kwargs)

    Trainer._run_epoch = run_epoch_or_end


def logged_losses(state: TrainerState) -> float:
    """The sum of all steps' losses, from the log that a checkpoint brings."""
    total, last_step = 0.0, 0
    for entry in state.log_history:
        if "loss" in entry:
            total += entry["loss"] * (entry["step"] - last_step)
            last_step = entry["step"]
    return total


def save_verified_checkpoints(run: TrainingRun, callback: RunCallback) -> None:
    """Refuse saves that the disk can't hold; mark a checkpoint once it is final; only then let older ones go."""
    save_checkpoint, on_save = Trainer._save_checkpoint, CallbackHandler.on_save
    on_train_begin = CallbackHandler.on_train_begin
    rotate = transformers.trainer.rotate_checkpoints
    rotations: list[dict[str, Any]] = []

    @functools.wraps(save_checkpoint)
    def save_if_it_fits(self: Trainer, model: Any, trial: Any) -> None:
        run.enter("saving")
        if not self.args.should_save:
            return save_checkpoint(self, model, trial)
        require_space(run.output_dir, self)
        checkpoint = run.output_dir / f"checkpoint-{self.state.global_step}"
        existed = checkpoint.exists()
        try:
            begin(checkpoint, self.args.world_size)
            save_checkpoint(self, model, trial)
        except Exception:
            # Half a checkpoint was never one; on a full disk its room is needed.
            if not existed:
                shutil.rmtree(checkpoint, ignore_errors=True)
            raise

    @functools.wraps(on_train_begin)
    def on_train_begin_if_saves_fit(
        self: CallbackHandler, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        control = on_train_begin(self, args, state, control, **kwargs)
        if args.should_save:
            require_space_for_all(run.output_dir, args, state, self.model)
        return control

    @functools.wraps(on_save)
    def on_save_marked(
        self: CallbackHandler, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        control = on_save(self, args, state, control, **kwargs)
        barrier(args)
        if args.should_save:
            checkpoint = run.output_dir / f"checkpoint-{state.global_step}"
            marker = mark_complete(checkpoint, args.world_size)
            size_bytes = marker["sizeBytes"]
            run.events.emit("checkpoint", checkpoint=checkpoint.name, atStep=state.global_step, sizeBytes=size_bytes)
            while rotations:
                rotate(**rotations.pop())
        # A signal may have reached only some ranks: they go on together, or end together.
        if agree(run.wish(), args) == INTERRUPTED:
            raise Interrupted
        run.enter("training")
        callback.time_from_here()
        return control

    def rotate_later(output_dir: str, save_total_limit: int | None = None, **kwargs: Any) -> None:
        limit = max(save_total_limit, KEEP_AT_LEAST) if save_total_limit else save_total_limit
        rotations.append({"output_dir": output_dir, "save_total_limit": limit, **kwargs})

    CallbackHandler.on_train_begin = on_train_begin_if_saves_fit
    Trainer._save_checkpoint = save_if_it_fits
    CallbackHandler.on_save = on_save_marked
    transformers.trainer.rotate_checkpoints = rotate_later


def watch_evaluations(run: TrainingRun, callback: RunCallback) -> None:
    evaluate, evaluate_in_training = Trainer.evaluate, Trainer._evaluate
    finalize = Trainer._finalize_training

    @functools.wraps(evaluate)
    def evaluate_reported(self: Trainer, *args: Any, **kwargs: Any) -> dict[str, float]:
        before = run.phase
        run.enter("evaluating")
        metrics = evaluate(self, *args, **kwargs)
        run.enter(before)
        callback.time_from_here()
        return metrics

    @functools.wraps(evaluate_in_training)
    def evaluate_or_save(self: Trainer, trial: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        try:
            return evaluate_in_training(self, trial, *args, **kwargs)
        except EvaluationCut:
            if self.state.global_step > 0:
                self._save_checkpoint(self.model_wrapped, trial)
                self.callback_handler.on_save(self.args, self.state, self.control)
            raise Interrupted from None

    @functools.wraps(finalize)
    def finalize_noting_early_stop(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        run.stopped_early = ended_by_early_stopping(self.callback_handler.callbacks)
        return finalize(self, *args, **kwargs)

    Trainer.evaluate = evaluate_reported
    Trainer._evaluate = evaluate_or_save
    Trainer._finalize_training = finalize_noting_early_stop


def barrier(args: TrainingArguments) -> None:
    """Every rank has written its own part of a checkpoint when it has come here."""
    if args.world_size > 1:
        torch.distributed.barrier()
