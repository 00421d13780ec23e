"""Trains with LLaMA-Factory so that nothing is lost: verified checkpoints, exact resume, every ending told by name.

    train.py --config RUN/train/config.yaml --output-dir RUN/train/output --events RUN/train/events.jsonl --attempt 1

The optimization is the config's own; only where it reads and writes, what it logs and how the loss is averaged over
micro-batches (token_mean_loss.py) differ. Exits with 0 when finished (or stopped as asked), 1 after a "failed" event,
143 after a signal. Started again, it resumes from the newest checkpoint that verifies; when finished, it says so again.

Over several GPUs: `--processes 4 --global-batch 16`. Over several hosts, on each of them, with the same folders on
shared storage: `--nnodes 2 --node-rank 0` (or 1) `--rdzv-endpoint ADDRESS_OF_NODE_0:PORT`.
"""

import argparse
import json
import os
import shutil
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import OmegaConf

import launch
import start_up
import tokenized_rows
import trackers
from checkpoints import Verdict, manifest, manifest_fault, newest_verified, shards_of, step_of, world_size_of
from events import EventLog
from failures import failure_of, lost_connection
from nodes import DONE, FAILED, Nodes, address
from protocol import TemperError, write_whole
from training_run import Interrupted, TrainingRun

FINISHED = "temper-finished.json"
FINISHED_FILES = ("adapter_config.json", "config.json", "*.safetensors", "*.bin")
OTHERS_WORDS_S = 2
REPORTERS_WORDS_S = 120
REPORTERS = {"wandb", "swanlab", "trackio", "mlflow", "neptune", "comet_ml", "clearml", "dvclive"}


def main(argv: list[str] | None = None) -> int:
    options = parse_arguments(argv)
    rank = os.environ.get("RANK")
    tells = rank == "0" if rank is not None else options.node_rank == 0
    events = EventLog(options.events if tells else None)
    # Any process may fail; opened now, this log knows whether another one has done so before.
    failures = EventLog(options.events)
    run = TrainingRun(events, options.output_dir.absolute(), options.stop_file, 0)
    run.listen()
    try:
        if rank is None:
            return start(options, run, failures)
        launch.die_with_parent()
        return train(options, json.loads(os.environ[launch.PLAN]), run)
    except Interrupted:
        # When one rank fails, the others are ended with a signal: the failure is then the last word.
        if not failures.has_failed():
            events.emit("interrupted", atStep=run.step, signal=run.signal.name if run.signal else "SIGTERM")
        return launch.INTERRUPTED
    except BaseException as error:
        traceback.print_exc()
        report_failure(failures, error, run, rank)
        return 1


def start(options: argparse.Namespace, run: TrainingRun, failures: EventLog) -> int:
    """Train in this process, or in ranks below it."""
    check_numbers(options)
    if tell_if_finished(options, run.events):
        return 0
    nodes = Nodes(options) if options.nnodes > 1 else None
    if nodes is None:
        plan = make_plan(options, run.events)
    else:
        plan = nodes.give(make_plan(options, run.events)) if options.node_rank == 0 else nodes.take()
    if not launch.needs_ranks(options, plan["arguments"]):
        return train(options, plan, run)
    run.step = plan["resumedAtStep"]
    if nodes is not None:
        nodes.watch(lambda error: report_failure(failures, error, run, None))
    how = FAILED
    try:
        interrupted = launch.run_ranks(options, plan, nodes)
        how = DONE
        return launch.INTERRUPTED if interrupted else 0
    except launch.RankFailed as failure:
        if failures.has_failed() and not failure.killed:
            return 1
        run.phase = "training"
        raise
    finally:
        if nodes is not None:
            nodes.leave(how)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train with LLaMA-Factory so that nothing is lost.")
    parser.add_argument("--config", type=Path, required=True, help="LLaMA-Factory's YAML")
    parser.add_argument("--output-dir", type=Path, required=True, help="replaces the config's output_dir")
    parser.add_argument("--events", type=Path, required=True, help="where one JSON object a line is appended")
    parser.add_argument("--stop-file", type=Path, help="finish after the current step once this file exists")
    parser.add_argument("--attempt", type=int, default=1)
    parser.add_argument("--micro-batch", type=int, help="rows on a GPU at once, instead of the config's")
    parser.add_argument("--accumulation", type=int, help="micro-batches a step; their product must stay the config's")
    parser.add_argument("--global-batch", type=int, help="rows a step over all ranks, instead of the config's product")
    parser.add_argument("--tokenized-cache", type=Path, help="folder that keeps tokenized rows")
    parser.add_argument("--no-resume", action="store_true", help="set the output aside and start from step 0")
    parser.add_argument("--processes", type=int, default=1, help="ranks on this host, one a GPU")
    parser.add_argument("--nnodes", type=int, default=1, help="hosts that train together")
    parser.add_argument("--node-rank", type=int, default=0, help="which of them this is; 0 tells and saves")
    parser.add_argument("--rdzv-endpoint", metavar="HOST:PORT", help="where node 0 listens, by an address of its own")
    parser.add_argument("--meet-timeout", type=float, default=600, help="seconds to wait for the other hosts")
    parser.add_argument("--peer-timeout", type=float, default=60, help="seconds of silence after which a host is gone")
    return parser.parse_args(argv)


