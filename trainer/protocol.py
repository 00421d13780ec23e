"""How Temper's short-lived Python programs speak: JSON lines on the real stdout, everything else on stderr."""

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

ERROR_TYPES = (
    "ConfigError",
    "DatasetError",
    "HostError",
    "OutOfMemoryError",
    "DiskFullError",
    "DownloadError",
    "TrainerError",
    "DeploymentError",
)


class TemperError(Exception):
    """A failure that somebody can act on; `type` is one of ERROR_TYPES and says who."""

    def __init__(self, type: str, message: str, **details: Any) -> None:
        assert type in ERROR_TYPES, type
        super().__init__(message)
        self.type = type
        self.details = details


class Protocol:
    """Claims stdout for JSON lines: file descriptor 1 becomes stderr, so that no library's print can break a line."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
        os.dup2(2, 1)
        sys.stdout = sys.stderr

    def progress(self, done: int, total: int, unit: str, message: str | None = None) -> None:
        self._emit({"event": "progress", "done": done, "total": total, "unit": unit, "message": message})

    def result(self, result: dict[str, Any]) -> None:
        self._emit({"event": "result", **result})

    def error(self, type: str, message: str, details: dict[str, Any] | None = None) -> None:
        self._emit({"event": "error", "type": type, "message": message, "details": details})

    def _emit(self, line: dict[str, Any]) -> None:
        text = json.dumps({k: v for k, v in line.items() if v is not None}, ensure_ascii=False)
        print(text, file=self._out, flush=True)


def run(main: Callable[[Protocol], dict[str, Any]]) -> NoReturn:
    """Run `main`, emit what it returns as the result or what it raises as the error, and exit: 0 result, 1 error."""
    protocol = Protocol()
    try:
        protocol.result(main(protocol))
        code = 0
    except TemperError as error:
        protocol.error(error.type, str(error), error.details or None)
        code = 1
    except OSError as error:
        traceback.print_exc()
        full = error.errno in (28, 122)  # ENOSPC, EDQUOT
        message = f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
        protocol.error("DiskFullError" if full else "HostError", message)
        code = 1
    except Exception as error:
        traceback.print_exc()
        protocol.error("TrainerError", f"{type(error).__name__}: {error}")
        code = 1
    sys.stderr.flush()
    sys.exit(code)


def write_whole(path: Path | str, content: str | bytes, mode: int = 0o644) -> None:
    """Write a file so that no reader ever sees half of it: temporary file beside it, fsync, rename, folder fsync."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = content.encode() if isinstance(content, str) else content
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path | str) -> None:
    """Make renames and new names inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
