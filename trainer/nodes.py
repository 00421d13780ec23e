"""The hosts of one training: they meet at node 0's address, follow its plan, and notice when one of them is gone.

They talk through torch's TCPStore, which node 0 serves and which asks nobody for a password: its port belongs into a
private network. What the store says is read as JSON.
"""

import argparse
import json
import os
import threading
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from protocol import TemperError, write_whole

MEET_S = 600
POLL_S = 0.2
# One try to connect; between two, signals are heard.
CONNECT_S = 5
SHARED_S = 75  # NFS may show an old file for a minute
# How long a node's own ranks have at most to say how they ended, once another node has.
LAST_WORDS_S = 10
DONE, FAILED = "done", "failed"
SHARED_FILE = ".nodes.json"


class Nodes:
    """This node's part in the meeting; one a process."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.rank, self.count = options.node_rank, options.nnodes
        self.endpoint = options.rdzv_endpoint
        self.processes = options.processes
        self.meet_s = options.meet_timeout
        self.silent_s = options.peer_timeout
        self.shared = options.output_dir.absolute().with_name(SHARED_FILE)
        self.meeting = ""
        self.store: Any = None
        self.left = False

    def give(self, plan: dict[str, Any]) -> dict[str, Any]:
        """On node 0: wait for the others and hand each of them the plan. Raises TemperError when one doesn't come."""
        self.meeting = uuid.uuid4().hex
        self.shared.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.shared, json.dumps({"meeting": self.meeting}))
        self.store = self.serve()
        others = {}
        deadline = time.monotonic() + self.meet_s
        while len(others) < self.count - 1:
            missing = [node for node in range(1, self.count) if node not in others]
            others |= {node: self.read(f"hello/{node}") for node in missing if self.store.check([f"hello/{node}"])}
            if time.monotonic() > deadline:
                names = ", ".join(map(str, missing))
                raise TemperError(
                    "TrainerError",
                    f"node {names} of {self.count} did not come to {self.endpoint} in {self.meet_s:.0f} s",
                )
            time.sleep(POLL_S)
        for node, hello in others.items():
            fault = self.fault_of(node, hello)
            self.store.set(f"plan/{hello['id']}", json.dumps({"meeting": self.meeting, "plan": plan, "fault": fault}))
            if fault:
                time.sleep(1)  # the store ends with this process
                raise TemperError("ConfigError", fault)
        return plan

    def take(self) -> dict[str, Any]:
        """On any other node: node 0's plan. Raises TemperError when node 0 isn't there or nothing is shared with it."""
        me = uuid.uuid4().hex
        deadline = time.monotonic() + self.meet_s
        while True:
            try:
                self.store = self.connect()
                self.store.set(f"hello/{self.rank}", json.dumps({"id": me, "processes": self.processes}))
                while not self.store.check([f"plan/{me}"]):
                    self.require_before(deadline)
                    time.sleep(POLL_S)
                answer = self.read(f"plan/{me}")
                break
            except RuntimeError:  # not there yet, or gone again: an earlier attempt's
                self.require_before(deadline)
                time.sleep(POLL_S)
        if answer["fault"]:
            raise TemperError("ConfigError", answer["fault"])
        self.meeting = answer["meeting"]
        self.require_shared_storage()
        return answer["plan"]

    def serve(self) -> Any:
        """Raises TemperError when the port is taken."""
        try:
            return self.open_store(serves=True)
        except RuntimeError as error:
            what = f"node 0 cannot listen at {self.endpoint}, which must be an address and a free port of its own"
            raise TemperError("HostError", f"{what}: {first_line(error)}") from error

    def connect(self) -> Any:
        return self.open_store(serves=False)

    def open_store(self, serves: bool) -> Any:
        from torch.distributed import TCPStore

        host, port = address(self.endpoint)
        # multi_tenant: the agent asks for a server at this port, too, and shall be given this one.
        return TCPStore(
            host, port, None, serves, timedelta(seconds=CONNECT_S), wait_for_workers=False, multi_tenant=True
        )

    def read(self, key: str) -> Any:
        return json.loads(self.store.get(key))

    def fault_of(self, node: int, hello: dict[str, Any]) -> str | None:
        if hello["processes"] == self.processes:
            return None
        return (
            f"node {node} runs {hello['processes']} processes and node 0 {self.processes}: "
            "all nodes of a training must run the same number"
        )

    def require_before(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise TemperError(
                "TrainerError",
                f"node 0 was not to be reached at {self.endpoint} in {self.meet_s:.0f} s, or not all nodes came",
            )

    def require_shared_storage(self) -> None:
        """Each rank writes its part of a checkpoint: every node must see the same folder."""
        deadline = time.monotonic() + SHARED_S
        while time.monotonic() < deadline:
            if meeting_in(self.shared) == self.meeting:
                return
            time.sleep(POLL_S)
        raise TemperError(
            "HostError",
            f"node {self.rank} does not see what node 0 writes into {self.shared.parent}: "
            "the run directory must be on storage that all nodes share, under the same path",
        )

    def watch(self, tell: Callable[[TemperError], None]) -> None:
        """End this process, and with it its ranks, when another node fails or falls silent; `tell` says so before.

        Ranks whose peer is gone may wait for it in a collective for as long as ddp_timeout.
        """
        watch = Watch(self, tell)
        threading.Thread(target=watch.beat, daemon=True).start()
        threading.Thread(target=watch.judge, daemon=True).start()

    def leave(self, how: str) -> None:
        """Tell the others that this node's ranks have ended, so that silence means nothing any more."""
        self.left = True
        try:
            self.store.set(f"alive/{self.rank}", how)
        except RuntimeError:
            return  # node 0 was faster


class Watch:
    """What this node has heard of the others."""

    def __init__(self, nodes: Nodes, tell: Callable[[TemperError], None]) -> None:
        self.nodes, self.tell = nodes, tell
        self.others = [node for node in range(nodes.count) if node != nodes.rank]
        self.said: dict[int, str] = {}
        self.heard = dict.fromkeys(self.others, time.monotonic())
        self.store_lost = False

    def beat(self) -> None:
        """Say that this node lives and note which others do, until the store is gone."""
        count = 0
        try:
            store = self.nodes.connect()  # calls on one connection wait for each other
            while not self.nodes.left:
                store.set(f"alive/{self.nodes.rank}", str(count := count + 1))
                for node in self.others:
                    said = store.get(f"alive/{node}").decode() if store.check([f"alive/{node}"]) else ""
                    if said != self.said.get(node):
                        self.said[node], self.heard[node] = said, time.monotonic()
                time.sleep(self.nodes.silent_s / 12)
        except RuntimeError:
            self.store_lost = True

    def judge(self) -> None:
        while (fault := self.fault()) is None:
            time.sleep(POLL_S)
        if self.nodes.left:
            return
        time.sleep(min(LAST_WORDS_S, self.nodes.silent_s))
        if not self.nodes.left:
            self.end(fault)

    def fault(self) -> str | None:
        """Which node is gone, or None."""
        if self.store_lost:
            return "node 0 has ended or cannot be reached any more"
        for node in self.others:
            if self.said.get(node) == FAILED:
                return f"node {node}'s part has failed: its own log says why"
            silent_s = time.monotonic() - self.heard[node]
            if self.said.get(node) != DONE and silent_s > self.nodes.silent_s:
                return f"node {node} has not been heard of for {silent_s:.0f} s"
        return None

    def end(self, fault: str) -> NoReturn:
        try:
            self.tell(TemperError("TrainerError", f"{fault}: this node's part of the training ends, too"))
        finally:
            os._exit(1)


def address(endpoint: str) -> tuple[str, int]:
    """Host and port. Raises TemperError."""
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdigit():
        raise TemperError("ConfigError", f"--rdzv-endpoint {endpoint} is not HOST:PORT")
    return host.strip("[]"), int(port)


def meeting_in(path: Path) -> str | None:
    try:
        return json.loads(path.read_bytes())["meeting"]
    except (OSError, ValueError, KeyError):
        return None


def first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
