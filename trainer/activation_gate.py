"""Whether a model computes in fp16 what it computes in fp32, on real rows: weights rarely overflow, activations do."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from protocol import TemperError

# Two tokens whose fp32 logits are this close are a toss-up, which fp16's 11 bits may decide otherwise without harm.
TOSS_UP_LOGITS = 0.1


def run_gate(
    model_dir: Path,
    rows_file: Path,
    max_rows: int,
    max_new_tokens: int,
    image_max_pixels: int,
    progress: Callable[[int, int, str, str | None], None],
) -> dict[str, Any]:
    """Compare both types on the first rows; returns rows, nonFinite, differing, tossUps and maxAbsLogitDifference.

    `nonFinite` has, per row, the first module whose fp16 output is not finite; `differing` the rows whose greedy
    answers differ, `tossUps` those among them that part where fp32 itself is undecided. Weights are the folder's own
    both times; one model is in memory at a time.
    """
    rows = _read_rows(rows_file, max_rows)
    processor = AutoProcessor.from_pretrained(model_dir)
    inputs = [_inputs(processor, row, image_max_pixels) for row in rows]
    # A conversion before this one left the matrix library with one thread.
    torch.set_num_threads(torch.get_num_threads())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    done = 0

    def evaluate(dtype: torch.dtype) -> list[dict[str, Any]]:
        nonlocal done
        model = AutoModelForImageTextToText.from_pretrained(model_dir, dtype=dtype).to(device).eval()
        results = []
        for prompt, full in inputs:
            results.append(_evaluate(model, prompt, full, max_new_tokens))
            done += 1
            progress(done, 2 * len(rows), "rows", f"activations in {str(dtype).removeprefix('torch.')}")
        return results

    halves = evaluate(torch.float16)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    wholes = evaluate(torch.float32)
    return _compare(processor, halves, wholes)


def _read_rows(path: Path, max_rows: int) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        lines = [line for line in file if line.strip()][:max_rows]
    if not lines:
        raise TemperError("DatasetError", f"{path} has no rows to try the model on")
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise TemperError("DatasetError", f"{path} is not JSON lines: {error}") from error


def _inputs(processor: Any, row: dict[str, Any], image_max_pixels: int) -> tuple[Any, Any]:
    """A row's prompt, and the prompt with the row's own answer, as the model's inputs."""
    images = iter([_image(Path(path), image_max_pixels) for path in row.get("images") or []])
    messages = [{"role": turn["role"], "content": list(_parts(turn["content"], images))} for turn in row["messages"]]
    answered = messages[-1]["role"] == "assistant"
    prompt = messages[:-1] if answered else messages

    def apply(turns: list[dict[str, Any]], generation: bool) -> Any:
        return processor.apply_chat_template(
            turns, add_generation_prompt=generation, tokenize=True, return_dict=True, return_tensors="pt"
        )

    prompted = apply(prompt, True)
    return prompted, apply(messages, False) if answered else prompted


def _parts(text: str, images: Iterator[Any]) -> Iterator[dict[str, Any]]:
    for number, piece in enumerate(text.split("<image>")):
        if number:
            image = next(images, None)
            if image is None:
                raise TemperError("DatasetError", f"a row has fewer images than <image> placeholders: {text:.80}")
            yield {"type": "image", "image": image}
        if piece:
            yield {"type": "text", "text": piece}


def _image(path: Path, max_pixels: int) -> Any:
    """A picture in RGB, made smaller as LLaMA-Factory does before the processor sees it."""
    try:
        image = Image.open(path).convert("RGB")
    except OSError as error:
        raise TemperError("DatasetError", f"{path} cannot be read as a picture: {error}") from error
    if image.width * image.height > max_pixels:
        factor = (max_pixels / (image.width * image.height)) ** 0.5
        image = image.resize((max(1, int(image.width * factor)), max(1, int(image.height * factor))))
    return image


@torch.inference_mode()
def _evaluate(model: Any, prompt: Any, full: Any, max_new_tokens: int) -> dict[str, Any]:
    """One row: the first module with a non-finite output, the answer's logits, and the greedy answer with its own."""
    start = prompt["input_ids"].shape[1]
    with _watch(model) as first_bad:
        logits = model(**full.to(model.device)).logits[0, start - 1 :].float().cpu()
    answer = model.generate(
        **prompt.to(model.device),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return {
        "bad": first_bad(),
        "logits": logits,
        "tokens": answer.sequences[0, start:].tolist(),
        "steps": [step[0].float().cpu() for step in answer.logits],
    }


@contextmanager
def _watch(model: Any) -> Iterator[Callable[[], str | None]]:
    """Hooks on every module; children finish before their parents, so the first that is bad is where it began."""
    seen: list[tuple[str, torch.Tensor]] = []

    def watch(name: str) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            seen.extend((name, torch.isfinite(tensor).all()) for tensor in _tensors(output))

        return hook

    hooks = [module.register_forward_hook(watch(name or "model")) for name, module in model.named_modules()]
    try:
        yield lambda: next((name for name, fine in seen if not fine), None)
    finally:
        for hook in hooks:
            hook.remove()


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (list, tuple)):
        for value in output:
            yield from _tensors(value)


def _compare(processor: Any, halves: list[dict[str, Any]], wholes: list[dict[str, Any]]) -> dict[str, Any]:
    non_finite, differing, toss_ups, largest = [], [], [], 0.0
    for number, (half, whole) in enumerate(zip(halves, wholes, strict=True)):
        if half["bad"] or not torch.isfinite(half["logits"]).all():
            non_finite.append({"row": number, "module": half["bad"] or "lm_head"})
            continue
        largest = max(largest, float((half["logits"] - whole["logits"]).abs().max()))
        parting = _parting(half["tokens"], whole["tokens"])
        if parting is not None:
            row = {"row": number, "token": parting, "margin": _margin(half, whole, parting)}
            row |= {"fp16": _text(processor, half["tokens"]), "fp32": _text(processor, whole["tokens"])}
            (toss_ups if row["margin"] <= TOSS_UP_LOGITS else differing).append(row)
    return {
        "rows": len(halves),
        "nonFinite": non_finite,
        "differing": differing,
        "tossUps": toss_ups,
        "maxAbsLogitDifference": largest,
    }


def _parting(a: list[int], b: list[int]) -> int | None:
    """Where two answers part, or None when they are equal."""
    if a == b:
        return None
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _margin(half: dict[str, Any], whole: dict[str, Any], place: int) -> float:
    """By how many fp32 logits the model preferred its own token to fp16's, where the two answers part."""
    if place >= min(len(half["tokens"]), len(whole["steps"])):
        return float("inf")
    step = whole["steps"][place]
    return float(step[whole["tokens"][place]] - step[half["tokens"][place]])


def _text(processor: Any, tokens: list[int]) -> str:
    return processor.tokenizer.decode(tokens, skip_special_tokens=True)
