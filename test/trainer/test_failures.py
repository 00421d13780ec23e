"""Claims about trainer/failures.py: each exception is named for who must act, in a sentence."""

import errno

import pytest

from failures import TRACEBACK_LINES, RowError, failure_of
from protocol import TemperError


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


@pytest.mark.parametrize(
    ("exception", "phase", "error", "words"),
    [
        (OutOfMemoryError("CUDA out of memory."), "training", "OutOfMemoryError", "out of memory"),
        (RuntimeError("CUDA error: out of memory"), "loading", "OutOfMemoryError", "loading"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "training", "OutOfMemoryError", ""),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling"), "training", "OutOfMemoryError", ""),
        (MemoryError(), "preprocessing", "OutOfMemoryError", "MemoryError"),
        (OSError(errno.ENOSPC, "No space left on device"), "saving", "DiskFullError", "No space left"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "preprocessing", "DiskFullError", ""),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "saving", "DiskFullError", ""),
        (RuntimeError("[enforce fail at inline_container.cc:668] . unexpected pos 2 vs 1"), "saving", "DiskFullError", ""),
        (ValueError("Some keys are not used: ['lora_rnak']"), "parsing", "ConfigError", "lora_rnak"),
        (ValueError("Undefined dataset cards"), "preprocessing", "DatasetError", "cards"),
        (RuntimeError("Image features and image tokens do not match"), "training", "DatasetError", "cutoff_len"),
        (OSError("image file is truncated (2 bytes not processed)"), "training", "DatasetError", ""),
        (OSError("broken data stream when reading image file"), "training", "DatasetError", ""),
        (RuntimeError("CUDA error: too many resources requested for launch"), "training", "TrainerError", "fp16"),
        (RuntimeError("NCCL error"), "training", "TrainerError", "RuntimeError while training: NCCL error"),
        (TemperError("ConfigError", "say this"), "training", "ConfigError", "say this"),
        (RowError("the row"), "training", "DatasetError", "the row"),
    ],
)
def test_names_who_must_act(exception: Exception, phase: str, error: str, words: str) -> None:
    failure = failure_of(exception, phase)
    assert failure.error == error
    assert words in failure.message


def test_looks_below_an_exception_for_its_cause() -> None:
    try:
        try:
            raise FileNotFoundError(errno.ENOENT, "No such file", "/base/tokenizer.json")
        except FileNotFoundError as error:
            raise OSError("Failed to load tokenizer.") from error
    except OSError as error:
        failure = failure_of(error, "parsing")
    assert "Failed to load tokenizer: [Errno 2] No such file: '/base/tokenizer.json'" in failure.message


def test_an_exception_from_a_loader_worker_keeps_its_class_and_loses_its_traceback() -> None:
    words = "Caught RowError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  …\n"
    failure = failure_of(RowError(words + "failures.RowError: the row with 5.png"), "training")
    assert (failure.error, failure.message) == ("DatasetError", "the row with 5.png")


def test_keeps_the_last_lines_of_the_traceback_and_a_message_of_reasonable_length() -> None:
    def deep(depth: int) -> None:
        if depth == 0:
            raise RuntimeError("x" * 5000)
        other(depth)

    def other(depth: int) -> None:
        deep(depth - 1)

    try:
        deep(30)
    except RuntimeError as error:
        failure = failure_of(error, "training")
    assert len(failure.traceback) == TRACEBACK_LINES and failure.traceback[-1].startswith("RuntimeError: xxx")
    assert len(failure.message) < 1000 and max(map(len, failure.traceback)) <= 400
