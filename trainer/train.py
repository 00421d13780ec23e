"""Trains with LLaMA-Factory so that nothing is lost: verified checkpoints, exact resume, every ending told by name.

    train.py --config RUN/train/config.yaml --output-dir RUN/train/output --events RUN/train/events.jsonl --attempt 1

The optimization is the config's own; only where it reads and writes, what it logs and how the loss is averaged over
micro-batches (token_mean_loss.py) differ. Exits with 0 when finished (or stopped as asked), 1 after a "failed" event,
143 after a signal. Started again, it resumes from the newest checkpoint that verifies; when finished, it says so again.
"""

import argparse
import json
import os
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import OmegaConf

import tokenized_rows
from checkpoints import Verdict, manifest, manifest_fault, newest_verified, step_of
from events import EventLog
from failures import failure_of
from protocol import TemperError, write_whole
from training_run import Interrupted, TrainingRun

FINISHED = "temper-finished.json"
FINISHED_FILES = ("adapter_config.json", "config.json", "*.safetensors", "*.bin")
PLAN = "TEMPER_TRAIN_PLAN"
PR_SET_PDEATHSIG, SIGKILL = 1, 9
REPORTERS = {"wandb", "swanlab", "trackio", "mlflow", "neptune", "comet_ml", "clearml", "dvclive"}


def main(argv: list[str] | None = None) -> int:
    options = parse_arguments(argv)
    rank = os.environ.get("RANK")
    events = EventLog(options.events if rank in (None, "0") else None)
    run = TrainingRun(events, options.output_dir.absolute(), options.stop_file, 0)
    run.listen()
    try:
        if rank is None and tell_if_finished(options, events):
            return 0
        plan = json.loads(os.environ[PLAN]) if rank is not None else make_plan(options, events)
        if rank is None and options.processes > 1:
            start_ranks(options, plan)
        if rank is not None:
            die_with_parent()
        return train(options, plan, run)
    except Interrupted:
        # When one rank fails, torchrun ends the others with a signal: the failure is then the last word.
        if not events.has_failed():
            events.emit("interrupted", atStep=run.step, signal=run.signal and run.signal.name)
        return 143
    except BaseException as error:
        traceback.print_exc()
        report_failure(EventLog(options.events), error, run, rank)
        return 1


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train with LLaMA-Factory so that nothing is lost.")
    parser.add_argument("--config", type=Path, required=True, help="LLaMA-Factory's YAML")
    parser.add_argument("--output-dir", type=Path, required=True, help="replaces the config's output_dir")
    parser.add_argument("--events", type=Path, required=True, help="where one JSON object a line is appended")
    parser.add_argument("--stop-file", type=Path, help="finish after the current step once this file exists")
    parser.add_argument("--attempt", type=int, default=1)
    parser.add_argument("--micro-batch", type=int, help="rows on a GPU at once, instead of the config's")
    parser.add_argument("--accumulation", type=int, help="micro-batches a step; their product must stay the config's")
    parser.add_argument("--tokenized-cache", type=Path, help="folder that keeps tokenized rows")
    parser.add_argument("--no-resume", action="store_true", help="set the output aside and start from step 0")
    parser.add_argument("--processes", type=int, default=1, help="ranks on this host, one a GPU")
    return parser.parse_args(argv)


def tell_if_finished(options: argparse.Namespace, events: EventLog) -> bool:
    """Say "finished" again, instead of training once more, when the output holds a finished training's files."""
    path = options.output_dir / FINISHED
    if options.no_resume or not path.exists():
        return False
    try:
        marker = json.loads(path.read_bytes())
        fault = manifest_fault(options.output_dir, marker.pop("files"))
    except (ValueError, KeyError, TypeError, AttributeError):
        fault = f"{FINISHED} is damaged"
    if fault is not None:
        print(f"the training had finished, but {fault}: finishing it again from its last checkpoint", flush=True)
        path.unlink()
        return False
    events.emit("finished", **marker["finished"], again=True)
    return True


