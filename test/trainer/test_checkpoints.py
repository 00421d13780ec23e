"""Claims about trainer/checkpoints.py: whatever happens to a file, a damaged checkpoint is never loaded."""

import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import checkpoints
from checkpoints import MARKER, mark_complete, newest_verified, verify

FILES = ("adapter_model.safetensors", "adapter_config.json", "optimizer.pt", "scheduler.pt", "rng_state.pth",
         "trainer_state.json", "training_args.bin", "tokenizer.json", "processor_config.json", "README.md")  # fmt: skip


def make_checkpoint(output_dir: Path, step: int, ranks: int = 1) -> Path:
    """A checkpoint of LLaMA-Factory's shape, its tensors and archives in the true formats."""
    folder = output_dir / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    tensors = bytes(range(256)) * 16
    header = json.dumps({"__metadata__": {}, "w": {"dtype": "U8", "shape": [4096], "data_offsets": [0, 4096]}}).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + tensors)
    rngs = ["rng_state.pth"] if ranks == 1 else [f"rng_state_{rank}.pth" for rank in range(ranks)]
    for name in ("optimizer.pt", "scheduler.pt", "training_args.bin", *rngs):
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("archive/data.pkl", name)
            archive.writestr("archive/data/0", os.urandom(3000))
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": []}))
    for name in ("adapter_config.json", "tokenizer.json", "processor_config.json"):
        (folder / name).write_text(json.dumps({"name": name}))
    (folder / "README.md").write_text("a model card")
    return folder


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def delete(path: Path) -> None:
    path.unlink()


