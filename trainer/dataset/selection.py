"""Which rows of a dataset LLaMA-Factory takes: `split` with its slices, `num_samples`, `max_samples`."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_PART = re.compile(r"(?P<name>\w+)(\[(?P<start>-?\d+%?)?:(?P<end>-?\d+%?)?\])?")


class NoSuchSplit(Exception):
    """The split cannot be taken; the message says why."""


@dataclass
class Taken:
    """How often each row is taken, by its number in the whole dataset; `often` None means once, up to `limit`."""

    often: Counter[int] | None = None
    limit: int | None = None

    def __getitem__(self, row: int) -> int:
        if self.often is not None:
            return self.often[row]
        return int(self.limit is None or row < self.limit)

    def none_from(self, row: int) -> bool:
        """Whether no row from this one on is taken."""
        return self.often is None and self.limit is not None and row >= self.limit


def select(
    split: str,
    num_samples: int | None,
    max_samples: int | None,
    count_rows: Callable[[], int],
    random: Callable[[], Any],
) -> Taken:
    """Which rows are taken; raises NoSuchSplit. Rows are counted only if it takes that.

    `num_samples` draws each row once, then more at random when there are too few; `max_samples` takes the first of
    those. `random` gives the numpy state that LLaMA-Factory seeds once and draws all datasets of a training from.
    """
    if split in ("train", "all") and num_samples is None:
        return Taken(limit=max_samples)
    rows = count_rows()
    taken = [index for part in split.split("+") for index in _part(part.strip(), rows)]
    if not taken:
        raise NoSuchSplit(f"split {split!r} takes none of the {rows} rows")
    if num_samples is not None:
        state = random()
        drawn = state.permutation(len(taken))[:num_samples].tolist()
        if num_samples > len(drawn):
            drawn += state.choice(len(taken), num_samples - len(drawn)).tolist()
        taken = [taken[index] for index in drawn]
    return Taken(Counter(taken[:max_samples]))


def _part(text: str, rows: int) -> range:
    match = _PART.fullmatch(text)
    if match is None:
        raise NoSuchSplit(f"split {text!r} is not of the form train or train[start:end]")
    if match["name"] not in ("train", "all"):
        raise NoSuchSplit(f"split {match['name']!r} does not exist: rows from files are all in 'train'")
    start, end = (_bound(match[name], rows, default) for name, default in (("start", 0), ("end", rows)))
    return range(start, max(start, end))


def _bound(text: str | None, rows: int, default: int) -> int:
    if text is None:
        return default
    value = int(text.rstrip("%"))
    if text.endswith("%"):
        if abs(value) > 100:
            raise NoSuchSplit(f"{text} is beyond 100%")
        value = round(value * rows / 100)
    return min(rows, max(0, value + rows if value < 0 else value))
