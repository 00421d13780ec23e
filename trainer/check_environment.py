"""Checks that a training can start here: packages, their imports, LLaMA-Factory's parser, the base model's folder.

trainer/.venv/bin/python trainer/check_environment.py --config runs/first/train/config.yaml --cache-dir .temper/cache
"""

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

from environment.base import check_base
from environment.imports import import_item, parser_item, probe
from environment.items import Item
from environment.packages import OPTIONAL, SHOWN, check_packages, installed, packages_digest
from environment.resources import disk_item, estimate, gpu_items, memory_items
from protocol import Protocol, TemperError, run


def main(protocol: Protocol) -> dict[str, Any]:
    """Every item with its verdict; `ok` when none is an error. Raises TemperError only when it cannot check at all."""
    arguments = _parse()
    config = _read_config(arguments.config)
    items = check_packages(config)
    answer = probe(arguments.config, config, arguments.cache_dir)
    imported = import_item(answer)
    if imported.verdict == "error":
        _blame(items, imported)
    items += [imported, parser_item(answer, arguments.config, config)]
    archs = answer["versions"].get("cudaArchs") or []
    items += [_kernel_item(each, archs) for each in sorted({str(gpu["computeCapability"]) for gpu in arguments.gpus})]
    model = arguments.model or config.get("model_name_or_path")
    if model and not arguments.no_model:
        items += check_base(Path(model), config.get("template"))
    on_cpu = not arguments.gpus
    needs = estimate(config, Path(model), on_cpu) if model else None
    if arguments.run_dir:
        items.append(disk_item(needs, arguments.run_dir))
    items += memory_items(needs, config, on_cpu)
    if answer["imported"] is None:
        items += gpu_items(needs, arguments.gpus, answer["versions"].get("cuda"))
    return {
        "ok": all(item.verdict != "error" for item in items),
        "items": [item.record() for item in items],
        "versions": {name: installed(name) for name in SHOWN}
        | {name: found for name in OPTIONAL if (found := installed(name))}
        | answer["versions"]
        | {"packages": packages_digest()},
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="the training YAML, as LLaMA-Factory reads it")
    parser.add_argument("--model", type=Path, help="base model folder (default: the YAML's model_name_or_path)")
    parser.add_argument("--no-model", action="store_true", help="the base is yet to be fetched: do not look at it")
    parser.add_argument("--cache-dir", type=Path, help="folder that remembers good answers between runs")
    parser.add_argument("--run-dir", type=Path, help="where checkpoints and the merged model will be written")
    parser.add_argument(
        "--gpus", type=json.loads, default=[], metavar="JSON", help="the GPUs to be used, as host/gpus.ts lists them"
    )
    return parser.parse_args()


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise TemperError("ConfigError", f"{path} does not exist") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TemperError("ConfigError", f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise TemperError("ConfigError", f"{path} holds no options: write one `name: value` a line")
    return config


def _blame(items: list[Item], imported: Item) -> None:
    """A partner of another release is a warning while imports succeed, and the likely culprit when they fail."""
    for item in items:
        if item.name in ("torchvision", "torchaudio") and item.verdict == "warning":
            item.verdict = "error"
            imported.fix = item.fix


def _kernel_item(capability: str, archs: list[str]) -> Item:
    """Whether torch's wheel has kernels for a GPU: its own architecture, an older minor of it, or PTX to compile."""
    major, _, minor = capability.strip().partition(".")
    item = Item(f"torch kernels for compute capability {capability}", " ".join(archs) or "none", f"sm_{major}{minor}")
    fits = any(
        arch.startswith("sm_")
        and arch[3:-1] == major
        and arch[-1].isdigit()
        and arch[-1] <= minor
        or arch.startswith("compute_")
        and int(arch[8:].rstrip("af")) <= int(major + minor)
        for arch in archs
    )
    if not fits:
        item.verdict = "error"
        item.fix = "Install a torch whose CUDA still serves this GPU: for a V100 torch 2.10 with CUDA 12.8 or 12.6"
    return item


if __name__ == "__main__":
    run(main)
