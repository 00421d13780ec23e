"""Fitting a folder for fp16: it is verified or converted, never behind anyone's back, and answers as in fp32."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from merge.safetensors_file import read_folder
from patch_fp16 import Options, patch
from protocol import TemperError
from random_qwen3_vl import save_random_model

PROGRAM = Path(__file__).resolve().parents[2] / "trainer" / "patch_fp16.py"


class Silent:
    """Stands for the protocol where nobody listens."""

    def progress(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as it is published: bf16 weights, and a config.json that says so in one place, by the old name."""
    folder = save_random_model(tmp_path_factory.mktemp("model") / "model", processor=True)
    config = json.loads((folder / "config.json").read_text())
    del config["dtype"]
    config["text_config"]["torch_dtype"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def fp16(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, converted."""
    out = tmp_path_factory.mktemp("fp16") / "fp16"
    run_patch(model, out=out)
    return out


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Held-out rows as the pipeline writes them: one with two pictures and a system turn, one without any."""
    folder = tmp_path_factory.mktemp("rows")
    for number, size in enumerate([(96, 64), (400, 300)]):
        Image.effect_noise(size, 80).convert("RGB").save(folder / f"{number}.png")
    pictures = [str(folder / "0.png"), str(folder / "1.png")]
    turns = [("system", "Be short."), ("user", "<image>and <image>What is this?"), ("assistant", "A picture")]
    two = {"messages": [{"role": role, "content": text} for role, text in turns], "images": pictures}
    plain = {"messages": [{"role": "user", "content": "What is this?"}, {"role": "assistant", "content": "nothing"}]}
    (folder / "held_out.jsonl").write_text(json.dumps(two) + "\n" + json.dumps(plain) + "\n")
    return folder / "held_out.jsonl"


def run_patch(folder: Path, **options: Any) -> dict[str, Any]:
    return patch(Options(folder, **options), Silent())


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def types(folder: Path) -> set[str]:
    return {tensor.dtype for file in read_folder(folder) for tensor in file.tensors}


def edit_weights(folder: Path, change: Any) -> None:
    for path in folder.glob("*.safetensors"):
        state = load_file(path)
        change(state)
        save_file(state, path, metadata={"format": "pt"})


def test_a_bf16_folder_is_converted_beside_and_stays_as_it_was(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    result = run_patch(folder)
    assert content(folder) == content(model)
    assert result["modelDir"] == str(tmp_path / "model-fp16")
    assert result["converted"] == result["tensors"] == 63
    assert set(result["configLevels"].values()) == {"float16"}
    config = json.loads((tmp_path / "model-fp16" / "config.json").read_text())
    assert "torch_dtype" not in config["text_config"]
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "model-fp16", dtype="auto")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float16}
    old = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16).state_dict()
    assert all(torch.equal(tensor, old[name].half()) for name, tensor in loaded.state_dict().items())
    record = json.loads((tmp_path / "model-fp16" / "fp16.json").read_text())
    assert len(record["shards"]) == 7 and record["tensors"] == 63


