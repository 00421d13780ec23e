"""What only a try can tell: does training import, does LLaMA-Factory take the YAML. Good answers are remembered."""

import difflib
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from environment.items import Item, install_command
from environment.packages import packages_digest
from protocol import TemperError, write_whole

_TIMEOUT_S = 600
# Where things are does not change what the parser says, and run directories differ from run to run.
_PLACES = ("output_dir", "dataset_dir", "media_dir", "tokenized_path", "logging_dir", "run_name", "cache_dir")
_MISMATCH = "compiled with different CUDA versions"


def probe(config_path: Path, config: dict[str, Any], cache_dir: Path | None) -> dict[str, Any]:
    """The probe's answer for this YAML, from memory when packages, options and visible GPUs are the same as then."""
    key = hashlib.sha256(
        json.dumps(
            [
                packages_digest(),
                Path(__file__).with_name("probe.py").read_text(encoding="utf-8"),
                {name: value for name, value in config.items() if name not in _PLACES},
                sorted(path.name for path in Path("/dev").glob("nvidia*")),
                {name: value for name, value in os.environ.items() if name in _ENVIRONMENT},
            ],
            sort_keys=True,
            default=str,
        ).encode()
    ).hexdigest()
    remembered = cache_dir / "environment" / f"{key}.json" if cache_dir else None
    if remembered is not None and remembered.is_file():
        return json.loads(remembered.read_text(encoding="utf-8"))
    answer = _run_probe(config_path)
    if remembered is not None and answer["imported"] is None and answer["parsed"] is None:
        remembered.parent.mkdir(parents=True, exist_ok=True)
        write_whole(remembered, json.dumps(answer))
    return answer


_ENVIRONMENT = ("CUDA_VISIBLE_DEVICES", "DISABLE_VERSION_CHECK", "ALLOW_EXTRA_ARGS", "USE_MCA", "USE_V1", "PYTHONPATH")


def _run_probe(config_path: Path) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).with_name("probe.py")), str(config_path)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        message = f"importing what training imports took more than {_TIMEOUT_S} s; is the disk with the packages slow?"
        raise TemperError("HostError", message) from error
    try:
        return json.loads(done.stdout)
    except ValueError:
        died = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        return {
            "versions": {},
            "imported": {"type": "ProcessDied", "message": f"the process died with {died}"},
            "parsed": None,
            "options": [],
        }


def import_item(answer: dict[str, Any]) -> Item:
    """Whether what training imports can be imported."""
    item = Item("training's imports", "all succeed", "llamafactory.train and torch can be imported")
    error = answer["imported"]
    if error is None:
        return item
    item.verdict = "error"
    first = error["message"].strip().splitlines()[0] if error["message"].strip() else ""
    item.found = f"{error['type']}: {first}".rstrip(": ")
    item.fix = install_command("torch==2.10.0", "torchvision==0.25.0", "torchaudio==2.10.0")
    if _MISMATCH in error["message"]:
        item.found += " (torch and torchaudio must be of the same release and CUDA)"
    elif error["type"] in ("ModuleNotFoundError", "PackageNotFoundError"):
        missing = error["message"].split("'")[1] if "'" in error["message"] else "llamafactory"
        item.fix = install_command(missing)
    return item


def parser_item(answer: dict[str, Any], config_path: Path, config: dict[str, Any]) -> Item:
    """Whether LLaMA-Factory's parser takes the YAML; its exception becomes a sentence that names the option."""
    item = Item(
        f"options in {config_path.name}", f"{len(config)} options, all accepted", "LLaMA-Factory's parser takes it"
    )
    if answer["imported"] is not None:
        item.found, item.verdict, item.fix = "not tried, since the imports fail", "error", "Mend the imports first"
        return item
    if answer["parsed"] is not None:
        item.verdict = "error"
        item.found, item.fix = explain(answer["parsed"], config, answer["options"])
    return item


def explain(error: dict[str, str], config: dict[str, Any], options: list[str]) -> tuple[str, str]:
    """One sentence about a parser's exception, and its mend."""
    message = " ".join(error["message"].split())
    unknown = [key for key in config if key not in options] if options else []
    if "not used by the HfArgumentParser" in message and unknown:
        near = {key: difflib.get_close_matches(key, options, n=1, cutoff=0.6) for key in unknown}
        found = f"LLaMA-Factory knows no option {', '.join(unknown)}"
        fixes = [f"write {match[0]} instead of {key}" if match else f"remove {key}" for key, match in near.items()]
        return found, "; ".join(fixes).capitalize()
    if "doesn't support bf16" in message or "does not support bf16" in message:
        key = "pure_bf16" if config.get("pure_bf16") else "bf16"
        fix = "Set fp16: true instead, or use_cpu: true without a GPU"
        return f"{key}: this machine has no GPU with bfloat16 (compute capability 8.0 or higher)", fix
    if "not found and is required" in message:
        package = re.split(r"[<>=!~ ]", message.split("'")[1])[0] if "'" in message else "a package"
        wants = _mentioned(message, config) or [key for key in config if package.split("_")[0] in key]
        because = f"{wants[0]} needs the package {package}" if wants else f"the options need the package {package}"
        return because, f"uv pip install --python {sys.executable} {package}, or remove the option"
    keys = _mentioned(message, config)
    where = f"{', '.join(keys)}: " if keys else ""
    return (
        f"{where}{message or error['type']}",
        f"Correct {keys[0]}" if keys else "Correct the option that it speaks of",
    )


def _mentioned(message: str, config: dict[str, Any]) -> list[str]:
    """The options that a message speaks of, by name or by value."""
    words = set(
        message.replace("`", " ").replace("'", " ").replace('"', " ").replace("--", " ").replace(",", " ").split()
    )
    words = {word.strip(".:()[]") for word in words}
    by_name = [key for key in config if key in words]
    if by_name:
        return by_name
    return [
        key
        for key, value in config.items()
        if isinstance(value, str) and len(value) > 1 and f"{value} is not a valid" in message
    ][:1]