def check_numbers(options: argparse.Namespace) -> None:
    """Raises ConfigError where the numbers of processes and hosts make no training."""
    if options.processes < 1 or not 0 <= options.node_rank < options.nnodes:
        raise TemperError(
            "ConfigError",
            f"--processes {options.processes} --nnodes {options.nnodes} --node-rank {options.node_rank}: "
            "there must be a process, and hosts are counted from 0",
        )
    if options.nnodes > 1:
        address(options.rdzv_endpoint or "")


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
    if checkpoint is not None:
        require_its_shards(checkpoint, launch.world_size(options))
    step = 0 if checkpoint is None else step_of(checkpoint)
    events.emit(
        "started",
        attempt=options.attempt,
        pid=os.getpid(),
        resumedFrom=checkpoint and checkpoint.name,
        resumedAtStep=step,
    )
    if checkpoint is not None and (before := world_size_of(checkpoint)) != launch.world_size(options):
        events.emit("processesChanged", before=before, now=launch.world_size(options))
        told = f"{checkpoint.name} is of {before} processes, and {launch.world_size(options)} go on: the same training"
        print(f"{told} but for rounding, and for other random numbers where it draws some (dropout)", flush=True)
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
        # A token weighs the same on every rank.
        "average_tokens_across_devices": True,
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

    def on_tracker_failure(tracker: str, error: Exception) -> None:
        trackers.tell(events, tracker, error, step)

    tracked, variables = trackers.prepare(config, output_dir, on_tracker_failure)
    arguments |= tracked
    return {"arguments": arguments, "resumedAtStep": step, "rows": rows and str(rows), "variables": variables}


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


def require_its_shards(checkpoint: Path, processes: int) -> None:
    """DeepSpeed and FSDP cut the optimizer's state into one part a GPU. Raises HostError for another number of them."""
    before = world_size_of(checkpoint)
    by = shards_of(checkpoint)
    if by is not None and before != processes:
        raise TemperError(
            "HostError",
            f"{checkpoint.name} was written by {by} on {before} GPUs and cannot go on with {processes}: "
            f"give the training {before} GPUs again, or start it anew under another run name",
            checkpoint=checkpoint.name,
            processes=before,
        )


def cut(options: argparse.Namespace, config: dict[str, Any]) -> dict[str, int]:
    """The global batch cut anew: rows at once and micro-batches a step. Raises ConfigError if their product changes."""
    configured = (int(config.get("per_device_train_batch_size", 8)), int(config.get("gradient_accumulation_steps", 1)))
    micro_batch = options.micro_batch or configured[0]
    accumulation = options.accumulation or configured[1]
    ranks = launch.world_size(options)
    if options.global_batch is None:
        fits = micro_batch * accumulation == configured[0] * configured[1]
        wanted = f"the config's {configured[0]} × {configured[1]}"
    else:
        fits = micro_batch * accumulation * ranks == options.global_batch
        wanted = f"the one of {options.global_batch} rows"
    if not fits:
        on = f" on {ranks} processes" if options.global_batch is not None else ""
        raise TemperError(
            "ConfigError",
            f"{micro_batch} rows × {accumulation}{on} is another global batch than {wanted}, "
            "so it would be another training",
        )
    return {"per_device_train_batch_size": micro_batch, "gradient_accumulation_steps": accumulation}


def set_output_aside(output_dir: Path) -> None:
    if not output_dir.exists():
        return
    count = 1
    while (target := output_dir.with_name(f"{output_dir.name}.set-aside-{count}")).exists():
        count += 1
    os.rename(output_dir, target)


def train(options: argparse.Namespace, plan: dict[str, Any], run: TrainingRun) -> int:
    run.step = plan["resumedAtStep"]
    rows = plan["rows"] and Path(plan["rows"])
    work = datasets_cache(run.output_dir)
    node = os.environ.get("GROUP_RANK", "0")
    if node != "0":
        work = work.with_name(f"{work.name}-{node}")
    os.environ["HF_DATASETS_CACHE"] = str(work)
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    os.environ.update(plan["variables"])
    main_process = os.environ.get("RANK", "0") == "0"
    first_here = os.environ.get("LOCAL_RANK", "0") == "0"

    run.enter("importing")
    if first_here:
        start_up.read_ahead(Path(plan["arguments"].get("model_name_or_path", "")))
    with start_up.without_collecting():
        from llamafactory.train.tuner import run_exp

        import hooks
        import tracker_shield
        from run_callbacks import RunCallback

    def check_rows(datasets: dict[str, Any]) -> None:
        fault = rows and tokenized_rows.rows_fault(rows, datasets)
        if fault:
            raise TemperError("DatasetError", f"{fault}: remove that folder")

    callback = RunCallback(run)
    hooks.install(run, callback, check_rows)
    end_trackers = tracker_shield.install(run, plan["resumedAtStep"])
    if rows is not None:
        tokenized_rows.save_whole(rows)
    run.enter("parsing")
    try:
        run_exp(plan["arguments"], [callback])
    finally:
        if first_here:
            shutil.rmtree(work, ignore_errors=True)
    require_the_whole_training(run)
    if main_process:
        finish(run)
    lose_patience_with_trackers(0)
    end_trackers()
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
    if rank is not None and lost_connection(error):
        # Another rank has ended, and may just be saying why: that is the failure.
        time.sleep(OTHERS_WORDS_S)
        if events.has_failed():
            return
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
        lose_patience_with_trackers(code)
        sys.exit(code)
    os._exit(code)


def lose_patience_with_trackers(code: int) -> None:
    """Exit in two minutes whatever happens: a tracker whose server is away may try for hours, and the GPU is held."""
    patience = threading.Timer(REPORTERS_WORDS_S, os._exit, [code])
    patience.daemon = True
    patience.start()


if __name__ == "__main__":
    leave(main())
