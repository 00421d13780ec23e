"""What a client of the API gets: answers, and refusals that say what is wrong."""

import base64
import http.client
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

from servers import QUESTION, Server, data_uri, events, question, streamed_text

LOSSLESS = [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})]


def text_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


def refusal(response: httpx.Response, status: int = 400) -> str:
    assert response.status_code == status, response.text
    return response.json()["error"]["message"]


def test_lists_the_model_under_its_name(api: Server) -> None:
    assert [entry["id"] for entry in api.get("/v1/models").json()["data"]] == ["cards"]


def test_health_is_true_and_says_what_is_served(api: Server, model) -> None:
    response = api.get("/health")
    facts = response.json()
    assert (response.status_code, facts["healthy"], facts["model"], facts["modelDir"]) == (
        200,
        True,
        "cards",
        str(model),
    )
    assert (facts["run"], facts["modelDigest"]) == ("first", "ab12")
    assert facts["dtype"] in ("bfloat16", "float16", "float32")
    assert facts["memoryBytes"] > 100e6 and facts["uptimeSeconds"] > 0


@pytest.mark.parametrize(("format", "options"), LOSSLESS)
def test_the_answer_does_not_depend_on_the_pictures_file_type(api: Server, card, format: str, options: dict) -> None:
    assert text_of(api.post(question(data_uri(card, format, **options)))) == text_of(
        api.post(question(data_uri(card, "PNG")))
    )


@pytest.mark.parametrize("format", ["JPEG", "GIF", "AVIF", "PPM", "JPEG2000"])
def test_other_picture_types_are_read_too(api: Server, card, format: str) -> None:
    text_of(api.post(question(data_uri(card, format))))


def test_a_sixteen_bit_picture_is_seen_as_its_eight_bit_twin(api: Server, card) -> None:
    gray = card.convert("L")
    deep = Image.new("I;16", gray.size)
    deep.putdata([value * 257 for value in gray.getdata()])
    assert text_of(api.post(question(data_uri(deep, "PNG")))) == text_of(api.post(question(data_uri(gray, "PNG"))))


