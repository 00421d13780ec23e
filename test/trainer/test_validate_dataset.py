"""Validation says what is wrong where, keeps what is right, and holds the same rows out for ever."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dataset import pictures, tokens
from dataset.columns import Conflict, extend, fits
from dataset.json_files import iter_array
from dataset.late_columns import LateColumns
from dataset.report import picture_sizes
from dataset.rows_digest import digest_of_folder
from dataset.split import is_held_out
from dataset_cases import (
    COLUMNS,
    OK,
    TAGS,
    TEXT,
    Case,
    chat,
    picture,
    row,
    said,
    seen,
    turns,
    video,
    videos,
)
from protocol import TemperError

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "trainer" / "validate_dataset.py"
BASE = ROOT / "demo" / "tiny-qwen3-vl"


def validate(folder: Path, *options: Any, out: Path | None = None) -> dict[str, Any]:
    """Run the program on dataset x in `folder`; returns its last line."""
    out = out or folder.parent / "out"
    command = [
        sys.executable,
        PROGRAM,
        "--dataset-dir",
        folder,
        "--dataset",
        "x",
        "--out",
        out,
        *options,
    ]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    last = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == (0 if last["event"] == "result" else 1), done.stderr
    return last


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def codes(problems: list[dict[str, Any]], severity: str = "error") -> list[tuple[int | None, str]]:
    return [(problem["row"], problem["code"]) for problem in problems if problem["severity"] == severity]


def test_a_good_dataset_becomes_two_files_that_llama_factory_reads(
    tmp_path: Path,
) -> None:
    rows = [
        OK,
        TEXT,
        {"messages": turns("<image>q", "a", system="Be brief."), "images": ["b.png"]},
    ]
    line = validate(Case("good", rows).make(tmp_path), "--held-out-fraction", 0, "--model", BASE)
    assert (
        line["ok"],
        line["rows"],
        line["kept"],
        line["trainRows"],
        line["heldOutRows"],
    ) == (True, 3, 3, 3, 0)
    written = rows_of(tmp_path / "out" / "train.jsonl")
    assert written[2]["messages"] == turns("<image>q", "a", system="Be brief.")
    assert written[0]["images"] == [str(tmp_path / "good" / "a.png")]
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())
    assert set(info) == {"train", "held_out"}
    assert info["train"]["columns"]["images"] == "images"
    assert info["train"]["columns"]["videos"] is None
    assert set(info["train"]["tags"]) == set(TAGS)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["tokens"]["total"] > 0
    assert report["digest"] == line["digest"]


BAD = [
    OK,
    chat("q", "a", "q"),
    row("no mark"),
    row(images=("no.png",)),
    said(("User", "q"), ("assistant", "a")),
    TEXT,
]


def test_all_problems_are_said_at_once_with_row_field_effect_and_mend(
    tmp_path: Path,
) -> None:
    line = validate(Case("bad", BAD).make(tmp_path))
    assert (line["event"], line["type"]) == ("error", "DatasetError")
    details = line["details"]
    expected = [
        (1, "message-count"),
        (2, "placeholder-count"),
        (3, "picture-missing"),
        (4, "role-unknown"),
    ]
    assert codes(details["problems"]) == expected
    assert (details["rows"], details["kept"], details["ok"]) == (6, 2, False)
    assert "data.json row 3, images[0]: 'no.png' does not exist" in line["message"]
    assert "LLaMA-Factory would drop the row silently" in line["message"]
    assert "Write 'user', exactly" in line["message"]
    assert str(tmp_path / "out" / "problems.jsonl") in line["message"]
    assert codes(rows_of(tmp_path / "out" / "problems.jsonl")) == expected
    assert not (tmp_path / "out" / "train.jsonl").exists()
    assert not (tmp_path / "out" / "dataset_info.json").exists()


def test_bad_rows_are_set_aside_when_asked_and_not_too_many(tmp_path: Path) -> None:
    folder = Case("bad", BAD).make(tmp_path)
    line = validate(
        folder,
        "--on-bad-row",
        "drop",
        "--max-drop-fraction",
        0.7,
        "--held-out-fraction",
        0,
    )
    assert (line["ok"], line["rows"], line["kept"], line["trainRows"]) == (
        True,
        6,
        2,
        2,
    )
    aside = rows_of(tmp_path / "out" / "dropped.jsonl")
    assert [(entry["row"], entry["content"]) for entry in aside] == [(i, BAD[i]) for i in (1, 2, 3, 4)]
    line = validate(folder, "--on-bad-row", "drop", "--max-drop-fraction", 0.5)
    assert line["type"] == "DatasetError"
    assert "4 of 6 rows (66.7%) are bad, more than 50.0%" in line["message"]


@pytest.mark.parametrize(
    ("case", "code", "says"),
    [
        (Case("undefined", [OK], entry={"file_name": "data.json"}), "dataset-undefined", "Did you mean 'cards'?"),
        (Case("system-tag", [said(("system", "s"), ("user", "q"), ("assistant", "a"))],
              entry={"formatting": "sharegpt", "columns": COLUMNS, "tags": {**TAGS, "system_tag": None}}),
         "system-tag-missing", 'Add "system_tag": "system" to tags'),
        (Case("no-formatting", [OK], entry={"columns": COLUMNS, "tags": TAGS}), "answer-missing", 'Add "formatting": "sharegpt"'),
        (Case("bom", b"\xef\xbb\xbf" + json.dumps([OK]).encode()), "file-bom", "Save it as UTF-8 without BOM"),
        (Case("cut", json.dumps([OK, OK])[:-20].encode()), "file-syntax", "at line 1, column"),
        (Case("token", [row("<image>a<|image_pad|>b")]), "special-token", "end the training early at that row"),
        (Case("depth", [row()], files={"a.png": lambda p: Image.new("I;16", (64, 64), 999).save(p)}), "picture-depth", "white"),
        (Case("cut-off", [row()], files={"a.png": picture("JPEG", 96)[:-2]}), "picture-unreadable", "cut off"),
        (Case("cutoff", [row("word " * 200 + "<image>")], cutoff_len=64), "cut-picture", "cutoff_len 64 cuts 4 picture tokens"),
        (Case("late", [TEXT] * 1000 + [OK]), "column-late", "row 1000 is the first with a value in 'images'"),
        (Case("types", [{**OK, "meta": 1}, {**OK, "meta": "x"}]), "column-types", "meta is text, after a number before it"),
        (Case("dates", [{"q": "q", "a": "2024-01-01"}] * 2, "data.jsonl", {"columns": {"prompt": "q", "response": "a"}}),
         "column-times", "looks like a time"),
        (videos("second", {"messages": turns("q", "a", "<video>q", "a"), "images": [], "videos": ["v.mp4"]}),
         "video-count", "<video> stands in turn 2"),
        (videos("unequal", seen("<video><video>q", ["v.mp4", "w.mp4"])), "video-count", "different lengths"),
    ],
    ids=lambda value: value.name if isinstance(value, Case) else "",
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_mend(case: Case, code: str, says: str, tmp_path: Path) -> None:
    folder = case.make(tmp_path)
    if code == "dataset-undefined":
        info = (folder / "dataset_info.json").read_text()
        (folder / "dataset_info.json").write_text(info.replace('"x"', '"cards"'))
        done = subprocess.run(
            [sys.executable, PROGRAM, "--dataset-dir", folder, "--dataset", "card", "--out", tmp_path / "out"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        line = json.loads(done.stdout.splitlines()[-1])
    else:
        line = validate(folder, "--model", BASE, "--cutoff-len", case.cutoff_len)
    assert code in [found for _, found in codes(line["details"]["problems"])]
    assert says in line["message"]


@pytest.mark.parametrize(
    ("case", "code"),
    [
        (Case("empty-answer", [row(answer="")]), "answer-empty"),
        (Case("twice", [OK, OK]), "row-duplicate"),
        (Case("transparent", [row()], files={"a.png": lambda p: Image.new("RGBA", (64, 64), 0).save(p)}), "picture-transparent"),
        (Case("cut-text", [row("q", "word " * 200, images=[])], cutoff_len=64), "cut-text"),
        (Case("few", [OK]), "split-no-held-out"),
        (Case("unknown-key", [OK], entry={"formatting": "sharegpt", "columns": COLUMNS, "tags": TAGS, "num_sample": 3}), "info-key-unknown"),
    ],
    ids=lambda value: value.name if isinstance(value, Case) else "",
)  # fmt: skip
def test_what_is_doubtful_is_a_warning(case: Case, code: str, tmp_path: Path) -> None:
    line = validate(
        case.make(tmp_path),
        "--model",
        BASE,
        "--cutoff-len",
        case.cutoff_len,
        "--held-out-fraction",
        1e-9,
    )
    assert line["event"] == "result"
    assert code in [found for _, found in codes(line["problems"], "warning")]


@pytest.mark.parametrize("how", ["absolute", "up", "link", "file"])
def test_nothing_outside_the_allowed_roots_is_read(how: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret" / "s.png"
    secret.parent.mkdir()
    secret.write_bytes(picture("PNG"))
    name = {"absolute": str(secret), "up": "../secret/s.png"}.get(how, "a.png")
    folder = Case("x", [row(images=(name,))]).make(tmp_path)
    if how == "link":
        (folder / "a.png").unlink()
        (folder / "a.png").symlink_to(secret)
    if how == "file":
        (folder / "data.json").rename(tmp_path / "secret" / "data.json")
        (folder / "data.json").symlink_to(tmp_path / "secret" / "data.json")
    line = validate(folder, "--roots", f"{tmp_path}/nowhere:{folder}")
    code = "file-outside-roots" if how == "file" else "picture-outside-roots"
    assert code in [found for _, found in codes(line["details"]["problems"])]
    assert validate(folder, "--roots", tmp_path, "--held-out-fraction", 0)["ok"]


def pictures_dataset(folder: Path, count: int, answer: str = "this", order: int = 0) -> Path:
    """Rows of one picture each, every picture twice, in an order of its own."""
    numbers = list(range(count)) * 2
    random.Random(order).shuffle(numbers)
    files = {f"{i}.png": lambda p, i=i: Image.new("RGB", (40, 40), (i, i * 7 % 256, 9)).save(p) for i in range(count)}
    rows = [row(f"<image>{number}?", f"{answer} {i}", (f"{number}.png",)) for i, number in enumerate(numbers)]
    return Case(f"x{count}-{order}", rows, "data.jsonl", files=files).make(folder)


def shown(path: Path) -> set[bytes]:
    return {Path(image).read_bytes() for entry in rows_of(path) for image in entry["images"]}


def test_a_picture_once_held_out_is_never_trained_on(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    validate(pictures_dataset(tmp_path, 60), "--held-out-fraction", 0.2, out=first)
    validate(
        pictures_dataset(tmp_path, 90, "corrected", 5),
        "--held-out-fraction",
        0.2,
        out=second,
    )
    held_out = shown(first / "held_out.jsonl")
    assert 4 < len(held_out) < 24
    assert not held_out & shown(second / "train.jsonl")
    assert held_out < shown(second / "held_out.jsonl")
    assert not shown(second / "held_out.jsonl") & shown(second / "train.jsonl")


def test_a_larger_fraction_only_adds_and_text_is_split_by_its_question() -> None:
    questions = [f"question {i}" for i in range(2000)]
    some, more = ({q for q in questions if is_held_out([], q, fraction)} for fraction in (0.1, 0.3))
    assert some < more
    assert 150 < len(some) < 250
    assert is_held_out([], " question 1 ", 0.5) == is_held_out([], "question 1", 0.5)


def test_the_digest_follows_the_pictures_bytes_and_not_their_names(
    tmp_path: Path,
) -> None:
    folder = Case("x", [OK, row("<image>b?", images=("b.png",))]).make(tmp_path)
    before = validate(folder)["digest"]
    shutil.copytree(folder, tmp_path / "moved")
    assert validate(tmp_path / "moved")["digest"] == before
    (folder / "a.png").write_bytes(picture("PNG", 65))
    assert validate(folder)["digest"] != before


@pytest.mark.parametrize("late", [False, True])
def test_the_digest_can_be_had_from_the_rows_that_were_written(late: bool, tmp_path: Path) -> None:
    shown = [row("<image>b?", images=("b.png",)), OK]
    texts = [row(f"only text {i}", images=[]) for i in range(1200 if late else 20)]
    folder = Case("x", [*texts, *shown] if late else [*shown, *texts]).make(tmp_path)
    line = validate(folder, "--on-bad-row", "drop", "--held-out-fraction", 0.1)
    counts = {"train": line["trainRows"], "held_out": line["heldOutRows"]}
    assert digest_of_folder(tmp_path / "out") == (line["digest"], counts)
    train = tmp_path / "out" / "train.jsonl"
    first, second, *others = train.read_bytes().splitlines(keepends=True)
    assert json.loads(first)["images"]
    train.write_bytes(b"".join([second, first, *others]))
    assert digest_of_folder(tmp_path / "out")[0] != line["digest"]


def test_a_picture_that_is_gone_since_is_named_with_its_row(tmp_path: Path) -> None:
    folder = Case("x", [OK, row("<image>b?", images=("b.png",))]).make(tmp_path)
    validate(folder, "--held-out-fraction", 0)
    (folder / "b.png").unlink()
    with pytest.raises(TemperError, match=r"train\.jsonl row 1 shows .*b\.png: No such file"):
        digest_of_folder(tmp_path / "out")


def test_the_report_has_the_sizes_of_the_pictures(tmp_path: Path) -> None:
    folder = pictures_dataset(tmp_path, 3)
    Image.new("RGB", (300, 200)).save(folder / "1.png")
    sizes = validate(folder)["pictures"]["sizes"]
    assert [300, 200, 1] in sizes
    assert sum(count for _, _, count in sizes) == 3


def test_of_many_picture_sizes_near_ones_share_a_line_and_none_is_lost() -> None:
    counts = Counter({(width, 2 * width): 3 for width in range(1, 5_001)})
    lines = picture_sizes(counts)
    assert 250 <= len(lines) <= 500
    assert sum(count for _, _, count in lines) == 15_000
    assert lines == sorted(lines)
    assert lines[-1][:2] == [5_000, 10_000]
    assert picture_sizes(Counter({(2, 1): 1, (1, 1): 2})) == [[1, 1, 2], [2, 1, 1]]


def test_an_unchanged_dataset_is_not_judged_again_and_a_changed_picture_is(
    tmp_path: Path,
) -> None:
    folder = pictures_dataset(tmp_path, 40)
    options = ("--cache-dir", tmp_path / "cache", "--model", BASE)
    first = validate(folder, *options)
    second = validate(folder, *options, out=tmp_path / "again")
    assert {**second, "seconds": 0, "reportPath": 0, "problemsPath": 0} == {
        **first, "seconds": 0, "reportPath": 0, "problemsPath": 0
    }  # fmt: skip
    assert first["pictures"]["decoded"] == 40
    assert (tmp_path / "again" / "train.jsonl").read_bytes() == (tmp_path / "out" / "train.jsonl").read_bytes()
    (folder / "7.png").write_bytes(b"")
    line = validate(folder, *options)
    assert [code for _, code in codes(line["details"]["problems"])] == ["picture-unreadable"] * 2
    Image.new("RGB", (50, 50)).save(folder / "7.png")
    third = validate(folder, *options)
    assert third["ok"]
    assert third["pictures"]["decoded"] == 1
    assert third["digest"] != first["digest"]


@pytest.mark.parametrize("change", ["cutoff", "rows", "link"])
def test_a_remembered_result_is_not_taken_for_another(change: str, tmp_path: Path) -> None:
    folder = Case("x", [OK, row("<image>b?", images=("b.png",))]).make(tmp_path)
    (folder / "one.png").write_bytes(picture("PNG", 80))
    (folder / "two.png").write_bytes(picture("PNG", 81))
    (folder / "a.png").unlink()
    (folder / "a.png").symlink_to("one.png")
    options = ["--cache-dir", tmp_path / "cache", "--model", BASE]
    first = validate(folder, *options)
    if change == "cutoff":
        options += ["--cutoff-len", 100]
    elif change == "rows":
        (folder / "data.json").write_text(json.dumps([OK]))
    else:
        (folder / "a.png").unlink()
        (folder / "a.png").symlink_to("two.png")
    second = validate(folder, *options)
    assert (second["digest"], second["tokens"]["cutoffLen"]) != (
        first["digest"],
        first["tokens"]["cutoffLen"],
    )


def test_rows_are_put_in_an_order_that_llama_factory_can_read(tmp_path: Path) -> None:
    rows = [row(f"only text {i}", images=[]) for i in range(1200)] + [OK]
    line = validate(Case("x", rows).make(tmp_path), "--on-bad-row", "drop", "--held-out-fraction", 0)
    assert line["trainRows"] == 1201
    assert rows_of(tmp_path / "out" / "train.jsonl")[0]["images"]


def test_a_picture_in_the_dataset_itself_becomes_a_file(tmp_path: Path) -> None:
    data = picture("PNG", 77)
    line = validate(Case("x", [row(images=[{"bytes": data, "path": None}])], "data.parquet").make(tmp_path))
    assert line["ok"]
    (written,) = rows_of(tmp_path / "out" / "train.jsonl") + rows_of(tmp_path / "out" / "held_out.jsonl")
    assert Path(written["images"][0]).read_bytes() == data


def test_it_starts_in_under_a_second_and_says_how_far_it_is(tmp_path: Path) -> None:
    folder = Case("x", [OK]).make(tmp_path)
    fastest = 99.0
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, PROGRAM, "--dataset-dir", folder, "--dataset", "x", "--out", tmp_path / "o", "--held-out-fraction", "0",
             "--model", BASE],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        fastest = min(fastest, time.perf_counter() - started)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["event"] for line in lines] == ["progress", "result"]
    assert lines[0]["done"] == lines[0]["total"] > 0
    assert fastest < 1


@pytest.mark.parametrize(
    "values",
    [
        [1, "x"],
        ["x", 1],
        [True, 1],
        [[1], "x"],
        [[1, "x"]],
        [{"a": 1}, {"a": "x"}],
        [{"a": 1}, [1]],
        [1.5, "x"],
    ],
)
def test_a_column_of_two_types_is_a_conflict(values: list[Any]) -> None:
    kind: Any = "null"
    with pytest.raises(Conflict):
        for value in values:
            kind = extend(kind, value, "column")


@pytest.mark.parametrize(
    ("found", "wanted", "whether"),
    [
        ("null", "text", True), ("text", "null", False), ("int", "text", True), ("text", "int", False),
        (("list", "null"), ("list", "text"), True), (("list", "text"), ("list", "null"), False),
        (("object", {"a": "int"}), ("object", {"a": "float", "b": "text"}), True),
        (("object", {"b": "int"}), ("object", {"a": "int"}), False), ("text", ("list", "text"), False),
    ],
)  # fmt: skip
def test_a_later_block_must_fit_the_first(found: Any, wanted: Any, whether: bool) -> None:
    assert fits(found, wanted) is whether


def test_late_columns_depend_on_how_many_share_the_work() -> None:
    late = LateColumns(("images",))
    for number in range(6000):
        late.see((number in (0, 4500),))
    assert late.first("images", 1) is None
    assert late.first("images", 2) == 4500
    assert late.first("images", 4) is None
    assert late.any()


@pytest.mark.parametrize("window", [16, 50, 1000])
def test_an_array_is_read_whole_in_windows_of_any_size(
    window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataset.json_files._WINDOW", window)
    items = [{"a": "x" * n, "b": [n, None, {"c": 'é\n"]}'}]} for n in range(40)]
    for indent in (None, 2):
        path = tmp_path / f"{indent}.json"
        path.write_text(" \n" + json.dumps(items, indent=indent, ensure_ascii=False) + "\n\n")
        assert list(iter_array(str(path))) == items
        path.write_text(path.read_text()[:-5])
        with pytest.raises(json.JSONDecodeError):
            list(iter_array(str(path)))


def test_a_shrunken_decode_fails_on_the_same_files_as_a_whole_one(
    tmp_path: Path,
) -> None:
    random.seed(1)
    noise = Image.effect_noise((200, 150), 90)
    for mode, options in (
        ("RGB", {}),
        ("RGB", {"progressive": True}),
        ("L", {"quality": 95}),
        ("CMYK", {}),
    ):
        path = tmp_path / "p.jpg"
        noise.convert(mode).save(path, "JPEG", **options)
        data = path.read_bytes()
        for _ in range(60):
            broken = bytearray(data)
            if random.random() < 0.5:
                del broken[random.randrange(2, len(broken)) :]
            else:
                broken[random.randrange(2, len(broken))] ^= 0xFF
            path.write_bytes(broken)
            try:
                with Image.open(path) as image:
                    image.convert("RGB").load()
                failed = False
            except Exception:
                failed = True
            assert (pictures.judge_picture(str(path))[2].error is not None) == failed


def test_a_killed_validation_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    rows = [chat(f"question {i}", "word " * 50) for i in range(30_000)]
    folder = Case("x", rows, "data.jsonl").make(tmp_path)
    command = [
        sys.executable,
        PROGRAM,
        "--dataset-dir",
        folder,
        "--dataset",
        "x",
        "--out",
        tmp_path / "out",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.wait()
    assert not [name for name in os.listdir(tmp_path / "out") if not name.startswith(".")]


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_validation_leaves_no_process_behind(sent: signal.Signals, tmp_path: Path) -> None:
    noise = Image.effect_noise((2000, 1500), 90)
    noise.save(tmp_path / "0.png")
    files = {f"{n}.png": lambda path: shutil.copy(tmp_path / "0.png", path) for n in range(200)}
    folder = Case("x", [row(images=(name,)) for name in files], files=files).make(tmp_path)
    command = [
        sys.executable,
        PROGRAM,
        "--dataset-dir",
        folder,
        "--dataset",
        "x",
        "--out",
        tmp_path / "out",
        "--processes",
        2,
    ]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = wait_for(lambda: found if len(found := children.read_text().split()) == 2 else None)
    process.send_signal(sent)
    process.wait()
    assert wait_for(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in workers))


def wait_for(condition: Callable[[], Any]) -> Any:
    for _ in range(300):
        if value := condition():
            return value
        time.sleep(0.1)
    raise TimeoutError


def test_tokens_of_a_picture_follow_both_limits() -> None:
    rule = tokens.PictureRule(768 * 768, 32 * 32, 16, 2, 65536, 16777216)
    sizes = {(768, 768): 576, (1024, 768): 588, (64, 64): 64, (1, 1): 64, (3000, 2): 94}
    assert {size: rule.tokens(*size) for size in sizes} == sizes


def test_a_video_is_judged_and_kept(tmp_path: Path) -> None:
    case = videos("v", seen("<video>q", ["v.mp4"]), files={"v.mp4": video})
    line = validate(
        case.make(tmp_path),
        "--model",
        BASE,
        "--cache-dir",
        tmp_path / "cache",
        "--held-out-fraction",
        0,
    )
    assert line["ok"]
    assert rows_of(tmp_path / "out" / "train.jsonl")[0]["videos"] == [str(tmp_path / "v" / "v.mp4")]
