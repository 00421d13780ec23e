"""What of the vLLM backend needs no vLLM: refusals, and the engine core's end with its server."""

import subprocess
import sys
from pathlib import Path

import pytest

from servers import SERVING, is_alive, until
from test_start import run


def test_without_vllm_the_fix_is_named_at_once(model: Path) -> None:
    ended = run("serve.py", "--backend", "vllm", "--cpu", "--model", str(model), "--name", "x", "--port", "0")
    assert ended.returncode == 1 and len(ended.stderr.splitlines()) == 1
    assert "npm run setup:vllm" in ended.stderr


@pytest.mark.parametrize("share", ["0", "1", "85", "most"])
def test_a_share_that_is_none_is_refused(model: Path, share: str) -> None:
    ended = run("serve.py", "--model", str(model), "--name", "x", "--gpu-memory-share", share)
    assert ended.returncode == 2 and "--gpu-memory-share" in ended.stderr


SERVER = """
import multiprocessing, sys, time

def core():
    import vllm_worker
    print(multiprocessing.current_process().pid, flush=True)
    time.sleep(60)

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=core).start()
    time.sleep(60)
"""


def test_what_imports_the_worker_extension_ends_with_a_killed_server(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    server = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(SERVING)}
    )
    assert server.stdout is not None
    core = int(server.stdout.readline())
    assert is_alive(core)
    server.kill()
    server.wait(10)
    assert until(lambda: not is_alive(core), 5)
