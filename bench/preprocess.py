"""Tokenizing pictures: rows a second by their headers and LLaMA-Factory's own way, and that the rows are the same.

    trainer/.venv/bin/python bench/preprocess.py [--rows 400] [--rounds 1] [--workers 1]

Draws pictures into a temporary folder and has LLaMA-Factory's `get_dataset` read, convert and tokenize rows of one
picture each with the demo's tokenizer and Qwen3-VL's picture limits, in turn both ways, on one thread a process. A figure
is the median of its rounds. Rows are the same when every column's type and every value is. Minutes; 200 MB.
"""

import argparse
import io
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "trainer"))

from datasets import Dataset
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer
from PIL import Image

from picture_grids import from_headers
from picture_runs import encoded_once

PICTURES = [("JPEG", 512, 512), ("PNG", 512, 512), ("JPEG", 1024, 768), ("JPEG", 4032, 3024)]
LIMITS = {"longest_edge": 16777216, "shortest_edge": 65536}
TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400, help="of each kind of picture")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="preprocessing_num_workers")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), arguments)
    print(json.dumps({**vars(arguments), "pictures": results}, indent=2))
    if not all(result["identical"] for result in results.values()):
        sys.exit("the rows differ")


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    base = make_base(folder / "base")
    results = {}
    for kind, width, height in PICTURES:
        name = f"{kind} {width} × {height}"
        data = folder / name
        draw(data, kind, (width, height), arguments.rows)
        tokenize = tokenizer_of(base, data, arguments.workers)
        tokenize(without_pixels())  # reads the files into memory, and what is imported late
        results[name] = compare(tokenize, arguments.rows, arguments.rounds)
        print(name, results[name], file=sys.stderr, flush=True)
        shutil.rmtree(data)
    return results


def compare(tokenize: Callable[[AbstractContextManager], Dataset], rows: int, rounds: int) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {"own": [], "ours": []}
    identical = True
    for _ in range(rounds):
        made = {}
        for way, hook in (("own", nullcontext()), ("ours", without_pixels())):
            started = time.perf_counter()
            dataset = tokenize(hook)
            seconds[way].append(time.perf_counter() - started)
            made[way] = dataset.features, dataset.to_list()
        identical &= made["own"] == made["ours"] and len(made["own"][1]) == rows
    own, ours = (rows / statistics.median(seconds[way]) for way in ("own", "ours"))
    return {
        "llamaFactoryRowsPerSecond": round(own, 1),
        "rowsPerSecond": round(ours),
        "timesFaster": round(ours / own, 1),
        "identical": identical,
    }


@contextmanager
def without_pixels() -> Iterator[None]:
    """What a training has in place while it tokenizes."""
    with from_headers(), encoded_once():
        yield


def tokenizer_of(base: Path, data: Path, workers: int) -> Callable[[AbstractContextManager], Dataset]:
    """A function that tokenizes the dataset in `data` anew, with a hook in place."""
    model, options, training, _, _ = get_train_args({
        "model_name_or_path": str(base), "stage": "sft", "do_train": True, "finetuning_type": "lora",
        "template": "qwen3_vl_nothink", "output_dir": str(data / "output"), "use_cpu": True, "dataset": "x",
        "dataset_dir": str(data), "cache_dir": str(data / "cache"), "overwrite_cache": True, "cutoff_len": 4096,
        "preprocessing_num_workers": workers if workers > 1 else None, "report_to": "none",
    })  # fmt: skip
    module = load_tokenizer(model)
    template = get_template_and_fix_tokenizer(module["tokenizer"], options)

    def tokenize(hook: AbstractContextManager) -> Dataset:
        shutil.rmtree(data / "cache", ignore_errors=True)
        with hook, redirect_stdout(io.StringIO()):
            return get_dataset(template, model, options, training, "sft", **module)["train_dataset"]

    return tokenize


def make_base(folder: Path) -> Path:
    """The demo's tokenizer with Qwen3-VL's limits, without which every picture would be tiny."""
    shutil.copytree(ROOT / "demo" / "tiny-qwen3-vl", folder)
    for name, key in (("processor_config.json", "image_processor"), ("preprocessor_config.json", None)):
        content = json.loads((folder / name).read_text())
        (content[key] if key else content)["size"] = LIMITS
        (folder / name).write_text(json.dumps(content))
    return folder


def draw(folder: Path, kind: str, size: tuple[int, int], rows: int) -> None:
    """A dataset `x` of one picture a row; every tenth file is another picture, since encoding takes long."""
    folder.mkdir()
    chance = random.Random(1)
    lines = []
    for number in range(rows):
        name = f"{number}.{kind.lower()}"
        if number < max(10, rows // 10):
            shapes = Image.frombytes("RGB", (32, 24), chance.randbytes(32 * 24 * 3)).resize(size)
            grain = Image.effect_noise((size[0] // 4, size[1] // 4), 20).resize(size).convert("RGB")
            Image.blend(shapes, grain, 0.15).save(folder / name, kind)
        else:
            shutil.copy(folder / f"{number % max(10, rows // 10)}.{kind.lower()}", folder / name)
        turns = [("user", f"<image>What is in picture {number}?"), ("assistant", " ".join(chance.choices(WORDS, k=20)))]
        lines.append({"messages": [{"role": role, "content": content} for role, content in turns], "images": [name]})
    (folder / "x.json").write_text(json.dumps(lines))
    entry = {"file_name": "x.json", "formatting": "sharegpt", "columns": {"messages": "messages", "images": "images"}}
    (folder / "dataset_info.json").write_text(json.dumps({"x": {**entry, "tags": TAGS}}))


if __name__ == "__main__":
    main()
