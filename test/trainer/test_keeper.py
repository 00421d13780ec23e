"""Claims about trainer/keeper.py, against real processes."""

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

KEEPER = Path(__file__).parents[2] / "trainer" / "keeper.py"
SLEEPS = "import time; time.sleep(120)"
IGNORES_SIGTERM = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(120)"
)
# A daemon: new session, parent gone, all descriptors but the standard ones closed.
LEAVES_A_DAEMON = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, '-c', '{sleeps}'], start_new_session=True, close_fds=True)
deep = subprocess.Popen(['sh', '-c', 'setsid setsid sleep 120 & exit 0'])
deep.wait()
print('ready', flush=True)
{then}
"""


@pytest.fixture
def train_dir(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "train"
    folder.mkdir()
    yield folder
    for pid in tagged_with(folder):
        os.kill(pid, signal.SIGKILL)


def keep(train_dir: Path, code: str, *options: str, attempt: int = 1) -> subprocess.Popen[bytes]:
    """Start a keeper, detached as the worker does, whose trainer is a line of Python."""
    return subprocess.Popen(
        [sys.executable, str(KEEPER), "--train-dir", str(train_dir), "--attempt", str(attempt), "--owner",
         f"owner-{attempt}", *options, "--", sys.executable, "-c", code],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def read(train_dir: Path, name: str) -> dict:
    return json.loads((train_dir / name).read_text())


def log(train_dir: Path) -> str:
    return (train_dir / "trainer.log").read_text()


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def said(train_dir: Path, word: str) -> Callable[[], bool]:
    return lambda: (train_dir / "trainer.log").exists() and f"\n{word}\n" in log(train_dir)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def tagged_with(train_dir: Path) -> list[int]:
    """Every living process that a keeper of this folder started, however far it has wandered."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if f"TEMPER_TRAIN_DIR={train_dir.resolve()}\0".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return [pid for pid in found if alive(pid)]


def test_records_which_trainer_runs_and_how_it_ended(train_dir: Path) -> None:
    (train_dir / "exit.json").write_text("{}")
    keeper = keep(
        train_dir, "import sys, time; print('out'); print('err', file=sys.stderr); time.sleep(.3); sys.exit(3)"
    )
    until((train_dir / "process.json").exists)
    assert not (train_dir / "exit.json").exists()
    process = read(train_dir, "process.json")
    stat = Path(f"/proc/{process['pid']}/stat").read_text().rpartition(")")[2].split()
    assert process["startTime"] == int(stat[19])
    assert process["bootId"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert process["argv"][:2] == [sys.executable, "-c"]
    assert (process["attempt"], process["owner"], process["keeper"]["pid"]) == (1, "owner-1", keeper.pid)
    assert process["startedAt"].endswith("Z")
    until(lambda: os.getsid(process["pid"]) == process["pid"])

    assert keeper.wait() == 3
    ended = read(train_dir, "exit.json")
    assert ended["pid"] == process["pid"] and ended["startTime"] == process["startTime"]
    assert (ended["exitCode"], ended["signal"], ended["stoppedBySignal"]) == (3, None, None)
    assert "\nout\n" in log(train_dir) and "\nerr\n" in log(train_dir)


@pytest.mark.parametrize(
    ("code", "status", "exit_code", "killed_by"),
    [
        ("pass", 0, 0, None),
        ("raise ValueError", 1, 1, None),
        ("import os; os.kill(os.getpid(), 9)", 137, None, "SIGKILL"),
        ("import os; os.kill(os.getpid(), 11)", 139, None, "SIGSEGV"),
    ],
)
def test_tells_every_ending_apart(
    train_dir: Path, code: str, status: int, exit_code: int | None, killed_by: str | None
) -> None:
    assert keep(train_dir, code).wait() == status
    ended = read(train_dir, "exit.json")
    assert (ended["exitCode"], ended["signal"]) == (exit_code, killed_by)


def test_keeps_the_history_of_all_trainers_even_after_a_torn_line(train_dir: Path) -> None:
    assert keep(train_dir, "pass").wait() == 0
    first = read(train_dir, "exit.json")["pid"]
    with open(train_dir / "trainers.jsonl", "a") as history:
        history.write('{"type": "ended", "pi')
    assert keep(train_dir, "import os; os.kill(os.getpid(), 9)", attempt=2).wait() == 137
    second = read(train_dir, "exit.json")
    lines = [line for line in (train_dir / "trainers.jsonl").read_text().split("\n") if line.endswith("}")]
    told = [json.loads(line) for line in lines]
    assert [(each["type"], each["pid"]) for each in told] == [
        ("started", first), ("ended", first), ("started", second["pid"]), ("ended", second["pid"]),
    ]  # fmt: skip
    assert told[2]["attempt"] == 2 and told[3]["how"] == "signal SIGKILL"
    assert all(before["at"] <= after["at"] for before, after in zip(told, told[1:], strict=False))


def test_says_so_when_the_program_does_not_exist(train_dir: Path) -> None:
    command = [sys.executable, str(KEEPER), "--train-dir", str(train_dir), "--attempt", "1", "--owner", "o", "--"]
    assert subprocess.run([*command, "/no/such/python"], check=False).returncode == 127
    assert "cannot run /no/such/python" in log(train_dir)
    assert read(train_dir, "exit.json")["exitCode"] == 127


def test_costs_a_few_starts_of_an_interpreter(train_dir: Path) -> None:
    def seconds(run: Callable[[], object]) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    bare = min(seconds(lambda: subprocess.run([sys.executable, "-c", "pass"], check=False)) for _ in range(5))
    kept = min(seconds(lambda: keep(train_dir, "pass").wait()) for _ in range(5))
    # The keeper is one interpreter, its trainer another; the rest is the keeper's own.
    assert kept - 2 * bare < 6 * bare


def test_sigterm_reaches_the_trainer_which_may_end_in_its_own_way(train_dir: Path) -> None:
    code = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(143)); print('on', flush=True); time.sleep(120)"
    keeper = keep(train_dir, code)
    until(said(train_dir, "on"))
    keeper.terminate()
    assert keeper.wait() == 143
    ended = read(train_dir, "exit.json")
    assert (ended["exitCode"], ended["signal"], ended["stoppedBySignal"]) == (143, None, "SIGTERM")


