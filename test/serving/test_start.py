"""What keeps a server from starting is one sentence, said before anything heavy is loaded."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from servers import SERVING


def environment_of(**changes: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **changes}


def run(script: str, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SERVING / script), *args],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment_of(**environment),
    )


def edit_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 100)


DAMAGES = {
    "no folder": (lambda folder: shutil.rmtree(folder), "no model folder"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    "a config that is no JSON": (lambda folder: (folder / "config.json").write_text("{"), "not JSON"),
    "another kind of model": (lambda folder: edit_json(folder / "config.json", model_type="llama"), "'llama'"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
    "cut weights": (cut, "damaged"),
    "weights of another kind": (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), "cut short"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_folder_that_cannot_be_served_is_named_at_once(damage: str, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    break_it, phrase = DAMAGES[damage]
    break_it(folder)
    began = time.monotonic()
    ended = run("serve.py", "--cpu", "--model", str(folder), "--name", "x", "--port", "0")
    assert ended.returncode == 1 and len(ended.stderr.splitlines()) == 1
    assert phrase in ended.stderr and str(folder) in ended.stderr
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "some-host"])
def test_a_host_that_others_reach_wants_a_key(model: Path, host: str) -> None:
    ended = run("serve.py", "--cpu", "--model", str(model), "--name", "x", "--host", host)
    assert ended.returncode == 1 and ended.stderr.count("\n") == 1 and "--api-key-env" in ended.stderr


@pytest.mark.parametrize("script", ["serve.py", "chat_page.py"])
def test_a_key_that_is_not_set_is_an_error(model: Path, script: str) -> None:
    common = ["--name", "x", "--port", "0", "--api-key-env", "NOT_SET_ANYWHERE"]
    own = ["--cpu", "--model", str(model)] if script == "serve.py" else ["--api", "http://127.0.0.1:1"]
    ended = run(script, *common, *own)
    assert ended.returncode == 1 and "NOT_SET_ANYWHERE" in ended.stderr and ended.stderr.count("\n") == 1


def test_a_port_in_use_is_said_before_the_model_is_loaded(model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = run("serve.py", "--cpu", "--model", str(model), "--name", "x", "--port", port)
    assert ended.returncode == 1 and port in ended.stderr and ended.stderr.count("\n") == 1


def test_without_a_gpu_the_cpu_must_be_asked_for(model: Path) -> None:
    ended = run("serve.py", "--model", str(model), "--name", "x", "--port", "0", CUDA_VISIBLE_DEVICES="")
    assert ended.returncode == 1 and "--cpu" in ended.stderr.splitlines()[-1]


def test_api_and_page_end_together_with_the_reason_of_the_first(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    ended = run("start.py", "--model", missing, "--cpu", "--port", "0", "--page-host", "127.0.0.1", "--page-port", "0")
    assert ended.returncode == 1 and missing in ended.stderr


def test_api_and_page_end_together_on_sigterm(model: Path) -> None:
    args = ["--model", str(model), "--cpu", "--port", "0", "--page-host", "127.0.0.1", "--page-port", "0"]
    unit = subprocess.Popen(
        [sys.executable, SERVING / "start.py", *args], stderr=subprocess.DEVNULL, env=environment_of(API_KEY="")
    )
    children = Path(f"/proc/{unit.pid}/task/{unit.pid}/children")
    deadline = time.monotonic() + 30
    while len(pids := children.read_text().split()) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    unit.terminate()
    assert unit.wait(30) == 0
    assert len(pids) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_the_api_listens_wide_without_a_key_only_where_ports_are_published_on_loopback(model: Path) -> None:
    for flag, wide in (([], False), (["--published-on-loopback"], True)):
        args = ["--model", model, "--cpu", "--port", "0", "--page-host", "127.0.0.1", "--page-port", "0", *flag]
        unit = subprocess.Popen(
            [sys.executable, SERVING / "start.py", *args], stderr=subprocess.DEVNULL, env=environment_of(API_KEY="")
        )
        try:
            api = until_child(unit.pid, "serve.py")
            assert api[api.index("--host") + 1] == ("0.0.0.0" if wide else "127.0.0.1")
            assert ("--published-on-loopback" in api) is wide
        finally:
            unit.terminate()
            unit.wait(30)


def until_child(pid: int, script: str) -> list[str]:
    """The command line of a process's child that runs the script."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            words = Path(f"/proc/{child}/cmdline").read_text().split("\0")
            if any(word.endswith(script) for word in words):
                return words
        time.sleep(0.02)
    raise AssertionError(f"{script} was not started")
