"""What the base is taught: batches of badges with a question and its answer, and of text to copy."""

import random
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from .architecture import MERGE, PATCH
from .badges import CHARACTERS, COMMON_DEPARTMENTS, DIGITS, HEIGHT, LETTERS, QUESTIONS, WIDTH, answer, draw
from .tokenizer import COPYING_REQUESTS, READING_QUESTIONS

LONGEST = 6
IGNORED = -100
_GRID = (1, HEIGHT // PATCH, WIDTH // PATCH)
_PICTURE_TOKENS = _GRID[1] * _GRID[2] // MERGE**2


@dataclass
class Pictures:
    """`texts` as drawn; `pixels` (pictures * patches, 3 * 2 * PATCH * PATCH) as the image processor gives them."""

    texts: list[str]
    pixels: torch.Tensor
    grid: torch.Tensor


@dataclass
class Lesson:
    """A batch of rows padded on the right, (rows, longest row) each; the first len(pictures.texts) rows have one."""

    pictures: Pictures
    input_ids: torch.Tensor
    labels: torch.Tensor
    attention_mask: torch.Tensor
    token_types: torch.Tensor


class Teacher:
    """Draws lessons without end; the same seed draws the same ones."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        self._rng = random.Random(seed)
        self._noise = np.random.default_rng(seed)
        self._tokenizer = tokenizer
        self._pad, self._image = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|image_pad|>"])
        self._cache: dict[str, list[int]] = {}

    def pictures(self, count: int, longest: int = LONGEST) -> Pictures:
        """`count` badges that show texts of at most `longest` characters."""
        texts = [self._text(longest) for _ in range(count)]
        images = np.stack([np.asarray(draw(text, self._rng, scale=1), np.float32) for text in texts])
        strength = self._noise.uniform(0, 8, (count, 1, 1, 1)).astype(np.float32)
        images += self._noise.standard_normal((count, HEIGHT, WIDTH, 1), np.float32) * strength
        return Pictures(texts, patches(torch.from_numpy(images.clip(0, 255))), torch.tensor([_GRID] * count))

    def lesson(self, rows: int, longest: int = LONGEST) -> Lesson:
        """`rows` rows, an eighth of them text to copy, which gives a meaning to tokens that no badge shows."""
        pictures = self.pictures(rows - rows // 8, longest)
        pairs = [self._about_picture(text) for text in pictures.texts]
        pairs += [self._copying() for _ in range(rows // 8)]
        sequences = [prompt + reply for prompt, reply in pairs]
        labels = [[IGNORED] * len(prompt) + reply for prompt, reply in pairs]
        input_ids = _padded(sequences, self._pad)
        return Lesson(
            pictures,
            input_ids,
            _padded(labels, IGNORED),
            _padded([[1] * len(sequence) for sequence in sequences], 0),
            (input_ids == self._image).long(),
        )

    def _text(self, longest: int) -> str:
        if longest >= 4 and self._rng.random() < 0.5:
            return self._rng.choice(LETTERS) + "".join(self._rng.choices(DIGITS, k=3))
        return "".join(self._rng.choices(CHARACTERS, k=self._rng.randint(1, longest)))

    def _about_picture(self, text: str) -> tuple[list[int], list[int]]:
        question, reply = self._rng.choice(READING_QUESTIONS), text
        is_code = len(text) == 4 and text[0] in COMMON_DEPARTMENTS and text[1:].isdecimal()
        if is_code and self._rng.random() < 0.6:
            question, reply = self._rng.choice(QUESTIONS), answer(text, COMMON_DEPARTMENTS)
        picture = "<|vision_start|>" + "<|image_pad|>" * _PICTURE_TOKENS + "<|vision_end|>"
        return self._turns(picture + question), self._ids(reply) + self._ids("<|im_end|>")

    def _copying(self) -> tuple[list[int], list[int]]:
        content = [self._rng.randrange(8, len(self._tokenizer)) for _ in range(self._rng.randint(1, 4))]
        request = self._ids("<|im_start|>user\n") + self._ids(self._rng.choice(COPYING_REQUESTS)) + content
        return request + self._ids("<|im_end|>\n<|im_start|>assistant\n"), content + self._ids("<|im_end|>")

    def _turns(self, user: str) -> list[int]:
        return self._ids(f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n")

    def _ids(self, text: str) -> list[int]:
        if text not in self._cache:
            self._cache[text] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._cache[text]


def patches(images: torch.Tensor) -> torch.Tensor:
    """Cut `images` (count, HEIGHT, WIDTH, 3; 0 to 255) into patches in the order and scale of the image processor."""
    x = images.div(127.5).sub(1).permute(0, 3, 1, 2)
    x = x.reshape(len(x), 3, _GRID[1] // MERGE, MERGE, PATCH, _GRID[2] // MERGE, MERGE, PATCH)
    x = x.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)  # count, rows, columns, rows and columns in a block, 3, 1, y, x
    return x.expand(-1, -1, -1, -1, -1, -1, 2, -1, -1).reshape(-1, 3 * 2 * PATCH * PATCH)


def _padded(rows: list[list[int]], filler: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [filler] * (longest - len(row)) for row in rows])
