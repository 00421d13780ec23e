"""Make a Qwen-VL folder fit for GPUs without bfloat16, such as the V100, and show that it still answers the same.

    python patch_fp16.py MODEL_DIR [--out DIR | --in-place] [--rows FILE.jsonl --max-rows 8] [--clamp]

Every tensor is read. Where all are fp16 already they are verified, otherwise converted, in one pass and the memory of
a few blocks; config.json gets float16 at every level. Nothing in MODEL_DIR changes unless --in-place is given: a new
folder is written beside it (MODEL_DIR-fp16, or --out). With --rows (a held_out.jsonl) the result must then compute the
same in fp16 as in fp32. The record of all this is fp16.json in the resulting folder.
"""

import argparse
import json
import os
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from base_digest import base_digest
from merge.adapter import plan
from merge.machine import choose_device, peak_rss_bytes, require_space
from merge.model_files import config_levels, read_config, serving_files, set_config
from merge.output_folder import OutputFolder, digest_of, index_file
from merge.safetensors_file import FLOATS, INDEX_NAME, SafetensorsFile, read_folder
from protocol import Protocol, TemperError, run, sync_folder, write_whole

RECORD_NAME = "fp16.json"


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    model_dir: Path
    out: Path | None = None
    in_place: bool = False
    rows: Path | None = None
    max_rows: int = 8
    max_new_tokens: int = 64
    image_max_pixels: int = 589824
    clamp: bool = False
    device: str = "auto"


def patch(options: Options, protocol: Protocol) -> dict[str, Any]:
    """Verify or convert, then try the rows; returns the result line. Raises DeploymentError when fp16 does not do."""
    started = time.monotonic()
    config = read_config(options.model_dir)
    files = read_folder(options.model_dir)
    tensors = [tensor for file in files for tensor in file.tensors]
    wrong = [tensor for tensor in tensors if tensor.dtype in FLOATS and tensor.dtype != "F16"]
    fit = not wrong and set_config(config, "F16") == config
    if options.in_place or (fit and options.out is None):
        folder, record = _in_place(options, files, protocol)
    else:
        folder, record = _beside(options, config, files, protocol)
    record |= {
        "modelDir": str(folder),
        "tensors": len(tensors),
        "converted": len(wrong),
        "configLevels": config_levels(read_config(folder)),
    }
    if options.rows is not None:
        from activation_gate import run_gate

        record["gate"] = run_gate(
            folder, options.rows, options.max_rows, options.max_new_tokens, options.image_max_pixels, protocol.progress
        )
    record |= {"seconds": round(time.monotonic() - started, 3), "peakRssBytes": peak_rss_bytes()}
    previous = json.loads((folder / RECORD_NAME).read_bytes()) if (folder / RECORD_NAME).exists() else {}
    write_whole(folder / RECORD_NAME, json.dumps(previous | record, indent=1, ensure_ascii=False) + "\n")
    _judge(folder, record.get("gate"))
    return record


def _beside(
    options: Options, config: dict[str, Any], files: list[SafetensorsFile], protocol: Protocol
) -> tuple[Path, dict[str, Any]]:
    """Write a converted folder of its own, shard by shard; a later attempt goes on after the last finished one."""
    beside = Path(os.path.abspath(options.model_dir))
    folder = options.out or beside.with_name(f"{beside.name}-fp16")
    if folder.resolve() == options.model_dir.resolve():
        raise TemperError("ConfigError", f"{folder} is the model itself: give --in-place to change it")
    converter, shards = _converter(options, config, files, protocol)
    require_space(folder, converter.total)
    inputs = {"format": 1, "base": base_digest(files), "dtype": "fp16", "clamp": options.clamp}
    with OutputFolder(folder, digest_of(inputs), None, RECORD_NAME) as out:
        for name, text in serving_files(options.model_dir, "F16", untied=False).items():
            out.put(name, text)
        for shard in shards:
            if out.reuse(shard.name):
                converter.skip(shard)
            else:
                out.add(converter.write(shard, folder))
        if (options.model_dir / INDEX_NAME).exists():
            out.put(INDEX_NAME, index_file(shards))
        record = {"inputs": inputs, "source": str(options.model_dir), "digest": out.digest()}
        record |= _totals(counts for row in out.finished.values() for counts in row["tensors"].values())
        out.finish(record)
    return folder, record


