"""Claims about trainer/train.py, on real LLaMA-Factory with a tiny random Qwen3-VL."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from training import TRAINER, Training, apart, make_dataset

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def undisturbed(new: Callable[..., Training]) -> Training:
    """With dropout and evaluation, which draw random numbers, so that only an exact resume gives the same losses."""
    training = new("undisturbed", lora_dropout=0.1, val_size=2, eval_strategy="steps", eval_steps=3)
    assert training.run() == 0, training.log()
    return training


def test_tells_what_happens_from_start_to_finish(undisturbed: Training) -> None:
    events = undisturbed.events()
    assert events[0]["type"] == "started"
    assert (events[0]["attempt"], events[0]["resumedFrom"], events[0]["resumedAtStep"]) == (1, None, 0)
    phases = [event["phase"] for event in events if event["type"] == "phase"]
    assert phases[:5] == ["importing", "parsing", "preprocessing", "loading", "training"]
    assert {"evaluating", "saving", "finishing"} <= set(phases)
    steps = undisturbed.events("step")
    assert [event["step"] for event in steps] == list(range(1, 9))
    assert all(event["maxSteps"] == 8 and event["secondsPerStep"] > 0 and event["gradNorm"] > 0 for event in steps)
    assert steps[-1]["tokens"] > steps[0]["tokens"] > 0
    assert [event["checkpoint"] for event in undisturbed.events("checkpoint")] == [
        "checkpoint-2", "checkpoint-4", "checkpoint-6", "checkpoint-8",
    ]  # fmt: skip
    assert [event["atStep"] for event in undisturbed.events("evaluation")][:3] == [3, 6, 8]
    assert not [event for event in events if event["type"] != "step" and ("step" in event or "loss" in event)]
    finished = events[-1]
    assert finished["type"] == "finished"
    assert (finished["atStep"], finished["maxSteps"], finished["stopped"]) == (8, 8, False)
    assert (Path(finished["adapter"]) / "adapter_model.safetensors").exists() and finished["trainableParameters"] > 0


def test_keeps_the_newest_checkpoints_each_marked(undisturbed: Training) -> None:
    out = subprocess.run(
        [sys.executable, TRAINER / "checkpoints.py", undisturbed.output], capture_output=True, check=True
    ).stdout
    verdicts = json.loads(out.splitlines()[-1])["checkpoints"]
    assert [(item["checkpoint"], item["verified"], item["by"]) for item in verdicts] == [
        ("checkpoint-8", True, "marker"), ("checkpoint-6", True, "marker"),
    ]  # fmt: skip


def test_a_real_checkpoint_without_its_marker_is_whole_by_its_structure(undisturbed: Training, tmp_path: Path) -> None:
    from checkpoints import MARKER, verify

    checkpoint = shutil.copytree(undisturbed.output / "checkpoint-8", tmp_path / "checkpoint-8")
    (checkpoint / MARKER).unlink()
    assert verify(checkpoint).verified
    optimizer = bytearray((checkpoint / "optimizer.pt").read_bytes())
    optimizer[len(optimizer) // 2] ^= 1
    (checkpoint / "optimizer.pt").write_bytes(optimizer)
    assert "optimizer.pt" in verify(checkpoint).reason


def test_a_finished_training_is_not_trained_again(undisturbed: Training) -> None:
    adapter = undisturbed.output / "adapter_model.safetensors"
    before = (adapter.stat().st_mtime_ns, undisturbed.losses(), len(undisturbed.events("step")))
    assert undisturbed.run("--attempt", "2") == 0
    assert (adapter.stat().st_mtime_ns, undisturbed.losses(), len(undisturbed.events("step"))) == before
    assert undisturbed.events()[-1]["type"] == "finished" and undisturbed.events()[-1]["again"]


def test_killed_twice_and_resumed_it_gives_the_undisturbed_losses(
    undisturbed: Training, new: Callable[..., Training]
) -> None:
    killed = new("killed", lora_dropout=0.1, val_size=2, eval_strategy="steps", eval_steps=3)
    assert killed.kill_at_step(3, signal.SIGKILL) == 137
    assert killed.kill_at_step(7, signal.SIGKILL, "--attempt", "2") == 137
    with open(killed.folder / "events.jsonl", "a") as events:
        events.write('{"type": "step", "st')
    newest = killed.output / "checkpoint-6"
    (newest / "optimizer.pt").write_bytes((newest / "optimizer.pt").read_bytes()[:-100])
    assert killed.run("--attempt", "3") == 0, killed.log()
    text = (killed.folder / "events.jsonl").read_text().replace('{"type": "step", "st\n', "")
    (killed.folder / "events.jsonl").write_text(text)

    starts = killed.events("started")
    assert [event["attempt"] for event in starts] == [1, 2, 3]
    assert starts[1]["resumedFrom"] == "checkpoint-2" and starts[2]["resumedFrom"] == "checkpoint-4"
    [damaged] = killed.events("damagedCheckpoint")
    assert damaged["checkpoint"] == "checkpoint-6" and "optimizer.pt" in damaged["reason"]
    assert Path(damaged["movedTo"]).is_dir()
    assert apart(undisturbed.losses(), killed.losses()) <= 1e-6
    loss = [json.loads((run.output / "train_results.json").read_text())["train_loss"] for run in (undisturbed, killed)]
    assert loss[0] == pytest.approx(loss[1], abs=1e-6)


def test_rows_are_tokenized_once(undisturbed: Training, new: Callable[..., Training]) -> None:
    again = new("kept-rows", lora_dropout=0.1, val_size=2, max_steps=1)
    [kept] = list(again.rows.iterdir())
    record = kept / "temper-rows.json"
    before = record.stat().st_mtime_ns
    assert again.run() == 0, again.log()
    assert [kept] == list(again.rows.iterdir()) and record.stat().st_mtime_ns == before
    assert "Running tokenizer" in (undisturbed.folder / "trainer.log").read_text()
    assert "Running tokenizer" not in (again.folder / "trainer.log").read_text()
    assert again.losses()[1] == undisturbed.losses()[1]


@pytest.fixture(scope="module")
def whole(new: Callable[..., Training]) -> Training:
    training = new("whole", per_device_train_batch_size=8, gradient_accumulation_steps=1, max_steps=5)
    assert training.run() == 0, training.log()
    return training


@pytest.mark.parametrize(("rows", "micro_batches"), [(4, 2), (1, 8)])
def test_every_cut_of_the_global_batch_is_the_same_training(
    whole: Training, new: Callable[..., Training], rows: int, micro_batches: int
) -> None:
    """22 rows and batches of 8: the last step of each epoch is a partial one, and answers have 1 to 30 tokens."""
    other = new(f"cut-{rows}", per_device_train_batch_size=8, gradient_accumulation_steps=1, max_steps=5)
    assert other.run("--micro-batch", str(rows), "--accumulation", str(micro_batches)) == 0, other.log()
    assert apart(whole.losses(), other.losses()) <= 1e-5


def test_uncut_it_is_llamafactorys_own_training(whole: Training) -> None:
    """The config by hand, whose loss is a mean of micro-batch means: with one micro-batch a step that is the same."""

    def by_hand() -> None:
        from llamafactory.train.tuner import run_exp
        from omegaconf import OmegaConf

        run_exp(OmegaConf.to_container(OmegaConf.load(whole.folder / "config.yaml")) | {"logging_steps": 1})
        os._exit(0)

    assert whole.run(first=by_hand) == 0
    lines = (whole.folder / "by-hand" / "trainer_log.jsonl").read_text().splitlines()
    losses = {entry["current_steps"]: entry["loss"] for entry in map(json.loads, lines) if "loss" in entry}
    assert apart(whole.losses(), losses) <= 1e-5


def test_another_global_batch_is_refused(new: Callable[..., Training]) -> None:
    other = new("other-batch")
    assert other.run("--micro-batch", "4", "--accumulation", "4") == 1
    failed = other.events()[-1]
    assert (failed["type"], failed["error"]) == ("failed", "ConfigError") and "4 × 2" in failed["message"]


def test_out_of_memory_is_told_and_a_smaller_cut_goes_on_with_the_same_losses(
    whole: Training, new: Callable[..., Training]
) -> None:
    small = new("small", per_device_train_batch_size=8, gradient_accumulation_steps=1, max_steps=5)
    sys.path.insert(0, str(REPOSITORY / "test/fixtures/trainers"))
    from limited_memory import limit

    assert small.run(first=lambda: limit(rows=4, from_step=3)) == 1
    failed = small.events()[-1]
    assert (failed["type"], failed["error"], failed["exception"]) == ("failed", "OutOfMemoryError", "torch.OutOfMemoryError")
    assert "out of memory" in failed["message"] and failed["atStep"] == 3 and failed["phase"] == "training"
    assert 1 < len(failed["traceback"]) <= 15
    cut = ("--micro-batch", "4", "--accumulation", "2", "--attempt", "2")
    assert small.run(*cut, first=lambda: limit(rows=4, from_step=0)) == 0, small.log()
    assert small.events("started")[1]["resumedFrom"] == "checkpoint-2"
    assert apart(whole.losses(), small.losses()) <= 1e-5


def test_a_stop_request_ends_after_the_step_and_keeps_the_adapter(new: Callable[..., Training]) -> None:
    training = new("stopped", save_total_limit=1)

    def request_at_step_3() -> None:
        from transformers.trainer_callback import DefaultFlowCallback

        on_step_end = DefaultFlowCallback.on_step_end

        def request(self: object, args: object, state: SimpleNamespace, control: object, **kwargs: object) -> object:
            if state.global_step == 3:
                (training.folder / "stop-request.json").write_text("{}")
            return on_step_end(self, args, state, control, **kwargs)

        DefaultFlowCallback.on_step_end = request

    assert training.run(first=request_at_step_3) == 0, training.log()
    finished = training.events()[-1]
    assert finished["type"] == "finished" and finished["stopped"] and finished["atStep"] == 3
    assert training.events("checkpoint")[-1]["checkpoint"] == "checkpoint-3"
    # One checkpoint alone could be lost with its disk block: two are kept whatever the limit.
    assert {path.name for path in training.output.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-3"}
    assert (training.output / "adapter_model.safetensors").exists()


def test_sigterm_saves_between_two_steps_and_a_resume_loses_none(
    undisturbed: Training, new: Callable[..., Training]
) -> None:
    training = new("terminated", lora_dropout=0.1, val_size=2, eval_strategy="steps", eval_steps=3)
    assert training.kill_at_step(3, signal.SIGTERM) == 143
    interrupted = training.events()[-1]
    assert (interrupted["type"], interrupted["signal"]) == ("interrupted", "SIGTERM")
    step = interrupted["atStep"]
    assert training.events("checkpoint")[-1]["atStep"] == step and len(training.losses()) == step
    assert training.run("--attempt", "2") == 0, training.log()
    assert training.events("started")[1]["resumedAtStep"] == step
    assert len(training.events("step")) == 8
    assert apart(undisturbed.losses(), training.losses()) <= 1e-6


def test_a_crash_after_the_last_step_finishes_without_training_more(whole: Training, new: Callable[..., Training]) -> None:
    """LLaMA-Factory, resumed at its last step in mid-epoch, would train one step more and replace the adapter."""
    crashed = new("crashed", per_device_train_batch_size=8, gradient_accumulation_steps=1, max_steps=5)
    shutil.copytree(whole.output / "checkpoint-5", crashed.output / "checkpoint-5")
    shutil.copy(whole.output / "adapter_model.safetensors", crashed.output)
    assert crashed.run() == 0, crashed.log()
    assert crashed.events("step") == []
    assert crashed.events()[-1]["type"] == "finished" and crashed.events()[-1]["atStep"] == 5
    same = [(run.output / "adapter_model.safetensors").read_bytes() for run in (whole, crashed)]
    assert same[0] == same[1]
    losses = [json.loads((run.output / "train_results.json").read_text())["train_loss"] for run in (whole, crashed)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_a_full_disk_is_told_before_the_save_and_leaves_the_last_checkpoint_whole(new: Callable[..., Training]) -> None:
    training = new("full-disk")

    def fill() -> None:
        disk_usage = shutil.disk_usage

        def little(path: Path) -> SimpleNamespace:
            full = (training.output / "checkpoint-2").exists()
            return SimpleNamespace(free=1000) if full else disk_usage(path)

        shutil.disk_usage = little

    assert training.run(first=fill) == 1
    failed = training.events()[-1]
    assert (failed["type"], failed["error"], failed["atStep"]) == ("failed", "DiskFullError", 4)
    assert failed["details"]["freeBytes"] == 1000 and "GB free" in failed["message"]
    assert {path.name for path in training.output.glob("checkpoint-*")} == {"checkpoint-2"}
    assert training.run("--attempt", "2") == 0, training.log()
    assert training.events("started")[1]["resumedFrom"] == "checkpoint-2"


@pytest.fixture(scope="module")
def trap(folder: Path) -> Path:
    """One row says <|image_pad|> in its text, which ends LLaMA-Factory's training early, with exit code 0."""
    data = make_dataset(folder / "trap-data")
    rows = (data / "train.jsonl").read_text().splitlines()
    rows[5] = rows[5].replace("What is this?", "What is <|image_pad|> this?")
    (data / "train.jsonl").write_text("\n".join(rows) + "\n")
    return data


