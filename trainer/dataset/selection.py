"""Which rows of a dataset LLaMA-Factory takes: `split` with its slices, then `num_samples`, as datasets and it do."""

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

_PART = re.compile(r"(?P<name>\w+)(\[(?P<start>-?\d+%?)?:(?P<end>-?\d+%?)?\])?")


class NoSuchSplit(Exception):
    """The split cannot be taken; the message says why."""


def takes_all(split: str, num_samples: int | None) -> bool:
    """Whether every row is taken once, in order."""
    return split in ("train", "all") and num_samples is None


def select(split: str, num_samples: int | None, rows: int, random: Callable[[], Any]) -> Counter[int]:
    """How often each of `rows` rows is taken; raises NoSuchSplit.

    `num_samples` draws each row once, then more at random when there are too few. `random` gives the numpy state that
    LLaMA-Factory seeds once and draws all datasets of a training from.
    """
    taken = [index for part in split.split("+") for index in _part(part.strip(), rows)]
    if not taken:
        raise NoSuchSplit(f"split {split!r} takes none of the {rows} rows")
    if num_samples is None:
        return Counter(taken)
    state = random()
    drawn = state.permutation(len(taken))[:num_samples].tolist()
    if num_samples > len(drawn):
        drawn += state.choice(len(taken), num_samples - len(drawn)).tolist()
    return Counter(taken[index] for index in drawn)


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
