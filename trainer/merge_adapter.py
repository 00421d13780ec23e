"""Merge a LoRA adapter into its base, straight to the type that will be served.

    python merge_adapter.py BASE ADAPTER OUT [--dtype fp16|bf16|base] [--clamp] [--expect-base-digest SHA]
                            [--owner NAME] [--device auto|cpu|cuda]

One pass over the base's weight files, in fp32 arithmetic, rounded once, in the memory of a few blocks whatever the
model's size. Every adapter tensor must be used exactly once. Shards appear whole; run again after a crash, it goes on
after the last one that is finished. OUT/merge.json says what went in, what came out and what rounding did. With
`none` for ADAPTER, BASE (a model that was trained as a whole) is only brought to the type.
"""

import argparse
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from base_digest import base_digest
from merge.adapter import OutputTensor, read_adapter
from merge.adapter import plan as plan_tensors
from merge.machine import choose_device, peak_rss_bytes, require_space
from merge.model_files import read_config, serving_files
from merge.output_folder import OutputFolder, digest_of, index_file
from merge.safetensors_file import INDEX_NAME, make_header, read_folder
from protocol import Protocol, TemperError, run

TARGETS = {"fp16": "F16", "bf16": "BF16", "base": None}
NO_ADAPTER = Path("none")
COUNTED = ("overflow", "underflow", "subnormal", "nonFinite", "changed")


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    base: Path
    adapter: Path
    out: Path
    dtype: str = "fp16"
    clamp: bool = False
    expect_base_digest: str | None = None
    owner: str | None = None
    device: str = "auto"


def merge(options: Options, protocol: Protocol) -> dict[str, Any]:
    """Merge, or finish a merge; returns the result line. Raises before writing for whatever can be known before."""
    started = time.monotonic()
    target = TARGETS[options.dtype]
    config = read_config(options.base)
    files = read_folder(options.base)
    adapter = None if options.adapter == NO_ADAPTER else read_adapter(options.adapter)
    tensors, untied = plan_tensors(files, adapter, config)
    digest = base_digest(files)
    if options.expect_base_digest not in (None, digest):
        raise TemperError(
            "ConfigError",
            f"{options.base} is not the base that this adapter was trained on: its digest is {digest}, at training it "
            f"was {options.expect_base_digest}",
        )
    content = serving_files(options.base, target or _main_dtype(tensors), untied)
    require_space(options.out, sum(_file_size(group, target) for group in tensors))
    changed_by = adapter.digest if adapter else None
    inputs = {"format": 1, "base": digest, "adapter": changed_by, "dtype": options.dtype, "clamp": options.clamp}

    # Only now torch, whose import takes longer than all the checks above.
    device = choose_device(options.device)
    from merge.convert import Converter, refuse_unconvertible, shard_of
    from merge.rounding import Rounder

    shards = [shard_of(file.path.name, group, target) for file, group in zip(files, tensors, strict=True)]
    refuse_unconvertible(shards)
    converter = Converter(Rounder(device, options.clamp), sum(shard.size for shard in shards), protocol.progress)
    with OutputFolder(options.out, digest_of(inputs), options.owner) as folder:
        for name, text in content.items():
            folder.put(name, text)
        reused = 0
        for shard in shards:
            if folder.reuse(shard.name):
                converter.skip(shard)
                reused += 1
            else:
                folder.add(converter.write(shard, folder.path))
        if (options.base / INDEX_NAME).exists():
            folder.put(INDEX_NAME, index_file(shards))
        rows = [folder.finished[shard.name] for shard in shards]
        totals: Counter[str] = Counter()
        for row in rows:
            for counts in row["tensors"].values():
                totals.update({key: counts.get(key, 0) for key in COUNTED})
        result = {
            "out": str(options.out),
            "dtype": options.dtype,
            "tensors": sum(len(group) for group in tensors),
            "merged": sum(tensor.change is not None for group in tensors for tensor in group),
            **{key: totals[key] for key in COUNTED},
            "bytes": sum(shard.size for shard in shards),
            "reusedShards": reused,
            "device": str(device),
            "untied": untied,
            "baseDigest": digest,
            "adapterDigest": changed_by,
            "mergeDigest": folder.digest(),
            "seconds": round(time.monotonic() - started, 3),
            "peakRssBytes": peak_rss_bytes(),
        }
        folder.finish({"inputs": inputs, "base": str(options.base), "adapter": str(options.adapter), **result})
    return result


def _file_size(group: list[OutputTensor], target: str | None) -> int:
    """The size of the file that will hold these tensors."""
    return make_header((t.name, target or t.source.dtype, t.source.shape) for t in group)[1]


def _main_dtype(tensors: list[list[OutputTensor]]) -> str | None:
    sizes: Counter[str] = Counter()
    for group in tensors:
        for tensor in group:
            sizes[tensor.source.dtype] += tensor.source.size
    kind = sizes.most_common(1)[0][0] if sizes else ""
    return kind if kind in ("F16", "BF16", "F32") else None


def _options() -> Options:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, metavar="BASE")
    parser.add_argument("adapter", type=Path, metavar="ADAPTER")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--dtype", choices=sorted(TARGETS), default="fp16")
    parser.add_argument("--clamp", action="store_true", help="put values beyond the type's range at its limit")
    parser.add_argument("--expect-base-digest", metavar="SHA", help="refuse any other base than this one")
    parser.add_argument("--owner", metavar="NAME", help="who may replace what an earlier merge of the same owner wrote")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    return Options(**vars(parser.parse_args()))


if __name__ == "__main__":
    options = _options()
    run(lambda protocol: merge(options, protocol))