def make_plan(options: argparse.Namespace, events: EventLog) -> dict[str, Any]:
    """Decide once, for all ranks, what LLaMA-Factory gets: the config with paths, resume and rows replaced."""
    config = read_config(options.config)
    output_dir = options.output_dir.absolute()
    if options.no_resume:
        set_output_aside(output_dir)

    def on_damaged(verdict: Verdict, moved_to: Path) -> None:
        events.emit("damagedCheckpoint", checkpoint=verdict.checkpoint, reason=verdict.reason, movedTo=str(moved_to))

    checkpoint = newest_verified(output_dir, on_damaged)
    step = 0 if checkpoint is None else step_of(checkpoint)
    events.emit(
        "started",
        attempt=options.attempt,
        pid=os.getpid(),
        resumedFrom=checkpoint and checkpoint.name,
        resumedAtStep=step,
    )
    rows = None
    if options.tokenized_cache is not None:
        options.tokenized_cache.mkdir(parents=True, exist_ok=True)
        rows = tokenized_rows.folder_for(config, options.tokenized_cache)
        if rows is not None and (fault := tokenized_rows.discard_if_damaged(rows)):
            print(f"tokenizing again: {fault}", flush=True)
        tokenized_rows.tidy(options.tokenized_cache, rows)
    shutil.rmtree(datasets_cache(output_dir), ignore_errors=True)
    arguments = {
        **config,
        **cut(options, config),
        "output_dir": str(output_dir),
        "resume_from_checkpoint": checkpoint and str(checkpoint),
        # Without a checkpoint LLaMA-Factory would choose one itself, or refuse a folder that a crash left.
        "overwrite_output_dir": checkpoint is None,
        # A checkpoint without its optimizer can't be resumed exactly.
        "save_only_model": False,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        # The datasets cache gives stale rows when a picture changes: never read it.
        "overwrite_cache": True,
    }
    if rows is not None:
        arguments["tokenized_path"] = str(rows)
    return {"arguments": arguments, "resumedAtStep": step, "rows": rows and str(rows)}


def datasets_cache(output_dir: Path) -> Path:
    """A cache of this training's own for the datasets library, emptied before and after."""
    return output_dir.with_name(".datasets")


def read_config(path: Path) -> dict[str, Any]:
    """Read the YAML as llamafactory-cli does, so that 1e-4 is a number. Raises ConfigError."""
    try:
        config = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except FileNotFoundError as error:
        raise TemperError("ConfigError", f"the training config {path} does not exist") from error
    except Exception as error:
        raise TemperError("ConfigError", f"{path} is not a YAML that can be read: {error}") from error
    if not isinstance(config, dict):
        raise TemperError("ConfigError", f"{path} must hold options, one a line, and holds a {type(config).__name__}")
    return {str(key): value for key, value in config.items()}


def cut(options: argparse.Namespace, config: dict[str, Any]) -> dict[str, int]:
    """The global batch cut anew: rows at once and micro-batches a step. Raises ConfigError if their product changes."""
    configured = (int(config.get("per_device_train_batch_size", 8)), int(config.get("gradient_accumulation_steps", 1)))
    micro_batch = options.micro_batch or configured[0]
    accumulation = options.accumulation or configured[1]
    if micro_batch * accumulation != configured[0] * configured[1]:
        raise TemperError(
            "ConfigError",
            f"{micro_batch} rows × {accumulation} is another global batch than the config's "
            f"{configured[0]} × {configured[1]}, so it would be another training",
        )
    return {"per_device_train_batch_size": micro_batch, "gradient_accumulation_steps": accumulation}


def set_output_aside(output_dir: Path) -> None:
    if not output_dir.exists():
        return
    count = 1
    while (target := output_dir.with_name(f"{output_dir.name}.set-aside-{count}")).exists():
        count += 1
    os.rename(output_dir, target)


