"""Claims about trainings over several processes, on real LLaMA-Factory with gloo: the same training, and nothing lost."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from training import TRAINER, Training, apart, ended, make_dataset

SIXTEEN = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 1, "max_steps": 5, "save_steps": 3}
TWO = ("--processes", "2")


@pytest.fixture(scope="module")
def one(new: Callable[..., Training]) -> Training:
    """One process; of 22 rows each epoch has a step of 16 and one of 6."""
    training = new("one-process", **SIXTEEN)
    assert training.run() == 0, training.log()
    return training


@pytest.mark.parametrize(("rows", "micro_batches"), [(8, 1), (4, 2), (1, 8)])
def test_two_processes_with_the_same_global_batch_are_the_same_training(
    one: Training, new: Callable[..., Training], rows: int, micro_batches: int
) -> None:
    """Answers have 1 to 30 tokens, and the ranks' shares of an epoch's last step are unequal, or one of them has none."""
    two = new(f"two-processes-{rows}", **SIXTEEN)
    cut = ("--micro-batch", str(rows), "--accumulation", str(micro_batches), "--global-batch", "16")
    assert two.run_ranks(2, *cut) == 0, two.log()
    assert apart(one.losses(), two.losses()) <= 1e-5


def test_another_global_batch_over_all_processes_is_refused(new: Callable[..., Training]) -> None:
    other = new("other-batch-of-two")
    assert other.run(*TWO, "--global-batch", "8") == 1
    failed = other.events()[-1]
    assert (failed["type"], failed["error"]) == ("failed", "ConfigError")
    assert "4 rows × 2 on 2 processes" in failed["message"] and "8 rows" in failed["message"]


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_resume_on_another_number_of_processes_is_the_same_training(
    one: Training, new: Callable[..., Training], before: int, after: int
) -> None:
    def cut(ranks: int) -> tuple[str, ...]:
        return ("--micro-batch", str(16 // ranks), "--accumulation", "1", "--global-batch", "16")

    changed = new(f"changed-{before}", **SIXTEEN)
    pid = changed.start_ranks(before, *cut(before))
    changed.wait_for_step(4, pid)
    os.kill(pid, signal.SIGKILL)
    assert ended(pid) == 137
    assert changed.run_ranks(after, *cut(after), "--attempt", "2") == 0, changed.log()
    assert changed.events("started")[1]["resumedAtStep"] == 3
    [told] = changed.events("processesChanged")
    assert (told["before"], told["now"]) == (before, after)
    assert apart(one.losses(), changed.losses()) <= 1e-5


@pytest.fixture(scope="module")
def two(new: Callable[..., Training]) -> Training:
    """Two processes with dropout, whose random numbers only an exact resume gives again."""
    training = new("two-undisturbed", **DISTURBED)
    assert training.run_ranks(2) == 0, training.log()
    return training


DISTURBED = {"lora_dropout": 0.1, "max_steps": 12, "save_steps": 3}


@pytest.mark.parametrize("victim", ["rank 0", "rank 1", "launcher"])
def test_whatever_process_is_killed_nothing_is_left_and_a_resume_is_exact(
    two: Training, new: Callable[..., Training], victim: str
) -> None:
    killed = new(f"killed-{victim.replace(' ', '-')}", **DISTURBED)
    pid = killed.start_ranks(2)
    killed.wait_for_step(random.randint(4, 9), pid)
    family = {pid, *descendants(pid)}
    ranks = sorted(child for child in family if parent_of(child) == pid)
    os.kill({"rank 0": ranks[0], "rank 1": ranks[1], "launcher": pid}[victim], signal.SIGKILL)
    assert ended(pid) == (137 if victim == "launcher" else 1)
    if victim != "launcher":
        failed = killed.events()[-1]
        assert (failed["type"], failed["error"]) == ("failed", "TrainerError")
        assert f"{victim} of the training was killed by SIGKILL" in failed["message"]
    deadline = time.monotonic() + 10
    while left := [child for child in family - {pid} if parent_of(child) is not None]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    assert killed.run_ranks(2, "--attempt", "2") == 0, killed.log()
    assert killed.events("started")[1]["resumedAtStep"] >= 3
    assert apart(two.losses(), killed.losses()) == 0


def test_on_sigterm_to_the_keeper_the_ranks_save_the_same_step_and_nothing_of_them_is_left(
    two: Training, new: Callable[..., Training]
) -> None:
    """Each rank is a Python of its own, with its own session and its data loader's worker."""
    training = new("ranks", **DISTURBED, dataloader_num_workers=1)
    keeper = [sys.executable, TRAINER / "keeper.py", "--train-dir", training.folder, "--attempt", "1", "--owner", "me", "--"]
    with subprocess.Popen([*keeper, sys.executable, TRAINER / "train.py", *training.argv(*TWO)]) as kept:
        while len(training.losses()) < 2:
            assert kept.poll() is None, training.log()
            time.sleep(0.02)
        kept.terminate()
    interrupted = training.events()[-1]
    assert (interrupted["type"], interrupted["signal"]) == ("interrupted", "SIGTERM"), interrupted
    checkpoint = training.output / f"checkpoint-{interrupted['atStep']}"
    marker = json.loads((checkpoint / "temper-checkpoint.json").read_text())
    assert marker["worldSize"] == 2 and {"rng_state_0.pth", "rng_state_1.pth"} <= set(marker["files"])
    ending = json.loads((training.folder / "exit.json").read_text())
    assert (ending["stoppedBySignal"], ending["exitCode"]) == ("SIGTERM", 143)
    environments = [path / "environ" for path in Path("/proc").iterdir() if path.name.isdigit()]
    assert not [path for path in environments if str(training.folder).encode() in read_if_there(path)]
    assert training.run_ranks(2, "--attempt", "2") == 0, training.log()
    assert training.events("started")[1]["resumedAtStep"] == interrupted["atStep"]
    assert len(training.events("step")) == 12
    assert apart(two.losses(), training.losses()) == 0


