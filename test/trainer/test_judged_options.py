"""Options that decide which rows are trained on, and as which tokens, mean to the judge what they mean to LLaMA-Factory."""

import json
from pathlib import Path
from typing import Any

import pytest
from llamafactory.data.template import TEMPLATES

from dataset.judge import Judge
from dataset.settings import Settings
from dataset_cases import COLUMNS, OK, TAGS, TEXT, Case, chat, row
from llama_factory_oracle import DIES, Oracle
from protocol import TemperError

BASE = Path(__file__).resolve().parents[2] / "demo" / "tiny-qwen3-vl"
ENTRY = {"formatting": "sharegpt", "columns": COLUMNS, "tags": TAGS}
THOUGHT = "<think>\nfirst this\n</think>\n\nthen that"
ROWS = [
    OK,
    chat("one", "two " * 9, "three", "four"),
    chat("one", THOUGHT, "three " * 40, THOUGHT, "five", "six"),
    row("<image>what <b> is <c>", "a <b> and <d>"),
]


def judge(folder: Path, out: Path, datasets: list[str] | None = None, **options: Any) -> dict[str, Any]:
    """The report of our judge, whatever it says."""
    options = {"held_out_fraction": 0, "processes": 1, **options}
    try:
        return Judge(Settings(folder, datasets or ["x"], out, **options), lambda *_: None).run()
    except TemperError as error:
        return error.details


def codes(report: dict[str, Any]) -> set[str]:
    return {problem["code"] for problem in report["problems"]}


@pytest.mark.parametrize("template", ["qwen3_vl", "qwen3_vl_nothink"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"enable_thinking": False},
        {"enable_thinking": None},
        {"mask_history": True},
        {"mask_history": True, "preserve_thinking": True},
        {"mask_history": True, "enable_thinking": False},
        {"train_on_prompt": True},
        {"packing": True},
        {"default_system": "Be brief."},
        {"add_tokens": "<b>,<c>", "add_special_tokens": "<d>"},
    ],
    ids=str,
)
def test_rows_have_the_tokens_that_llama_factory_gives_them(
    options: dict[str, Any], template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TEMPLATES[template], "default_system", "")
    folder = Case("x", ROWS, entry=ENTRY).make(tmp_path)
    oracle = Oracle(BASE, tmp_path, template=template, **options)
    oracle._model.float()  # new tokens make it bf16
    names = ("add_tokens", "add_special_tokens")
    ours = {name: value.split(",") if name in names else value for name, value in options.items()}
    report = judge(folder, tmp_path / "out", model=BASE, template=template, **ours)
    rows = oracle.ask(folder, "x").rows
    assert report["tokens"]["total"] == sum(len(row.tokens) for row in rows)
    assert report["tokens"]["answers"] == sum(label != -100 for row in rows for label in row.labels)
    by_length: dict[int, list[int]] = {}
    for tokenized in rows:
        by_length.setdefault(len(tokenized.tokens), []).append(sum(label != -100 for label in tokenized.labels))
    lengths = [[length, len(answers), max(answers)] for length, answers in sorted(by_length.items())]
    assert report["tokens"]["lengths"] == lengths
    for cutoff_len in (60, 110, 130):
        fates = [row.fate for row in oracle.ask(folder, "x", cutoff_len - bool(options.get("packing"))).rows]
        report = judge(folder, tmp_path / "out", model=BASE, template=template, cutoff_len=cutoff_len, **ours)
        bad = {problem["row"] for problem in report["problems"] if problem["severity"] == "error"}
        assert bad == {index for index, fate in enumerate(fates) if fate == DIES}


def two_datasets(folder: Path, more: list[Any]) -> Path:
    folder = Case("x", [TEXT, OK, chat("third", "row")], entry=ENTRY).make(folder)
    (folder / "more.json").write_text(json.dumps(more))
    info = json.loads((folder / "dataset_info.json").read_text())
    info["y"] = {**info["x"], "file_name": "more.json"}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_eval_rows_are_judged_and_kept_apart_and_go_when_no_longer_asked_for(tmp_path: Path) -> None:
    folder = two_datasets(tmp_path, [TEXT, chat("fifth", "row")])
    report = judge(folder, tmp_path / "out", eval_datasets=["y"], held_out_fraction=0)
    assert (report["ok"], report["rows"], report["trainRows"], report["evalRows"]) == (True, 5, 3, 2)
    assert len(lines(tmp_path / "out" / "eval.jsonl")) == 2
    assert set(json.loads((tmp_path / "out" / "dataset_info.json").read_text())) == {"train", "held_out", "eval"}
    assert judge(folder, tmp_path / "out")["evalRows"] == 0
    assert not (tmp_path / "out" / "eval.jsonl").exists()


def test_a_bad_eval_row_is_said_and_one_beyond_max_samples_is_not(tmp_path: Path) -> None:
    folder = two_datasets(tmp_path, [TEXT, row(images=("no.png",))])
    report = judge(folder, tmp_path / "out", eval_datasets=["y"])
    assert [(p["dataset"], p["row"], p["code"]) for p in report["problems"]] == [("y", 1, "picture-missing")]
    report = judge(folder, tmp_path / "out", eval_datasets=["y"], max_samples=1)
    assert (report["ok"], report["rows"], report["trainRows"], report["evalRows"]) == (True, 2, 1, 1)


def test_splits_hold_only_rows_within_max_samples_of_each_dataset(tmp_path: Path) -> None:
    folder = two_datasets(tmp_path, [chat(f"more {number}", "row") for number in range(30)])
    judge(folder, tmp_path / "out", ["x", "y"], max_samples=20, held_out_fraction=0.3)
    written = lines(tmp_path / "out" / "train.jsonl") + lines(tmp_path / "out" / "held_out.jsonl")
    assert len(written) == 23
    assert not any("more 20" in line for line in written)


@pytest.mark.parametrize(
    ("rows", "options", "code"),
    [
        ([OK], {"template": ""}, "template-blind"),
        ([OK], {"template": "qwen3_nothink", "model": BASE}, "template-blind"),
        ([TEXT], {"template": ""}, None),
        ([TEXT, OK, OK], {"val_size": 3}, "val-size"),
        ([OK], {"val_size": 0.1}, "val-size"),
        ([TEXT, OK], {"val_size": 0.1}, None),
        ([TEXT], {"tool_format": "llama3", "model": BASE}, "tokens-inexact"),
        ([TEXT], {"new_special_tokens_config": Path("/nowhere"), "model": BASE}, "base-unreadable"),
    ],
)
def test_what_an_option_does_to_all_rows_is_said_once(
    rows: list[Any], options: dict[str, Any], code: str | None, tmp_path: Path
) -> None:
    report = judge(Case("x", rows, entry=ENTRY).make(tmp_path), tmp_path / "out", **options)
    assert (code is None and report["ok"]) or [p["code"] for p in report["problems"]].count(code) == 1
