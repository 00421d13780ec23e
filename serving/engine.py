"""LLaMA-Factory's Hugging Face engine, mended for serving: one generation at a time on a thread of its own."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from llamafactory.chat.base_engine import Response
from llamafactory.chat.hf_engine import HuggingfaceEngine
from llamafactory.extras.constants import IMAGE_PLACEHOLDER
from PIL import Image
from transformers import StoppingCriteria, TextStreamer

logger = logging.getLogger("serving")

NO_MEMORY = "the GPU's memory does not hold this request: send a smaller picture or a shorter text"
CHARACTERS_PER_TOKEN_AT_MOST = 64


class RequestError(Exception):
    """The request cannot be answered as it is: `status` is the HTTP status, the message is for the client."""

    def __init__(self, message: str, status: int = 400, code: str = "invalid_request") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class GenerationError(Exception):
    """The model failed at a request that looked right; `__cause__` has the reason, the log its traceback."""


@dataclass
class Progress:
    """What the generation thread is doing, in time.monotonic() seconds: the ground that health stands on."""

    proved_at: float | None = None
    failed_at: float | None = None
    failure: str | None = None
    busy_since: float | None = None
    token_at: float = field(default_factory=time.monotonic)


class ServedEngine(HuggingfaceEngine):
    """Answers one request at a time, in order of arrival, on a thread that no failing or abandoned request takes away.

    LLaMA-Factory's own engine waits for streamed tokens in pool threads, which an exception in the generation leaves
    waiting forever, and lets a stream whose client has gone run on beside the next request.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.max_length: int = self.model.config.text_config.max_position_embeddings
        self.progress = Progress()
        self._thread = ThreadPoolExecutor(1, "generation")
        self._closing = threading.Event()

    async def chat(
        self, messages, system=None, tools=None, images=None, videos=None, audios=None, **kwargs
    ) -> list[Response]:
        """Answer a conversation; RequestError when it is too long, GenerationError when the model fails."""
        gone = threading.Event()
        request = (messages, system, tools, images, videos, audios, kwargs)
        try:
            return await self._queue(lambda: self._answer(request, gone))
        finally:
            gone.set()

    async def stream_chat(
        self, messages, system=None, tools=None, images=None, videos=None, audios=None, **kwargs
    ) -> AsyncGenerator[str | Response, None]:
        """Yield the answer's text in pieces, then the whole Response; raises as `chat` does, at any piece."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        gone = threading.Event()

        def put(text: str) -> None:
            if not gone.is_set():
                loop.call_soon_threadsafe(pieces.put_nowait, text)

        streamer = _Pieces(self.tokenizer, put)
        request = (messages, system, tools, images, videos, audios, kwargs)
        answer = asyncio.ensure_future(self._queue(lambda: self._answer(request, gone, streamer)))
        answer.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            yield (await answer)[0]
        finally:
            gone.set()

    async def prove(self) -> None:
        """Answer a question about a small picture, in turn with the requests; `progress` then says how that went."""
        await self._queue(self._see_whether_it_works)

    def close(self) -> None:
        """End the generation in progress at its next token and refuse those that wait."""
        self._closing.set()
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _queue(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._watched, work)

    def _watched(self, work: Callable[[], Any]) -> Any:
        self.progress.busy_since = self.progress.token_at = time.monotonic()
        try:
            with torch.inference_mode():
                return work()
        except RequestError:
            raise
        except torch.OutOfMemoryError:
            logger.exception("out of memory")
            failure: Exception = RequestError(NO_MEMORY, 503, "out_of_memory")
        except Exception as error:
            logger.exception("generation failed")
            failure = GenerationError(f"the model failed: {_sentence(error)}")
        finally:
            self.progress.busy_since = None
        # Out of the handler, so that the failed generation's memory is free.
        self._see_whether_it_works()
        raise failure

    def _see_whether_it_works(self) -> None:
        """Make one token about a small picture; after a failure this tells the request's fault from the model's."""
        self.progress.proved_at = None
        if torch.cuda.is_available():
            with contextlib.suppress(RuntimeError):
                torch.cuda.empty_cache()
        try:
            with torch.inference_mode():
                self._prove()
        except Exception as error:
            self.progress.failed_at, self.progress.failure = time.monotonic(), _sentence(error)
            logger.exception("the model cannot answer a question about a small picture")

    def _answer(self, request: tuple, gone: threading.Event, streamer: TextStreamer | None = None) -> list[Response]:
        if gone.is_set() or self._closing.is_set():
            raise RequestError("the server is stopping", 503, "stopping")
        arguments, prompt_length = self._prepare(request)
        stopper = _Stopper(lambda: gone.is_set() or self._closing.is_set(), self.progress)
        output = self.model.generate(**arguments, stopping_criteria=[stopper], streamer=streamer)
        if request[3]:
            self.progress.proved_at, self.progress.failure = time.monotonic(), None
        return [self._read_out(tokens, prompt_length) for tokens in output[:, prompt_length:].tolist()]

    def _prepare(self, request: tuple) -> tuple[dict[str, Any], int]:
        messages, system, tools, images, videos, audios, kwargs = request
        characters = sum(len(message["content"]) for message in messages) + len(system or "") + len(tools or "")
        if characters > self.max_length * CHARACTERS_PER_TOKEN_AT_MOST:
            raise _too_long(f"{characters} characters", self.max_length)
        arguments, prompt_length = self._process_args(
            self.model, self.tokenizer, self.processor, self.template, self.generating_args,
            messages, system, tools, images, videos, audios, dict(kwargs),
        )  # fmt: skip
        room = self.max_length - prompt_length
        if room < 1:
            media = (self.processor.image_token_id, self.processor.video_token_id)
            of_pictures = sum(token in media for token in arguments["inputs"][0].tolist())
            raise _too_long(f"{prompt_length} tokens, {of_pictures} of them for pictures", self.max_length)
        generation = arguments["generation_config"]
        generation.max_new_tokens = min(generation.max_new_tokens, room)
        return arguments, prompt_length

    def _read_out(self, tokens: list[int], prompt_length: int) -> Response:
        ends = set(self.template.get_stop_token_ids(self.tokenizer))
        length = next((at for at, token in enumerate(tokens) if token in ends), None)
        text = self.tokenizer.decode(tokens if length is None else tokens[:length], skip_special_tokens=True)
        return Response(
            response_text=text,
            response_length=len(tokens) if length is None else length + 1,
            prompt_length=prompt_length,
            finish_reason="length" if length is None else "stop",
        )

    def _prove(self) -> None:
        question = [{"role": "user", "content": f"{IMAGE_PLACEHOLDER}?"}]
        arguments, _ = self._process_args(
            self.model, self.tokenizer, self.processor, self.template, self.generating_args,
            question, images=[_small_picture()], input_kwargs={"max_new_tokens": 1},
        )  # fmt: skip
        arguments["generation_config"].update(output_logits=True, return_dict_in_generate=True)
        scores = self.model.generate(**arguments).logits[0]
        if not torch.isfinite(scores).all():
            raise ArithmeticError("the scores are not numbers: the weights are damaged, or overflow in this dtype")
        self.progress.proved_at, self.progress.failure = time.monotonic(), None


def _too_long(size: str, max_length: int) -> RequestError:
    return RequestError(
        f"the conversation has {size}; this server takes {max_length} tokens for question and answer together: "
        "send a shorter text, or fewer or smaller pictures",
        code="context_length_exceeded",
    )


class _Stopper(StoppingCriteria):
    """Notes every token made and ends a generation that nobody waits for."""

    def __init__(self, stopped: Callable[[], bool], progress: Progress) -> None:
        self._stopped = stopped
        self._progress = progress

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        self._progress.token_at = time.monotonic()
        return torch.full((input_ids.shape[0],), self._stopped(), dtype=torch.bool, device=input_ids.device)


class _Pieces(TextStreamer):
    """Hands on text as whole characters become known."""

    def __init__(self, tokenizer: Any, put: Callable[[str], Any]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._put = put

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self._put(text)


def _small_picture() -> Image.Image:
    """Something to see: a ramp of colors, 64x64."""
    picture = Image.new("RGB", (64, 64))
    picture.putdata([(4 * x, 4 * y, 2 * (x + y)) for y in range(64) for x in range(64)])
    return picture


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:500]
