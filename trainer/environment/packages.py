"""Versions that LLaMA-Factory accepts and that work together, read without importing them."""

import ast
import hashlib
import os
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

from environment.items import Item, install_command
from trackers import reporters, swanlab_is_offline, wandb_is_offline

SHOWN = ("torch", "torchvision", "torchaudio", "transformers", "llamafactory", "peft", "accelerate", "trl", "datasets")
OPTIONAL = ("flash-attn", "deepspeed", "bitsandbytes", "liger-kernel")

# LLaMA-Factory 0.9.5, extras/misc.py; used only if the installed one's own list cannot be read.
_WINDOWS = (
    "transformers>=4.55.0,<=5.6.0",
    "datasets>=2.16.0,<=4.0.0",
    "accelerate>=1.3.0,<=1.15.0",
    "peft>=0.18.0,<=0.20.0",
    "trl>=0.18.0,<=0.24.0",
)

# option: (values that need it or None for any true one, the package's name, what asks for it)
_OPTIONAL: tuple[tuple[str, tuple[Any, ...] | None, str, str], ...] = (
    ("flash_attn", ("fa2",), "flash-attn", "flash_attn: fa2"),
    ("deepspeed", None, "deepspeed", "deepspeed"),
    ("quantization_bit", (4, 8), "bitsandbytes", "quantization_bit"),
    ("use_unsloth", None, "unsloth", "use_unsloth"),
    ("enable_liger_kernel", None, "liger-kernel", "enable_liger_kernel"),
    ("use_galore", None, "galore-torch", "use_galore"),
    ("use_apollo", None, "apollo-torch", "use_apollo"),
    ("use_badam", None, "badam", "use_badam"),
    ("use_adam_mini", None, "adam-mini", "use_adam_mini"),
    ("use_swanlab", None, "swanlab", "use_swanlab"),
    ("plot_loss", None, "matplotlib", "plot_loss"),
    ("predict_with_generate", None, "rouge-chinese", "predict_with_generate"),
)
REPORTERS = {
    "wandb": "wandb",
    "tensorboard": "tensorboard",
    "swanlab": "swanlab",
    "mlflow": "mlflow",
    "trackio": "trackio",
    "neptune": "neptune",
    "comet_ml": "comet-ml",
    "clearml": "clearml",
    "codecarbon": "codecarbon",
    "dvclive": "dvclive",
}
# What `npm run setup:trackers` installs.
TRACKERS = ("mlflow", "swanlab", "tensorboard", "trackio", "wandb")


def installed(name: str) -> str | None:
    """The package's version, or None when it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def packages_digest() -> str:
    """sha256 over the interpreter and every installed package's name, version and time of installation."""
    digest = hashlib.sha256(f"{sys.version} {sys.executable}".encode())
    for folder in sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}):
        for entry in sorted(Path(folder).glob("*.dist-info")):
            digest.update(f"{entry.name} {entry.stat().st_mtime_ns}\n".encode())
    return digest.hexdigest()


def check_packages(config: dict[str, Any]) -> list[Item]:
    """Python and every package that training with `config` imports, each against what it must be."""
    items = [_check_python()]
    if installed("llamafactory") is None:
        items.append(Item("llamafactory", "not installed", "0.9.5", "error", install_command("llamafactory==0.9.5")))
        return items
    items.append(Item("llamafactory", version("llamafactory"), "0.9.4 or newer"))
    if Version(version("llamafactory")) < Version("0.9.4"):
        items[-1].verdict, items[-1].fix = "error", install_command("llamafactory==0.9.5")
    items += _check_torch()
    items += _check_windows()
    items += check_optional(config)
    items += check_tracker_keys(config)
    return items


def _check_python() -> Item:
    found = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info < (3, 14):
        return Item("Python", found, "3.11 to 3.13")
    return Item("Python", found, "3.11 to 3.13", "error", "Install Python 3.11, remove trainer/.venv, npm run setup")


def _check_torch() -> list[Item]:
    found = installed("torch")
    command = install_command("torch==2.10.0", "torchvision==0.25.0", "torchaudio==2.10.0")
    if found is None:
        return [Item("torch", "not installed", "2.6 or newer", "error", command)]
    torch = Version(found)
    items = [Item("torch", found, "2.6 or newer, not 2.9")]
    if torch < Version("2.6"):
        items[0].verdict, items[0].fix = "error", command
        items[0].needed = "2.6 or newer: older ones cannot resume from a checkpoint with transformers' safety check"
    elif torch.release[:2] == (2, 9):
        items[0].verdict, items[0].fix = "error", command
        items[0].needed = "not 2.9: LLaMA-Factory refuses its Conv3D, but only after loading the model"
    for name, wanted in (("torchvision", f"0.{torch.minor + 15}"), ("torchaudio", f"{torch.major}.{torch.minor}")):
        other = installed(name)
        item = Item(name, other or "not installed", f"{wanted}, the partner of torch {torch.major}.{torch.minor}")
        if other is None:
            item.verdict, item.fix = "error", command
        elif ".".join(map(str, Version(other).release[:2])) != wanted:
            item.verdict, item.fix = "warning", command
        items.append(item)
    return items


