"""Owns one trainer: starts it, outlives the worker, leaves its exit status in a file, and lets nothing of it linger.

    keeper.py --train-dir RUN/train --attempt 1 --owner TOKEN -- python train.py --config …

Start it detached (own session, no terminal). In the train folder it writes trainer.log (appended), process.json (which
trainer runs), exit.json (how it ended) and trainers.jsonl (both, of all trainers). SIGTERM asks the trainer to end and
kills what has not ended after the grace. Exits as the trainer did (128 + the signal's number when killed), or with 75
when the folder stays in use.

Two trainers on one folder are impossible because the lock is held by the open file itself, which trainer and children
inherit; a keeper that dies takes its trainer along (PDEATHSIG), and the next one kills whatever was left behind.
"""

import argparse
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NoReturn

from protocol import sync_folder, write_whole

LOCKED = 75
TAG = "TEMPER_TRAIN_DIR"
KEEPER = "TEMPER_KEEPER"
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
WATCHED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}
LEFTOVER_GRACE_S = 2.0
KILL_DEADLINE_S = 15.0


def main() -> int:
    options = parse_arguments()
    train_dir = os.path.realpath(options.train_dir)
    os.makedirs(train_dir, exist_ok=True)
    log = os.open(os.path.join(train_dir, "trainer.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    prctl(PR_SET_CHILD_SUBREAPER, 1)

    lock = take_lock(train_dir, options, log)
    kill_strays(train_dir)
    remove(os.path.join(train_dir, "exit.json"))
    me = {"pid": os.getpid(), "startTime": start_time(os.getpid())}
    write_lock_note(lock, {"attempt": options.attempt, "owner": options.owner, "keeper": me})

    pid, release = start_held(options.command, train_dir, lock, log, me)
    who = {"pid": pid, "startTime": start_time(pid), "attempt": options.attempt, "owner": options.owner}
    write_json(
        os.path.join(train_dir, "process.json"),
        {**who, "bootId": boot_id(), "argv": options.command, "keeper": me, "startedAt": now()},
    )
    append_json(train_dir, {"type": "started", "pid": pid, "attempt": options.attempt, "at": now()})
    say(log, f"attempt {options.attempt}: started {' '.join(options.command)} as process {pid}")
    release()

    status, stopped_by = wait(pid, options.grace)
    kill_tree(LEFTOVER_GRACE_S if stopped_by is None else 0)
    exit_code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
    killed_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    write_json(
        os.path.join(train_dir, "exit.json"),
        {
            **who,
            "exitCode": exit_code,
            "signal": killed_by and signal.Signals(killed_by).name,
            "stoppedBySignal": stopped_by and stopped_by.name,
            "finishedAt": now(),
        },
    )
    ending = f"exit code {exit_code}" if killed_by is None else f"signal {signal.Signals(killed_by).name}"
    append_json(train_dir, {"type": "ended", "pid": pid, "how": ending, "at": now()})
    say(log, f"attempt {options.attempt}: process {pid} ended with {ending}")
    return exit_code if exit_code is not None else 128 + (killed_by or 0)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Owns one trainer and leaves its exit status in a file.")
    parser.add_argument("--train-dir", required=True)
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--owner", required=True)
    parser.add_argument("--grace", type=float, default=10, help="seconds between SIGTERM and SIGKILL")
    parser.add_argument("--lock-wait", type=float, default=30, help="seconds to wait for a trainer that still ends")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- ARGV")
    options = parser.parse_args()
    if options.command[:1] == ["--"]:
        options.command = options.command[1:]
    if not options.command:
        parser.error("nothing to run: put the trainer's command after --")
    return options


def take_lock(train_dir: str, options: argparse.Namespace, log: int) -> int:
    """Hold train/lock exclusively; while waiting, kill what a dead keeper left. Exits with 75 when someone keeps it."""
    lock = os.open(os.path.join(train_dir, "lock"), os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + options.lock_wait
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        kill_strays(train_dir)
        if time.monotonic() >= deadline or signal.sigpending() & {signal.SIGTERM, signal.SIGINT}:
            say(log, f"attempt {options.attempt} did not start a trainer: {train_dir} is in use by {holder(lock)}")
            sys.exit(LOCKED)
        time.sleep(0.1)


def holder(lock: int) -> str:
    try:
        note = json.loads(os.pread(lock, 4096, 0))
        return f"attempt {note['attempt']} (owner {note['owner']}, keeper process {note['keeper']['pid']})"
    except (ValueError, KeyError, TypeError):
        return "another process"


def write_lock_note(lock: int, note: dict[str, Any]) -> None:
    """Say in the lock file who holds it; written in place, since the lock is on this very file."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps(note).encode(), 0)


def start_held(
    command: list[str], train_dir: str, lock: int, log: int, me: dict[str, int]
) -> tuple[int, Callable[[], None]]:
    """Fork the trainer, held before its exec until the returned function is called; it ends if that never happens."""
    gate_read, gate_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(gate_write)
        become_trainer(command, train_dir, lock, log, me, gate_read)
    os.close(gate_read)

    def release() -> None:
        os.write(gate_write, b"1")
        os.close(gate_write)

    return pid, release


def become_trainer(command: list[str], train_dir: str, lock: int, log: int, me: dict[str, int], gate: int) -> NoReturn:
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != me["pid"] or os.read(gate, 1) != b"1":
            os._exit(1)
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.set_inheritable(lock, True)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
        environment = {**os.environ, TAG: train_dir, KEEPER: f"{me['pid']}:{me['startTime']}"}
        os.execvpe(command[0], command, environment)
    except OSError as error:
        say(log, f"cannot run {command[0]}: {error.strerror}")
        os._exit(127 if error.errno == errno.ENOENT else 126)
    finally:
        os._exit(126)


def wait(pid: int, grace: float) -> tuple[int, signal.Signals | None]:
    """Wait for the trainer, reaping orphans meanwhile; returns its wait status and the signal that asked it to stop."""
    stopped_by: signal.Signals | None = None
    deadline: float | None = None
    while True:
        status = reap().get(pid)
        if status is not None:
            return status, stopped_by
        if deadline is None:
            caught = signal.sigwaitinfo(WATCHED)
        else:
            caught = signal.sigtimedwait(WATCHED, max(deadline - time.monotonic(), 0))
        if caught is None:
            for process in [pid, *descendants(os.getpid())]:
                send(process, signal.SIGKILL)
            deadline = time.monotonic() + 0.1
        elif caught.si_signo != signal.SIGCHLD and stopped_by is None:
            stopped_by = signal.Signals(caught.si_signo)
            deadline = time.monotonic() + grace
            os.kill(pid, signal.SIGTERM)


def reap() -> dict[int, int]:
    """The wait statuses of the children that have ended, by pid."""
    ended = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = status


def kill_tree(grace: float) -> None:
    """End all descendants, in whatever session: SIGTERM, after `grace` seconds SIGKILL, until none is left.

    Gives up after 15 s on processes that the kernel cannot end; they keep the lock.
    """
    begun = time.monotonic()
    asked: set[int] = set()
    while time.monotonic() < begun + KILL_DEADLINE_S:
        reap()
        left = descendants(os.getpid())
        if not left:
            return
        force = time.monotonic() >= begun + grace
        for pid in left:
            if force:
                send(pid, signal.SIGKILL)
            elif pid not in asked:
                send(pid, signal.SIGTERM)
                asked.add(pid)
        time.sleep(0.01)


def kill_strays(train_dir: str) -> None:
    """Kill what a dead keeper's trainer of this folder left, wherever it has been re-parented to."""
    for pid in process_ids():
        tags = environment_of(pid)
        if tags.get(TAG) != train_dir or KEEPER not in tags:
            continue
        keeper_pid, _, keeper_start = tags[KEEPER].partition(":")
        if str(start_time(int(keeper_pid))) != keeper_start:
            send(pid, signal.SIGKILL)


def descendants(root: int) -> list[int]:
    """Pids of the living processes below `root`, nearest first."""
    children: dict[int, list[int]] = {}
    for pid in process_ids():
        fields = stat_fields(pid)
        if fields is not None and fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(pid)
    found = list(children.get(root, []))
    for pid in found:
        found.extend(children.get(pid, []))
    return found


def process_ids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def stat_fields(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third (state) on, None when the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].decode().split()
    except OSError:
        return None


def start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since boot (field 22 of /proc/PID/stat)."""
    fields = stat_fields(pid)
    return None if fields is None or fields[0] == "Z" else int(fields[19])


def environment_of(pid: int) -> dict[str, str]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            pairs = file.read().decode(errors="surrogateescape").split("\0")
    except OSError:
        return {}
    return dict(pair.split("=", 1) for pair in pairs if pair.startswith((TAG + "=", KEEPER + "=")))


def send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def write_json(path: str, content: dict[str, Any]) -> None:
    write_whole(path, json.dumps(content, indent=2) + "\n")


def append_json(train_dir: str, content: dict[str, Any]) -> None:
    """Add a line to trainers.jsonl, the history of all trainers of the folder; the first newline ends a torn line."""
    history = os.open(os.path.join(train_dir, "trainers.jsonl"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(history, f"\n{json.dumps(content)}\n".encode())
    finally:
        os.close(history)


def remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    sync_folder(os.path.dirname(path))


def say(log: int, sentence: str) -> None:
    os.write(log, f"[keeper {now()}] {sentence}\n".encode())


if __name__ == "__main__":
    sys.exit(main())
