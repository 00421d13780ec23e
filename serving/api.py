"""LLaMA-Factory's OpenAI-compatible API with its faults mended: its app, its requests and answers, our streaming."""

import asyncio
import hmac
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from llamafactory.api import app as factory_app
from llamafactory.api import chat as factory_chat
from llamafactory.chat import ChatModel
from llamafactory.chat.base_engine import Response
from sse_starlette import EventSourceResponse
from sse_starlette.sse import AppStatus
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chat_request import ServedChatRequest
from generation import GenerationError, RequestError
from health import Health

logger = logging.getLogger("serving")

MAX_BODY_BYTES = 64 * 2**20


def build_app(chat_model: ChatModel, name: str, health: Health, api_key: str | None) -> ASGIApp:
    """Build the app that serves `chat_model` as `name`; with `api_key`, all but GET /health wants it as bearer."""
    ServedChatRequest.served_name = name
    ServedChatRequest.special_tokens = frozenset(chat_model.engine.tokenizer.all_special_tokens)
    factory_app.ChatCompletionRequest = ServedChatRequest
    factory_app.create_stream_chat_completion_response = _stream
    factory_app.EventSourceResponse = _HeldStream
    # Streams in flight when SIGTERM comes are answered like all others; the drain time of the server limits them.
    AppStatus.disable_automatic_graceful_drain()
    app = factory_app.create_app(chat_model)
    # A page of another origin has no business with a server on loopback; the documentation loads scripts from outside.
    app.user_middleware = [middleware for middleware in app.user_middleware if middleware.cls is not CORSMiddleware]
    app.router.routes = [
        route
        for route in app.router.routes
        if getattr(route, "path", "") not in ("/docs", "/docs/oauth2-redirect", "/redoc")
    ]
    _add_error_handlers(app)
    _add_health(app, health, api_key)
    app.add_middleware(_Gate, api_key=api_key)
    return app


def _add_health(app: FastAPI, health: Health, api_key: str | None) -> None:
    @app.get("/health")
    async def get_health(request: Request) -> JSONResponse:
        failure = await health.failure()
        facts = health.facts()
        if not _has_key(request.scope, api_key):
            facts = {"model": facts["model"]}
        body = {"healthy": failure is None, **facts, **({} if failure is None else {"reason": failure})}
        return JSONResponse(body, 200 if failure is None else 503)


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    async def refuse(_: Request, error: RequestError) -> JSONResponse:
        return _error(error.status, str(error), error.code)

    @app.exception_handler(GenerationError)
    async def fail(_: Request, error: GenerationError) -> JSONResponse:
        return _error(500, str(error), "generation_failed")

    @app.exception_handler(RequestValidationError)
    async def explain(_: Request, error: RequestValidationError) -> JSONResponse:
        return _error(
            400, "; ".join(dict.fromkeys(_sentence(problem) for problem in error.errors())), "invalid_request"
        )

    @app.exception_handler(HTTPException)
    async def pass_on(_: Request, error: HTTPException) -> JSONResponse:
        return _error(
            error.status_code, str(error.detail), "invalid_request" if error.status_code < 500 else "server_error"
        )


def _sentence(problem: dict[str, Any]) -> str:
    """One of pydantic's problems as a sentence, without the input, which may be a whole picture."""
    where = ".".join(str(part) for part in problem["loc"] if part != "body")
    what = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {what}" if where else what


def _error(status: int, message: str, code: str) -> JSONResponse:
    return JSONResponse({"error": _error_body(status, message, code)}, status)


def _error_body(status: int, message: str, code: str) -> dict[str, Any]:
    return {"message": message, "type": "invalid_request_error" if status < 500 else "server_error", "code": code}


async def _stream(request: ServedChatRequest, chat_model: ChatModel) -> AsyncGenerator[str, None]:
    """Yield OpenAI's chunks, then [DONE]; a failure before the first text raises, one after it is the last event."""
    messages, system, _, images, videos, audios = factory_chat._process_request(request)
    head = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": request.model,
    }

    def chunk(delta: dict[str, str], finish_reason: str | None = None) -> str:
        return json.dumps(
            {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}, ensure_ascii=False
        )

    pieces = chat_model.astream_chat(
        messages, system, None, images, videos, audios,
        do_sample=request.do_sample, temperature=request.temperature, top_p=request.top_p,
        max_new_tokens=request.max_tokens, repetition_penalty=request.repetition_penalty,
    )  # fmt: skip
    begun = False
    try:
        async for piece in pieces:
            if not begun:
                yield chunk({"role": "assistant", "content": ""})
                begun = True
            if isinstance(piece, Response):
                yield chunk({}, piece.finish_reason)
                if request.stream_options and request.stream_options.include_usage:
                    yield json.dumps({**head, "choices": [], "usage": _usage(piece)})
            else:
                yield chunk({"content": piece})
    except (RequestError, GenerationError) as error:
        if not begun:
            raise
        yield json.dumps({"error": _error_body(500, str(error), "generation_failed")}, ensure_ascii=False)
        return
    finally:
        await pieces.aclose()
    yield "[DONE]"


def _usage(response: Response) -> dict[str, int]:
    prompt, completion = response.prompt_length, response.response_length
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class _HeldStream(EventSourceResponse):
    """Begins the response only when the first event is there, so that an early failure has its own HTTP status."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        rest = self.body_iterator
        first = await anext(rest)

        async def events() -> AsyncGenerator[str, None]:
            try:
                yield first
                async for event in rest:
                    yield event
            finally:
                await rest.aclose()

        self.body_iterator = events()
        await super().__call__(scope, receive, send)


async def _run_for_client(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run `app` until it has answered, or its client has gone and so ends the generation; refuse a body too large."""
    asked = asyncio.Event()
    received = 0
    answered = False

    async def receive_limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY_BYTES:
            raise RequestError(f"the request is larger than {MAX_BODY_BYTES:,} bytes", 413, "too_large")
        if not message.get("more_body"):
            asked.set()
        return message

    async def send_noting(message: Message) -> None:
        nonlocal answered
        answered = answered or (message["type"] == "http.response.body" and not message.get("more_body"))
        await send(message)

    async def wait_until_gone() -> None:
        await asked.wait()
        while (await receive())["type"] != "http.disconnect":
            pass

    answering = asyncio.ensure_future(app(scope, receive_limited, send_noting))
    leaving = asyncio.ensure_future(wait_until_gone())
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if answering.done() or answered:
            await answering
    finally:
        leaving.cancel()
        answering.cancel()
        await asyncio.gather(leaving, answering, return_exceptions=True)


class _Gate:
    """Turns away, before a body is read, whoever lacks the key, and bodies too large to be a question."""

    def __init__(self, app: ASGIApp, api_key: str | None) -> None:
        self._app = app
        self._api_key = api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] != "/health" and not _has_key(scope, self._api_key):
            refusal = _error(401, "this server wants its key: send 'Authorization: Bearer KEY'", "invalid_api_key")
            refusal.headers["WWW-Authenticate"] = "Bearer"
            await refusal(scope, receive, send)
            return
        if int(_header(scope, b"content-length") or 0) > MAX_BODY_BYTES:
            await _error(413, f"the request is larger than {MAX_BODY_BYTES:,} bytes", "too_large")(scope, receive, send)
            return
        await _run_for_client(self._app, scope, receive, send)


def _has_key(scope: Scope, api_key: str | None) -> bool:
    if api_key is None:
        return True
    scheme, _, given = _header(scope, b"authorization").decode("latin-1").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), api_key.encode())


def _header(scope: Scope, name: bytes) -> bytes:
    return next((value for key, value in scope["headers"] if key == name), b"")