def test_a_disk_that_cannot_hold_the_planned_checkpoints_is_told_before_the_first_step(
    new: Callable[..., Training],
) -> None:
    training = new("small-disk")

    def one_checkpoint_only() -> None:
        import checkpoint_room

        fits = checkpoint_room.checkpoint_bytes
        shutil.disk_usage = lambda path: SimpleNamespace(free=sizes[-1] * 2)
        checkpoint_room.checkpoint_bytes = lambda *args: sizes.append(fits(*args)) or sizes[-1]

    sizes: list[int] = [0]
    assert training.run(first=one_checkpoint_only) == 1
    failed = training.events()[-1]
    assert (failed["type"], failed["error"], failed["atStep"]) == ("failed", "DiskFullError", 0)
    assert "will keep 3 more checkpoints" in failed["message"]
    assert training.events("step") == []



@pytest.mark.parametrize("workers", [0, 1])
def test_rows_that_run_out_early_are_a_failure_not_a_finish(folder: Path, base: Path, trap: Path, workers: int) -> None:
    training = Training(folder / f"trap-{workers}", base, trap, dataloader_num_workers=workers)
    assert training.run() == 1
    failed = training.events()[-1]
    assert (failed["type"], failed["error"]) == ("failed", "DatasetError")
    assert "images/5.png has 1 pictures and places for 2" in failed["message"]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"lora_rnak": 8}, "ConfigError", "lora_rnak"),
        ({"do_train": False}, "ConfigError", "trains nothing"),
        ({"model_name_or_path": "/no/such/model"}, "ConfigError", "/no/such/model"),
        ({"eval_dataset": "nowhere"}, "DatasetError", "nowhere"),
    ],
)
def test_names_who_must_act(new: Callable[..., Training], options: dict, error: str, words: str) -> None:
    training = new(f"wrong-{next(iter(options))}", **options)
    assert training.run() == 1
    failed = training.events()[-1]
    assert (failed["type"], failed["error"]) == ("failed", error), failed
    assert words in failed["message"]


