"""A base of random weights at a true shape, and rows with pictures, for the benches of this folder."""

import importlib.util
import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "demo/tiny-qwen3-vl"
PICTURE_LIMITS = {"longest_edge": 16777216, "shortest_edge": 65536}


@dataclass
class Rows:
    """`count` rows of `pictures` 512 × 512 pictures (256 tokens each), with answers of so many tokens, from and to."""

    count: int
    pictures: int
    answers: tuple[int, int]


def make_model(work: Path, shape: str) -> Path:
    """A base of random bf16 weights with the tiny tokenizer's ids and Qwen3-VL's picture limits; `tiny` is the demo's."""
    base = work / f"base-{shape}"
    if (base / "made").exists():
        return base
    if shape == "tiny":
        shutil.copytree(TINY, base)
    else:
        make_random_base(base, shape)
    for name in ("preprocessor_config.json", "processor_config.json"):
        content = json.loads((base / name).read_text())
        content.get("image_processor", content)["size"] = PICTURE_LIMITS
        (base / name).write_text(json.dumps(content))
    (base / "made").touch()
    return base


def make_random_base(base: Path, shape: str) -> None:
    """A base of random bf16 weights at a true shape, whose token ids are the tiny tokenizer's."""
    _bench_merge().make_base(str(base), shape, str(TINY))
    config = json.loads((base / "config.json").read_text())
    small = json.loads((TINY / "config.json").read_text())
    config |= {key: value for key, value in small.items() if key.endswith("_token_id")}
    config["text_config"] |= {key: small["text_config"][key] for key in ("bos_token_id", "eos_token_id")}
    (base / "config.json").write_text(json.dumps(config))


def make_rows(folder: Path, model: Path, rows: Rows) -> Path:
    """Write a ShareGPT dataset `rows` with its dataset_info.json into `folder`."""
    from PIL import Image
    from tokenizers import Tokenizer

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    chance = random.Random(7)
    for number in range(64):
        noise = Image.effect_noise((512, 512), 20 + 3 * number).convert("RGB")
        noise.save(folder / f"{number}.jpg", quality=85)
    records = []
    for number in range(rows.count):
        shown = [f"{(number * rows.pictures + each) % 64}.jpg" for each in range(rows.pictures)]
        question = "<image>" * rows.pictures + "识别这张工牌"
        answer = _answer(tokenizer, chance, chance.randint(*rows.answers))
        said = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        records.append({"messages": said, "images": shown})
    (folder / "rows.json").write_text(json.dumps(records, ensure_ascii=False))
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    columns = {"messages": "messages", "images": "images"}
    info = {"rows": {"file_name": "rows.json", "formatting": "sharegpt", "columns": columns, "tags": tags}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def _answer(tokenizer: Any, chance: random.Random, tokens: int) -> str:
    """Digits of about so many tokens."""
    text = ""
    while len(tokenizer.encode(text, add_special_tokens=False).ids) < tokens:
        text += str(chance.randint(0, 9))
    return text


def _bench_merge() -> Any:
    """bench/merge.py, under a name that is not the trainer's package `merge`."""
    spec = importlib.util.spec_from_file_location("bench_merge", ROOT / "bench/merge.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
