"""Claims about converted datasets: each format's rows are what LLaMA-Factory then reads, and bad rows are named."""

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dataset import info
from llama_factory_oracle import TRAINS, Oracle
from training import TRAINER

BASE = TRAINER.parent / "demo/tiny-qwen3-vl"


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return Oracle(BASE, tmp_path_factory.mktemp("oracle"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with two pictures, one of them with a space and Chinese in its name."""
    folder = tmp_path / "source"
    (folder / "pictures").mkdir(parents=True)
    for name, color in (("a.png", "red"), ("工牌 2.png", "blue")):
        Image.new("RGB", (64, 32), color).save(folder / "pictures" / name)
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def convert(source: Path, name: str, *options: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the result or error line."""
    command = [sys.executable, TRAINER / "convert_dataset.py", source / name, source.parent / "out", *options]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def rows_of(source: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (source.parent / "out/out.jsonl").read_text().splitlines()]


def texts(row: dict[str, Any]) -> list[str]:
    return [message["content"] for message in row["messages"]]


A, B = "pictures/a.png", "pictures/工牌 2.png"
DATA = "data:image/png;base64,"


def coco(folder: Path) -> str:
    images = [{"id": 7, "file_name": A}, {"id": 8, "file_name": B}]
    captions = [(7, "red"), (7, "a red one"), (8, "blue")]
    annotations = [{"image_id": image, "caption": caption} for image, caption in captions]
    return json.dumps({"info": {}, "images": images, "annotations": annotations}, indent=1)


def llava(folder: Path) -> str:
    def turns(text: str) -> list[dict[str, str]]:
        return [{"from": "human", "value": text}, {"from": "gpt", "value": "red"}]

    rows = [
        {"id": "1", "image": A, "conversations": turns("<image>\nWhat color?")},
        {"id": "2", "image": [A, B], "conversations": turns("<image> and <image>?")},
        {"id": "3", "image": B, "conversations": turns("No mark for it")},
    ]
    return json.dumps(rows, ensure_ascii=False)


def qwen_vl(folder: Path) -> str:
    tagged = [{"from": "user", "value": f"Picture 1: <img>{A}</img>\nColor?"}, {"from": "assistant", "value": "red"}]
    part = [{"type": "image", "image": f"file://{folder / B}"}, {"type": "text", "text": "Color?"}]
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": part}]
    rows = [{"conversations": tagged}, {"messages": [*messages, {"role": "assistant", "content": "blue"}]}]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def openai(folder: Path) -> str:
    data = DATA + base64.b64encode((folder / A).read_bytes()).decode()
    part = [{"type": "text", "text": "Color? "}, {"type": "image_url", "image_url": {"url": data}}]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "red"}]}
    return json.dumps({"messages": [{"role": "user", "content": part}, answer]}) + "\n"


def table(folder: Path) -> str:
    return f'\ufeffimage;Label;question\n{A};"red; very";What?\n\n{B};"blue\nindeed";And this?\n'


GOOD = [
    ("coco-caption", "captions.json", coco, [["<image>Describe the picture.", "red"], None, None], [1, 1, 1]),
    (
        "llava",
        "llava.json",
        llava,
        [["<image>\nWhat color?", "red"], ["<image> and <image>?", "red"], ["<image>No mark for it", "red"]],
        [1, 2, 1],
    ),
    ("qwen-vl", "rows.jsonl", qwen_vl, [["<image>Color?", "red"], ["Be short.", "<image>Color?", "blue"]], [1, 1]),
    ("openai-chat", "rows.jsonl", openai, [["Color? <image>", "red"]], [1]),
    ("csv", "table.csv", table, [["<image>What?", "red; very"], ["<image>And this?", "blue\nindeed"]], [1, 1]),
]


