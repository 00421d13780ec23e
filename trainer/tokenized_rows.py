"""Tokenized rows kept on disk, so that a resume does not preprocess again, and never other rows than the ones meant.

A folder is named for the digest of everything that shapes the rows: dataset files, pictures (size and time of change),
tokenizer and processor files, every option but the ones known not to matter, and versions. It appears whole or not at
all, with its row counts and each file's size and SHA-256, and it is checked before it is read.
"""

import errno
import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from checkpoints import files_of, manifest, manifest_fault, sha256, sync_tree
from protocol import sync_folder, write_whole

RECORD = "temper-rows.json"
PACKAGES = ("llamafactory", "transformers", "tokenizers", "datasets", "pillow", "torchvision", "av")
TOKENIZER_SUFFIXES = (".json", ".jinja", ".txt", ".model", ".tiktoken")
HUB_KEYS = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
UNUSED_S = 30 * 24 * 3600
MEDIA = ("images", "videos", "audios")
# Options that don't shape a row. Anything not named here is part of the digest: an unknown option costs a new folder.
NO_MATTER = {
    "additional_target", "bf16", "dataset_dir", "ddp_find_unused_parameters", "ddp_timeout", "deepspeed",
    "disable_gradient_checkpointing", "do_eval", "do_train", "early_stopping_steps", "enable_liger_kernel",
    "finetuning_type", "flash_attn", "fp16", "fsdp", "fsdp_config", "full_determinism", "gradient_accumulation_steps",
    "gradient_checkpointing", "group_by_length", "include_num_input_tokens_seen", "learning_rate",
    "load_best_model_at_end", "logging_nan_inf_filter", "max_grad_norm", "max_steps", "media_dir",
    "metric_for_best_model", "neftune_noise_alpha", "num_train_epochs", "optim", "output_dir", "overwrite_cache",
    "overwrite_output_dir", "pissa_init", "plot_loss", "preprocessing_num_workers", "pure_bf16", "report_to",
    "resume_from_checkpoint", "run_name", "save_only_model", "tokenized_path", "torch_compile", "upcast_layernorm",
    "use_cpu", "use_dora", "use_rslora", "weight_decay",
}  # fmt: skip
NO_MATTER_PREFIXES = (
    "adam_", "dataloader_", "eval_steps", "eval_strategy", "freeze_", "logging_", "lora_", "lr_scheduler_",
    "per_device_", "quantization_", "save_", "torch_compile_", "warmup_",
)  # fmt: skip


def folder_for(config: dict[str, Any], cache_dir: Path) -> Path | None:
    """Where the rows of this LLaMA-Factory config are kept; None when they can't be told from other rows."""
    digest = digest_of(config)
    return None if digest is None else cache_dir.resolve() / digest[:32]


def discard_if_damaged(folder: Path) -> str | None:
    """Remove a rows folder that does not hold what was written, and say what was wrong; None when well or absent."""
    if not folder.exists():
        return None
    try:
        fault = manifest_fault(folder, json.loads((folder / RECORD).read_bytes())["files"])
    except (OSError, ValueError, KeyError, TypeError):
        fault = f"{RECORD} is missing or damaged"
    if fault is not None:
        shutil.rmtree(folder)
    return fault


def tidy(cache_dir: Path, used: Path | None) -> None:
    """Remove what crashed trainings left half-written, and rows that no training has used for a month."""
    if used is not None and used.exists():
        os.utime(used)
    for entry in cache_dir.iterdir():
        writer = entry.suffix.removeprefix(".")
        abandoned = entry.name.startswith(".") and writer.isdigit() and not os.path.exists(f"/proc/{writer}")
        unused = (entry / RECORD).exists() and time.time() - entry.stat().st_mtime > UNUSED_S
        if abandoned or unused:
            shutil.rmtree(entry, ignore_errors=True)


