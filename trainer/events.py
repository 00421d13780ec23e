"""What a training tells the world: one JSON object a line in events.jsonl, each written with a single append."""

import json
import math
import os
import time
from pathlib import Path
from typing import Any


class EventLog:
    """Appends events; a disabled one (any rank but 0) appends none. Never raises once it is open."""

    def __init__(self, path: Path | None) -> None:
        self._file: int | None = None
        self._opened_at = 0
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._end_torn_line()
        self._opened_at = os.fstat(self._file).st_size

    def emit(self, type: str, **fields: Any) -> None:
        """Append one event with its time (seconds since the epoch); NaN or infinity is null, named in "nonFinite"."""
        if self._file is None:
            return
        event: dict[str, Any] = {"type": type, **fields, "time": round(time.time(), 3)}
        non_finite = {key: str(value) for key, value in event.items() if is_non_finite(value)}
        if non_finite:
            event = {key: None if key in non_finite else value for key, value in event.items()}
            event["nonFinite"] = non_finite
        try:
            os.write(self._file, (json.dumps(event, allow_nan=False, default=str) + "\n").encode())
        except (OSError, ValueError) as error:
            print(f"the event {type} could not be written: {error}", flush=True)

    def phase(self, phase: str) -> None:
        self.emit("phase", phase=phase)

    def has_failed(self) -> bool:
        """Whether a failure has been written, by whatever rank, since this log was opened."""
        if self._file is None:
            return False
        size = os.fstat(self._file).st_size - self._opened_at
        return b'{"type": "failed"' in os.pread(self._file, max(size, 0), self._opened_at)

    def sync(self) -> None:
        if self._file is not None:
            os.fsync(self._file)

    def _end_torn_line(self) -> None:
        """A process killed while it wrote leaves half a line; end it, so that it spoils no other."""
        assert self._file is not None
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")


def is_non_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