def _check_windows() -> list[Item]:
    items = []
    declared = {
        requirement.name: requirement
        for text in distribution("llamafactory").requires or []
        if not (requirement := Requirement(text)).marker
    }
    for text in _read_windows():
        requirement = Requirement(text)
        found = installed(requirement.name)
        item = Item(requirement.name, found or "not installed", str(requirement.specifier))
        narrower = declared.get(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            item.verdict = "error"
            item.fix = install_command(str(narrower or requirement))
        elif requirement.name == "transformers" and Version(found) < Version("4.57.1"):
            item.verdict, item.needed = "error", "4.57.1 or newer: older ones do not know qwen3_vl"
            item.fix = install_command("transformers==5.6.0")
        elif narrower is not None and not narrower.specifier.contains(found, prereleases=True):
            item.verdict = "warning"
            item.needed = f"{narrower.specifier} (declared by LLaMA-Factory; its start-up check allows this one)"
            item.fix = install_command(str(narrower))
        items.append(item)
    return items


def _read_windows() -> list[str]:
    """The requirements that LLaMA-Factory checks when it is imported, from its source."""
    try:
        source = Path(str(distribution("llamafactory").locate_file("llamafactory/extras/misc.py"))).read_text("utf-8")
        function = next(
            node
            for node in ast.parse(source).body
            if isinstance(node, ast.FunctionDef) and node.name == "check_dependencies"
        )
        found = [
            call.args[0].value
            for call in ast.walk(function)
            if isinstance(call, ast.Call) and call.args and isinstance(call.args[0], ast.Constant)
        ]
        return [text for text in found if isinstance(text, str)] or list(_WINDOWS)
    except (OSError, SyntaxError, StopIteration):
        return list(_WINDOWS)


def check_optional(config: dict[str, Any]) -> list[Item]:
    """The packages that only some options need, each whether it is installed."""
    wanted: dict[str, str] = {}
    for option, values, package, reason in _OPTIONAL:
        value = config.get(option)
        if value in values if values is not None else value:
            wanted[package] = reason
    reporters = config.get("report_to") or []
    for reporter in [reporters] if isinstance(reporters, str) else reporters:
        if reporter in REPORTERS:
            # The client alone is a package of its own.
            skinny = reporter == "mlflow" and installed("mlflow") is None and installed("mlflow-skinny") is not None
            wanted["mlflow-skinny" if skinny else REPORTERS[reporter]] = f"report_to: {reporter}"
    items = []
    for package, reason in wanted.items():
        found = installed(package)
        item = Item(package, found or "not installed", f"installed, because the config has {reason}")
        if found is None:
            item.verdict, item.fix = "error", f"{install_command(package)}, or remove {reason}"
            if package == "flash-attn":
                item.verdict = "warning"
                item.needed += "; without it LLaMA-Factory falls back to another attention with a warning"
                item.fix = "Set flash_attn: sdpa, which Qwen3-VL runs well with"
            elif item.fix.startswith("npm") and package in TRACKERS:
                item.fix = f"npm run setup:trackers, or remove {reason}"
            elif item.fix.startswith("npm"):
                item.fix = f"uv pip install --python {sys.executable} {package}, or remove {reason}"
        items.append(item)
    if config.get("enable_liger_kernel"):
        what = "enable_liger_kernel does nothing for Qwen3-VL in LLaMA-Factory"
        items.append(Item("liger kernel", "enabled", what, "warning", "Remove enable_liger_kernel"))
    return items


def check_tracker_keys(config: dict[str, Any]) -> list[Item]:
    """A tracker that would send what it is told, and has no key to do so."""
    is_offline = {"wandb": wandb_is_offline, "swanlab": swanlab_is_offline}
    return [
        Item(
            f"{tracker}'s key",
            "none: what it is told stays in the run's train/trackers",
            "a key to send it with, or offline said to be meant",
            "warning",
            f"set {tracker.upper()}_API_KEY or {tracker.upper()}_MODE=offline where the worker is started",
        )
        for tracker in reporters(config)
        if tracker in is_offline and is_offline[tracker]() and f"{tracker.upper()}_MODE" not in os.environ
    ]
