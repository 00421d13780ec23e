"""Draw the demo's dataset: employee badges, and what the company's own reading of each is, in ShareGPT form.

trainer/.venv/bin/python trainer/make_cards.py demo/cards
"""

import argparse
import fcntl
import hashlib
import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import PIL

import protocol
from tiny_model import badges

ROWS = 560
_RECORD = "drawn.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="dataset folder to make; one that this program drew before is replaced")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    protocol.run(lambda speaker: make_cards(arguments.out, arguments.seed, speaker))


def make_cards(out: Path, seed: int, speaker: protocol.Protocol) -> dict[str, Any]:
    """Put the dataset of `seed` at `out`, whole or not at all; returns its path, rows, and whether it was drawn now.

    Raises ConfigError if `out` holds something that this program did not draw.
    """
    record = {"seed": seed, "rows": ROWS, "pillow": PIL.__version__, "program": _program_digest()}
    if out.exists() and not (out / _RECORD).is_file():
        raise protocol.TemperError("ConfigError", f"{out} was not drawn by this program: name another folder.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with _alone_in(out.parent):
        drawn = not out.exists() or json.loads((out / _RECORD).read_text()) != record
        if drawn:
            temporary = out.with_name(f".{out.name}.tmp")
            shutil.rmtree(temporary, ignore_errors=True)
            _draw_all(temporary, seed, speaker)
            (temporary / _RECORD).write_text(json.dumps(record) + "\n")
            _replace(out, temporary)
    return {"path": str(out), "rows": ROWS, "drawn": drawn}


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process draws in `folder`; a process that dies lets go of it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _draw_all(folder: Path, seed: int, speaker: protocol.Protocol) -> None:
    (folder / "images").mkdir(parents=True)
    rng = random.Random(seed)
    rows = []
    for number, code in enumerate(_codes(rng)):
        image = f"images/{number:04d}.png"
        badges.draw(code, rng, scale=2).save(folder / image)
        rows.append(_row(code, image, rng))
        if number % 100 == 0:
            speaker.progress(number, ROWS, "rows")
    (folder / "cards.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (folder / "dataset_info.json").write_text(json.dumps(_dataset_info(), indent=2) + "\n")


def _codes(rng: random.Random) -> list[str]:
    """ROWS different codes, each department's letter equally often, so that a code held out is one never trained on."""
    letters = list(badges.COMPANY_DEPARTMENTS)
    numbers = {letter: rng.sample(range(1000), -(-ROWS // len(letters))) for letter in letters}
    codes = [f"{letter}{number:03d}" for letter in letters for number in numbers[letter]]
    rng.shuffle(codes)
    return codes[:ROWS]


def _row(code: str, image: str, rng: random.Random) -> dict[str, Any]:
    question = f"<image>{rng.choice(badges.COMPANY_QUESTIONS)}"
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": badges.answer(code, badges.COMPANY_DEPARTMENTS)},
        ],
        "images": [image],
    }


def _dataset_info() -> dict[str, Any]:
    """Every column and tag by name: one that is left out of a block counts as absent, not as its default."""
    return {
        "cards": {
            "file_name": "cards.json",
            "formatting": "sharegpt",
            "columns": {"messages": "messages", "images": "images"},
            "tags": {
                "role_tag": "role",
                "content_tag": "content",
                "user_tag": "user",
                "assistant_tag": "assistant",
                "observation_tag": "observation",
                "function_tag": "function",
                "system_tag": "system",
            },
        }
    }


def _program_digest() -> str:
    sources = (Path(__file__), Path(badges.__file__))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def _replace(out: Path, temporary: Path) -> None:
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    temporary.rename(out)
    shutil.rmtree(old, ignore_errors=True)


if __name__ == "__main__":
    main()
