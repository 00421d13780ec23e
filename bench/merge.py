"""Merging: seconds, peak memory, and how much of a small delta survives, ours beside PEFT, LLaMA-Factory and a copy.

    trainer/.venv/bin/python bench/merge.py --work DIR [--shape cut|2b|4b|8b] [--only ours,floor]

Writes a random base in Qwen3-VL's true layout and an adapter whose layers carry deltas of 1e-5, 1e-4 and 1e-3 in turn,
runs every way of merging it to fp16 as a process of its own, and compares each with an fp64 reference. The base is in
the page cache for all of them; every time includes making the result durable. DIR needs 2.1 times the base's size.
"""

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "trainer" / "merge_adapter.py"
DELTAS = (1e-5, 1e-4, 1e-3)
RANK = 8
SHARD_BYTES = 5_000_000_000
# Text: hidden, intermediate, layers, heads, key-value heads, tied. The vision tower is the same in all of them.
SHAPES = {
    "cut": (2048, 6144, 8, 16, 8, True),
    "2b": (2048, 6144, 28, 16, 8, True),
    "4b": (2560, 9728, 36, 32, 8, True),
    "8b": (4096, 12288, 36, 32, 8, False),
}
VOCABULARY = 151936
HEAD = 128
VISION = {
    "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "patch_size": 16,
    "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3, "num_position_embeddings": 2304,
    "deepstack_visual_indexes": [5, 11, 17], "hidden_act": "gelu_pytorch_tanh", "initializer_range": 0.02,
    "model_type": "qwen3_vl",
}  # fmt: skip
WAYS = ("ours", "floor", "peft", "peft-fp16", "export")  # and "ours-cuda"


def main() -> None:
    """Make what is missing, run the ways one after the other, and print a table and a JSON line."""
    options = _options()
    work: Path = options.work
    base, adapter = work / f"base-{options.shape}", work / f"adapter-{options.shape}"
    if not (base / "config.json").exists():
        _in_process("make_base", base, options.shape, options.tokenizer)
    if not (adapter / "adapter_config.json").exists():
        _in_process("make_adapter", adapter, options.shape)
    rows = []
    for way in options.only.split(","):
        out = work / f"out-{way}"
        shutil.rmtree(out, ignore_errors=True)
        _warm(base)
        row = _measure(_command(way, base, adapter, out), way)
        if way != "floor" and row["code"] == 0:
            row["errors"] = _in_process("errors", base, adapter, out)
        rows.append(row)
        print(json.dumps(row), flush=True)
        shutil.rmtree(out, ignore_errors=True)
    _table(
        [row for row in rows if row["code"] == 0],
        sum(path.stat().st_size for path in base.glob("*.safetensors")),
    )
    if not options.keep:
        shutil.rmtree(base)
        shutil.rmtree(adapter)


