"""What one training process knows about itself: its phase, its steps, and whether somebody asked it to stop."""

import signal
from pathlib import Path
from types import FrameType

from events import EventLog

GO_ON, STOP_REQUESTED, INTERRUPTED = 0, 1, 2


class Interrupted(BaseException):
    """A signal asked this process to end, and what could be saved has been saved."""


class TrainingRun:
    """Shared by the callback, the hooks and train.py; one a process."""

    def __init__(self, events: EventLog, output_dir: Path, stop_file: Path | None, resumed_at_step: int) -> None:
        self.events = events
        self.output_dir = output_dir
        self.stop_file = stop_file
        self.phase = "starting"
        self.between_steps_only = False
        self.step = resumed_at_step
        self.max_steps = 0
        self.stopped = False
        self.stopped_early = False
        self.trainable_parameters: int | None = None
        self.signal: signal.Signals | None = None

    def enter(self, phase: str) -> None:
        if phase != self.phase:
            self.phase = phase
            self.events.phase(phase)

    def listen(self) -> None:
        """Let SIGTERM and SIGINT end this process: between two steps while it trains, at once while it doesn't."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def wish(self) -> int:
        """What this process was asked for: INTERRUPTED outweighs STOP_REQUESTED outweighs GO_ON."""
        if self.signal is not None:
            return INTERRUPTED
        if self.stop_file is not None and self.stop_file.exists():
            return STOP_REQUESTED
        return GO_ON

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        if not self.between_steps_only:
            raise Interrupted