@pytest.mark.parametrize("marked", [True, False])
def test_a_checkpoint_without_one_ranks_random_state_is_not_loaded(two: Training, tmp_path: Path, marked: bool) -> None:
    from checkpoints import MARKER, newest_verified, verify

    for step in (9, 12):
        shutil.copytree(two.output / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    newest = tmp_path / "checkpoint-12"
    assert verify(newest).verified
    if not marked:
        (newest / MARKER).unlink()
        assert verify(newest).verified
    (newest / "rng_state_1.pth").unlink()
    assert verify(newest).reason == "rng_state_1.pth is missing"
    assert newest_verified(tmp_path) == tmp_path / "checkpoint-9"


def test_a_rank_that_fails_has_the_last_word_and_not_the_one_that_lost_it(folder: Path, base: Path) -> None:
    data = make_dataset(folder / "trap-of-two")
    rows = (data / "train.jsonl").read_text().splitlines()
    rows[5] = rows[5].replace("What is this?", "What is <|image_pad|> this?")
    (data / "train.jsonl").write_text("\n".join(rows) + "\n")
    training = Training(folder / "trapped", base, data)
    assert training.run_ranks(2) == 1
    failed = training.events()[-1]
    assert (failed["type"], failed["error"]) == ("failed", "DatasetError"), failed
    assert "images/5.png" in failed["message"]


@pytest.mark.parametrize("by", ["DeepSpeed", "FSDP"])
def test_a_checkpoint_cut_into_shards_is_refused_to_another_number_of_processes(
    two: Training, new: Callable[..., Training], by: str
) -> None:
    """The shards are made up, the rest of the checkpoint is real: refused before anything is loaded."""
    from checkpoints import MARKER, mark_complete

    sharded = new(f"sharded-by-{by}", **DISTURBED)
    checkpoint = shutil.copytree(two.output / "checkpoint-12", sharded.output / "checkpoint-12")
    (checkpoint / MARKER).unlink()
    if by == "DeepSpeed":
        (checkpoint / "latest").write_text("global_step12")
        shards = [checkpoint / f"global_step12/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in (0, 1)]
    else:
        shards = [checkpoint / f"optimizer_0/__{rank}_0.distcp" for rank in (0, 1)]
    shards[0].parent.mkdir()
    for shard in shards:
        shutil.copy(checkpoint / "optimizer.pt", shard)
    mark_complete(checkpoint, 2)
    assert sharded.run("--processes", "4", "--micro-batch", "4", "--accumulation", "1", "--global-batch", "16") == 1
    failed = sharded.events()[-1]
    assert (failed["type"], failed["error"]) == ("failed", "HostError"), failed
    assert failed["message"].startswith(f"checkpoint-12 was written by {by} on 2 GPUs and cannot go on with 4: give the training 2")
    assert (checkpoint / MARKER).exists()


def descendants(pid: int) -> list[int]:
    import keeper

    return keeper.descendants(pid)


def parent_of(pid: int) -> int | None:
    """None when the process is gone, or waits to be buried."""
    import keeper

    fields = keeper.stat_fields(pid)
    return None if fields is None or fields[0] == "Z" else int(fields[1])


def read_if_there(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
