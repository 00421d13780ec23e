"""Health and failures in the middle of an answer, on the real engine in this process."""

import asyncio
import contextlib
import itertools
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="module")
def chat_model(model: Path, monkeypatch_module: pytest.MonkeyPatch):
    from serve import _load, _prepare_environment

    options = SimpleNamespace(
        model=model, name="cards", template="qwen3_vl_nothink", cpu=True, max_new_tokens=16, max_length=None,
        image_max_pixels=None, image_min_pixels=None, backend="huggingface",
    )  # fmt: skip
    _prepare_environment(options)
    loaded = _load(options, config={})
    yield loaded
    loaded.engine.close()


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["serve.py"])
        yield patch


@pytest.fixture
def engine(chat_model):
    from generation import Progress

    chat_model.engine.progress = Progress()
    return chat_model.engine


def health_of(engine):
    from health import Health, Served

    return Health(engine, Served("cards", Path("folder")))


def test_scores_that_are_no_numbers_are_not_health(engine) -> None:
    weight = engine.model.model.language_model.norm.weight
    kept = weight.data.clone()
    weight.data.fill_(math.nan)
    assert "not numbers" in asyncio.run(health_of(engine).failure())
    weight.data.copy_(kept)
    engine.progress.failed_at = None
    assert asyncio.run(health_of(engine).failure()) is None


def test_a_failure_in_the_middle_of_a_stream_is_its_last_event(chat_model, engine) -> None:
    from api import _stream
    from chat_request import ServedChatRequest

    ServedChatRequest.served_name, ServedChatRequest.special_tokens = "cards", frozenset()
    body = {"model": "cards", "messages": [{"role": "user", "content": "repeat: 一二三四五六七八"}], "stream": True}

    async def collect() -> list[str]:
        return [event async for event in _stream(ServedChatRequest(**body), chat_model)]

    with failing_at_call(engine.model, 3):
        *chunks, last = asyncio.run(collect())
    assert chunks and json.loads(last)["error"]["message"] == "the model failed: RuntimeError: a failing kernel"


@contextlib.contextmanager
def failing_at_call(model, call: int) -> Iterator[None]:
    """Let the model's n-th forward pass raise, as a failing CUDA kernel would, and no other."""
    calls = itertools.count(1)

    def fail(*_: object) -> None:
        if next(calls) == call:
            raise RuntimeError("a failing kernel")

    hook = model.register_forward_pre_hook(fail)
    yield
    hook.remove()


def test_after_a_failure_that_was_the_requests_own_health_is_known_at_once(engine) -> None:
    from generation import GenerationError

    with failing_at_call(engine.model, 1), pytest.raises(GenerationError):
        asyncio.run(engine.chat([{"role": "user", "content": "Hello"}]))
    assert engine.progress.proved_at is not None and engine.progress.failure is None


class Engine:
    """An engine whose probes take as long as the test likes."""

    def __init__(self, seconds: float = 0.05, failure: str | None = None) -> None:
        from generation import Progress

        self.progress = Progress()
        self.probes = 0
        self._seconds = seconds
        self._failure = failure

    async def prove(self) -> None:
        self.probes += 1
        await asyncio.sleep(self._seconds)
        self.progress.failure = self._failure
        now = time.monotonic()
        self.progress.proved_at, self.progress.failed_at = (None, now) if self._failure else (now, None)


async def ask(engine: Engine, times: int) -> list[str | None]:
    health = health_of(engine)
    return list(await asyncio.gather(*(health.failure() for _ in range(times)))) + [await health.failure()]


@pytest.mark.parametrize("failure", [None, "broken"])
def test_many_who_ask_at_once_cost_one_probe(chat_model, failure: str | None) -> None:
    engine = Engine(failure=failure)
    assert asyncio.run(ask(engine, 50)) == [failure] * 51
    assert engine.probes == 1


def test_a_probe_that_hangs_is_a_failure_and_is_not_repeated(chat_model, monkeypatch) -> None:
    monkeypatch.setattr("health.PROBE_TIMEOUT_SECONDS", 0.1)
    engine = Engine(seconds=60)
    assert all("within" in reason for reason in asyncio.run(ask(engine, 5)) if reason)
    assert engine.probes == 1


@pytest.mark.parametrize(("token_age", "probes"), [(1, 0), (100, 1)])
def test_a_busy_engine_is_healthy_while_its_tokens_come(chat_model, token_age: float, probes: int) -> None:
    engine, now = Engine(), time.monotonic()
    engine.progress.proved_at = engine.progress.busy_since = now - 300
    engine.progress.token_at = now - token_age
    assert asyncio.run(ask(engine, 1))[0] is None
    assert engine.probes == probes
