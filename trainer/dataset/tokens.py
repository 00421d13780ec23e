"""Exact token counts without torch: the base's tokenizer, LLaMA-Factory's template, the processor's resize rule.

Mirrors `data/template.py`, `data/mm_plugin.py` and `data/processor/supervised.py` of LLaMA-Factory 0.9.5 and
`smart_resize` of transformers 5.6.0; a test compares the counts with theirs.
"""

import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataset.settings import Settings
from dataset.structure import Conversation, function_calls
from dataset.videos import VIDEO_PAD, VISION_END, VISION_START, Clip, VideoRule, clip_text

IMAGE_PAD = "<|image_pad|>"
CONTROL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    VISION_START,
    VISION_END,
    "<|vision_pad|>",
    IMAGE_PAD,
    VIDEO_PAD,
)

_USER = "<|im_start|>user\n{{content}}<|im_end|>\n<|im_start|>assistant\n"
_ASSISTANT = "{{content}}<|im_end|>\n"
_SYSTEM = "<|im_start|>system\n{{content}}<|im_end|>\n"
_OBSERVATION = "<|im_start|>user\n<tool_response>\n{{content}}\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
_TOOLS = (
    "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>{tool_text}"
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    """<tool_call></tool_call> XML tags:\n<tool_call>\n{{"name": <function-name>, """
    """"arguments": <args-json-object>}}\n</tool_call>"""
)
_EMPTY_THOUGHT = "<think>\n\n</think>\n\n"
_THOUGHT = re.compile(r"<think>\n(.*?)\n</think>\n\n", re.DOTALL)

