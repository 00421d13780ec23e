"""What the engines share: how a request fails, what is known of the generation, and the question that proves it."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

CHARACTERS_PER_TOKEN_AT_MOST = 64
NO_NUMBERS = "the scores are not numbers: the weights are damaged, or overflow in this dtype"


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
    """What the generation is doing, in time.monotonic() seconds: the ground that health stands on."""

    proved_at: float | None = None
    failed_at: float | None = None
    failure: str | None = None
    busy_since: float | None = None
    token_at: float = field(default_factory=time.monotonic)

    def succeed(self) -> None:
        self.proved_at, self.failure = time.monotonic(), None

    def fail(self, reason: str) -> None:
        self.proved_at, self.failed_at, self.failure = None, time.monotonic(), reason


class Engine(Protocol):
    """What health asks of an engine."""

    backend: str
    progress: Progress

    @property
    def dtype(self) -> Any: ...

    async def prove(self) -> None: ...

    def memory(self) -> dict[str, int]: ...


def check_characters(messages: list[dict[str, str]], system: str | None, tools: str | None, max_length: int) -> None:
    """Refuse what is too long by its characters alone, before it costs a tokenizer's time."""
    characters = sum(len(message["content"]) for message in messages) + len(system or "") + len(tools or "")
    if characters > max_length * CHARACTERS_PER_TOKEN_AT_MOST:
        raise too_long(f"{characters} characters", max_length)


def too_long(size: str, max_length: int) -> RequestError:
    return RequestError(
        f"the conversation has {size}; this server takes {max_length} tokens for question and answer together: "
        "send a shorter text, or fewer or smaller pictures",
        code="context_length_exceeded",
    )


def stopping() -> RequestError:
    return RequestError("the server is stopping", 503, "stopping")


def small_picture(number: int = 0) -> Image.Image:
    """Something to see: a ramp of colors, 64x64; another `number` makes it a picture that no cache has seen."""
    picture = Image.new("RGB", (64, 64))
    picture.putdata([(4 * x, 4 * y, 2 * (x + y)) for y in range(64) for x in range(64)])
    picture.putpixel((0, 0), (number % 256, number // 256 % 256, 0))
    return picture


def sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:500]


def process_memory(pids: list[int]) -> dict[str, int]:
    """What processes hold of the host's memory together; those that have ended hold none."""
    status = [_memory_lines(pid) for pid in pids]
    return {
        "memoryBytes": sum(each.get("VmRSS", 0) for each in status),
        "peakMemoryBytes": sum(each.get("VmHWM", 0) for each in status),
    }


def _memory_lines(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines if line.startswith(("VmRSS:", "VmHWM:")))
    return {name.rstrip(":"): int(kilobytes) * 1024 for name, kilobytes, _ in fields}
