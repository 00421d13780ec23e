"""Names a training's failure by who must act, with a message that stands alone."""

import errno
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from protocol import TemperError

TRACEBACK_LINES = 15
MESSAGE_LENGTH = 800
LINE_LENGTH = 400

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cublas_status_alloc_failed", "cannot allocate memory")
# The last two are torch.save's words for a write that the disk did not take.
DISK_FULL = (
    "no space left on device",
    "disk quota exceeded",
    "os error 28",
    "os error 122",
    "] . unexpected pos ",
    "pytorchstreamwriter failed writing",
)
DATA_AT_A_STEP = (
    "image features and image tokens do not match",
    "video features and video tokens do not match",
    "cannot be broadcast to indexing result",
    "cannot identify image file",
    "image file is truncated",
    "when reading image file",
    "failed to read next frame",
    "number of images does not match",
    "number of videos does not match",
)
LOST_CONNECTION = ("connection closed by peer", "connection reset by peer", "broken pipe", "remote process exited")
# (what the exception says, what to do about it)
KNOWN_TRAPS = (
    (
        "too many resources requested for launch",
        "this GPU has no bfloat16 (V100 and older): set precision to fp16",
    ),
    (
        "no kernel image is available",
        "this build of torch has no kernels for this GPU: install the torch that the lock file names",
    ),
    (
        "cannot be broadcast to indexing result",
        "a row's picture tokens were cut off at cutoff_len: raise cutoff_len or lower image_max_pixels",
    ),
    (
        "features and image tokens do not match",
        "a row's picture tokens were cut off at cutoff_len: raise cutoff_len or lower image_max_pixels",
    ),
    (
        "launch distributed training",
        "several GPUs are visible: give --processes, or make one visible with CUDA_VISIBLE_DEVICES",
    ),
)


class RowError(TemperError):
    """A DatasetError that keeps its class on the way out of a data loader's worker process."""

    def __init__(self, message: str) -> None:
        super().__init__("DatasetError", message)


@dataclass(frozen=True)
class Failure:
    """`error` is one of protocol.ERROR_TYPES; `exception` the Python class that was raised."""

    error: str
    exception: str
    message: str
    traceback: list[str]
    details: dict[str, Any] = field(default_factory=dict)


def failure_of(exception: BaseException, phase: str) -> Failure:
    """Name what `exception`, raised in `phase` of the training, means."""
    causes = list(chain(exception))
    named = next((cause for cause in causes if isinstance(cause, TemperError)), None)
    if named is not None:
        return Failure(named.type, class_name(named), what_was_said(named), last_lines(exception), named.details)
    first = causes[0]
    said = what_was_said(first) or class_name(first)
    cause = what_was_said(root) if (root := deepest_cause(first)) is not first else ""
    if cause and cause not in said:
        said = f"{said.rstrip('.')}: {cause}"
    said = said if len(said) <= MESSAGE_LENGTH else said[: MESSAGE_LENGTH - 1] + "…"
    hint = next((hint for sign, hint in KNOWN_TRAPS if any(sign in str(cause).lower() for cause in causes)), None)
    message = f"{type(first).__name__} while {phase}: {said}" + (f" ({hint})" if hint else "")
    return Failure(error_type(causes, phase), class_name(first), message, last_lines(exception))


def what_was_said(exception: BaseException) -> str:
    """The message; of an exception out of a data loader worker, which carries a traceback, the last line."""
    text = str(exception).strip()
    if text.startswith("Caught ") and "Original Traceback" in text:
        return text.splitlines()[-1].partition(": ")[2] or text.splitlines()[-1]
    return text


def error_type(causes: list[BaseException], phase: str) -> str:
    if any(is_out_of_memory(cause) for cause in causes):
        return "OutOfMemoryError"
    if any(is_disk_full(cause) for cause in causes):
        return "DiskFullError"
    if phase == "parsing":
        return "ConfigError"
    if phase == "preprocessing":
        return "DatasetError"
    if any(sign in str(cause).lower() for cause in causes for sign in DATA_AT_A_STEP):
        return "DatasetError"
    return "TrainerError"


def is_out_of_memory(exception: BaseException) -> bool:
    if isinstance(exception, MemoryError) or type(exception).__name__ == "OutOfMemoryError":
        return True
    return isinstance(exception, RuntimeError) and any(sign in str(exception).lower() for sign in OUT_OF_MEMORY)


def lost_connection(exception: BaseException) -> bool:
    """Whether it says no more than that another rank, or the network to it, is gone."""
    causes = list(chain(exception))
    if any(isinstance(cause, TemperError) for cause in causes):
        return False
    names = {type(cause).__name__ for cause in causes}
    said = [str(cause).lower() for cause in causes]
    return "DistBackendError" in names or any(sign in each for sign in LOST_CONNECTION for each in said)


def is_disk_full(exception: BaseException) -> bool:
    if isinstance(exception, OSError) and exception.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(sign in str(exception).lower() for sign in DISK_FULL)


def chain(exception: BaseException) -> Iterator[BaseException]:
    """The exception and what caused it, outermost first."""
    seen: set[int] = set()
    current: BaseException | None = exception
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def deepest_cause(exception: BaseException) -> BaseException:
    """The exception at the bottom of "raise … from …"; one merely raised while another was handled stays the first."""
    while exception.__cause__ is not None:
        exception = exception.__cause__
    return exception


def class_name(exception: BaseException) -> str:
    kind = type(exception)
    return kind.__name__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__name__}"


def last_lines(exception: BaseException) -> list[str]:
    text = "".join(traceback.format_exception(exception))
    return [line[:LINE_LENGTH] for line in text.splitlines() if line.strip()][-TRACEBACK_LINES:]
