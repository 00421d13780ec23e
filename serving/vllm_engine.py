"""LLaMA-Factory's vLLM engine, mended for serving: greedy unless asked, ended with its client, known to be dead."""

import asyncio
import contextlib
import json
import logging
import math
import os
import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from llamafactory.chat.base_engine import Response
from llamafactory.chat.vllm_engine import VllmEngine
from llamafactory.extras.constants import IMAGE_PLACEHOLDER
from vllm import SamplingParams
from vllm.platforms import current_platform
from vllm.utils import import_pynvml
from vllm.v1.engine.exceptions import EngineDeadError

from chat_request import MAX_PICTURES
from generation import (
    NO_NUMBERS,
    GenerationError,
    Progress,
    check_characters,
    process_memory,
    sentence,
    small_picture,
    stopping,
    too_long,
)

logger = logging.getLogger("serving")

DEAD = "vLLM's engine core has ended: the log says why, and only a new start helps"


def vllm_arguments(max_length: int, gpu_memory_share: float) -> dict[str, Any]:
    """LLaMA-Factory's options for the CPU, or for one GPU, of whose free memory vLLM takes `gpu_memory_share`."""
    on_cpu = current_platform.is_cpu()
    settings = {
        "tensor_parallel_size": 1,
        "limit_mm_per_prompt": {"image": MAX_PICTURES, "video": 0},
        # A picture is seldom sent twice, and the cache is 4 GiB in each of two processes.
        "mm_processor_cache_gb": 0,
        "worker_extension_cls": "vllm_worker.EndsWithServer",
    }
    share = {} if on_cpu else {"vllm_gpu_util": _share_of_all(gpu_memory_share, *_gpu_memory())}
    return {
        "infer_backend": "vllm",
        "vllm_maxlen": max_length,
        # On the CPU, compiling takes minutes.
        "vllm_enforce_eager": on_cpu,
        "vllm_config": json.dumps(settings),
        **share,
    }


def _share_of_all(share: float, free: int, total: int) -> float:
    return share * free / total


def _gpu_memory() -> tuple[int, int]:
    """Free and all bytes of the first visible GPU; by NVML, since CUDA would take memory for a context of its own."""
    nvml = import_pynvml()
    nvml.nvmlInit()
    try:
        device = nvml.nvmlDeviceGetHandleByIndex(current_platform.device_id_to_physical_device_id(0))
        memory = nvml.nvmlDeviceGetMemoryInfo(device)
        return memory.free, memory.total
    finally:
        nvml.nvmlShutdown()


