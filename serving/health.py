"""Health that is true only when the model can answer, proved by a real generation about a picture."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generation import Engine

PROOF_LASTS_SECONDS = 10.0
FAILURE_LASTS_SECONDS = 2.0
STALLED_AFTER_SECONDS = 60.0
PROBE_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class Served:
    """Which model is served: its name in the API, its folder, and the run that it is from with its digest there."""

    name: str
    folder: Path
    run: str | None = None
    digest: str | None = None


class Health:
    """Says whether `engine` can answer; at most one probe is ever queued, however many ask."""

    def __init__(self, engine: Engine, served: Served) -> None:
        self._engine = engine
        self._served = served
        self._started = time.monotonic()
        self._probe: asyncio.Task[None] | None = None

    async def failure(self) -> str | None:
        """None when the model can answer, else the reason why not, in one sentence.

        A picture answered within the last PROOF_LASTS_SECONDS proves it, and so does a generation in progress whose
        tokens keep coming, if the one before it succeeded; otherwise a probe is made, which waits its turn.
        """
        progress, now = self._engine.progress, time.monotonic()
        if progress.proved_at is not None:
            if now - progress.proved_at < PROOF_LASTS_SECONDS:
                return None
            if progress.busy_since is not None and now - progress.token_at < STALLED_AFTER_SECONDS:
                return None
        elif progress.failed_at is not None and now - progress.failed_at < FAILURE_LASTS_SECONDS:
            return progress.failure
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._engine.prove())
        try:
            await asyncio.wait_for(asyncio.shield(self._probe), PROBE_TIMEOUT_SECONDS)
        except TimeoutError:
            return f"no answer about a small picture within {PROBE_TIMEOUT_SECONDS:.0f} s"
        return progress.failure

    def facts(self) -> dict[str, Any]:
        """What is served and what it takes; memory in bytes, the GPU's where there is one, else the process's."""
        served = self._served
        return {
            "model": served.name,
            "run": served.run,
            "modelDigest": served.digest,
            "backend": self._engine.backend,
            "dtype": str(self._engine.dtype).removeprefix("torch."),
            "modelDir": str(served.folder),
            "uptimeSeconds": round(time.monotonic() - self._started, 1),
            **self._engine.memory(),
        }
