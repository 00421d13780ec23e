"""What is written about a dataset: problems and dropped rows as they come, and the report at the end."""

import json
import os
from array import array
from collections import Counter
from pathlib import Path
from typing import Any

from dataset.problems import Problem

MAX_REPORTED = 1000
"""Errors, and warnings, that report.json itself holds; problems.jsonl has them all."""


class LineFile:
    """A file of JSON lines that appears under its name only when it is whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._file = self._temporary.open("wb", buffering=1 << 20)
        self._ends = array("Q", [0])

    def write(self, line: bytes) -> None:
        """Append one line, given without its end."""
        self._file.write(line)
        self._file.write(b"\n")
        self._ends.append(self._ends[-1] + len(line) + 1)

    def write_json(self, record: dict[str, Any]) -> None:
        """Append one object; what JSON does not know is written as Python shows it."""
        self.write(json.dumps(record, ensure_ascii=False, default=repr).encode("utf-8", "replace"))

    @property
    def lines(self) -> int:
        """Lines written so far."""
        return len(self._ends) - 1

    def start_of(self, line: int) -> int:
        """Where a line begins, in bytes."""
        return self._ends[line]

    def reorder(self, order: list[int]) -> None:
        """Put the lines into another order, given as their numbers."""
        self._file.close()
        ordered = self._temporary.with_name(self._temporary.name + "2")
        with self._temporary.open("rb") as old, ordered.open("wb", buffering=1 << 20) as new:
            for number in order:
                old.seek(self._ends[number])
                new.write(old.read(self._ends[number + 1] - self._ends[number]))
        os.replace(ordered, self._temporary)
        self._file = self._temporary.open("ab")

    def commit(self) -> None:
        """Make the file durable and give it its name."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self._path)

    def discard(self) -> None:
        """Remove the file, and an older one of that name, so that nobody takes it for this dataset's."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)


class ProblemLog:
    """Collects problems: all of them in a file, the first in memory, counts by kind.

    With `drops`, what Temper's copy of the rows heals is only a warning.
    """

    def __init__(self, path: Path, drops: bool) -> None:
        self._file, self._drops = LineFile(path), drops
        self._first: dict[str, list[dict[str, Any]]] = {"error": [], "warning": []}
        self.kinds: Counter[tuple[str, str]] = Counter()
        self.errors = 0
        self.count = 0

    def add(self, problem: Problem) -> None:
        """Note one problem."""
        if problem.healed and self._drops:
            problem.severity = "warning"
        record = problem.record()
        self._file.write_json(record)
        self.kinds[problem.severity, problem.code] += 1
        self.count += 1
        self.errors += problem.severity == "error"
        if len(self._first[problem.severity]) < MAX_REPORTED:
            self._first[problem.severity].append(record)

    def commit(self) -> None:
        """Write the file under its name."""
        self._file.commit()

    def discard(self) -> None:
        """Remove the unfinished file."""
        self._file.discard()

    @property
    def first(self) -> list[dict[str, Any]]:
        """The first errors, then the first warnings."""
        return self._first["error"] + self._first["warning"]

    def by_kind(self) -> list[dict[str, Any]]:
        """How often each code occurs, errors first, frequent first."""
        ordered = sorted(self.kinds.items(), key=lambda item: (item[0][0], -item[1], item[0][1]))
        return [{"code": code, "severity": severity, "count": count} for (severity, code), count in ordered]

    def first_errors(self, limit: int) -> list[str]:
        """The first few errors as sentences."""
        return [record["message"] for record in self._first["error"][:limit]]


class TokenReport:
    """The distribution of tokens a row, from counts of counts."""

    def __init__(self) -> None:
        self._lengths: Counter[int] = Counter()
        self._longest_answers: dict[int, int] = {}
        self._shortest_prompt: int | None = None
        self.media = 0
        self.answers = 0
        self.cut_rows = 0

    def add(self, total: int, answers: int, media: int, cut: bool) -> None:
        """Note one row."""
        self._lengths[total] += 1
        self._longest_answers[total] = max(answers, self._longest_answers.get(total, 0))
        prompt = total - answers
        self._shortest_prompt = prompt if self._shortest_prompt is None else min(prompt, self._shortest_prompt)
        self.answers += answers
        self.media += media
        self.cut_rows += cut

    def record(self, cutoff_len: int, spare: int = 0) -> dict[str, Any] | None:
        """The figures as plain JSON; None without rows. `spare` tokens of cutoff_len are not the rows'."""
        if not self._lengths:
            return None
        rows = self._lengths.total()
        lengths = sorted(self._lengths.items())
        total = sum(length * count for length, count in lengths)
        longest = lengths[-1][0]
        return {
            "min": lengths[0][0],
            "median": _quantile(lengths, rows, 0.5),
            "p95": _quantile(lengths, rows, 0.95),
            "max": longest,
            "total": total,
            "mean": round(total / rows, 1),
            "answers": self.answers,
            "pictures": self.media,
            "cutoffLen": cutoff_len,
            "cutRows": self.cut_rows,
            "suggestedCutoffLen": max(64, -(-(longest + spare) // 64) * 64),
            "shortestPrompt": self._shortest_prompt,
            "histogram": _histogram(lengths),
            "lengths": self._by_length(lengths),
        }

    def _by_length(self, lengths: list[tuple[int, int]], most: int = 1000) -> list[list[int]]:
        """[tokens, rows, longest answer] from the shortest row up; near lengths share a line where there are many."""
        width = max(1, -(-(lengths[-1][0] - lengths[0][0] + 1) // most))
        lines: dict[int, list[int]] = {}
        for length, count in lengths:
            line = lines.setdefault((length - lengths[0][0]) // width, [0, 0, 0])
            line[0] = length
            line[1] += count
            line[2] = max(line[2], self._longest_answers[length])
        return list(lines.values())


def picture_sizes(counts: Counter[tuple[int, int]], most: int = 500) -> list[list[int]]:
    """[width, height, pictures] from the narrowest up; where there are many sizes, near ones share the largest."""
    cell = 1
    while True:
        lines: dict[tuple[int, int], list[int]] = {}
        for (width, height), count in counts.items():
            line = lines.setdefault((width // cell, height // cell), [0, 0, 0])
            line[0], line[1], line[2] = max(line[0], width), max(line[1], height), line[2] + count
        if len(lines) <= most:
            return sorted(lines.values())
        cell *= 2


def _quantile(lengths: list[tuple[int, int]], rows: int, share: float) -> int:
    seen = 0
    for length, count in lengths:
        seen += count
        if seen >= share * rows:
            return length
    return lengths[-1][0]


def _histogram(lengths: list[tuple[int, int]], bars: int = 20) -> list[dict[str, int]]:
    """Equal bars over (value, how often it is there), from the smallest on: {"from", "to" (inclusive), "rows"}."""
    low, high = lengths[0][0], lengths[-1][0]
    width = max(1, -(-(high - low + 1) // bars))
    rows = Counter[int]()
    for length, count in lengths:
        rows[(length - low) // width] += count
    return [
        {"from": low + bar * width, "to": low + (bar + 1) * width - 1, "rows": rows[bar]}
        for bar in range(max(rows) + 1)
    ]


def result_of(report: dict[str, Any], out: Path) -> dict[str, Any]:
    """The report in the length of a result line, and where the whole is."""
    return {
        **report,
        "problems": report["problems"][:20],
        "reportPath": str(out / "report.json"),
        "problemsPath": str(out / "problems.jsonl"),
    }