class ServedVllmEngine(VllmEngine):
    """Answers requests side by side, in batches that vLLM makes.

    LLaMA-Factory's own engine ignores `do_sample`, and hands on the last of several answers alone.
    """

    backend = "vllm"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.max_length: int = self.model_args.vllm_maxlen
        self._progress = Progress()
        self._in_progress = 0
        self._probes = 0
        self._closing = False

    @property
    def progress(self) -> Progress:
        if self.model.errored:
            self._progress.fail(DEAD)
        return self._progress

    @property
    def dtype(self) -> Any:
        return self.model.model_config.dtype

    def memory(self) -> dict[str, int]:
        """What serving takes, in bytes: of a GPU the share that vLLM was told, else of the host."""
        if current_platform.is_cpu():
            core = self.model.engine_core.resources.engine_manager
            return process_memory([os.getpid(), *(process.pid for process in core.processes)])
        told = int(self.model_args.vllm_gpu_util * _gpu_memory()[1])
        return {"memoryBytes": told, "peakMemoryBytes": told}

    async def chat(
        self, messages, system=None, tools=None, images=None, videos=None, audios=None, **kwargs
    ) -> list[Response]:
        """Answer a conversation; RequestError when it is too long, GenerationError when the model fails."""
        latest: dict[int, Response] = {}
        async with contextlib.aclosing(self._answers(messages, system, tools, images, kwargs)) as answers:
            async for index, answer in answers:
                latest[index] = answer
        return [latest[index] for index in sorted(latest)]

    async def stream_chat(
        self, messages, system=None, tools=None, images=None, videos=None, audios=None, **kwargs
    ) -> AsyncGenerator[str | Response, None]:
        """Yield the answer's text in pieces, then the whole Response; raises as `chat` does, at any piece."""
        told = 0
        async with contextlib.aclosing(self._answers(messages, system, tools, images, kwargs)) as answers:
            async for _, answer in answers:
                if piece := answer.response_text[told:]:
                    yield piece
                told = len(answer.response_text)
        yield answer

    async def prove(self) -> None:
        """Answer a question about a small picture, beside the requests; `progress` then says how that went."""
        self._progress.proved_at = None
        try:
            await self._prove()
        except Exception as error:
            self._progress.fail(DEAD if isinstance(error, EngineDeadError) else sentence(error))
            logger.exception("the model cannot answer a question about a small picture")

    def close(self) -> None:
        """Refuse what comes and end vLLM's engine core."""
        self._closing = True
        self.model.shutdown()

    async def _answers(
        self, messages: list, system: str | None, tools: str | None, images: list | None, kwargs: dict[str, Any]
    ) -> AsyncGenerator[tuple[int, Response], None]:
        """Yield each answer's index and its state so far; closing this takes the request out of vLLM's batch."""
        if self._closing:
            raise stopping()
        check_characters(messages, system, tools, self.max_length)
        prompt, prompt_length = await asyncio.to_thread(self._prompt, messages, system, tools, images)
        sampling = self._sampling(self.max_length - prompt_length, **kwargs)
        try:
            async with self._outputs(prompt, sampling) as outputs:
                with self._counted():
                    async for output in outputs:
                        self._progress.token_at = time.monotonic()
                        for answer in output.outputs:
                            yield answer.index, _response(answer, prompt_length)
        except Exception as error:
            logger.exception("generation failed")
            await self.prove()
            reason = DEAD if isinstance(error, EngineDeadError) else sentence(error)
            raise GenerationError(f"the model failed: {reason}") from error
        if images:
            self._progress.succeed()

    def _outputs(self, prompt: dict[str, Any], sampling: SamplingParams) -> contextlib.aclosing:
        """vLLM's outputs as they come; leaving the context takes the request out of its batch."""
        return contextlib.aclosing(self.model.generate(prompt, sampling, request_id=uuid.uuid4().hex))

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        if self._in_progress == 0:
            self._progress.busy_since = self._progress.token_at = time.monotonic()
        self._in_progress += 1
        try:
            yield
        finally:
            self._in_progress -= 1
            if self._in_progress == 0:
                self._progress.busy_since = None

    def _prompt(
        self, messages: list, system: str | None, tools: str | None, images: list | None
    ) -> tuple[dict[str, Any], int]:
        """The prompt as vLLM takes it, a picture being one token, and its length with the pictures' own tokens."""
        plugin = self.template.mm_plugin
        limits = {key: getattr(self.model_args, key) for key in ("image_max_pixels", "image_min_pixels")}
        pictures = plugin._regularize_images(images or [], **limits)["images"]
        turns = plugin.process_messages(messages, pictures, [], [], self.processor)
        ids, _ = self.template.encode_oneturn(
            self.tokenizer, [*turns, {"role": "assistant", "content": ""}], system, tools
        )
        of_pictures = sum(map(self._tokens_of, pictures))
        length = len(ids) - len(pictures) + of_pictures
        if length >= self.max_length:
            raise too_long(f"{length} tokens, {of_pictures} of them for pictures", self.max_length)
        return {"prompt_token_ids": ids, "multi_modal_data": {"image": pictures} if pictures else None}, length

    def _tokens_of(self, picture: Any) -> int:
        processor = self.processor.image_processor
        return processor.get_number_of_image_patches(picture.height, picture.width, {}) // processor.merge_size**2

    def _sampling(
        self,
        room: int,
        *,
        do_sample: bool | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        repetition_penalty: float | None = None,
        max_new_tokens: int | None = None,
        num_return_sequences: int = 1,
        **_: Any,
    ) -> SamplingParams:
        """Sampling by the rules of LLaMA-Factory's Hugging Face engine: greedy unless asked, or for several answers."""
        default = self.generating_args
        temperature = default["temperature"] if temperature is None else temperature
        wanted = default["do_sample"] if do_sample is None else do_sample
        if num_return_sequences > 1 or (wanted and temperature > 0):
            top_p = default["top_p"] if top_p is None else top_p
            chosen = {"temperature": temperature or 1.0, "top_p": top_p, "top_k": default["top_k"]}
        else:
            chosen = {"temperature": 0.0}
        return SamplingParams(
            n=num_return_sequences,
            repetition_penalty=repetition_penalty or default["repetition_penalty"],
            stop_token_ids=self.template.get_stop_token_ids(self.tokenizer),
            max_tokens=min(max_new_tokens or default["max_new_tokens"], room),
            skip_special_tokens=default["skip_special_tokens"],
            **chosen,
        )

    async def _prove(self) -> None:
        # Another picture each time: vLLM doesn't look twice at one that it knows.
        self._probes += 1
        question = [{"role": "user", "content": f"{IMAGE_PLACEHOLDER}?"}]
        prompt, _ = await asyncio.to_thread(self._prompt, question, None, None, [small_picture(self._probes)])
        sampling = SamplingParams(max_tokens=1, temperature=0.0, logprobs=1)
        async with self._outputs(prompt, sampling) as outputs:
            async for output in outputs:
                scores = [each.logprob for at_token in output.outputs[0].logprobs for each in at_token.values()]
        if not all(map(math.isfinite, scores)):
            raise ArithmeticError(NO_NUMBERS)
        self._progress.succeed()


def _response(answer: Any, prompt_length: int) -> Response:
    return Response(
        response_text=answer.text,
        response_length=len(answer.token_ids),
        prompt_length=prompt_length,
        finish_reason="stop" if answer.finish_reason == "stop" else "length",
    )
