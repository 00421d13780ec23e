"""Claims about trainings over several hosts: each is a keeper with its own folder here, and they share the output's."""

import contextlib
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from training import TRAINER, Training, apart, ended, fork_ranks

OPTIONS = {"lora_dropout": 0.1, "max_steps": 200, "save_steps": 3}
# Seconds of silence after which a node is taken for gone.
SILENT = 4


class Node:
    """A keeper with this node's part of the training or, `warm`, that part alone, forked off."""

    def __init__(self, training: Training, rank: int, endpoint: str, *options: str, warm: bool) -> None:
        self.folder = training.folder / f"node-{rank}"
        self.folder.mkdir(exist_ok=True)
        self.status: int | None = None
        options = (
            "--nnodes", "2", "--node-rank", str(rank), "--rdzv-endpoint", endpoint, "--global-batch", "16",
            "--peer-timeout", str(SILENT), "--events", str(self.folder / "events.jsonl"), *options,
        )  # fmt: skip
        self.log_file = training.folder / "trainer.log" if warm else self.folder / "trainer.log"
        if warm:
            self.pid = training.start(*options, first=lambda: fork_ranks(training.argv(*options)))
            return
        command = [
            sys.executable, TRAINER / "keeper.py", "--train-dir", self.folder, "--attempt", "1", "--owner", "me", "--",
            sys.executable, TRAINER / "train.py", *training.argv(*options),
        ]  # fmt: skip
        self.pid = os.posix_spawn(sys.executable, [str(word) for word in command], os.environ)

    def events(self, type: str | None = None) -> list[dict]:
        path = self.folder / "events.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [event for event in map(json.loads, lines) if type in (None, event["type"])]

    def log(self) -> str:
        return self.log_file.read_text()[-4000:]

    def has_ended(self) -> bool:
        if self.status is None and (gone := os.waitpid(self.pid, os.WNOHANG))[0]:
            code = os.waitstatus_to_exitcode(gone[1])
            self.status = code if code >= 0 else 128 - code
        return self.status is not None

    def wait(self) -> int:
        """The exit status; seconds may be lost while all processes import, so the limit is generous."""
        until(self.has_ended, self)
        assert self.status is not None
        return self.status

    def wait_for_step(self, step: int) -> None:
        until(lambda: any(event["step"] >= step for event in self.events("step")) or self.has_ended(), self)
        assert not self.has_ended(), self.log()

    def processes(self) -> list[int]:
        """The keeper's and all below it."""
        from keeper import descendants

        return [] if self.has_ended() else [self.pid, *descendants(self.pid)]

    def signal(self, number: signal.Signals) -> None:
        for pid in self.processes():
            os.kill(pid, number)


def until(condition: Callable[[], bool], node: Node) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, node.log()
        time.sleep(0.02)


@pytest.fixture
def endpoint() -> str:
    """With a port that the kernel gives to nobody else while node 0 is started and started again."""
    while True:
        port = random.randint(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return f"127.0.0.1:{port}"


@pytest.fixture
def start(endpoint: str) -> Iterator[Callable[..., Node]]:
    nodes: list[Node] = []

    def start(training: Training, rank: int, *options: str, warm: bool = True) -> Node:
        nodes.append(Node(training, rank, endpoint, *options, warm=warm))
        return nodes[-1]

    yield start
    for node in nodes:
        node.signal(signal.SIGKILL)
        node.wait()


def test_two_nodes_train_as_two_processes_and_survive_the_death_of_one_another(
    new: Callable[..., Training], start: Callable[..., Node]
) -> None:
    """One is killed, both start again; the other falls silent, both start again; one is asked to stop, and both do."""
    training = new("nodes", **OPTIONS)
    zero, one = start(training, 0, warm=False), start(training, 1, warm=False)
    zero.wait_for_step(4)
    one.signal(signal.SIGKILL)
    begun = time.monotonic()
    assert zero.wait() == 1, zero.log()
    assert time.monotonic() - begun < 30
    failed = zero.events()[-1]
    assert (failed["type"], failed["error"]) == ("failed", "TrainerError"), failed
    assert one.events() == []
    marker = json.loads((training.output / "checkpoint-3/temper-checkpoint.json").read_text())
    assert marker["worldSize"] == 2 and {"rng_state_0.pth", "rng_state_1.pth"} <= set(marker["files"])

    one, zero = start(training, 1), start(training, 0)
    zero.wait_for_step(8)
    assert zero.events("started")[-1]["resumedAtStep"] >= 3
    zero.signal(signal.SIGSTOP)
    begun = time.monotonic()
    assert one.wait() == 1, one.log()
    assert time.monotonic() - begun < 2 * SILENT + 10
    assert "node 0 has not been heard of" in one.events()[-1]["message"]
    zero.signal(signal.SIGKILL)

    zero, one = start(training, 0), start(training, 1)
    zero.wait_for_step(12)
    os.kill(one.pid, signal.SIGTERM)
    assert (zero.wait(), one.wait()) == (143, 143), zero.log()
    interrupted = zero.events()[-1]
    assert interrupted["type"] == "interrupted"
    assert (training.output / f"checkpoint-{interrupted['atStep']}/temper-checkpoint.json").exists()

    undisturbed = new("nodes-undisturbed", **OPTIONS)
    pid = undisturbed.start_ranks(2, "--global-batch", "16")
    undisturbed.wait_for_step(interrupted["atStep"], pid)
    os.kill(pid, signal.SIGTERM)
    assert ended(pid) == 143
    losses = {event["step"]: event["loss"] for event in zero.events("step")}
    assert len(losses) >= 12
    assert apart(losses, {step: loss for step, loss in undisturbed.losses().items() if step in losses}) == 0


def test_a_node_that_never_comes_is_named(new: Callable[..., Training], start: Callable[..., Node]) -> None:
    zero = start(new("alone", **OPTIONS), 0, "--meet-timeout", "2")
    assert zero.wait() == 1
    failed = zero.events()[-1]
    assert failed["error"] == "TrainerError" and "node 1 of 2 did not come to 127.0.0.1:" in failed["message"]
    one = start(new("lonely", **OPTIONS), 1, "--meet-timeout", "2")
    assert one.wait() == 1
    assert "node 0 was not to be reached at 127.0.0.1:" in one.events()[-1]["message"]


def test_nodes_of_different_sizes_are_refused_on_both(new: Callable[..., Training], start: Callable[..., Node]) -> None:
    training = new("uneven", **OPTIONS)
    zero, one = start(training, 0), start(training, 1, "--processes", "2")
    assert (zero.wait(), one.wait()) == (1, 1)
    for node in (zero, one):
        assert node.events()[-1]["error"] == "ConfigError"
        assert "node 1 runs 2 processes and node 0 1" in node.events()[-1]["message"]


def test_a_folder_that_is_not_shared_is_told(
    new: Callable[..., Training], start: Callable[..., Node], monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    import nodes
    import train
    from protocol import TemperError

    start(new("here", **OPTIONS), 0)
    elsewhere = new("elsewhere", **OPTIONS)
    options = train.parse_arguments(elsewhere.argv("--nnodes", "2", "--node-rank", "1", "--rdzv-endpoint", endpoint))
    monkeypatch.setattr(nodes, "SHARED_S", 1)
    with pytest.raises(TemperError, match="must be on storage that all nodes share"):
        nodes.Nodes(options).take()