def test_sigterm_while_it_loads_ends_it_at_once(new: Callable[..., Training]) -> None:
    training = new("loading")

    def terminate_when_loading() -> None:
        from llamafactory.train.sft import workflow

        workflow.load_model = lambda *args: os.kill(os.getpid(), signal.SIGTERM)

    assert training.run(first=terminate_when_loading) == 143
    assert training.events()[-1]["type"] == "interrupted" and training.events()[-1]["atStep"] == 0


def test_no_resume_starts_again_and_keeps_the_old_output_aside(new: Callable[..., Training]) -> None:
    training = new("again", max_steps=2)
    assert training.run() == 0
    assert training.run("--attempt", "2", "--no-resume") == 0, training.log()
    assert [event["resumedAtStep"] for event in training.events("started")] == [0, 0]
    assert (training.folder / "output.set-aside-1" / "checkpoint-2").is_dir()
    assert apart(training.losses(), {event["step"]: event["loss"] for event in training.events("step")[:2]}) == 0


def test_as_a_command_under_its_keeper(new: Callable[..., Training], folder: Path) -> None:
    """The whole way once, without a warm start: keeper, interpreter, arguments, exit status."""
    training = new("command", max_steps=1)
    keeper = [sys.executable, TRAINER / "keeper.py", "--train-dir", training.folder, "--attempt", "1", "--owner", "me", "--"]
    done = subprocess.run([*keeper, sys.executable, TRAINER / "train.py", *training.argv()], check=False)
    assert done.returncode == 0, training.log()
    pid = json.loads((training.folder / "process.json").read_text())["pid"]
    assert training.events("started")[0]["pid"] == pid
    assert json.loads((training.folder / "exit.json").read_text())["exitCode"] == 0


