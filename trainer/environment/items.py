"""One line of the environment's report."""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["ok", "warning", "error"]

SETUP = "npm run setup"


@dataclass
class Item:
    """What was looked at, what was found and what is needed; `fix` is a command or a sentence, empty when ok."""

    name: str
    found: str
    needed: str
    verdict: Verdict = "ok"
    fix: str = ""

    def record(self) -> dict[str, Any]:
        """The item as plain JSON."""
        return asdict(self)


def install_command(*requirements: str) -> str:
    """The command that brings packages into this environment: the set-up for Temper's own, else pip."""
    own = Path(__file__).resolve().parents[1] / ".venv"
    if Path(sys.prefix).resolve() == own.resolve():
        return SETUP
    return f"{sys.executable} -m pip install {' '.join(repr(requirement) for requirement in requirements)}"