TEMPLATES = {
    # name: (a thinking template, shows pictures, the system prompt when the row has none)
    "qwen3_vl": (True, True, ""),
    "qwen3_vl_nothink": (False, True, ""),
    "qwen2_vl": (False, True, "You are a helpful assistant."),
    "qwen3": (True, False, ""),
    "qwen3_nothink": (False, False, ""),
    "qwen": (False, False, "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
}


class UnreadableBase(Exception):
    """The base folder lacks what counting needs; the message says which file."""


@dataclass(frozen=True)
class PictureRule:
    """How a picture of so many pixels becomes tokens: LLaMA-Factory's own limits, then the processor's."""

    max_pixels: int
    min_pixels: int
    patch: int
    merge: int
    shortest: int
    longest: int

    def tokens(self, width: int, height: int) -> int:
        """Number of picture tokens; ValueError where LLaMA-Factory or the processor would raise."""
        width, height = limit_size(width, height, self.max_pixels, self.min_pixels)
        factor = self.patch * self.merge
        high, wide = smart_resize(height, width, factor, self.shortest, self.longest)
        return (high // self.patch) * (wide // self.patch) // self.merge**2


def limit_size(width: int, height: int, max_pixels: int, min_pixels: int) -> tuple[int, int]:
    """LLaMA-Factory's resize before the processor's: pixel limits, sides of at least 28, aspect at most 200."""
    if width * height > max_pixels:
        factor = math.sqrt(max_pixels / (width * height))
        width, height = int(width * factor), int(height * factor)
    if width * height < 1:
        raise ValueError("the picture is so thin that a side would shrink to 0 pixels")
    if width * height < min_pixels:
        factor = math.sqrt(min_pixels / (width * height))
        width, height = int(width * factor), int(height * factor)
    if min(width, height) < 28:
        width, height = max(width, 28), max(height, 28)
    if width / height > 200:
        width = height * 180
    if height / width > 200:
        height = width * 180
    return width, height


def smart_resize(height: int, width: int, factor: int, shortest: int, longest: int) -> tuple[int, int]:
    """`smart_resize` of transformers' qwen2_vl image processor; ValueError where it raises."""
    if max(height, width) / min(height, width) > 200:
        raise ValueError("one side is more than 200 times the other")
    high, wide = round(height / factor) * factor, round(width / factor) * factor
    if high * wide > longest:
        beta = math.sqrt((height * width) / longest)
        high = max(factor, math.floor(height / beta / factor) * factor)
        wide = max(factor, math.floor(width / beta / factor) * factor)
    elif high * wide < shortest:
        beta = math.sqrt(shortest / (height * width))
        high, wide = math.ceil(height * beta / factor) * factor, math.ceil(width * beta / factor) * factor
    return high, wide


def read_picture_rule(model: Path, max_pixels: int, min_pixels: int) -> PictureRule | None:
    """The rule of the base's image processor; None for a base that sees no pictures."""
    settings = _processor_settings(model, "image_processor", "preprocessor_config.json")
    if settings is None:
        return None
    shortest, longest = _edges(settings, 56 * 56, 28 * 28 * 1280)
    patch, merge = settings.get("patch_size") or 14, settings.get("merge_size") or 2
    return PictureRule(max_pixels, min_pixels, patch, merge, shortest, longest)


def read_video_rule(
    model: Path, template: str, max_pixels: int, min_pixels: int, fps: float, max_frames: int
) -> VideoRule | None:
    """The rule of the base's video processor; None for a base that has none."""
    settings = _processor_settings(model, "video_processor", "video_preprocessor_config.json")
    if settings is None:
        return None
    shortest, longest = _edges(settings, 128 * 32 * 32, 32 * 32 * 768)
    return VideoRule(
        max_pixels,
        min_pixels,
        fps,
        max_frames,
        patch=settings.get("patch_size") or 16,
        temporal_patch=settings.get("temporal_patch_size") or 2,
        merge=settings.get("merge_size") or 2,
        shortest=shortest,
        longest=longest,
        timed=template.startswith("qwen3_vl"),
    )


def _processor_settings(model: Path, key: str, name: str) -> dict[str, Any] | None:
    """A processor's settings, from processor_config.json (transformers 5) or from a file of its own."""
    for path, inner in ((model / "processor_config.json", key), (model / name, None)):
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            settings = content.get(inner) if inner else content
            if settings:
                return settings
    return None


def _edges(settings: dict[str, Any], shortest: int, longest: int) -> tuple[int, int]:
    size = settings.get("size") or {}
    return (
        settings.get("min_pixels") or size.get("shortest_edge") or shortest,
        settings.get("max_pixels") or size.get("longest_edge") or longest,
    )


@dataclass(slots=True)
class Shown:
    """What a row shows: tokens of each picture, and its videos."""

    pictures: list[int] = field(default_factory=list)
    clips: list[Clip] = field(default_factory=list)


@dataclass(slots=True)
class Count:
    """Tokens of a row: all of it, those that are learned, of its pictures; and what `cutoff_len` takes away."""

    total: int
    answers: int
    media: int
    media_cut: int = 0
    answers_cut: int = 0
    questions_cut: int = 0
    turns_cut: int = 0
    from_start: bool = False
    """The first turns are cut before the last ones."""


class TokenCounter:
    """Counts rows in batches with the base's tokenizer, as LLaMA-Factory would encode them with the settings."""

    def __init__(self, model: Path, settings: Settings, video_rule: VideoRule | None = None) -> None:
        os.environ.setdefault("RAYON_NUM_THREADS", str(settings.processes))
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        from tokenizers import Tokenizer

        path = model / "tokenizer.json"
        if not path.is_file():
            raise UnreadableBase(f"{path} does not exist, so tokens cannot be counted")
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            raise UnreadableBase(f"{path} cannot be read: {error}") from error
        self._tokenizer.add_tokens(settings.add_tokens)
        self._tokenizer.add_special_tokens(_added_special_tokens(settings))
        self._thinking, self.shows_pictures, self._default_system = TEMPLATES[settings.template]
        if settings.default_system is not None:
            self._default_system = settings.default_system
        self._settings, self._video_rule, self._has_videos = settings, video_rule, False
        self._cutoff_len = settings.limit
        self._forgets = settings.mask_history and not settings.preserve_thinking
        """Whether a thinking template leaves the thoughts of earlier answers out."""
        self.special_tokens = _special_tokens(path)

    def count(self, rows: Sequence[tuple[Conversation, Shown]]) -> list[Count | ValueError]:
        """Count each row; a ValueError in a row's place says why LLaMA-Factory would die on its videos."""
        texts: list[str] = []
        plans: list[tuple[list[list[str]], list[int]] | ValueError] = []
        for conversation, shown in rows:
            try:
                pieces = self._pieces(conversation, shown.clips)
            except ValueError as error:
                plans.append(error)
                continue
            plans.append((pieces, shown.pictures))
            texts += [text for parts in pieces for text in parts]
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        lengths = iter([len(encoding) for encoding in encodings])
        return [plan if isinstance(plan, ValueError) else self._count(*plan, lengths) for plan in plans]

    def _count(self, pieces: list[list[str]], pictures: list[int], lengths: Iterator[int]) -> Count:
        sizes = [sum(next(lengths) for _ in parts) for parts in pieces]
        frames = sum(text.count(VIDEO_PAD) for parts in pieces for text in parts) if self._has_videos else 0
        total = sum(sizes) + sum(pictures) - len(pictures)
        answers = sizes[-1] if self._settings.mask_history else sum(sizes[1::2])
        learned = total if self._settings.train_on_prompt else answers
        count = Count(total, learned, sum(pictures) + frames, from_start=self._settings.mask_history)
        if count.total > self._cutoff_len:
            self._cut(count, pieces, pictures)
        return count

    def _pieces(self, conversation: Conversation, clips: list[Clip]) -> list[list[str]]:
        """The texts that are encoded one by one, a list for each turn; a picture is one <|image_pad|> for now."""
        number = 0
        pieces: list[list[str]] = []
        for index, (role, content) in enumerate(conversation.turns):
            parts: list[str] = []
            if index == 0:
                system = conversation.system or self._default_system
                tools = _tool_text(conversation.tools)
                if system or conversation.tools:
                    parts.append(_SYSTEM.replace("{{content}}", system + tools, 1))
            if self.shows_pictures:
                content = content.replace("<image>", f"{VISION_START}{IMAGE_PAD}{VISION_END}")
                while clips and self._video_rule is not None and "<video>" in content:
                    content = content.replace("<video>", clip_text(clips, number, index, self._video_rule), 1)
                    self._has_videos = True
                    number += 1
            last = index == len(conversation.turns) - 1
            if index % 2 == 1 and self._thinking:
                content = self._thought(content, parts, pieces, last)
            if role == "user":
                parts.append(_USER.replace("{{content}}", content, 1).replace("{{idx}}", str(index // 2), 1))
            elif role == "observation":
                parts.append(_OBSERVATION.replace("{{content}}", content, 1))
            elif role == "function":
                parts.append(_ASSISTANT.replace("{{content}}", _function_text(content), 1))
            else:
                parts.append(_ASSISTANT.replace("{{content}}", content, 1))
            pieces.append([part for part in parts if part])
        return pieces

    def _thought(self, content: str, parts: list[str], pieces: list[list[str]], last: bool) -> str:
        """An answer as a thinking template writes it; an empty thought goes before it or to the question's end."""
        if self._settings.enable_thinking is False:
            content = _THOUGHT.sub("", content).lstrip("\n")
        if self._forgets and not last:
            return _THOUGHT.sub("", content).lstrip("\n")
        if "<think>" not in content and "</think>" not in content:
            (parts if self._settings.enable_thinking else pieces[-1]).append(_EMPTY_THOUGHT)
        return content

    def _cut(self, count: Count, pieces: list[list[str]], pictures: list[int]) -> None:
        """What LLaMA-Factory's cut takes: turn by turn, question and answer share what is left of cutoff_len."""
        image, video = self._tokenizer.token_to_id(IMAGE_PAD), self._tokenizer.token_to_id(VIDEO_PAD)
        sizes = iter(pictures)
        turns = []
        for parts in pieces:
            marks: list[int] = []
            for part in parts:
                for token in self._tokenizer.encode(part, add_special_tokens=False).ids:
                    if token == image:
                        marks += [1] * next(sizes)
                    else:
                        marks.append(1 if token == video else 0)
            turns.append(marks)
        used = 0
        pairs = list(zip(turns[::2], turns[1::2], strict=True))
        for question, answer in reversed(pairs) if count.from_start else pairs:
            if used >= self._cutoff_len:
                kept_question = kept_answer = 0
                count.turns_cut += 1
            else:
                kept_question, kept_answer = _share(len(question), len(answer), self._cutoff_len - used)
            used += kept_question + kept_answer
            count.media_cut += sum(question[kept_question:]) + sum(answer[kept_answer:])
            count.questions_cut += len(question) - kept_question
            count.answers_cut += len(answer) - kept_answer


def _share(source: int, target: int, limit: int) -> tuple[int, int]:
    """`infer_seqlen` of LLaMA-Factory: how many tokens of question and answer fit into `limit`."""
    if target * 2 < limit:
        most = limit
    elif source * 2 < limit:
        most = limit - source
    else:
        most = int(limit * (target / (source + target)))
    kept = min(most, target)
    return min(max(limit - kept, 0), source), kept


def _tool_text(tools: str) -> str:
    if not tools or not (parsed := json.loads(tools)):
        return ""
    text = ""
    for tool in parsed:
        wrapped = tool if tool.get("type") == "function" else {"type": "function", "function": tool}
        text += "\n" + json.dumps(wrapped, ensure_ascii=False)
    return _TOOLS.format(tool_text=text)


def _function_text(content: str) -> str:
    before, calls = function_calls(content)
    rendered = [json.dumps(call, ensure_ascii=False) for call in calls]
    return before + "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in rendered)


def _added_special_tokens(settings: Settings) -> list[str]:
    """The special tokens that LLaMA-Factory adds: those of the file if there is one."""
    path = settings.new_special_tokens_config
    if path is None:
        return settings.add_special_tokens
    import yaml

    try:
        described = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UnreadableBase(f"new_special_tokens_config {path} cannot be read: {error}") from error
    if not isinstance(described, dict):
        raise UnreadableBase(f"new_special_tokens_config {path} is no block of tokens with their descriptions")
    return [str(token) for token in described]


def _special_tokens(path: Path) -> frozenset[str]:
    added = json.loads(path.read_text(encoding="utf-8")).get("added_tokens", [])
    return frozenset(token["content"] for token in added if token.get("special"))