@pytest.mark.parametrize(("kind", "name", "content", "wanted", "pictures"), GOOD, ids=[case[0] for case in GOOD])
def test_each_format_is_told_by_its_looks_and_trains_in_llama_factory(
    kind: str, name: str, content: Any, wanted: list, pictures: list[int], source: Path, oracle: Oracle
) -> None:
    (source / name).write_text(content(source))
    code, result = convert(source, name)
    assert code == 0, result
    assert (result["format"], result["detected"], result["rows"]) == (kind, True, len(wanted))
    rows = rows_of(source)
    for row, expected, count in zip(rows, wanted, pictures, strict=True):
        assert expected is None or texts(row) == expected
        assert len(row["images"]) == count
        assert all((source.parent / "out" / image).is_file() for image in row["images"])
    read = oracle.ask(source.parent / "out", "out", 256).rows
    assert [row.fate for row in read] == [TRAINS] * len(wanted)


def test_every_key_is_registered_and_other_datasets_stay(source: Path) -> None:
    (source / "table.csv").write_text(table(source))
    out = source.parent / "out"
    out.mkdir()
    (out / "dataset_info.json").write_text('{"other": {"file_name": "other.json"}}')
    assert convert(source, "table.csv")[0] == 0
    entries = json.loads((out / "dataset_info.json").read_text())
    assert entries["other"] == {"file_name": "other.json"}
    columns, tags = entries["out"]["columns"], entries["out"]["tags"]
    assert {*columns} == {*info._COLUMNS} and (columns["messages"], columns["images"]) == ("messages", "images")
    assert {*tags} == {*info._TAGS} and (tags["role_tag"], tags["user_tag"]) == ("role", "user")
    code, error = convert(source, "table.csv")
    assert (code, error["type"]) == (1, "ConfigError") and "give another --name, or --replace" in error["message"]
    assert convert(source, "table.csv", "--replace")[0] == 0


def test_pictures_are_copied_linked_or_kept(source: Path) -> None:
    (source / "table.csv").write_text(table(source))
    for how in ("copy", "link", "keep"):
        assert convert(source, "table.csv", "--pictures", how, "--name", "out", "--replace")[0] == 0
        [name, _] = [row["images"][0] for row in rows_of(source)]
        path = source.parent / "out" / name
        assert path.is_file() and path.samefile(source / A) == (how != "copy")
        assert Path(name).is_absolute() == (how == "keep")


def turns(*pairs: tuple[str, str]) -> str:
    return json.dumps([{"image": A, "conversations": [{"from": role, "value": text} for role, text in pairs]}])


