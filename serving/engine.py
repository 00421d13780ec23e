"""LLaMA-Factory's Hugging Face engine, mended for serving: one generation at a time on a thread of its own."""

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from llamafactory.chat.base_engine import Response
from llamafactory.chat.hf_engine import HuggingfaceEngine
from llamafactory.extras.constants import IMAGE_PLACEHOLDER
from transformers import StoppingCriteria, TextStreamer

from generation import (
    NO_NUMBERS,
    GenerationError,
    Progress,
    RequestError,
    check_characters,
    process_memory,
    sentence,
    small_picture,
    stopping,
    too_long,
)

logger = logging.getLogger("serving")

NO_MEMORY = "the GPU's memory does not hold this request: send a smaller picture or a shorter text"


class ServedEngine(HuggingfaceEngine):
    """Answers one request at a time, in order of arrival, on a thread that no failing or abandoned request takes away.

    LLaMA-Factory's own engine waits for streamed tokens in pool threads, which an exception in the generation leaves
    waiting forever, and lets a stream whose client has gone run on beside the next request.
    """

    backend = "huggingface"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.max_length: int = self.model.config.text_config.max_position_embeddings
        self.progress = Progress()
        self._thread = ThreadPoolExecutor(1, "generation")
        self._closing = threading.Event()

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def memory(self) -> dict[str, int]:
        """What serving takes, in bytes: of the GPUs where there are any, else of the host."""
        if not torch.cuda.is_available():
            return process_memory([os.getpid()])
        devices = range(torch.cuda.device_count())
        return {
            "memoryBytes": sum(map(torch.cuda.memory_reserved, devices)),
            "peakMemoryBytes": sum(map(torch.cuda.max_memory_reserved, devices)),
        }

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
            failure = GenerationError(f"the model failed: {sentence(error)}")
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
            self.progress.fail(sentence(error))
            logger.exception("the model cannot answer a question about a small picture")

    def _answer(self, request: tuple, gone: threading.Event, streamer: TextStreamer | None = None) -> list[Response]:
        if gone.is_set() or self._closing.is_set():
            raise stopping()
        arguments, prompt_length = self._prepare(request)
        stopper = _Stopper(lambda: gone.is_set() or self._closing.is_set(), self.progress)
        output = self.model.generate(**arguments, stopping_criteria=[stopper], streamer=streamer)
        if request[3]:
            self.progress.succeed()
        return [self._read_out(tokens, prompt_length) for tokens in output[:, prompt_length:].tolist()]

    def _prepare(self, request: tuple) -> tuple[dict[str, Any], int]:
        messages, system, tools, images, videos, audios, kwargs = request
        check_characters(messages, system, tools, self.max_length)
        arguments, prompt_length = self._process_args(
            self.model, self.tokenizer, self.processor, self.template, self.generating_args,
            messages, system, tools, images, videos, audios, dict(kwargs),
        )  # fmt: skip
        room = self.max_length - prompt_length
        if room < 1:
            media = (self.processor.image_token_id, self.processor.video_token_id)
            of_pictures = sum(token in media for token in arguments["inputs"][0].tolist())
            raise too_long(f"{prompt_length} tokens, {of_pictures} of them for pictures", self.max_length)
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
            question, images=[small_picture()], input_kwargs={"max_new_tokens": 1},
        )  # fmt: skip
        arguments["generation_config"].update(output_logits=True, return_dict_in_generate=True)
        scores = self.model.generate(**arguments).logits[0]
        if not torch.isfinite(scores).all():
            raise ArithmeticError(NO_NUMBERS)
        self.progress.succeed()


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
