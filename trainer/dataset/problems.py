"""What can be wrong with a dataset, said so that somebody can mend it."""

from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["error", "warning"]
Effect = Literal["dies", "drops", "differs", "trains"]

_EFFECTS: dict[Effect, str] = {
    "dies": "LLaMA-Factory would die",
    "drops": "LLaMA-Factory would drop the row silently",
    "differs": "LLaMA-Factory would train on something else",
    "trains": "LLaMA-Factory would train on it",
}


@dataclass(slots=True)
class Problem:
    """One thing wrong; `row` counts from 0 in `file` and is None for what concerns the file or the dataset."""

    code: str
    what: str
    fix: str
    severity: Severity = "error"
    effect: Effect = "dies"
    how: str = ""
    field: str | None = None
    row: int | None = None
    file: str | None = None
    dataset: str | None = None
    healed: bool = False
    """Temper's own copy of the rows no longer has it, so with `drop` it is only a warning."""

    @property
    def message(self) -> str:
        """One text that stands alone: where, what, what LLaMA-Factory would do, the mend."""
        where = self.file or self.dataset or "dataset"
        if self.row is not None:
            where += f" row {self.row}"
        if self.field:
            where += f", {self.field}"
        how = f" ({self.how})" if self.how else ""
        return f"{where}: {self.what}. {_EFFECTS[self.effect]}{how}. {self.fix}."

    def record(self) -> dict[str, Any]:
        """The problem as plain JSON, as it stands in problems.jsonl and in the report."""
        return {
            "row": self.row,
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "file": self.file,
            "dataset": self.dataset,
            "field": self.field,
            "llamaFactory": self.effect,
            "fix": self.fix,
        }