BAD = [
    ("rows.json", turns(("human", "<image>?"), ("gpt", " ")), "row 1: an answer is empty"),
    ("rows.json", turns(("gpt", "<image>")), "row 1: it does not begin with the user and end with the assistant"),
    (
        "rows.json",
        turns(("human", "<image>?"), ("human", "?"), ("gpt", "x")),
        "two turns of the user follow each other",
    ),
    ("rows.json", turns(("human", "<image><image>?"), ("gpt", "x")), "it has 2 <image> in its texts and 1 pictures"),
    ("rows.json", turns(("human", "<image>?"), ("bot", "x")), "the role 'bot' is not known"),
    ("rows.json", turns(("human", "<image>?"), ("gpt", "x")).replace(A, "https://x/a.png"), "fetch the pictures first"),
    (
        "rows.json",
        turns(("human", "<image>?"), ("gpt", "x")).replace(A, "gone.png"),
        "the picture gone.png is not there",
    ),
    ("rows.json", turns(("human", "<image>?"), ("gpt", "x")).replace(A, "broken.png"), "broken.png can't be opened"),
    ("rows.json", '[{"conversations": 3}]', "neither"),
    ("rows.jsonl", '{"messages": [], "x": "image_url"}\n{"messages": \n', "row 2: the line is no JSON"),
    ("table.csv", "image,label\npictures/a.png,red,too\n", "row 2: it has 3 fields and the header 2"),
    ("table.csv", "image,colour\npictures/a.png,red\n", "no column named text, answer, caption"),
    ("c.json", '{"images": [], "annotations": [{"image_id": 1, "caption": "x"}]}', "no picture has the id 1"),
    ("rows.json", '{"rows": []}', "of none of the formats coco-caption, llava"),
    ("rows.json", turns(("human", "<image>?"), ("gpt", "x")).replace("]}]", "]}"), "it is no JSON"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD, ids=[case[2][:40] for case in BAD])
def test_what_is_wrong_is_said_and_nothing_is_written(name: str, content: str, message: str, source: Path) -> None:
    (source / name).write_text(content)
    code, error = convert(source, name)
    assert (code, error["event"], error["type"]) == (1, "error", "DatasetError")
    assert message in error["message"] and str(source / name) in error["message"]
    assert sorted(path.name for path in source.parent.iterdir()) == ["source"]


def test_bad_rows_are_left_out_on_request_and_listed(source: Path) -> None:
    lines = [f"{A},red", *["gone.png,x"] * 30, f"{B},blue", f"{B},blue"]
    (source / "table.csv").write_text("\n".join(["image,label", *lines]) + "\n")
    code, error = convert(source, "table.csv")
    assert code == 1 and error["message"].startswith("30 rows of ") and error["message"].endswith("- and 10 more")
    code, result = convert(source, "table.csv", "--skip-bad")
    assert (code, result["rows"], result["skipped"], result["duplicates"]) == (0, 3, 30, 1)
    skipped = [json.loads(line) for line in (source.parent / "out/skipped.jsonl").read_text().splitlines()]
    assert [line["row"] for line in skipped] == list(range(3, 33))
    assert len(rows_of(source)) == 3


def test_of_coco_the_first_captions_alone(source: Path) -> None:
    (source / "captions.json").write_text(coco(source))
    assert convert(source, "captions.json", "--first-caption", "--prompt", "这是什么?")[0] == 0
    assert [texts(row) for row in rows_of(source)] == [["<image>这是什么?", "red"], ["<image>这是什么?", "blue"]]


def test_a_row_with_pictures_goes_first_so_that_texts_before_it_do_not_settle_the_columns_type(
    source: Path, oracle: Oracle
) -> None:
    def row(text: str, **more: Any) -> str:
        said = [{"role": "user", "content": text}, {"role": "assistant", "content": "x"}]
        return json.dumps({"messages": said, **more}) + "\n"

    (source / "rows.jsonl").write_text(row("no picture") * 1500 + row("<image>", images=[A]) + row("after"))
    assert convert(source, "rows.jsonl", "--from", "openai-chat")[0] == 0
    rows = rows_of(source)
    assert [len(row["images"]) for row in rows[:2]] == [1, 0] and texts(rows[-1])[0] == "after" and len(rows) == 1502
    assert oracle.ask_whole(source.parent / "out", "out", 256) == 1502


def test_nothing_of_the_users_is_written_over_and_nothing_lies_outside_the_folder(source: Path) -> None:
    (source / "table.csv").write_text(table(source))
    for name in ("../escaped", "a,b"):
        code, error = convert(source, "table.csv", f"--name={name}")
        assert (code, error["type"]) == (1, "ConfigError")
    out = source.parent / "out"
    out.mkdir()
    (out / "out.jsonl").write_text("mine")
    code, error = convert(source, "table.csv")
    assert code == 1 and "is there already" in error["message"] and (out / "out.jsonl").read_text() == "mine"


MORE_BAD = [
    ("table.csv", "image,label\npictures/a.png,caf\u00e9\n".encode("latin-1"), "it is no UTF-8"),
    ("c.json", b'{"images": [], "annotations": [3]}', "row 1: it is no object"),
    ("rows.json", turns(("human", "<image><video>?"), ("gpt", "x")).encode(), "has <video> or <audio> in it"),
    (
        "rows.json",
        turns(("human", "<image>?"), ("gpt", "x")).replace('"value": "x"', '"value": "x", "weight": 0').encode(),
        "weight 0",
    ),
    (
        "rows.json",
        turns(("human", "<image>?"), ("gpt", "x")).replace("[{", '[{"tools": [1], ', 1).encode(),
        "it has tools",
    ),
]


@pytest.mark.parametrize(("name", "content", "message"), MORE_BAD, ids=[case[2] for case in MORE_BAD])
def test_what_would_be_lost_or_learned_unasked_is_refused(
    name: str, content: bytes, message: str, source: Path
) -> None:
    (source / name).write_bytes(content)
    code, error = convert(source, name)
    assert (code, error["type"]) == (1, "DatasetError") and message in error["message"]


def chat(ask: Any, **keys: Any) -> str:
    answer = {"role": "assistant", "content": "x"}
    return json.dumps({**keys, "messages": [{"role": "user", "content": ask}, answer]}) + "\n"


def test_pictures_stand_in_the_order_of_their_marks(source: Path) -> None:
    parts = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Which is red?"}]
    (source / "rows.jsonl").write_text(chat(parts, images=[B, A]))
    assert convert(source, "rows.jsonl")[0] == 0
    [made] = rows_of(source)
    for name, wanted in zip(made["images"], (B, A), strict=True):
        assert (source.parent / "out" / name).read_bytes() == (source / wanted).read_bytes()
    (source / "mixed.jsonl").write_text(chat(f"<img>{B}</img> and <image>?", image=A))
    code, error = convert(source, "mixed.jsonl", "--name", "mixed")
    assert code == 1 and "name each of them in one way" in error["message"]


def test_what_training_could_not_use_is_refused_here(source: Path) -> None:
    Image.effect_noise((200, 100), 80).convert("RGB").save(source / "whole.jpg")
    data = (source / "whole.jpg").read_bytes()
    (source / "cut.jpg").write_bytes(data[: len(data) // 2])
    (source / "table.csv").write_text(f"image,text\ncut.jpg,x\n{A},a<|im_end|>\n")
    code, error = convert(source, "table.csv")
    assert code == 1 and "cut.jpg can't be opened (the file is cut off" in error["message"]
    assert "row 3: the text holds <|im_end|>" in error["message"]


def test_a_dataset_keeps_its_pictures_whatever_is_converted_beside_it(source: Path) -> None:
    (source / "table.csv").write_text(f"image,text\n{A},x\n")
    assert convert(source, "table.csv", "--name", "one")[0] == 0
    made = json.loads((source.parent / "out/one.jsonl").read_text())["images"][0]
    before = (source.parent / "out" / made).read_bytes()
    Image.new("RGB", (64, 32), "green").save(source / A)
    assert convert(source, "table.csv", "--name", "two")[0] == 0
    assert (source.parent / "out" / made).read_bytes() == before


def test_a_file_that_is_no_dataset_is_not_replaced(source: Path) -> None:
    (source / "table.csv").write_text(f"image,text\n{A},x\n")
    own = source.parent / "out/out.jsonl"
    own.parent.mkdir()
    own.write_text("mine\n")
    code, error = convert(source, "table.csv", "--replace")
    assert code == 1 and "is there already and is no dataset of that name" in error["message"]
    assert own.read_text() == "mine\n"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(f"image\ttext\n{A}\tx\n".encode("utf-16"), id="Excel's Unicode text"),
        pytest.param(f"image,text\n{A},{'x' * 200_000}\n".encode(), id="a long answer"),
        pytest.param(f"image,question,text\n{A},What is <image>?,x\n".encode(), id="a mark in the question"),
    ],
)
def test_tables_as_people_have_them_are_read(content: bytes, source: Path) -> None:
    (source / "table.csv").write_bytes(content)
    assert convert(source, "table.csv")[1].get("rows") == 1
