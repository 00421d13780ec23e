"""Make the demo's base model: a tiny Qwen3-VL, pre-trained on a CPU until it can read badges.

OMP_NUM_THREADS=1 trainer/.venv/bin/python trainer/make_tiny_model.py demo/tiny-qwen3-vl
"""

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import protocol


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to make; it must not exist yet")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vision-steps", type=int, default=1500, help="steps of the vision tower alone")
    parser.add_argument("--steps", type=int, default=2500, help="steps of the whole model")
    arguments = parser.parse_args()
    protocol.run(lambda speaker: make_tiny_model(**vars(arguments), speaker=speaker))


def make_tiny_model(out: Path, seed: int, vision_steps: int, steps: int, speaker: protocol.Protocol) -> dict[str, Any]:
    """Pre-train the model and put it at `out`, whole or not at all; returns its path and size.

    Raises ConfigError if `out` is there already.
    """
    if out.exists():
        raise protocol.TemperError("ConfigError", f"{out} is there already: remove it, or name another folder.")

    # Imported here because torch and transformers take seconds, which a wrong argument need not.
    import torch

    from tiny_model.architecture import build_model, build_processor
    from tiny_model.folder import save_model, write_digests
    from tiny_model.lessons import Teacher
    from tiny_model.pretraining import CharacterHead, learn_to_answer, learn_to_see
    from tiny_model.tokenizer import build_tokenizer

    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    head = CharacterHead()
    teacher = Teacher(tokenizer, seed)
    total = vision_steps + steps
    learn_to_see(model, head, teacher, vision_steps, _reporter(speaker, "seeing", 0, total))
    learn_to_answer(model, head, teacher, steps, _reporter(speaker, "answering", vision_steps, total))

    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_model(model, build_processor(tokenizer), temporary)
    write_digests(temporary, {"seed": seed, "vision_steps": vision_steps, "steps": steps})
    temporary.rename(out)
    return {
        "path": str(out),
        "parameters": model.num_parameters(),
        "sizeBytes": sum(file.stat().st_size for file in out.iterdir()),
    }


def _reporter(speaker: protocol.Protocol, lesson: str, before: int, total: int) -> Callable[[int, float], None]:
    def report(step: int, right: float) -> None:
        if step % 50 == 0 or before + step == total:
            speaker.progress(before + step, total, "steps", f"{lesson}: {right:.1%} right")

    return report


if __name__ == "__main__":
    main()
