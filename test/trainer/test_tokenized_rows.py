"""Claims about trainer/tokenized_rows.py: kept rows are the right rows, or none."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import tokenized_rows
from tokenized_rows import RECORD, discard_if_damaged, folder_for, tidy
from training import make_dataset


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    dataset = make_dataset(tmp_path / "data", rows=3)
    model = tmp_path / "model"
    model.mkdir()
    (model / "tokenizer.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    return {
        "model_name_or_path": str(model), "dataset": "train", "dataset_dir": str(dataset), "media_dir": str(dataset),
        "template": "qwen3_vl_nothink", "cutoff_len": 256, "val_size": 0.1, "learning_rate": 1e-4, "seed": 42,
    }  # fmt: skip


def replace_picture(config: dict[str, Any]) -> None:
    Image.new("RGB", (320, 320)).save(Path(config["media_dir"]) / "images/0.png")


def delete_picture(config: dict[str, Any]) -> None:
    (Path(config["media_dir"]) / "images/0.png").unlink()


def change_a_row(config: dict[str, Any]) -> None:
    path = Path(config["dataset_dir"]) / "train.jsonl"
    path.write_text(path.read_text().replace("What", "Why"))


def change_the_entry(config: dict[str, Any]) -> None:
    path = Path(config["dataset_dir"]) / "dataset_info.json"
    info = json.loads(path.read_text())
    info["train"]["num_samples"] = 2
    path.write_text(json.dumps(info))


def change_the_tokenizer(config: dict[str, Any]) -> None:
    (Path(config["model_name_or_path"]) / "tokenizer.json").write_text("{ }")


OTHER_ROWS = {
    "a picture is replaced": replace_picture,
    "a picture is gone": delete_picture,
    "a row changes": change_a_row,
    "its dataset_info entry changes": change_the_entry,
    "the tokenizer changes": change_the_tokenizer,
    **{
        f"{option} is {value}": lambda config, option=option, value=value: config.update({option: value})
        for option, value in [
            ("cutoff_len", 128), ("template", "qwen3_vl"), ("val_size", 0.2), ("max_samples", 2), ("seed", 1),
            ("image_max_pixels", 1024), ("train_on_prompt", True), ("packing", True), ("an_option_of_tomorrow", 1),
        ]
    },
}  # fmt: skip


@pytest.mark.parametrize("change", OTHER_ROWS.values(), ids=OTHER_ROWS)
def test_other_rows_have_another_folder_when(
    config: dict[str, Any], tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    before = folder_for(config, tmp_path)
    change(config)
    assert before is not None and folder_for(config, tmp_path) not in (before, None)


@pytest.mark.parametrize(
    ("option", "value"),
    [("learning_rate", 1), ("per_device_train_batch_size", 7), ("gradient_accumulation_steps", 3), ("lora_rank", 64),
     ("output_dir", "x"), ("resume_from_checkpoint", "y"), ("num_train_epochs", 9), ("fp16", True), ("save_steps", 5),
     ("preprocessing_num_workers", 8)],
)  # fmt: skip
def test_the_same_rows_have_the_same_folder_whatever(
    config: dict[str, Any], tmp_path: Path, option: str, value: Any
) -> None:
    assert folder_for(config, tmp_path) == folder_for({**config, option: value}, tmp_path)


def test_the_next_run_shares_the_rows_when_its_pictures_have_absolute_names(config: dict[str, Any], tmp_path: Path) -> None:
    data = Path(config["dataset_dir"])
    (data / "train.jsonl").write_text((data / "train.jsonl").read_text().replace('"images/', f'"{data}/images/'))
    moved = tmp_path / "next-run"
    moved.mkdir()
    for name in ("train.jsonl", "dataset_info.json"):
        shutil.copy(data / name, moved)
    assert folder_for(config, tmp_path) == folder_for({**config, "dataset_dir": str(moved), "media_dir": None}, tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"model_name_or_path": "Qwen/Qwen3-VL-4B-Instruct"}, {"streaming": True}, {"dataset": "from_the_hub"}, {"dataset_dir": "/nowhere"}],
)
def test_rows_that_cannot_be_told_apart_are_not_kept(config: dict[str, Any], tmp_path: Path, change: dict[str, Any]) -> None:
    info = json.loads((Path(config["dataset_dir"]) / "dataset_info.json").read_text())
    info["from_the_hub"] = {"hf_hub_url": "somebody/something"}
    (Path(config["dataset_dir"]) / "dataset_info.json").write_text(json.dumps(info))
    assert folder_for({**config, **change}, tmp_path) is None


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows as datasets writes them, in two splits and two record batches."""
    import datasets

    folder = tmp_path / "cache" / "0123"
    folder.parent.mkdir()
    monkeypatch.setattr(datasets.DatasetDict, "save_to_disk", datasets.DatasetDict.save_to_disk)
    tokenized_rows.save_whole(folder)
    rows = datasets.Dataset.from_dict({"input_ids": [[row] * 50 for row in range(2500)]})
    datasets.DatasetDict({"train": rows, "validation": rows.select(range(7))}).save_to_disk(str(folder))
    return folder


def test_rows_appear_whole_with_their_counts(kept: Path) -> None:
    assert [path.name for path in kept.parent.iterdir()] == ["0123"]
    assert json.loads((kept / RECORD).read_text())["rows"] == {"train": 2500, "validation": 7}
    assert discard_if_damaged(kept) is None and kept.exists()


def cut_at_a_record_batch(folder: Path) -> None:
    """Arrow reads a file that ends after a record batch as fewer rows, without an error."""
    import pyarrow

    path = next((folder / "train").glob("*.arrow"))
    with pyarrow.memory_map(str(path)) as source:
        batches = list(pyarrow.ipc.open_stream(source))
        schema = batches[0].schema
    cut = path.with_suffix(".cut")
    with pyarrow.OSFile(str(cut), "wb") as sink, pyarrow.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(batches[0])
    cut.rename(path)


def flip_a_bit(folder: Path) -> None:
    path = next((folder / "train").glob("*.arrow"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "a file is cut at a record batch": cut_at_a_record_batch,
    "a bit has flipped": flip_a_bit,
    "a split is gone": lambda folder: shutil.rmtree(folder / "validation"),
    "its record is gone": lambda folder: (folder / RECORD).unlink(),
    "its record is half": lambda folder: os.truncate(folder / RECORD, 20),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_rows_are_thrown_away_when(kept: Path, damage: Callable[[Path], None]) -> None:
    damage(kept)
    assert discard_if_damaged(kept)
    assert not kept.exists()


def test_two_runs_that_write_the_same_rows_at_once_do_no_harm(kept: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"input_ids": [[1]]})
    datasets.DatasetDict({"train": rows}).save_to_disk(str(kept))
    assert discard_if_damaged(kept) is None
    assert json.loads((kept / RECORD).read_text())["rows"]["train"] == 2500
    assert [path.name for path in kept.parent.iterdir()] == ["0123"]


def test_leftovers_and_rows_unused_for_a_month_are_tidied_away(kept: Path) -> None:
    (kept.parent / ".4567.999999999").mkdir()
    (kept.parent / f".89ab.{os.getpid()}").mkdir()
    shutil.copytree(kept, kept.parent / "old")
    for name in ("old", "0123"):
        os.utime(kept.parent / name, (time.time(), time.time() - 31 * 24 * 3600))
    tidy(kept.parent, kept)
    assert {path.name for path in kept.parent.iterdir()} == {"0123", f".89ab.{os.getpid()}"}
