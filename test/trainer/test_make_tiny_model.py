"""The demo's base model: making one really works, and the committed one is the one that was made."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "trainer" / "make_tiny_model.py"
COMMITTED = ROOT / "demo" / "tiny-qwen3-vl"


def make_tiny_model(out: Path, *options: str) -> tuple[int, list[dict]]:
    """Run the program; returns its exit code and lines."""
    done = subprocess.run([sys.executable, PROGRAM, out, *options], check=False, capture_output=True, text=True)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "model"
    code, lines = make_tiny_model(out, "--vision-steps", "5", "--steps", "5")
    assert (code, lines[-1]["event"], lines[-1]["path"]) == (0, "result", str(out))
    assert (lines[-2]["event"], lines[-2]["done"], lines[-2]["total"]) == ("progress", 10, 10)
    return out


@pytest.mark.parametrize("which", ["made", "committed"])
def test_it_loads_in_bf16_and_answers_about_a_picture(which: str, made: Path) -> None:
    folder = {"made": made, "committed": COMMITTED}[which]
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert 1_300_000 < model.num_parameters() < 1_400_000
    processor = AutoProcessor.from_pretrained(folder)
    content = [{"type": "image"}, {"type": "text", "text": "请识别这张工牌:部门和编号。"}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=[prompt], images=[Image.new("RGB", (256, 64), "white")], return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 4
    answer = model.generate(**inputs.to(torch.bfloat16), max_new_tokens=4, min_new_tokens=1)
    assert answer.shape[1] > inputs["input_ids"].shape[1]


@pytest.mark.parametrize("which", ["made", "committed"])
def test_the_digests_are_those_of_the_files(which: str, made: Path) -> None:
    folder = {"made": made, "committed": COMMITTED}[which]
    record = json.loads((folder / "digests.json").read_text())
    files = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}
    del files["digests.json"]
    assert record["files"] == files
    assert {"seed", "vision_steps", "steps", "versions"} < set(record)


def test_the_committed_model_has_the_files_and_the_tokenizer_that_are_made_today(made: Path) -> None:
    made_files, committed = (json.loads((folder / "digests.json").read_text())["files"] for folder in (made, COMMITTED))
    assert made_files.keys() == committed.keys()
    assert [name for name in committed if committed[name] != made_files[name]] == ["model.safetensors"]


def test_every_dtype_in_the_config_is_named_and_older_transformers_find_their_files(made: Path) -> None:
    config = json.loads((made / "config.json").read_text())
    assert {part["dtype"] for part in (config, config["text_config"], config["vision_config"])} == {"bfloat16"}
    assert {"rope_theta", "rope_scaling", "rope_parameters"} < set(config["text_config"])
    names = ("preprocessor_config.json", "video_preprocessor_config.json", "chat_template.jinja")
    assert all((made / name).is_file() for name in names)
    assert "extra_special_tokens" not in json.loads((made / "tokenizer_config.json").read_text())


def test_everyone_may_read_the_files(made: Path) -> None:
    assert {file.stat().st_mode & 0o777 for file in made.iterdir()} == {0o644}


def test_a_folder_that_is_there_already_is_left_alone(tmp_path: Path) -> None:
    code, lines = make_tiny_model(tmp_path)
    assert (code, lines[-1]["type"]) == (1, "ConfigError")
    assert list(tmp_path.iterdir()) == []
