"""Row by row, our judgement of a dataset is LLaMA-Factory's own; where we differ, it is on purpose and listed here."""

import json
import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import pytest

from dataset.judge import Judge
from dataset.settings import Settings
from dataset_cases import CASES, Case
from llama_factory_oracle import DIES, DROPS, TRAINS, Oracle
from protocol import TemperError

# Every third dataset, so that the tests stay quick; all of them with TEMPER_ALL_DATASETS=1.
ASKED = CASES if os.environ.get("TEMPER_ALL_DATASETS") else CASES[::3]
BASE = Path(__file__).resolve().parents[2] / "demo" / "tiny-qwen3-vl"

ON_PURPOSE = {
    "special-token": "<|im_end|> and the like end or open a turn in the middle of a text; the row trains, but on that",
    "placeholder-in-answer": "the row trains, but the picture's tokens become labels: the model learns to write them",
    "picture-depth": "the row trains, but on a picture whose values above 255 are white",
    "csv-shifted": "the rows train, but with every field under the next column's name",
    "source-remote": "a hub's data cannot be judged beforehand, wherever it would come from",
}
"""Errors of ours on rows that LLaMA-Factory trains on: code and reason."""


@dataclass
class Ours:
    """Our judgement: effects of errors on rows and on the whole, and the token counts' sum."""

    rows: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    whole: set[str] = field(default_factory=set)
    count: int = 0
    trained: int = 0
    tokens: int = 0
    cut_rows: int = 0
    text: str = ""


def judge(case: Case, folder: Path, out: Path, media_dir: Path | None = None) -> Ours:
    """Ask our judge; an error on purpose counts as none, and its row as one that trains."""
    settings = Settings(folder, ["x"], out, model=BASE, cutoff_len=case.cutoff_len, processes=1, **case.options)
    settings.held_out_fraction = 0
    try:
        result = Judge(settings, lambda *_: None).run()
    except TemperError as error:
        result = error.details
    ours = Ours(count=result["rows"], tokens=(result["tokens"] or {}).get("total", 0))
    ours.cut_rows = (result["tokens"] or {}).get("cutRows", 0)
    purposely = 0
    files = set()
    for text in (out / "problems.jsonl").read_text().splitlines():
        problem = json.loads(text)
        if problem["severity"] != "error":
            continue
        ours.text += f"\n  {problem['message']}"
        if problem["code"] in ON_PURPOSE and problem["llamaFactory"] == "differs":
            purposely += 1
            continue
        if problem["row"] is None or problem["code"] in HEALED:
            ours.whole.add(problem["llamaFactory"])
        else:
            files.add(problem["file"])
            ours.rows[problem["row"]].add(problem["llamaFactory"])
    ours.trained = result["kept"] + purposely
    return ours


HEALED = {"column-types", "column-differs", "column-late", "column-times", "file-bom", "key-repeated", "number-too-large",
          "row-shape", "row-syntax"}  # fmt: skip
"""Errors that have a row, but stop LLaMA-Factory before any row."""


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return Oracle(BASE, tmp_path_factory.mktemp("oracle"))


@pytest.mark.parametrize("case", ASKED, ids=lambda case: case.name)
def test_our_verdict_is_llama_factorys(case: Case, oracle: Oracle, tmp_path: Path) -> None:
    if case.name == "picture-up":
        next(other for other in CASES if other.name == "good").make(tmp_path)
    folder = case.make(tmp_path)
    ours = judge(case, folder, tmp_path / "out")
    with mock.patch("os.listdir", lambda path, listdir=os.listdir: sorted(listdir(path))):
        if case.whole:
            theirs = oracle.ask_whole(folder, "x", case.cutoff_len, **case.options)
            expected = {DIES} if isinstance(theirs, str) else set()
            assert ours.whole | set().union(*ours.rows.values()) == expected, f"{theirs}{ours.text}"
            return
        outcome = oracle.ask(folder, "x", case.cutoff_len, **case.options)
    if outcome.error:
        assert DIES in ours.whole | set().union(*ours.rows.values()), f"LLaMA-Factory: {outcome.error}{ours.text}"
        return
    fates = [row.fate for row in outcome.rows]
    if "num_samples" in case.entry or "split" in case.entry:
        assert (ours.count, ours.trained) == (len(fates), fates.count(TRAINS)), ours.text
        return
    expected_fates = [fate_of(ours, row) for row in range(len(fates))]
    told = "".join(f"\n  row {i}: {row.fate} {row.how}" for i, row in enumerate(outcome.rows))
    if case.file.startswith("part/"):
        assert fates.count(DROPS) == sum(DROPS in effects for effects in ours.rows.values()), told + ours.text
    else:
        assert expected_fates == fates, f"LLaMA-Factory:{told}\nours:{ours.text}"
    if set(fates) == {TRAINS} and not ours.text and not ours.cut_rows and case.entry.get("formatting") != "openai":
        assert ours.tokens == sum(len(row.tokens) for row in outcome.rows)


@pytest.mark.parametrize("case", ASKED, ids=lambda case: case.name)
def test_what_we_keep_is_read_without_loss(case: Case, oracle: Oracle, tmp_path: Path) -> None:
    if case.name == "picture-up":
        next(other for other in CASES if other.name == "good").make(tmp_path)
    settings = Settings(case.make(tmp_path), ["x"], tmp_path / "out", cutoff_len=case.cutoff_len, **case.options)
    settings.model, settings.held_out_fraction, settings.on_bad_row, settings.max_drop_fraction = BASE, 0, "drop", 1
    try:
        result = Judge(settings, lambda *_: None).run()
    except TemperError as error:
        assert not (tmp_path / "out" / "dataset_info.json").exists()
        assert error.details["problemCount"] > 0
        return
    assert oracle.ask_whole(tmp_path / "out", "train", case.cutoff_len, **case.options) == result["trainRows"]
    if len(case.rows) < 500 and not result["tokens"]["cutRows"]:
        rows = oracle.ask(tmp_path / "out", "train", case.cutoff_len).rows
        assert {row.fate for row in rows} == {TRAINS}
        assert sum(len(row.tokens) for row in rows) == result["tokens"]["total"]


def fate_of(ours: Ours, row: int) -> str:
    effects = ours.whole | ours.rows.get(row, set())
    return DIES if DIES in effects else DROPS if DROPS in effects else TRAINS
