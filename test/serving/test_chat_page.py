"""The chat page: what it shows, what it sends, and what it does while the model is away."""

import asyncio
import base64
import io
import re
from typing import Any

import pytest
from gradio_client import Client, handle_file
from PIL import Image

import chat_page
from ask_api import ApiAway, ApiRefused
from conversation import to_messages
from servers import QUESTION, Server, Start, data_uri, question


@pytest.fixture(scope="module")
def page(start: Start, api: Server, card, tmp_path_factory) -> Server:
    example = tmp_path_factory.mktemp("example") / "card.png"
    card.save(example)
    options = ["--example", str(example), "--example-question", QUESTION]
    return start("chat_page.py", "--api", api.url, "--name", "cards", *options).wait_until_ready()


@pytest.mark.parametrize("format", ["png", "webp", "tiff"])
def test_an_uploaded_picture_is_answered_as_the_api_answers(page: Server, api: Server, card, tmp_path, format) -> None:
    file = tmp_path / f"card.{format}"
    card.save(file, **({"lossless": True} if format == "webp" else {}))
    client = Client(page.url, verbose=False)
    shown = client.predict({"text": QUESTION, "files": [handle_file(str(file))]}, api_name="/chat")
    expected = api.post(question(data_uri(card, "PNG"), max_tokens=None)).json()["choices"][0]["message"]["content"]
    assert as_text(shown).strip() in (expected.strip(), "模型的回答是空的 · The model gave an empty answer")


def as_text(shown: Any) -> str:
    if isinstance(shown, list):
        return as_text(shown[-1])
    return shown["content"] if isinstance(shown, dict) else shown


def test_the_page_refers_to_nothing_outside(page: Server) -> None:
    html = page.get("/").text
    assert "gradio" in html
    assert not re.findall(r"<(?:script|link)[^>]+https?://(?!127\.0\.0\.1)[^>]+>", html)


def history(*entries: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content, "metadata": None} for role, content in entries]


def test_a_turns_pictures_and_text_become_one_message(card, tmp_path) -> None:
    file = str(tmp_path / "card.webp")
    card.save(file, lossless=True)
    earlier = history(("user", (file,)), ("user", "What is it?"), ("assistant", "A card."))
    messages = to_messages(earlier, {"text": "And this?", "files": [file]})
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    for message in messages[::2]:
        assert [item["type"] for item in message["content"]] == ["image_url", "text"]
        url = message["content"][0]["image_url"]["url"]
        sent = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))
        assert sent.tobytes() == card.tobytes()


def test_turns_that_ended_in_a_notice_are_not_sent_again() -> None:
    earlier = history(("user", "One"), ("assistant", "1"), ("user", "Two"))
    earlier += [chat_page._notice("The model is away")]
    messages = to_messages(earlier, {"text": "Three", "files": []})
    assert [message["content"] for message in messages if message["role"] == "assistant"] == ["1"]
    assert messages[-1]["content"] == [{"type": "text", "text": "Three"}]


class Api:
    """Does one thing after another, each time it is asked: raises, or yields a piece."""

    name = "cards"

    def __init__(self, *turns: list[str | Exception]) -> None:
        self._turns = iter(turns)

    async def ask(self, messages):
        for step in next(self._turns):
            if isinstance(step, Exception):
                raise step
            yield step


def shown_by(api: Api, message: dict[str, Any] | None = None) -> list[Any]:
    async def collect() -> list[Any]:
        return [shown async for shown in chat_page._answer(api, message or {"text": "Hello", "files": []}, [])]

    return asyncio.run(collect())


@pytest.fixture(autouse=True)
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(chat_page, "ASK_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(chat_page, "PATIENCE_SECONDS", 0.1)


def test_the_answer_grows_as_it_comes() -> None:
    assert shown_by(Api(["A", "B", "", "C"])) == ["A", "AB", "AB", "ABC"]


def test_an_api_that_comes_back_answers_after_all() -> None:
    away = [ApiAway("connection refused")]
    assert shown_by(Api(away, away, ["back"])) == [chat_page.WAITING, chat_page.WAITING, "back"]


NOTICES = {
    "away for long": ([[ApiAway("connection refused")]] * 50, "away"),
    "gone in the middle": ([["half an ", ApiAway("peer closed")]], "half an"),
    "refused": ([[ApiRefused("the conversation has 999 tokens")]], "999 tokens"),
    "empty": ([["", "\n"]], "empty"),
}


@pytest.mark.parametrize("kind", NOTICES)
def test_no_answer_is_a_notice_that_says_why(kind: str) -> None:
    turns, phrase = NOTICES[kind]
    last = shown_by(Api(*turns))[-1]
    assert last["metadata"]["title"] == chat_page.NOTICE and phrase in last["content"]


@pytest.mark.parametrize(("message", "phrase"), [
    ({"text": " ", "files": []}, "question"),
    ({"text": "?", "files": [__file__]}, "test_chat_page.py"),
])  # fmt: skip
def test_what_cannot_be_sent_is_a_notice_too(message: dict[str, Any], phrase: str) -> None:
    assert phrase in shown_by(Api(), message)[-1]["content"]