BAD_PICTURES = {
    "cut": lambda card: data_uri(card, "PNG")[:-400],
    "cut jpeg": lambda card: data_uri(card, "JPEG")[:-40],
    "no picture": lambda card: "data:image/png;base64," + base64.b64encode(b"no picture at all").decode(),
    "damaged base64": lambda card: "data:image/png;base64,?" + data_uri(card, "PNG")[40:],
    "empty": lambda card: "data:image/png;base64,",
    "http": lambda card: "http://127.0.0.1:1/a.png",
    "file": lambda card: "/etc/hostname",
    "too many pixels": lambda card: data_uri(Image.new("1", (20000, 3000)), "PNG"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", BAD_PICTURES)
def test_a_bad_picture_is_refused_with_its_reason(api: Server, card, kind: str, stream: bool) -> None:
    assert "picture" in refusal(api.post(question(BAD_PICTURES[kind](card), stream=stream)))


def turns(*roles: str) -> list[dict]:
    return [{"role": role, "content": "Hello"} for role in roles]


REFUSED = {
    "an unknown model": ({"model": "gpt-4"}, 404, "cards"),
    "no message": ({"messages": []}, 400, "messages"),
    "no question last": ({"messages": turns("user", "assistant")}, 400, "turns"),
    "an answer first": ({"messages": turns("assistant", "user", "assistant")}, 400, "turns"),
    "an unknown role": ({"messages": turns("narrator")}, 400, "role"),
    "an empty message": ({"messages": [{"role": "user", "content": ""}]}, 400, "empty"),
    "an item without its text": ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400, "text"),
    "a special token": ({"messages": [{"role": "user", "content": "a<|im_end|>"}]}, 400, "<|im_end|>"),
    "a picture's placeholder": ({"messages": [{"role": "user", "content": "an <image> tag"}]}, 400, "<image>"),
    "a long conversation": ({"messages": [{"role": "user", "content": "word " * 400}]}, 400, "tokens"),
    "a huge conversation": ({"messages": [{"role": "user", "content": "word " * 40_000}]}, 400, "characters"),
    "a presence penalty": ({"presence_penalty": 0.5}, 400, "presence_penalty"),
    "a stop text": ({"stop": ["x"]}, 400, "stop"),
    "no token": ({"max_tokens": 0}, 400, "max_tokens"),
    "another format": ({"response_format": {"type": "json_object"}}, 400, "response_format"),
    "a body that is no object": ([], 400, "object"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_answered_is_refused_with_its_reason(api: Server, kind: str, stream: bool) -> None:
    change, status, phrase = REFUSED[kind]
    body = {**question(None, stream=stream), **change} if isinstance(change, dict) else change
    assert phrase in refusal(api.post(body), status)


@pytest.mark.parametrize("change", [{"stream": True, "n": 2}, {"messages": [{"role": "user", "content": [
    {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}]}]}])  # fmt: skip
def test_what_is_not_supported_is_said_so(api: Server, change: dict) -> None:
    refusal(api.post({**question(None), **change}))


ACCEPTED = [
    {"presence_penalty": 0},
    {"presence_penalty": 0.0, "frequency_penalty": 0, "stop": None, "logprobs": False, "user": "somebody"},
    {"response_format": {"type": "text"}},
    {"temperature": 1.0},
    {"temperature": 0},
    {"repetition_penalty": 1.0},
]


@pytest.mark.parametrize("options", ACCEPTED)
def test_ordinary_options_change_nothing(api: Server, card, options: dict) -> None:
    url = data_uri(card, "PNG")
    assert text_of(api.post(question(url, **options))) == text_of(api.post(question(url)))


def test_question_and_answer_together_keep_to_the_limit(api: Server) -> None:
    answer = api.post(question(None, text="repeat: " + "A" * 250, max_tokens=4000)).json()
    assert answer["usage"]["total_tokens"] <= 300


def test_pictures_and_text_in_turns_of_their_own_are_one_question(api: Server, card) -> None:
    whole = question(data_uri(card, "PNG"))
    content = whole["messages"][0]["content"]
    split = {**whole, "messages": [{"role": "user", "content": [item]} for item in content]}
    assert text_of(api.post(split)) == text_of(api.post(whole))


def test_a_conversation_of_several_turns_with_a_developer_message_is_answered(api: Server, card) -> None:
    first = question(data_uri(card, "PNG"))["messages"]
    messages = [{"role": "developer", "content": "Be brief."}, *first, *turns("assistant"), *turns("user")]
    text_of(api.post({**question(None), "messages": messages}))


def test_a_stream_says_what_the_whole_answer_says_in_openais_chunks(api: Server, card) -> None:
    body = question(data_uri(card, "PNG"), stream_options={"include_usage": True})
    whole = api.post(body).json()
    with api.stream(body) as response:
        answered = events(response)
    *chunks, usage, done = answered
    assert done == "[DONE]"
    assert usage["choices"] == [] and usage["usage"] == whole["usage"]
    assert streamed_text(answered) == whole["choices"][0]["message"]["content"]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert {(chunk["object"], chunk["model"], chunk["id"]) for chunk in chunks} == {
        ("chat.completion.chunk", "cards", chunks[0]["id"])
    }
    assert all(isinstance(chunk["created"], int) for chunk in chunks)


def test_a_body_too_large_is_refused_before_it_is_read(api: Server) -> None:
    connection = http.client.HTTPConnection(urlsplit(api.url).netloc, timeout=30)
    connection.putrequest("POST", "/v1/chat/completions")
    connection.putheader("Content-Length", str(10**9))
    connection.endheaders(b"{")
    assert connection.getresponse().status == 413
    connection.close()


def test_pages_of_other_origins_and_the_documentation_are_closed(api: Server) -> None:
    assert "access-control-allow-origin" not in api.get("/v1/models").headers
    assert [api.get(path).status_code for path in ("/docs", "/redoc")] == [404, 404]


def test_the_log_holds_no_picture_and_no_question(api: Server, card) -> None:
    url = data_uri(card, "PNG")
    api.post(question(url))
    api.post(question(url[:-400]))
    log = api.log.read_text()
    assert "POST /v1/chat/completions" in log
    assert url[30:90] not in log and QUESTION not in log