def _in_place(options: Options, files: list[SafetensorsFile], protocol: Protocol) -> tuple[Path, dict[str, Any]]:
    """Verify what is fp16 already, replace what is not, shard by shard, and mend the small files."""
    folder = options.model_dir
    converter, shards = _converter(options, read_config(folder), files, protocol)
    counts: list[dict[str, Any]] = []
    for file, shard in zip(files, shards, strict=True):
        if [tensor.dtype for tensor in file.tensors] == shard.types:
            counts += [count.as_json() for count in converter.check(shard).values()]
        else:
            require_space(folder, shard.size)
            counts += converter.write(shard, folder)["tensors"].values()
            sync_folder(folder)
    changed = []
    if options.in_place:
        contents = serving_files(folder, "F16", untied=False)
        if (folder / INDEX_NAME).exists():
            contents[INDEX_NAME] = index_file(shards)
        for name, content in contents.items():
            path = folder / name
            if not path.exists() or path.read_bytes() != content:
                write_whole(path, content)
                changed.append(name)
    return folder, {"changedFiles": changed} | _totals(counts)


def _converter(
    options: Options, config: dict[str, Any], files: list[SafetensorsFile], protocol: Protocol
) -> tuple[Any, list[Any]]:
    device = choose_device(options.device)
    from merge.convert import Converter, refuse_unconvertible, shard_of
    from merge.rounding import Rounder

    groups, _ = plan(files, None, config)
    shards = [shard_of(file.path.name, group, "F16") for file, group in zip(files, groups, strict=True)]
    refuse_unconvertible(shards)
    rounder = Rounder(device, options.clamp)
    return Converter(rounder, sum(shard.size for shard in shards), protocol.progress), shards


def _totals(rows: Any) -> dict[str, int]:
    totals: Counter[str] = Counter({"overflow": 0, "underflow": 0, "subnormal": 0, "nonFinite": 0})
    for row in rows:
        totals.update({key: row[key] for key in ("overflow", "underflow", "subnormal", "nonFinite")})
    return dict(totals)


def _judge(folder: Path, gate: dict[str, Any] | None) -> None:
    if gate and gate["nonFinite"]:
        first = gate["nonFinite"][0]
        raise TemperError(
            "DeploymentError",
            f"{folder} cannot be served in fp16: with {len(gate['nonFinite'])} of {gate['rows']} rows values are not "
            f"finite, first in {first['module']} (row {first['row']}). Serve it in bf16",
            gate=gate,
        )
    if gate and gate["differing"]:
        first = gate["differing"][0]
        raise TemperError(
            "DeploymentError",
            f"{folder} answers differently in fp16: {len(gate['differing'])} of {gate['rows']} rows, first row "
            f"{first['row']}: {first['fp16']!r} instead of {first['fp32']!r}. Serve it in bf16",
            gate=gate,
        )


def _options() -> Options:
    defaults = asdict(Options(Path()))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir", type=Path, metavar="MODEL_DIR")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, metavar="DIR", help="write here instead of MODEL_DIR-fp16")
    where.add_argument("--in-place", action="store_true", help="change MODEL_DIR itself")
    parser.add_argument("--rows", type=Path, metavar="FILE.jsonl", help="rows to compare fp16 and fp32 on")
    parser.add_argument("--max-rows", type=int, default=defaults["max_rows"])
    parser.add_argument("--max-new-tokens", type=int, default=defaults["max_new_tokens"])
    parser.add_argument("--image-max-pixels", type=int, default=defaults["image_max_pixels"])
    parser.add_argument("--clamp", action="store_true", help="put values beyond fp16's range at its limit")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to convert")
    return Options(**vars(parser.parse_args()))


if __name__ == "__main__":
    options = _options()
    run(lambda protocol: patch(options, protocol))
