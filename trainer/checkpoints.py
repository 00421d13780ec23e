"""Verified checkpoints: marked once nothing more will be written into them, checked before anything is loaded.

    checkpoints.py RUN/train/output          # one JSON verdict on every checkpoint; changes nothing

A marker (temper-checkpoint.json) holds each file's size and SHA-256. A checkpoint without one (made by LLaMA-Factory
alone, or a crash came between save and mark) is judged by its structure. A damaged checkpoint is moved aside, never
deleted, never loaded.
"""

import argparse
import hashlib
import json
import os
import re
import struct
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import protocol
from protocol import Protocol, TemperError, sync_folder, write_whole

MARKER = "temper-checkpoint.json"
# Written first, so that half a checkpoint of several ranks is known as one.
RANKS = "temper-ranks.json"
CHECKPOINT_NAME = re.compile(r"^checkpoint-(\d+)$")
# Not a name that starts with "checkpoint-": the Trainer's own rotation would count it and delete it.
ASIDE = "damaged"
HASH_THREADS = 4
# The newest may be damaged.
KEEP_AT_LEAST = 2


@dataclass(frozen=True)
class Verdict:
    """What is known of one checkpoint; `by` says whether digests or only the structure vouch for it."""

    checkpoint: str
    step: int
    verified: bool
    by: str
    reason: str | None
    size_bytes: int


def mark_complete(checkpoint: Path, world_size: int = 1) -> dict[str, Any]:
    """Make a finished checkpoint durable, then write its marker; returns the marker. Raises OSError and HostError.

    The order matters: every file and folder is synced before the marker exists.
    """
    step = step_of(checkpoint)
    if world_size > 1 and (missing := [name for name in random_states(world_size) if not (checkpoint / name).exists()]):
        raise TemperError(
            "HostError",
            f"{checkpoint.name} lacks {missing[0]}, which another rank has written elsewhere: "
            "the output folder must be on storage that all hosts share",
        )
    names = files_of(checkpoint)
    sync_tree(checkpoint)
    marker = {
        "format": 1,
        "step": step,
        "worldSize": world_size,
        "markedAt": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "sizeBytes": sum((checkpoint / name).stat().st_size for name in names),
        "files": manifest(checkpoint, names),
    }
    write_whole(checkpoint / MARKER, json.dumps(marker, indent=1) + "\n")
    return marker


def begin(checkpoint: Path, world_size: int) -> None:
    """Note how many ranks are to write their part into a new checkpoint; one rank needs no note."""
    if world_size > 1:
        checkpoint.mkdir(parents=True, exist_ok=True)
        write_whole(checkpoint / RANKS, json.dumps({"worldSize": world_size}) + "\n")


def world_size_of(checkpoint: Path) -> int:
    """How many ranks wrote a checkpoint: by Temper's note, else by the random states in it."""
    try:
        return int(json.loads((checkpoint / RANKS).read_bytes())["worldSize"])
    except (OSError, ValueError, KeyError, TypeError):
        return max(1, len(list(checkpoint.glob("rng_state_*.pth"))))


def shards_of(checkpoint: Path) -> str | None:
    """What has cut the optimizer's state into one part a rank, or None where every rank had all of it."""
    if (checkpoint / "latest").exists():
        return "DeepSpeed"
    return "FSDP" if any(checkpoint.glob("optimizer_*")) else None


def random_states(world_size: int) -> list[str]:
    return [f"rng_state_{rank}.pth" for rank in range(world_size)] if world_size > 1 else ["rng_state.pth"]


def verify(checkpoint: Path) -> Verdict:
    """Judge one checkpoint by its marker, or by its structure where it has none. Reads every byte; changes nothing."""
    step = step_of(checkpoint)
    marked = (checkpoint / MARKER).exists()
    try:
        reason = contradiction(checkpoint, step) if marked else structural_fault(checkpoint, step)
        size_bytes = sum((checkpoint / name).stat().st_size for name in files_of(checkpoint))
    except OSError as error:
        reason, size_bytes = f"{error.filename or checkpoint.name} cannot be read: {error.strerror}", 0
    return Verdict(checkpoint.name, step, reason is None, "marker" if marked else "structure", reason, size_bytes)