def tensors(shape: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor of the published checkpoints."""
    hidden, _, layers, _, _, tied = SHAPES[shape]
    text = "model.language_model"
    yield f"{text}.embed_tokens.weight", (VOCABULARY, hidden)
    for layer in range(layers):
        at = f"{text}.layers.{layer}"
        yield f"{at}.input_layernorm.weight", (hidden,)
        for name, rows, columns in linears(shape):
            yield f"{at}.{name}.weight", (rows, columns)
        yield f"{at}.self_attn.q_norm.weight", (HEAD,)
        yield f"{at}.self_attn.k_norm.weight", (HEAD,)
        yield f"{at}.post_attention_layernorm.weight", (hidden,)
    yield f"{text}.norm.weight", (hidden,)
    if not tied:
        yield "lm_head.weight", (VOCABULARY, hidden)
    width, inner = VISION["hidden_size"], VISION["intermediate_size"]
    merged = width * VISION["spatial_merge_size"] ** 2
    yield "model.visual.patch_embed.proj.weight", (width, 3, 2, 16, 16)
    yield "model.visual.patch_embed.proj.bias", (width,)
    yield "model.visual.pos_embed.weight", (VISION["num_position_embeddings"], width)
    for block in range(VISION["depth"]):
        at = f"model.visual.blocks.{block}"
        for name, rows, columns in (
            ("attn.qkv", 3 * width, width), ("attn.proj", width, width),
            ("mlp.linear_fc1", inner, width), ("mlp.linear_fc2", width, inner),
        ):  # fmt: skip
            yield f"{at}.{name}.weight", (rows, columns)
            yield f"{at}.{name}.bias", (rows,)
        for name in ("norm1", "norm2"):
            yield f"{at}.{name}.weight", (width,)
            yield f"{at}.{name}.bias", (width,)
    mergers = [
        ("merger", width),
        *((f"deepstack_merger_list.{i}", merged) for i in range(3)),
    ]
    for name, normed in mergers:
        at = f"model.visual.{name}"
        yield f"{at}.norm.weight", (normed,)
        yield f"{at}.norm.bias", (normed,)
        yield f"{at}.linear_fc1.weight", (merged, merged)
        yield f"{at}.linear_fc1.bias", (merged,)
        yield f"{at}.linear_fc2.weight", (hidden, merged)
        yield f"{at}.linear_fc2.bias", (hidden,)


def linears(shape: str) -> list[tuple[str, int, int]]:
    """The linear layers of one text layer, which LoRA on all layers changes: name, rows, columns."""
    hidden, intermediate, _, heads, groups, _ = SHAPES[shape]
    return [
        ("self_attn.q_proj", heads * HEAD, hidden), ("self_attn.k_proj", groups * HEAD, hidden),
        ("self_attn.v_proj", groups * HEAD, hidden), ("self_attn.o_proj", hidden, heads * HEAD),
        ("mlp.gate_proj", intermediate, hidden), ("mlp.up_proj", intermediate, hidden),
        ("mlp.down_proj", hidden, intermediate),
    ]  # fmt: skip


def config(shape: str) -> dict[str, Any]:
    """A config.json as it is published: one dtype, in the text part, and the rope keys of transformers 4.57."""
    hidden, intermediate, layers, heads, groups, tied = SHAPES[shape]
    text = {
        "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643, "dtype": "bfloat16",
        "eos_token_id": 151645, "head_dim": HEAD, "hidden_act": "silu", "hidden_size": hidden,
        "initializer_range": 0.02, "intermediate_size": intermediate, "max_position_embeddings": 262144,
        "model_type": "qwen3_vl_text", "num_attention_heads": heads, "num_hidden_layers": layers,
        "num_key_value_heads": groups, "rms_norm_eps": 1e-06, "rope_theta": 5000000, "tie_word_embeddings": tied,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
        "use_cache": True, "vocab_size": VOCABULARY,
    }  # fmt: skip
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"], "image_token_id": 151655, "model_type": "qwen3_vl",
        "text_config": text, "tie_word_embeddings": tied, "video_token_id": 151656,
        "vision_config": VISION | {"out_hidden_size": hidden}, "vision_end_token_id": 151653,
        "vision_start_token_id": 151652,
    }  # fmt: skip


def make_base(
    folder: str, shape: str, tokenizer: str, shard_bytes: str = str(SHARD_BYTES)
) -> None:
    """Write the base in bf16, in shards of at most 5 GB unless told, one tensor in memory at a time."""
    import torch

    sys.path.insert(0, str(ROOT / "trainer"))
    from merge.safetensors_file import make_header

    base = Path(folder)
    base.mkdir(parents=True, exist_ok=True)
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    size = 0
    for name, dimensions in tensors(shape):
        count = 2 * math.prod(dimensions)
        if size + count > int(shard_bytes):
            shards.append([])
            size = 0
        shards[-1].append((name, dimensions))
        size += count
    torch.manual_seed(1)
    # One block of noise, used again at random places: as good for this and far quicker than fresh noise.
    noise = (torch.randn(1 << 24) * 0.02).bfloat16()
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        header, _ = make_header((key, "BF16", dimensions) for key, dimensions in shard)
        with (base / name).open("wb") as file:
            file.write(header)
            for key, dimensions in shard:
                weight_map[key] = name
                _write_noise(
                    file,
                    noise,
                    math.prod(dimensions),
                    1.0 if "norm" in key and key.endswith("weight") else 0.0,
                )
            file.flush()
            os.fsync(file.fileno())
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    for path in Path(tokenizer).iterdir():
        if path.suffix in (".json", ".jinja", ".txt") and path.name not in (
            "config.json",
            "digests.json",
        ):
            shutil.copyfile(path, base / path.name)
    (base / "config.json").write_text(json.dumps(config(shape)))


def _write_noise(file: Any, noise: Any, count: int, offset: float) -> None:
    import torch

    while count:
        start = int(torch.randint(0, len(noise) // 2, ()))
        part = noise[start : start + min(count, len(noise) // 2)]
        part = part + offset if offset else part
        file.write(part.view(torch.int16).numpy().data)
        count -= len(part)


def make_adapter(folder: str, shape: str) -> None:
    """An adapter as LLaMA-Factory writes it, whose layer i has deltas of DELTAS[i % 3], root mean square."""
    import torch
    from safetensors.torch import save_file

    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(2)
    state, modules = {}, []
    for layer in range(SHAPES[shape][2]):
        for name, rows, columns in linears(shape):
            module = f"model.language_model.layers.{layer}.{name}"
            modules.append(module)
            down, up = torch.randn(RANK, columns), torch.randn(rows, RANK)
            size = DELTAS[layer % len(DELTAS)] / (2 * math.sqrt(RANK))
            state[f"base_model.model.{module}.lora_A.weight"] = down * math.sqrt(size)
            state[f"base_model.model.{module}.lora_B.weight"] = up * math.sqrt(size)
    save_file(state, out / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": None, "r": RANK,
        "lora_alpha": 2 * RANK, "lora_dropout": 0.0, "bias": "none", "target_modules": modules, "inference_mode": True,
        "init_lora_weights": True, "modules_to_save": None, "use_dora": False, "use_rslora": False,
    }  # fmt: skip
    (out / "adapter_config.json").write_text(json.dumps(settings))


def copy_base(base: str, out: str) -> None:
    """The floor: the base's bytes, copied and synced."""
    Path(out).mkdir()
    for path in Path(base).glob("*.safetensors"):
        with path.open("rb") as source, (Path(out) / path.name).open("wb") as target:
            shutil.copyfileobj(source, target, 8 << 20)
            target.flush()
            os.fsync(target.fileno())


def peft(base: str, adapter: str, out: str, load: str) -> None:
    """What people do by hand; `load` is the type to load the base in, and the result is fp16 either way."""
    import torch
    from peft import PeftModel
    from transformers import Qwen3VLForConditionalGeneration

    model = Qwen3VLForConditionalGeneration.from_pretrained(
        base, dtype=getattr(torch, load)
    )
    PeftModel.from_pretrained(model, adapter).merge_and_unload().half().save_pretrained(
        out
    )


def errors(base: str, adapter: str, out: str) -> dict[str, list[float]]:
    """Per delta size, over the q and down projections of its first layers: error, share kept, values off by rounding.

    The reference is W + s B A in fp64. The error is the root mean square of (merged - W) - s B A over that of s B A;
    what is kept is the projection of (merged - W) on s B A; off are the values that are not the fp32 merge of whole
    matrices (PEFT's) rounded once.
    """
    from safetensors import safe_open

    def reader(folder: str) -> Any:
        files = [
            safe_open(path, "pt") for path in sorted(Path(folder).glob("*.safetensors"))
        ]
        places = {name: file for file in files for name in file.keys()}  # noqa: SIM118
        return lambda name: places[name].get_tensor(name).double()

    old, new, lora = reader(base), reader(out), reader(adapter)
    layers = SHAPES["cut"][2]
    result: dict[str, list[float]] = {}
    for number, delta in enumerate(DELTAS):
        off = total = along = unequal = values = 0.0
        for layer in range(number, layers, len(DELTAS)):
            for name in ("self_attn.q_proj", "mlp.down_proj"):
                module = f"model.language_model.layers.{layer}.{name}"
                up, down = (
                    lora(f"base_model.model.{module}.lora_{part}.weight")
                    for part in "BA"
                )
                before, after = old(f"{module}.weight"), new(f"{module}.weight")
                wanted = 2.0 * up @ down
                got = after - before
                once = (
                    (before.float() + (up.float() @ down.float()) * 2.0).half().double()
                )
                unequal += int((once != after).sum())
                values += once.numel()
                off += float((got - wanted).square().sum())
                total += float(wanted.square().sum())
                along += float((got * wanted).sum())
        result[f"{delta:g}"] = [math.sqrt(off / total), along / total, unequal / values]
    return result


def _command(way: str, base: Path, adapter: Path, out: Path) -> list[str]:
    if way in ("ours", "ours-cuda"):
        device = "cuda" if way == "ours-cuda" else "cpu"
        return [
            sys.executable,
            str(PROGRAM),
            str(base),
            str(adapter),
            str(out),
            "--dtype",
            "fp16",
            "--device",
            device,
        ]
    if way == "floor":
        return [sys.executable, __file__, "copy_base", str(base), str(out)]
    if way in ("peft", "peft-fp16"):
        load = "bfloat16" if way == "peft" else "float16"
        return [
            sys.executable,
            __file__,
            "peft",
            str(base),
            str(adapter),
            str(out),
            load,
        ]
    settings = out.with_suffix(".yaml")
    lines = {
        "model_name_or_path": base, "adapter_name_or_path": adapter, "template": "qwen3_vl_nothink", "export_dir": out,
        "export_size": 5, "export_device": "cpu", "infer_dtype": "float16",
    }  # fmt: skip
    settings.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
    return [sys.executable, "-m", "llamafactory.cli", "export", str(settings)]


def _measure(command: list[str], way: str) -> dict[str, Any]:
    """Run to the end and sync; seconds, processor seconds and the peak of the resident memory, sampled from outside."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    with tempfile.TemporaryFile() as noise:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=noise)
        peak = [0]
        threading.Thread(target=_watch, args=(process.pid, peak), daemon=True).start()
        output, _ = process.communicate()
        if process.returncode:
            noise.seek(0)
            print(
                f"{way} failed: {noise.read()[-2000:].decode(errors='replace')}",
                file=sys.stderr,
            )
    os.sync()
    seconds = time.monotonic() - started
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    row: dict[str, Any] = {
        "way": way,
        "code": process.returncode,
        "seconds": round(seconds, 2),
    }
    row["cpuSeconds"] = round(
        now.ru_utime + now.ru_stime - before.ru_utime - before.ru_stime, 2
    )
    row["peakGiB"] = round(peak[0] / 2**20, 2)
    if way.startswith("ours"):
        result = json.loads(output.splitlines()[-1])
        row |= {
            key: result.get(key)
            for key in (
                "overflow",
                "underflow",
                "subnormal",
                "changed",
                "device",
                "message",
            )
        }
    return row


def _watch(pid: int, peak: list[int]) -> None:
    while True:
        try:
            text = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return
        line = next(
            (line for line in text.splitlines() if line.startswith("VmHWM:")), None
        )
        if line is None:
            return
        peak[0] = max(peak[0], int(line.split()[1]))
        time.sleep(0.05)


def _warm(base: Path) -> None:
    for path in base.glob("*.safetensors"):
        with path.open("rb") as file:
            while file.read(8 << 20):
                pass


def _in_process(function: str, *arguments: Any) -> Any:
    """Run one of this file's functions in a process of its own, so that its memory ends with it."""
    command = [sys.executable, __file__, function, *map(str, arguments)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return json.loads(output) if output.strip() else None


def _table(rows: list[dict[str, Any]], size: int) -> None:
    floor = next((row["seconds"] for row in rows if row["way"] == "floor"), math.nan)
    ours = next((row["seconds"] for row in rows if row["way"] == "ours"), math.nan)
    print(f"\nbase {size / 1e9:.2f} GB, {os.cpu_count()} processors\n")
    deltas = " | ".join(f"error at {delta:g}" for delta in DELTAS)
    print(
        f"| way | s | × floor | × ours | CPU s | peak GiB | {deltas} |\n|{'---|' * (6 + len(DELTAS))}"
    )
    for row in rows:
        cells = [
            f"{error:.1%}" for error, _, _ in (row.get("errors") or {}).values()
        ] or [""] * len(DELTAS)
        shown = [
            row["way"],
            f"{row['seconds']:.1f}",
            f"{row['seconds'] / floor:.2f}",
            f"{row['seconds'] / ours:.2f}",
        ]
        print(
            "| "
            + " | ".join(
                [*shown, f"{row['cpuSeconds']:.1f}", f"{row['peakGiB']:.2f}", *cells]
            )
            + " |"
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, metavar="DIR")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="cut")
    parser.add_argument("--only", default=",".join(WAYS))
    parser.add_argument(
        "--tokenizer",
        default=str(ROOT / "demo" / "tiny-qwen3-vl"),
        help="whose small files to use",
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="keep the base and the adapter for another run",
    )
    return parser.parse_args()


FUNCTIONS = {
    function.__name__: function
    for function in (make_base, make_adapter, copy_base, peft, errors)
}

if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in FUNCTIONS:
        answer = FUNCTIONS[sys.argv[1]](*sys.argv[2:])
        if answer is not None:
            print(json.dumps(answer))
    else:
        main()
