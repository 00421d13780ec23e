"""The demo's dataset: what LLaMA-Factory takes, the same every time, and never half there."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

PROGRAM = Path(__file__).resolve().parents[2] / "trainer" / "make_cards.py"


def make_cards(out: Path, *options: str) -> tuple[int, dict]:
    """Run the program; returns its exit code and last line."""
    done = subprocess.run([sys.executable, PROGRAM, out, *options], check=False, capture_output=True, text=True)
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def digest(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "cards"
    assert make_cards(out) == (0, {"event": "result", "path": str(out), "rows": 560, "drawn": True})
    return out


def rows(folder: Path) -> list[dict]:
    return json.loads((folder / "cards.json").read_text(encoding="utf-8"))


def test_every_row_is_one_question_with_one_picture_and_its_answer(cards: Path) -> None:
    for row in rows(cards):
        question, answer = row["messages"]
        assert question["role"] == "user" and question["content"].count("<image>") == 1
        assert answer["role"] == "assistant" and answer["content"]
        assert len(row["images"]) == 1
        with Image.open(cards / row["images"][0]) as picture:
            assert (picture.mode, picture.size) == ("RGB", (256, 64))


def test_no_two_badges_show_the_same_code(cards: Path) -> None:
    answers = [row["messages"][1]["content"] for row in rows(cards)]
    assert len(set(answers)) == len(answers) == 560


def test_dataset_info_names_every_column_and_tag_that_llama_factory_would_otherwise_take_for_absent(
    cards: Path,
) -> None:
    entry = json.loads((cards / "dataset_info.json").read_text())["cards"]
    assert entry["formatting"] == "sharegpt"
    assert set(entry["columns"]) == {"messages", "images"}
    tags = ("role", "content", "user", "assistant", "observation", "function", "system")
    assert set(entry["tags"]) == {f"{tag}_tag" for tag in tags}


def test_the_same_seed_draws_the_same_bytes_and_another_seed_others(cards: Path, tmp_path: Path) -> None:
    make_cards(tmp_path / "again")
    assert digest(tmp_path / "again") == digest(cards)
    make_cards(tmp_path / "again", "--seed", "1")
    again, first = digest(tmp_path / "again"), digest(cards)
    assert not {again[name] for name in again if name.endswith(".png")} & set(first.values())


def test_a_second_call_draws_nothing(cards: Path) -> None:
    before = (cards / "cards.json").stat().st_mtime_ns
    assert make_cards(cards)[1]["drawn"] is False
    assert (cards / "cards.json").stat().st_mtime_ns == before


def test_a_folder_that_it_did_not_draw_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    code, line = make_cards(tmp_path)
    assert (code, line["type"]) == (1, "ConfigError")
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_a_kill_half_way_leaves_no_folder_and_the_next_call_makes_it_whole(cards: Path, tmp_path: Path) -> None:
    out = tmp_path / "cards"
    process = subprocess.Popen([sys.executable, PROGRAM, out], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not out.exists()
    make_cards(out)
    assert digest(out) == digest(cards)


def test_two_calls_at_once_end_with_one_whole_set(cards: Path, tmp_path: Path) -> None:
    out = tmp_path / "cards"
    both = [subprocess.Popen([sys.executable, PROGRAM, out], stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert digest(out) == digest(cards)


def test_it_is_quick(tmp_path: Path) -> None:
    started = time.process_time()
    before = os.times().children_user
    make_cards(tmp_path / "cards")
    assert os.times().children_user - before + time.process_time() - started < 3