def save_whole(folder: Path) -> None:
    """Make datasets write the rows meant for `folder` under another name and rename them when they are durable."""
    from datasets import DatasetDict

    save_to_disk = DatasetDict.save_to_disk

    def save(self: DatasetDict, dataset_dict_path: str, *args: Any, **kwargs: Any) -> None:
        if Path(dataset_dict_path) != folder:
            return save_to_disk(self, dataset_dict_path, *args, **kwargs)
        building = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(building, ignore_errors=True)
        save_to_disk(self, str(building), *args, **kwargs)
        record = {
            "format": 1,
            "rows": {split: len(rows) for split, rows in self.items()},
            "files": manifest(building, files_of(building)),
        }
        write_whole(building / RECORD, json.dumps(record, indent=1) + "\n")
        sync_tree(building)
        try:
            os.rename(building, folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # Another run wrote the same rows meanwhile.
            shutil.rmtree(building)
        sync_folder(folder.parent)

    DatasetDict.save_to_disk = save


def rows_fault(folder: Path, datasets: dict[str, Any]) -> str | None:
    """How the datasets that LLaMA-Factory loaded differ in number from what was written, or None."""
    if not (folder / RECORD).exists():
        return None
    expected = json.loads((folder / RECORD).read_bytes())["rows"]
    evaluated = datasets.get("eval_dataset")
    found = {"train": datasets.get("train_dataset")}
    if isinstance(evaluated, dict):
        found |= {f"validation_{name}": rows for name, rows in evaluated.items()}
    else:
        found["validation"] = evaluated
    counts = {split: len(rows) for split, rows in found.items() if rows is not None}
    return None if counts == expected else f"{folder} was written with {expected} rows and gives {counts}"


def digest_of(config: dict[str, Any]) -> str | None:
    model = Path(str(config.get("model_name_or_path")))
    sources = dataset_sources(config)
    if config.get("streaming") or sources is None or not model.is_dir():
        return None
    media = media_states(config, sources)
    if media is None:
        return None
    options = {key: value for key, value in config.items() if shapes_rows(key)}
    content = {
        "format": 1,
        "options": {**options, "model_name_or_path": os.path.realpath(model)},
        "datasets": [
            (entry, [(os.path.basename(path), sha256(Path(path))) for path in files]) for entry, files in sources
        ],
        "media": media,
        "tokenizer": [(path.name, sha256(path)) for path in tokenizer_files(model)],
        "versions": {name: version(name) for name in PACKAGES} | {"python": sys.version.split()[0]},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def shapes_rows(option: str) -> bool:
    return option not in NO_MATTER and not option.startswith(NO_MATTER_PREFIXES)


def dataset_sources(config: dict[str, Any]) -> list[tuple[dict[str, Any], list[str]]] | None:
    """The dataset_info.json entry and the data files of every dataset named; None if one is not a local file."""
    try:
        info = json.loads(Path(dataset_dir(config), "dataset_info.json").read_bytes())
    except (OSError, ValueError):
        return None
    sources = []
    for name in names_in(config.get("dataset")) + names_in(config.get("eval_dataset")):
        entry = info.get(name)
        if not isinstance(entry, dict) or any(key in entry for key in HUB_KEYS) or "file_name" not in entry:
            return None
        path = os.path.join(dataset_dir(config), entry["file_name"])
        files = [os.path.join(path, file) for file in sorted(os.listdir(path))] if os.path.isdir(path) else [path]
        if not all(os.path.isfile(file) for file in files):
            return None
        sources.append((entry, files))
    return sources


def media_states(config: dict[str, Any], sources: list[tuple[dict[str, Any], list[str]]]) -> str | None:
    """A digest of the size and time of change of every picture, video or sound; None when their names can't be read."""
    states = set()
    for entry, files in sources:
        columns = [column for kind in MEDIA if (column := (entry.get("columns") or {}).get(kind))]
        for file in files if columns else []:
            if not file.endswith((".json", ".jsonl")):
                return None
            try:
                for row in rows_of(file):
                    states.update(name for column in columns for name in media_names(row.get(column)))
            except (ValueError, AttributeError):
                return None
    digest = hashlib.sha256()
    if any(not os.path.isabs(name) for name in states):
        digest.update(f"{os.path.realpath(media_dir(config))}\0{os.getcwd()}\n".encode())
    for name in sorted(states):
        path = os.path.join(media_dir(config), name)
        try:
            status = os.stat(path if os.path.exists(path) else name)
            digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogatepass"))
        except OSError:
            digest.update(f"{name}\0missing\n".encode(errors="surrogatepass"))
    return digest.hexdigest()


def rows_of(file: str) -> Iterator[dict[str, Any]]:
    with open(file, encoding="utf-8-sig") as source:
        start = source.read(1)
        source.seek(0)
        if file.endswith(".jsonl") or start != "[":
            yield from (json.loads(line) for line in source if line.strip())
        else:
            yield from json.load(source)


def media_names(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict) and isinstance(value.get("path"), str):
        yield value["path"]
    elif isinstance(value, list):
        for item in value:
            yield from media_names(item)


def tokenizer_files(model: Path) -> list[Path]:
    return sorted(
        path
        for path in model.iterdir()
        if path.is_file() and path.suffix in TOKENIZER_SUFFIXES and not path.name.endswith(".index.json")
    )


def dataset_dir(config: dict[str, Any]) -> str:
    return str(config.get("dataset_dir") or "data")


def media_dir(config: dict[str, Any]) -> str:
    return str(config.get("media_dir") or dataset_dir(config))


def names_in(value: Any) -> list[str]:
    names = value.split(",") if isinstance(value, str) else value or []
    return [str(name).strip() for name in names]


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