def test_sigterm_in_an_evaluation_saves_the_step_before_it(
    undisturbed: Training, new: Callable[..., Training]
) -> None:
    training = new("evaluating", lora_dropout=0.1, val_size=2, eval_strategy="steps", eval_steps=3)

    def terminate_in_an_evaluation() -> None:
        from transformers import Trainer

        prediction_step = Trainer.prediction_step

        def step(self: Trainer, *args: object, **kwargs: object) -> object:
            os.kill(os.getpid(), signal.SIGTERM)
            return prediction_step(self, *args, **kwargs)

        Trainer.prediction_step = step

    assert training.run(first=terminate_in_an_evaluation) == 143, training.log()
    assert training.events()[-1]["atStep"] == 3 and training.events("checkpoint")[-1]["atStep"] == 3
    assert training.run("--attempt", "2") == 0, training.log()
    assert apart(undisturbed.losses(), training.losses()) <= 1e-6


def test_rows_that_are_padded_at_their_end_train_the_same_without_a_mask(new: Callable[..., Training]) -> None:
    """Their pictures' positions jump, which must not be taken for the end of a packed row."""
    import token_mean_loss

    def decide(needs_none: bool) -> Callable[[], None]:
        def first() -> None:
            token_mean_loss.needs_no_mask = lambda model, collator: needs_none
            compute = token_mean_loss.TokenMeanTrainer.compute_loss

            def compute_seen(self: object, model: object, inputs: dict, *args: object, **kwargs: object) -> object:
                print(f"padded: {bool((inputs['attention_mask'] == 0).any())}", flush=True)
                return compute(self, model, inputs, *args, **kwargs)

            token_mean_loss.TokenMeanTrainer.compute_loss = compute_seen

        return first

    masked, unmasked = new("masked", max_steps=4), new("unmasked", max_steps=4)
    for training, needs_none in ((masked, False), (unmasked, True)):
        assert training.run(first=decide(needs_none)) == 0, training.log()
        assert "padded: True" in (training.folder / "trainer.log").read_text()
    assert apart(masked.losses(), unmasked.losses()) <= 1e-5