def newest_verified(output_dir: Path, on_damaged: Callable[[Verdict, Path], None] | None = None) -> Path | None:
    """The newest checkpoint that verifies, or None; damaged ones newer than it are set aside.

    Calls on_damaged(verdict, moved_to) for each of those.
    """
    for checkpoint in checkpoints_of(output_dir):
        verdict = verify(checkpoint)
        if verdict.verified:
            return checkpoint
        moved_to = set_aside(checkpoint, verdict.reason or "")
        if on_damaged is not None:
            on_damaged(verdict, moved_to)
    return None


def set_aside(checkpoint: Path, reason: str) -> Path:
    """Move a checkpoint to damaged/checkpoint-N.damaged-K, with a note that says why; returns the new path."""
    folder = checkpoint.parent / ASIDE
    folder.mkdir(exist_ok=True)
    count = 1
    while (target := folder / f"{checkpoint.name}.damaged-{count}").exists():
        count += 1
    note = f"{checkpoint.name} was set aside on {datetime.now(UTC).isoformat(timespec='seconds')}: {reason}\n"
    write_whole(target.with_name(target.name + ".txt"), note)
    os.rename(checkpoint, target)
    sync_folder(folder)
    sync_folder(checkpoint.parent)
    return target


def checkpoints_of(output_dir: Path) -> list[Path]:
    """The checkpoint folders of an output_dir, newest step first."""
    if not output_dir.is_dir():
        return []
    found = [path for path in output_dir.iterdir() if CHECKPOINT_NAME.match(path.name) and path.is_dir()]
    return sorted(found, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    match = CHECKPOINT_NAME.match(checkpoint.name)
    if match is None:
        raise ValueError(f"{checkpoint} is not named checkpoint-N")
    return int(match.group(1))


def files_of(folder: Path) -> list[str]:
    """Relative paths of all files below a folder, its marker left out, sorted."""
    found = [path for path in folder.rglob("*") if path.is_file() and path != folder / MARKER]
    return sorted(str(path.relative_to(folder)) for path in found)


def manifest(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of each named file below `folder`, hashed in parallel."""
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        digests = pool.map(lambda name: sha256(folder / name), names)
        return {
            name: {"size": (folder / name).stat().st_size, "sha256": digest}
            for name, digest in zip(names, digests, strict=True)
        }


def manifest_fault(folder: Path, expected: dict[str, dict[str, Any]]) -> str | None:
    """The first way in which a folder's files differ from a manifest, or None. Sizes are compared before hashing."""
    for name, entry in expected.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != entry["size"]:
            return f"{name} has {size} bytes and was saved with {entry['size']}"
    for name, entry in manifest(folder, list(expected)).items():
        if entry["sha256"] != expected[name]["sha256"]:
            return f"{name} has changed since it was saved: its SHA-256 differs"
    return None


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_tree(folder: Path) -> None:
    """Make every file and folder at and below `folder`, and its name in the parent, durable."""
    for directory, _, names in os.walk(folder):
        for name in names:
            sync_folder(os.path.join(directory, name))
        sync_folder(directory)
    sync_folder(folder.parent)


def contradiction(checkpoint: Path, step: int) -> str | None:
    try:
        marker = json.loads((checkpoint / MARKER).read_bytes())
        expected = marker["files"]
        marked_step = marker["step"]
        if not expected or not all(isinstance(entry["size"], int) and entry["sha256"] for entry in expected.values()):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MARKER} is damaged"
    if marked_step != step:
        return f"{MARKER} is of step {marked_step}"
    return manifest_fault(checkpoint, expected)


def structural_fault(checkpoint: Path, step: int) -> str | None:
    """Why an unmarked checkpoint can't be resumed from exactly, or None."""
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_bytes())
    except FileNotFoundError:
        return "trainer_state.json is missing"
    except ValueError:
        return "trainer_state.json is not whole"
    if not isinstance(state, dict) or state.get("global_step") != step:
        return f"trainer_state.json is of step {state.get('global_step') if isinstance(state, dict) else None}"
    return weights_fault(checkpoint) or optimizer_fault(checkpoint) or random_state_fault(checkpoint)