def start_ranks(options: argparse.Namespace, plan: dict[str, Any]) -> None:
    """Become torchrun, under the same process id, with this program as every rank."""
    os.environ[PLAN] = json.dumps(plan)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={options.processes}"]
    os.execv(sys.executable, [sys.executable, *launcher, os.path.abspath(sys.argv[0]), *sys.argv[1:]])


def die_with_parent() -> None:
    """torchrun starts each rank in its own session, where nobody would find it: let it die with torchrun."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(SIGKILL), 0, 0, 0)


def train(options: argparse.Namespace, plan: dict[str, Any], run: TrainingRun) -> int:
    run.step = plan["resumedAtStep"]
    rows = plan["rows"] and Path(plan["rows"])
    work = datasets_cache(run.output_dir)
    os.environ["HF_DATASETS_CACHE"] = str(work)
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    main_process = os.environ.get("RANK", "0") == "0"

    run.enter("importing")
    from llamafactory.train.tuner import run_exp

    import hooks
    from run_callbacks import RunCallback

    def check_rows(datasets: dict[str, Any]) -> None:
        fault = rows and tokenized_rows.rows_fault(rows, datasets)
        if fault:
            raise TemperError("DatasetError", f"{fault}: remove that folder")

    callback = RunCallback(run)
    hooks.install(run, callback, check_rows)
    if rows is not None:
        tokenized_rows.save_whole(rows)
    run.enter("parsing")
    try:
        run_exp(plan["arguments"], [callback])
    finally:
        if main_process:
            shutil.rmtree(work, ignore_errors=True)
    require_the_whole_training(run)
    if main_process:
        finish(run)
    return 0


def require_the_whole_training(run: TrainingRun) -> None:
    """run_exp also returns when the rows ran out early or there was nothing to train: that is no success."""
    if run.max_steps <= 0:
        raise TemperError("ConfigError", "the config trains nothing: it needs do_train: true and at least one epoch")
    if run.step < run.max_steps and not run.stopped and not run.stopped_early:
        raise TemperError(
            "TrainerError",
            f"training ended at step {run.step} of {run.max_steps} without an error: its rows ran out early",
        )


def finish(run: TrainingRun) -> None:
    """Make the result durable, then say that it is there: first on disk, then in an event."""
    names = sorted({path.name for pattern in FINISHED_FILES for path in run.output_dir.glob(pattern)})
    for name in names:
        sync_file(run.output_dir / name)
    finished = {
        "atStep": run.step,
        "maxSteps": run.max_steps,
        "stopped": run.stopped,
        "adapter": str(run.output_dir),
        "trainableParameters": run.trainable_parameters,
    }
    if run.stopped_early:
        finished["stoppedEarly"] = True
    marker = {"format": 1, "finished": finished, "files": manifest(run.output_dir, names)}
    write_whole(run.output_dir / FINISHED, json.dumps(marker, indent=1) + "\n")
    run.events.emit("finished", **finished)
    run.events.sync()


def report_failure(events: EventLog, error: BaseException, run: TrainingRun, rank: str | None) -> None:
    failure = failure_of(error, run.phase)
    fields = {
        "error": failure.error,
        "exception": failure.exception,
        "message": failure.message,
        "atStep": run.step,
        "phase": run.phase,
        "traceback": failure.traceback,
    }
    if failure.details:
        fields["details"] = failure.details
    if rank not in (None, "0"):
        fields["rank"] = int(rank)
    events.emit("failed", **fields)
    events.sync()


def sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def leave(code: int) -> NoReturn:
    """Exit without taking torch apart, which takes seconds, unless a reporter has last words of its own."""
    sys.stdout.flush()
    sys.stderr.flush()
    if REPORTERS & sys.modules.keys():
        sys.exit(code)
    os._exit(code)


if __name__ == "__main__":
    leave(main())