def test_a_trainer_that_ignores_sigterm_is_killed_after_the_grace(train_dir: Path) -> None:
    keeper = keep(train_dir, IGNORES_SIGTERM, "--grace", "0.5")
    until(said(train_dir, "on"))
    begun = time.monotonic()
    keeper.terminate()
    assert keeper.wait() == 137
    assert 0.4 < time.monotonic() - begun < 5
    ended = read(train_dir, "exit.json")
    assert (ended["exitCode"], ended["signal"], ended["stoppedBySignal"]) == (None, "SIGKILL", "SIGTERM")


@pytest.mark.parametrize("then", ["time.sleep(0.1)", "os.kill(os.getpid(), 9)", "time.sleep(120)"])
def test_nothing_of_the_tree_outlives_the_trainer_whatever_its_session(train_dir: Path, then: str) -> None:
    keeper = keep(train_dir, LEAVES_A_DAEMON.format(sleeps=SLEEPS, then=then), "--grace", "0.5")
    until(said(train_dir, "ready"))
    if then == "time.sleep(120)":
        until(lambda: len(tagged_with(train_dir)) == 3)
        keeper.terminate()
    keeper.wait(timeout=20)
    assert tagged_with(train_dir) == []
    assert (train_dir / "exit.json").exists()


def test_killing_the_keeper_kills_the_trainer(train_dir: Path) -> None:
    keeper = keep(train_dir, IGNORES_SIGTERM)
    until(said(train_dir, "on"))
    pid = read(train_dir, "process.json")["pid"]
    keeper.kill()
    keeper.wait()
    until(lambda: not alive(pid), 2)
    assert not (train_dir / "exit.json").exists()


def test_the_next_keeper_kills_what_a_killed_one_left(train_dir: Path) -> None:
    first = keep(train_dir, LEAVES_A_DAEMON.format(sleeps=SLEEPS, then="time.sleep(120)"))
    until(said(train_dir, "ready"))
    first.kill()
    first.wait()
    left = tagged_with(train_dir)
    assert left, "the daemons should have survived the keeper"
    second = keep(train_dir, "pass", attempt=2)
    assert second.wait(timeout=20) == 0
    assert not any(alive(pid) for pid in left)
    assert read(train_dir, "process.json")["attempt"] == 2


def test_two_keepers_at_once_never_run_two_trainers(train_dir: Path) -> None:
    # Each trainer fails if it finds another one's mark, so two exit codes of 0 mean that they ran one after the other.
    mark = train_dir / "mark"
    code = f"import os, time; os.close(os.open({str(mark)!r}, os.O_CREAT | os.O_EXCL)); time.sleep(.2); os.unlink({str(mark)!r})"
    keepers = [keep(train_dir, code, attempt=attempt) for attempt in range(1, 9)]
    assert [keeper.wait(timeout=30) for keeper in keepers] == [0] * 8
    assert sorted(line.split("attempt ")[1][0] for line in log(train_dir).splitlines() if "started" in line) == list(
        "12345678"
    )


def test_a_keeper_that_waited_in_vain_exits_75_and_names_the_holder(train_dir: Path) -> None:
    first = keep(train_dir, SLEEPS)
    until((train_dir / "process.json").exists)
    before = (train_dir / "process.json").read_bytes()
    second = keep(train_dir, "pass", "--lock-wait", "0.3", attempt=2)
    assert second.wait(timeout=10) == 75
    assert f"in use by attempt 1 (owner owner-1, keeper process {first.pid})" in log(train_dir)
    assert (train_dir / "process.json").read_bytes() == before
    assert alive(read(train_dir, "process.json")["pid"])
    first.terminate()
    first.wait(timeout=20)


def test_a_child_that_lingers_holds_the_folder(train_dir: Path) -> None:
    """Data loader workers live for some seconds after their trainer; until then nobody may start another one."""
    code = "import os, time\nif os.fork() == 0:\n os.setsid(); time.sleep(60)\nelse:\n print('forked', flush=True); time.sleep(120)"
    first = keep(train_dir, code)
    until(said(train_dir, "forked"))
    child = next(pid for pid in tagged_with(train_dir) if pid != read(train_dir, "process.json")["pid"])
    first.kill()
    first.wait()
    with open(train_dir / "lock") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert alive(child)
    second = keep(train_dir, "pass", attempt=2)
    assert second.wait(timeout=10) == 0
    assert not alive(child)


def test_sigterm_while_it_waits_for_the_lock_ends_it(train_dir: Path) -> None:
    first = keep(train_dir, SLEEPS)
    until((train_dir / "process.json").exists)
    second = keep(train_dir, "pass", attempt=2)
    time.sleep(0.3)
    second.terminate()
    assert second.wait(timeout=5) == 75
    first.terminate()
    first.wait(timeout=20)
