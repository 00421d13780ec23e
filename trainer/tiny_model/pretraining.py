"""How the base learns to read: first the vision tower alone, under a head that is thrown away, then the whole model."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision

from .architecture import HIDDEN, MERGE, PATCH
from .badges import CHARACTERS, HEIGHT, WIDTH
from .lessons import IGNORED, LONGEST, Lesson, Teacher

ROWS = 64
_PATCHES = (HEIGHT // PATCH) * (WIDTH // PATCH)
_NOTHING = len(CHARACTERS)

# Called after each step: the steps done, and the share of characters or tokens told right, a moving average.
Report = Callable[[int, float], None]


class CharacterHead(torch.nn.Module):
    """Names the character at each of LONGEST places from a picture's tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(_PATCHES // MERGE**2 * HIDDEN, LONGEST * (_NOTHING + 1))

    def forward(self, tokens: torch.Tensor, texts: list[str]) -> tuple[torch.Tensor, float]:
        """Loss of naming `texts` from `tokens` (pictures * tokens, HIDDEN), and the share of characters told right."""
        scores = self.linear(tokens.reshape(len(texts), -1)).view(len(texts), LONGEST, -1)
        truth = torch.tensor([_places(text) for text in texts])
        right = (scores.argmax(-1) == truth)[truth != _NOTHING].float().mean().item()
        return F.cross_entropy(scores.flatten(0, 1), truth.flatten()), right


def learn_to_see(
    model: Qwen3VLForConditionalGeneration, head: CharacterHead, teacher: Teacher, steps: int, report: Report
) -> None:
    """Train the vision tower under `head`; trained whole from the start, the model would ignore its pictures."""
    visual = model.model.visual
    optimizer = _optimizer((visual, 1.5e-3), (head, 1.5e-3))
    average = 0.0
    with _pictures_of_one_size(visual):
        for step in range(steps):
            pictures = teacher.pictures(ROWS)
            loss, right = head(visual(pictures.pixels, grid_thw=pictures.grid).pooler_output, pictures.texts)
            _take_step(optimizer, loss, min(1, (step + 1) / 50))
            average = 0.95 * average + 0.05 * right
            report(step + 1, average)


def learn_to_answer(
    model: Qwen3VLForConditionalGeneration, head: CharacterHead, teacher: Teacher, steps: int, report: Report
) -> None:
    """Train the whole model on texts that grow longer as it gets them right; `head` goes on helping a little."""
    visual = model.model.visual
    language = torch.nn.ModuleList([model.model.language_model, model.lm_head])
    optimizer = _optimizer((language, 2e-3), (visual, 1e-3), (head, 1e-3))
    average, longest = 0.0, 2
    with _pictures_of_one_size(visual) as seen:
        for step in range(steps):
            lesson = teacher.lesson(ROWS, longest)
            loss, right = _answering_loss(model, lesson)
            loss = loss + 0.5 * head(seen.pop(), lesson.pictures.texts)[0]
            _take_step(optimizer, loss, _warm_then_cosine(step, steps))
            average = 0.95 * average + 0.05 * right
            report(step + 1, average)
            is_time = average > 0.8 or step > 0.1 * steps * (longest - 1)
            if longest < LONGEST and step % 10 == 0 and is_time:
                longest += 1


def _answering_loss(model: Qwen3VLForConditionalGeneration, lesson: Lesson) -> tuple[torch.Tensor, float]:
    """The mean loss over the answers' tokens, and the share of them told right where there is a picture."""
    hidden = model.model(
        input_ids=lesson.input_ids,
        attention_mask=lesson.attention_mask,
        pixel_values=lesson.pictures.pixels,
        image_grid_thw=lesson.pictures.grid,
        mm_token_type_ids=lesson.token_types,
    ).last_hidden_state
    asked = lesson.labels[:, 1:] != IGNORED
    truth = lesson.labels[:, 1:][asked]
    scores = model.lm_head(hidden[:, :-1][asked])
    has_picture = asked.nonzero()[:, 0] < len(lesson.pictures.texts)
    right = (scores.argmax(-1) == truth)[has_picture].float().mean().item()
    return F.cross_entropy(scores, truth), right


def _optimizer(*modules: tuple[torch.nn.Module, float]) -> torch.optim.AdamW:
    """AdamW over (module, learning rate) pairs, without weight decay for biases and norms."""
    groups = []
    for module, rate in modules:
        matrices = [parameter for parameter in module.parameters() if parameter.ndim >= 2]
        vectors = [parameter for parameter in module.parameters() if parameter.ndim < 2]
        groups.append({"params": matrices, "weight_decay": 0.02, "full_rate": rate})
        groups.append({"params": vectors, "weight_decay": 0.0, "full_rate": rate})
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))


def _take_step(optimizer: torch.optim.AdamW, loss: torch.Tensor, share_of_rate: float) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    for group in optimizer.param_groups:
        group["lr"] = group["full_rate"] * share_of_rate
    optimizer.step()


def _warm_then_cosine(step: int, steps: int) -> float:
    """Up in 50 steps, level until 0.4 of `steps`, then half a cosine that starts at 1 and ends at 0.03."""
    rest = max(0.0, (step - 0.4 * steps) / (0.6 * steps))
    return min(1, (step + 1) / 50) * max(0.03, 0.5 * (1 + math.cos(math.pi * rest)))


def _places(text: str) -> list[int]:
    return [CHARACTERS.index(character) for character in text] + [_NOTHING] * (LONGEST - len(text))


@contextmanager
def _pictures_of_one_size(visual: torch.nn.Module) -> Iterator[deque[torch.Tensor]]:
    """Let the vision tower take its pictures as one batch, not one by one in Python loops; they must all be badges.

    Yields a queue that holds the last call's pooled tokens. Same outputs, in about half the time.
    """
    rotary, positions = visual.rot_pos_emb, visual.fast_pos_embed_interpolate
    visual.rot_pos_emb = lambda grid: rotary(grid[:1]).repeat(len(grid), 1)
    visual.fast_pos_embed_interpolate = lambda grid: positions(grid[:1]).repeat(len(grid), 1)
    attentions = [block.attn for block in visual.blocks]
    for attention in attentions:
        attention.forward = partial(_attend, attention)
    seen: deque[torch.Tensor] = deque(maxlen=1)
    hook = visual.register_forward_hook(lambda module, inputs, output: seen.append(output.pooler_output))
    try:
        yield seen
    finally:
        hook.remove()
        del visual.rot_pos_emb, visual.fast_pos_embed_interpolate
        for attention in attentions:
            del attention.forward


def _attend(
    attention: torch.nn.Module,
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    **_: object,
) -> torch.Tensor:
    """Qwen3VLVisionAttention.forward for `hidden_states` (pictures * _PATCHES, hidden) of pictures of one size."""
    qkv = attention.qkv(hidden_states).unflatten(-1, (3, attention.num_heads, -1))
    query, key = apply_rotary_pos_emb_vision(qkv[:, 0], qkv[:, 1], *position_embeddings)
    query, key, value = (part.unflatten(0, (-1, _PATCHES)).transpose(1, 2) for part in (query, key, qkv[:, 2]))
    mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
    return attention.proj(mixed.reshape(len(hidden_states), -1))
