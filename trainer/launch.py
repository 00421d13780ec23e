"""Runs this host's ranks of a training: each is train.py again, below torch's elastic agent, which runs in here."""

import argparse
import json
import os
import signal
import sys
import uuid
from typing import Any

from nodes import Nodes
from protocol import TemperError

PLAN = "TEMPER_TRAIN_PLAN"
PR_SET_PDEATHSIG = 1
# An interrupted rank ends with 128 + SIGTERM, as a shell would say.
INTERRUPTED = 143
# How long ranks that were asked to stop may save; whoever asked has a limit of their own.
STOPPING_S = 24 * 3600


def needs_ranks(options: argparse.Namespace, config: dict[str, Any]) -> bool:
    """LLaMA-Factory wants a process group, even of one rank, for what shards the model."""
    return world_size(options) > 1 or bool(config.get("deepspeed") or config.get("fsdp"))


def world_size(options: argparse.Namespace) -> int:
    return options.processes * options.nnodes


def run_ranks(options: argparse.Namespace, plan: dict[str, Any], nodes: Nodes | None) -> bool:
    """Run this host's ranks to their end; True if they were interrupted.

    Raises RankFailed when one failed, which has told why itself unless something killed it.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    os.environ[PLAN] = json.dumps(plan)
    if options.processes > 1:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    let_stopped_ranks_save()
    entrypoint, arguments = program()
    try:
        elastic_launch(launch_config(options, nodes), entrypoint)(*arguments)
    except SignalException:
        return True
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode == INTERRUPTED:
            return True
        raise RankFailed(rank, failure.exitcode) from None
    return False


class RankFailed(TemperError):
    """`killed` tells a rank that said why it ended from one that could not."""

    def __init__(self, rank: int, exit_code: int) -> None:
        self.killed = exit_code < 0
        how = f"was killed by {signal.Signals(-exit_code).name}" if self.killed else f"ended with exit code {exit_code}"
        why = ": the host may have run out of memory" if exit_code == -signal.SIGKILL else ""
        super().__init__("TrainerError", f"rank {rank} of the training {how}{why}")


def program() -> tuple[Any, list[str]]:
    """What a rank runs: this very program, which finds its place in torch's environment variables."""
    return sys.executable, [os.path.abspath(sys.argv[0]), *sys.argv[1:]]


def launch_config(options: argparse.Namespace, nodes: Nodes | None) -> Any:
    """Ranks that fail are started again from outside, on a verified checkpoint, never by torch."""
    from torch.distributed.launcher.api import LaunchConfig

    common = {"min_nodes": options.nnodes, "max_nodes": options.nnodes, "nproc_per_node": options.processes}
    if nodes is None:
        return LaunchConfig(
            **common,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            start_method="fork",
        )
    return LaunchConfig(
        **common,
        run_id=nodes.meeting,
        rdzv_backend="static",
        rdzv_endpoint=nodes.endpoint,
        rdzv_configs={"rank": nodes.rank, "timeout": nodes.meet_s},
        max_restarts=0,
        start_method="fork",
    )


def let_stopped_ranks_save() -> None:
    """torch kills ranks 30 s after it has passed a signal on, in which a large model is not saved.

    After a rank's failure it may: the others wait for it in vain.
    """
    from torch.distributed.elastic.multiprocessing.api import PContext, SignalException

    close = PContext.close

    def close_in_time(self: PContext, death_sig: signal.Signals | None = None, timeout: int = 30) -> None:
        close(self, death_sig, STOPPING_S if isinstance(sys.exception(), SignalException) else timeout)

    PContext.close = close_in_time


def die_with_parent() -> None:
    """The agent starts each rank in its own session, where nobody would find it: let it die with the agent."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