def test_a_fit_folder_is_verified_and_nothing_but_the_record_is_written(fp16: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fp16"
    shutil.copytree(fp16, folder)
    (folder / "fp16.json").unlink()
    before = content(folder)
    result = run_patch(folder)
    assert (result["modelDir"], result["converted"], result["changedFiles"]) == (str(folder), 0, [])
    assert json.loads((folder / "fp16.json").read_text())["configLevels"]["text_config"] == "float16"
    (folder / "fp16.json").unlink()
    assert content(folder) == before


def test_in_place_mends_a_config_that_still_says_bfloat16_inside(fp16: Path, tmp_path: Path) -> None:
    """What LLaMA-Factory's own fp16 export leaves: transformers 4.57 loads its language model as bf16."""
    folder = tmp_path / "fp16"
    shutil.copytree(fp16, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["dtype"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(config))
    result = run_patch(folder, in_place=True)
    assert result["changedFiles"] == ["config.json"] and result["converted"] == 0
    assert json.loads((folder / "config.json").read_text())["text_config"]["dtype"] == "float16"


def test_in_place_converts_what_is_not_fp16_yet_and_is_idempotent(model: Path, fp16: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    shutil.copyfile(fp16 / "model-00002-of-00007.safetensors", folder / "model-00002-of-00007.safetensors")
    assert run_patch(folder, in_place=True)["converted"] < 63
    assert types(folder) == {"F16"}
    for path in fp16.glob("*.safetensors*"):
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert run_patch(folder, in_place=True)["changedFiles"] == []


def test_weights_that_are_not_finite_are_named(fp16: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fp16"
    shutil.copytree(fp16, folder)

    def break_one(state: dict[str, torch.Tensor]) -> None:
        for name in state.keys() & {"model.visual.merger.norm.weight"}:
            state[name][0] = float("inf")

    edit_weights(folder, break_one)
    with pytest.raises(TemperError, match=r"model\.visual\.merger\.norm\.weight .* not finite"):
        run_patch(folder)


def test_the_gate_passes_a_model_that_computes_the_same(fp16: Path, rows: Path, tmp_path: Path) -> None:
    result = run_patch(fp16, rows=rows, max_new_tokens=4)
    gate = result["gate"]
    assert (gate["rows"], gate["nonFinite"], gate["differing"]) == (2, [], [])
    assert 0 < gate["maxAbsLogitDifference"] < 0.01
    assert json.loads((fp16 / "fp16.json").read_text())["gate"] == gate


def test_the_gate_names_the_layer_whose_activations_overflow(fp16: Path, rows: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fp16"
    shutil.copytree(fp16, folder)
    layer = "model.language_model.layers.1.mlp"

    def amplify(state: dict[str, torch.Tensor]) -> None:
        for name in state.keys() & {f"{layer}.up_proj.weight", f"{layer}.down_proj.weight"}:
            state[name] *= 3000

    edit_weights(folder, amplify)
    with pytest.raises(TemperError, match=rf"not finite, first in {layer}\.down_proj \(row 0\)") as caught:
        run_patch(folder, rows=rows, max_new_tokens=2)
    assert caught.value.type == "DeploymentError"
    assert len(json.loads((folder / "fp16.json").read_text())["gate"]["nonFinite"]) == 2


def test_the_gate_blocks_answers_that_differ_and_shows_them(rows: Path, tmp_path: Path) -> None:
    """Two tokens whose logits lie near 3000, where fp16 counts in twos, and 0.6 apart in fp32."""
    folder = save_random_model(tmp_path / "model", tied=False, dtype=torch.float16, shard="10GB", processor=True)
    run_patch(folder, in_place=True)
    plain = tmp_path / "plain.jsonl"
    plain.write_text(rows.read_text().splitlines()[1] + "\n")
    hidden = last_hidden(folder, "What is this?")

    def aim(state: dict[str, torch.Tensor]) -> None:
        close = (hidden * (3000.2 / hidden.square().sum())).half()
        closer = close.clone()
        for place in range(len(closer)):
            if (closer.float() - close.float()) @ hidden < 0.6:
                closer.view(torch.int16)[place] += 1
        state["lm_head.weight"][100], state["lm_head.weight"][101] = close, closer

    edit_weights(folder, aim)
    with pytest.raises(TemperError, match="answers differently in fp16: 1 of 1 rows, first row 0") as caught:
        run_patch(folder, rows=plain, max_new_tokens=1)
    difference = caught.value.details["gate"]["differing"][0]
    assert 0.5 < difference["margin"] < 0.8
    assert difference["fp16"] != difference["fp32"]


def last_hidden(folder: Path, question: str) -> torch.Tensor:
    """What the head sees in fp32 when it is to write the first token of the answer."""
    loaded = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    messages = [{"role": "user", "content": [{"type": "text", "text": question}]}]
    inputs = AutoProcessor.from_pretrained(folder).apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.no_grad():
        return loaded.model(**inputs).last_hidden_state[0, -1]


def test_a_missing_picture_is_a_dataset_error(fp16: Path, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "<image>?"}], "images": [str(tmp_path / "gone.png")]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(TemperError, match=r"gone\.png cannot be read") as caught:
        run_patch(fp16, rows=tmp_path / "rows.jsonl")
    assert caught.value.type == "DatasetError"


def test_the_command_prints_a_result_line(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), str(model), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    line = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, line["event"], line["converted"]) == (0, "result", 63)
    assert "gate" not in line
