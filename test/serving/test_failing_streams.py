"""A model that fails at every picture, and never ends by itself: the server must outlive what it does to requests."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from servers import KEY, Server, data_uri, events, question, streamed_text

FAILING_STREAMS = 24


def about_text(max_tokens: int, **options) -> dict:
    return question(None, text="repeat: AB", model="blind", max_tokens=max_tokens, **options)


def threads_of(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/task").iterdir()))


def test_failing_streams_neither_hang_nor_take_anything_from_those_that_follow(blind: Server, card) -> None:
    body = question(data_uri(card, "PNG"), model="blind", stream=True)
    blind.post(body)
    before = threads_of(blind)
    with ThreadPoolExecutor(8) as clients:
        failures = list(clients.map(lambda _: blind.post(body), range(FAILING_STREAMS)))
        fine = list(clients.map(lambda _: blind.post(about_text(4, stream=True)), range(8)))
    assert {response.status_code for response in failures} == {500}
    assert all("the model failed" in response.json()["error"]["message"] for response in failures)
    assert all(events(response)[-1] == "[DONE]" for response in fine)
    assert threads_of(blind) <= before + 1


def test_a_failure_leaves_the_connection_usable(blind: Server, card) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=blind.url, headers=headers, timeout=60, trust_env=False) as client:
        failed = client.post("/v1/chat/completions", json=question(data_uri(card, "PNG"), model="blind"))
        fine = client.post("/v1/chat/completions", json=about_text(2))
        assert [failed.status_code, fine.status_code] == [500, 200]
        assert failed.headers.get("connection") != "close"


def test_health_is_false_with_the_reason_though_the_server_answers(blind: Server) -> None:
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: blind.get("/health"), range(16)))
    assert {answer.status_code for answer in answers} == {503}
    assert all("image" in answer.json()["reason"].lower() for answer in answers)
    assert blind.get("/v1/models").status_code == 200


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_an_answer_cut_at_the_tokens_asked_for_says_so(blind: Server, name: str) -> None:
    body = {**about_text(400), "max_tokens": None, name: 5}
    answer = blind.post(body).json()
    assert (answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]) == (5, "length")
    with blind.stream(body) as response:
        assert events(response)[-2]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("key", [None, "another-key", KEY[:-1]])
def test_without_the_key_there_is_nothing_but_the_state_of_health(blind: Server, key: str | None) -> None:
    stranger = Server(blind.process, blind.ready_file, blind.log, key, blind.url)
    assert stranger.get("/v1/models").status_code == 401
    assert "Bearer" in stranger.post(about_text(1)).json()["error"]["message"]
    assert set(stranger.get("/health").json()) == {"healthy", "model", "reason"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_generation(blind: Server, stream: bool) -> None:
    body = about_text(3900, stream=stream)
    with pytest.raises(httpx.ReadTimeout), httpx.Client(trust_env=False) as client:
        headers = {"Authorization": f"Bearer {KEY}"}
        timeout = httpx.Timeout(30, read=0.5)
        with client.stream(
            "POST", blind.url + "/v1/chat/completions", json=body, headers=headers, timeout=timeout
        ) as r:
            next(r.iter_bytes(), None)
            raise httpx.ReadTimeout("the client has seen enough")
    began = time.monotonic()
    assert blind.post(about_text(2)).status_code == 200
    assert time.monotonic() - began < 3


def test_sigterm_lets_the_requests_in_flight_end_and_then_exits_with_zero(blind: Server) -> None:
    first_piece = threading.Event()

    def streamed() -> list:
        with blind.stream(about_text(150)) as response:
            first_piece.set()
            return events(response)

    with ThreadPoolExecutor(3) as clients:
        stream = clients.submit(streamed)
        first_piece.wait(30)
        queued = [clients.submit(blind.post, about_text(150)) for _ in range(2)]
        time.sleep(0.2)
        blind.process.send_signal(signal.SIGTERM)
        assert stream.result(60)[-1] == "[DONE]" and streamed_text(stream.result())
        assert [answer.result(60).json()["usage"]["completion_tokens"] for answer in queued] == [150, 150]
    assert blind.process.wait(30) == 0
    assert not blind.ready_file.exists()