def flip(path: Path) -> None:
    """Change one bit in the middle, as a disk might: no size, no date, no format shows it."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def zero_the_end(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + b"\0" * (len(content) - len(content) // 2))


DAMAGES = (truncate, empty, delete, flip, grow, zero_the_end)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", FILES)
def test_a_marked_checkpoint_with_any_file_damaged_is_not_loaded(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    for step in (10, 20):
        mark_complete(make_checkpoint(tmp_path, step))
    damage(tmp_path / "checkpoint-20" / name)
    seen = []
    assert newest_verified(tmp_path, lambda verdict, moved_to: seen.append((verdict, moved_to))) == tmp_path / "checkpoint-10"
    [(verdict, moved_to)] = seen
    assert verdict.checkpoint == "checkpoint-20" and name in verdict.reason
    assert not (tmp_path / "checkpoint-20").exists()
    assert moved_to == tmp_path / "damaged" / "checkpoint-20.damaged-1" and moved_to.is_dir()
    assert verdict.reason in moved_to.with_name(moved_to.name + ".txt").read_text()


@pytest.mark.parametrize("damage", [truncate, empty, flip, zero_the_end], ids=lambda damage: damage.__name__)
def test_a_damaged_marker_is_not_believed(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    mark_complete(make_checkpoint(tmp_path, 10))
    damage(tmp_path / "checkpoint-10" / MARKER)
    assert newest_verified(tmp_path) is None


def test_a_checkpoint_whose_marker_is_gone_is_judged_by_its_structure(tmp_path: Path) -> None:
    mark_complete(make_checkpoint(tmp_path, 10))
    delete(tmp_path / "checkpoint-10" / MARKER)
    verdict = verify(tmp_path / "checkpoint-10")
    assert (verdict.verified, verdict.by) == (True, "structure")


# What the structure can show: archives carry checksums, a safetensors header knows its file's size.
STRUCTURE_SHOWS = {
    "adapter_model.safetensors": (truncate, empty, delete, grow),
    "optimizer.pt": (truncate, empty, delete, flip, zero_the_end),
    "scheduler.pt": (truncate, empty, delete, flip, zero_the_end),
    "rng_state.pth": (truncate, empty, delete, flip, zero_the_end),
    "trainer_state.json": (truncate, empty, delete, grow, zero_the_end),
}


@pytest.mark.parametrize(
    ("name", "damage"),
    [(name, damage) for name, damages in STRUCTURE_SHOWS.items() for damage in damages],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_an_unmarked_checkpoint_with_a_file_that_matters_damaged_is_not_loaded(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    make_checkpoint(tmp_path, 10)
    make_checkpoint(tmp_path, 20)
    damage(tmp_path / "checkpoint-20" / name)
    assert newest_verified(tmp_path) == tmp_path / "checkpoint-10"


def test_an_unmarked_checkpoint_of_several_ranks_needs_all_their_random_states(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, 10, ranks=3)
    assert verify(folder).verified
    delete(folder / "rng_state_1.pth")
    assert "rng_state_1.pth" in verify(folder).reason


def test_a_full_model_needs_every_shard_of_its_index(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, 10)
    weights = (folder / "adapter_model.safetensors").read_bytes()
    delete(folder / "adapter_model.safetensors")
    for shard in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        (folder / shard).write_bytes(weights)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert verify(folder).verified
    truncate(folder / "model-00002-of-00002.safetensors")
    assert "model-00002-of-00002" in verify(folder).reason


def test_a_checkpoint_renamed_to_another_step_is_not_loaded(tmp_path: Path) -> None:
    mark_complete(make_checkpoint(tmp_path, 10))
    (tmp_path / "checkpoint-10").rename(tmp_path / "checkpoint-30")
    assert "of step 10" in verify(tmp_path / "checkpoint-30").reason


def test_one_damaged_twice_keeps_both(tmp_path: Path) -> None:
    for _ in range(2):
        empty(make_checkpoint(tmp_path, 10) / "optimizer.pt")
        assert newest_verified(tmp_path) is None
    assert {path.name for path in (tmp_path / "damaged").iterdir()} == {
        "checkpoint-10.damaged-1", "checkpoint-10.damaged-1.txt", "checkpoint-10.damaged-2", "checkpoint-10.damaged-2.txt",
    }  # fmt: skip


def test_steps_are_compared_as_numbers_and_other_folders_are_left_alone(tmp_path: Path) -> None:
    for step in (9, 100):
        make_checkpoint(tmp_path, step)
    for name in ("checkpoint-best", "checkpoint-200.tmp", "runs"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-300").write_text("a file")
    assert newest_verified(tmp_path) == tmp_path / "checkpoint-100"
    assert (tmp_path / "checkpoint-200.tmp").exists()


def test_what_is_set_aside_is_out_of_the_way_of_the_trainers_own_rotation(tmp_path: Path) -> None:
    empty(make_checkpoint(tmp_path, 10) / "optimizer.pt")
    newest_verified(tmp_path)
    # transformers rotates whatever matches output_dir/checkpoint-*
    assert list(tmp_path.glob("checkpoint-*")) == []


def test_an_empty_or_absent_output_has_no_checkpoint(tmp_path: Path) -> None:
    assert newest_verified(tmp_path) is None
    assert newest_verified(tmp_path / "absent") is None


def test_an_unreadable_checkpoint_is_damaged_not_fatal(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, 10)
    delete(folder / "trainer_state.json")
    (folder / "trainer_state.json").mkdir()
    assert verify(folder).reason.endswith("cannot be read: Is a directory")


def test_marks_after_everything_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_checkpoint(tmp_path, 10)
    synced: list[str] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    marker = mark_complete(folder)
    marked_at = next(index for index, path in enumerate(synced) if MARKER in path)
    assert {str(folder / name) for name in FILES} | {str(folder), str(tmp_path)} <= set(synced[:marked_at])
    assert synced[marked_at + 1 :] == [str(folder)]
    assert (marker["step"], marker["worldSize"], set(marker["files"])) == (10, 1, set(FILES))
    assert marker["sizeBytes"] == sum((folder / name).stat().st_size for name in FILES)


def test_the_command_prints_a_verdict_on_each_and_changes_nothing(tmp_path: Path) -> None:
    mark_complete(make_checkpoint(tmp_path, 10))
    make_checkpoint(tmp_path, 20)
    empty(make_checkpoint(tmp_path, 30) / "optimizer.pt")
    out = subprocess.run([sys.executable, checkpoints.__file__, str(tmp_path)], capture_output=True, check=True).stdout
    result = json.loads(out.splitlines()[-1])
    assert result["event"] == "result" and result["newestVerified"] == "checkpoint-20"
    assert [(item["checkpoint"], item["verified"], item["by"]) for item in result["checkpoints"]] == [
        ("checkpoint-30", False, "structure"), ("checkpoint-20", True, "structure"), ("checkpoint-10", True, "marker"),
    ]  # fmt: skip
    assert (tmp_path / "checkpoint-30").exists()