def weights_fault(checkpoint: Path) -> str | None:
    for name in ("adapter_model.safetensors", "model.safetensors"):
        if (checkpoint / name).exists():
            return safetensors_fault(checkpoint / name)
    index = checkpoint / "model.safetensors.index.json"
    if index.exists():
        try:
            shards = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError):
            return f"{index.name} is not whole"
        for shard in shards:
            if not (checkpoint / shard).exists():
                return f"{shard} is missing"
            if fault := safetensors_fault(checkpoint / shard):
                return fault
        return None
    for name in ("adapter_model.bin", "pytorch_model.bin"):
        if (checkpoint / name).exists():
            return torch_file_fault(checkpoint / name)
    if (checkpoint / "latest").exists():
        return None
    return "there are no weights: adapter_model.safetensors or model.safetensors is missing"


def optimizer_fault(checkpoint: Path) -> str | None:
    """Without optimizer and scheduler the Trainer silently starts them afresh, so both must be there."""
    latest = checkpoint / "latest"
    if latest.exists():
        sharded = checkpoint / latest.read_text().strip()
        states = sorted(sharded.glob("*.pt")) if sharded.is_dir() else []
        ranks = {path.name.split("_mp_rank")[0] for path in states if path.name.endswith("_optim_states.pt")}
        if len(ranks) < world_size_of(checkpoint):
            return f"DeepSpeed's folder {sharded.name} lacks optimizer states: it has those of {len(ranks)} GPUs"
    elif folders := sorted(checkpoint.glob("optimizer_*")):
        states = [path for folder in folders for path in sorted(folder.glob("*.pt"))]
    else:
        names = ("optimizer.bin",) if (checkpoint / "optimizer.bin").exists() else ("optimizer.pt",)
        states = [checkpoint / name for name in names]
    states.append(checkpoint / "scheduler.pt")
    states.extend(checkpoint.glob("scaler.pt"))
    return next((fault for path in states if (fault := torch_file_fault(path))), None)


def random_state_fault(checkpoint: Path) -> str | None:
    """Several ranks write rng_state_0.pth and so on: one of them alone is half of a checkpoint."""
    ranks = world_size_of(checkpoint)
    if any(checkpoint.glob("rng_state_*.pth")):
        ranks = max(ranks, 2)
    names = random_states(ranks)
    return next((fault for name in names if (fault := torch_file_fault(checkpoint / name))), None)


def safetensors_fault(path: Path) -> str | None:
    """Whether the header accounts for every byte of the file: 8 bytes of length, the header, the tensors."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(8)
        if len(head) < 8 or size < 8 + (length := struct.unpack("<Q", head)[0]):
            return f"{path.name} is cut short"
        try:
            header = json.loads(file.read(length))
            end = max((entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"{path.name} has a damaged header"
    return None if size == 8 + length + end else f"{path.name} has {size} bytes and its header says {8 + length + end}"


def torch_file_fault(path: Path) -> str | None:
    """torch.save writes a zip archive with a checksum for each entry; None when all of them hold."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except FileNotFoundError:
        return f"{path.name} is missing"
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError):
        return f"{path.name} is not whole"
    return None if damaged is None else f"{path.name} is damaged at {damaged}"


def main(speak: Protocol) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description="Judge every checkpoint of an output_dir; changes nothing.")
    parser.add_argument("output_dir", type=Path)
    output_dir = parser.parse_args().output_dir
    verdicts = []
    found = checkpoints_of(output_dir)
    for done, checkpoint in enumerate(found, 1):
        verdicts.append(verify(checkpoint))
        speak.progress(done, len(found), "checkpoints")
    newest = next((verdict.checkpoint for verdict in verdicts if verdict.verified), None)
    return {"checkpoints": [spoken(verdict) for verdict in verdicts], "newestVerified": newest}


def spoken(verdict: Verdict) -> dict[str, Any]:
    fields = asdict(verdict)
    fields["sizeBytes"] = fields.pop("size_bytes")
    return fields


if __name__ == "__main__":
    sys.exit(protocol.run(main))
