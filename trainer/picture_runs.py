"""A picture's hundreds of equal tokens encoded as one: with no pixels to read, encoding them took most of the time."""

import contextlib
import functools
import re
from collections.abc import Iterator
from typing import Any

from llamafactory.data.template import Template


@contextlib.contextmanager
def encoded_once() -> Iterator[None]:
    """Let templates encode runs of their picture token once, in this process and those it forks meanwhile."""
    own_way = Template._convert_elements_to_ids
    tokenizers: dict[tuple[int, str], Any] = {}

    @functools.wraps(own_way)
    def convert(self: Template, tokenizer: Any, elements: list[Any]) -> list[int]:
        token = self.mm_plugin.image_token
        if not any(isinstance(element, str) and token and 2 * token in element for element in elements):
            return own_way(self, tokenizer, elements)
        key = id(tokenizer), token
        if key not in tokenizers:
            tokenizers[key] = RunEncoder(tokenizer, token) if is_apart(tokenizer, token) else tokenizer
        return own_way(self, tokenizers[key], elements)

    Template._convert_elements_to_ids = convert
    try:
        yield
    finally:
        Template._convert_elements_to_ids = own_way


class RunEncoder:
    """A tokenizer for which a run of `token` is one while it splits a text."""

    def __init__(self, tokenizer: Any, token: str) -> None:
        self._tokenizer, self._token = tokenizer, token
        self._id = tokenizer.convert_tokens_to_ids(token)
        self._run = re.compile(f"(?:{re.escape(token)})+")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def encode(self, text: str, **options: Any) -> list[int]:
        lengths = [len(run) // len(self._token) for run in self._run.findall(text)]
        ids = self._tokenizer.encode(self._run.sub(lambda _: self._token, text), **options)
        if ids.count(self._id) != len(lengths):
            # Another added token begins or ends inside of a run.
            return self._tokenizer.encode(text, **options)
        run_lengths = iter(lengths)
        whole: list[int] = []
        for token in ids:
            whole += [token] * next(run_lengths) if token == self._id else [token]
        return whole


def is_apart(tokenizer: Any, token: str) -> bool:
    """Whether the tokenizer cuts `token` out of any text before all else, so that what is around it does not matter.

    A fast tokenizer first looks for added tokens that are not normalized, from left to right, of several at one place
    for the longest (`AddedVocabulary` of tokenizers 0.22).
    """
    number = tokenizer.convert_tokens_to_ids(token)
    added = getattr(tokenizer, "added_tokens_decoder", {})
    if not getattr(tokenizer, "is_fast", False) or number not in added:
        return False
    bends = [getattr(added[number], flag) for flag in ("normalized", "lstrip", "rstrip", "single_word")]
    longer = any(token in str(other) for key, other in added.items() if key != number)
    return not any(bends) and not longer and tokenizer.encode(3 * token, add_special_tokens=False) == [number] * 3
