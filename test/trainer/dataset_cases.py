"""Datasets, good and bad, each made in a folder of its own as {name: entry} in dataset_info.json and its files."""

import io
import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "observation",
    "function_tag": "function",
    "system_tag": "system",
}
COLUMNS = {"messages": "messages", "images": "images"}
ALPACA = {"prompt": "instruction", "response": "output"}


@dataclass
class Case:
    """One dataset `x`; `files` are written into its folder, rows as JSON by the file's ending."""

    name: str
    rows: Any
    file: str = "data.json"
    entry: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)
    cutoff_len: int = 2048
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the training YAML."""
    whole: bool = False
    """LLaMA-Factory must be asked about the dataset as a whole: rows alone do not show the fault."""

    def make(self, folder: Path) -> Path:
        """Write the dataset; returns its folder."""
        folder = folder / self.name
        folder.mkdir(parents=True)
        for name, content in {
            "a.png": picture("PNG"),
            "b.png": picture("PNG", 70),
            **self.files,
        }.items():
            write(folder / name, content)
        write(folder / self.file, self.rows)
        entry = {"file_name": self.file, **self.entry}
        if "formatting" not in entry and "columns" not in entry:
            entry |= {"formatting": "sharegpt", "columns": COLUMNS, "tags": TAGS}
        (folder / "dataset_info.json").write_text(json.dumps({"x": {k: v for k, v in entry.items() if v != "-"}}))
        return folder


def write(path: Path, content: Any) -> None:
    """Write bytes, text, or rows as the file's ending wants them; a callable writes for itself."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if callable(content):
        content(path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    elif path.suffix in (".parquet", ".arrow"):
        _write_table(path, content)
    else:
        path.write_text(json.dumps(content))


def _write_table(path: Path, rows: Any) -> None:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist(rows)
    if path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=2)
    else:
        with (
            pyarrow.OSFile(str(path), "wb") as file,
            pyarrow.ipc.new_stream(file, table.schema) as writer,
        ):
            writer.write_table(table)


def picture(kind: str, side: int = 64, mode: str = "RGB", **options: Any) -> bytes:
    """An encoded picture of `side` × `side` pixels."""
    image = Image.linear_gradient("L").resize((side, side)).convert("RGB").convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def flat(width: int, height: int, mode: str = "RGB", color: Any = 0) -> bytes:
    """A PNG of one color and any shape."""
    buffer = io.BytesIO()
    Image.new(mode, (width, height), color).save(buffer, "PNG")
    return buffer.getvalue()


def sixteen_bits(highest: int) -> bytes:
    """A gray PNG of 16 bits a pixel with values up to `highest`."""
    image = Image.frombytes(
        "I;16",
        (64, 64),
        b"".join((i % (highest + 1)).to_bytes(2, "little") for i in range(4096)),
    )
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def video(path: Path, frames: int = 8, size: tuple[int, int] = (64, 64), rate: int = 4) -> None:
    """Write a small video; the format follows the file's ending."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            image = Image.new("RGB", size, (number * 9 % 255, 60, 90))
            for packet in stream.encode(av.VideoFrame.from_image(image)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def turns(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    """User and assistant in turn."""
    messages = [{"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(contents)]
    return messages if system is None else [{"role": "system", "content": system}, *messages]


def row(
    question: str = "<image>what?",
    answer: str = "this",
    images: Any = ("a.png",),
    **more: Any,
) -> dict[str, Any]:
    """A row of one question and answer; images None leaves the key out."""
    made: dict[str, Any] = {"messages": turns(question, answer), **more}
    if images is not None:
        made["images"] = list(images) if isinstance(images, tuple) else images
    return made


def chat(*contents: str, images: Any = (), **more: Any) -> dict[str, Any]:
    """A row of several turns."""
    return {"messages": turns(*contents), "images": list(images), **more}


def said(*messages: Any, images: Any = ()) -> dict[str, Any]:
    """A row of (role, content) turns, or of turns as they are."""
    made = [{"role": m[0], "content": m[1]} if isinstance(m, tuple) else m for m in messages]
    return {"messages": made, "images": list(images)}


def qa(instruction: Any = "q", output: Any = "a", **more: Any) -> dict[str, Any]:
    """An alpaca row."""
    return {"instruction": instruction, "output": output, **more}


OK = row()
TEXT = row("only text", images=[])


def alpaca(
    name: str,
    rows: Any,
    columns: dict[str, str] | None = None,
    file: str = "data.json",
    whole: bool = False,
    **entry: Any,
) -> Case:
    return Case(name, rows, file, {"columns": ALPACA | (columns or {}), **entry}, whole=whole)


def openai(name: str, *rows: Any) -> Case:
    return Case(
        name,
        [OK, *rows],
        entry={"formatting": "openai", "columns": COLUMNS, "tags": TAGS},
    )


def with_picture(name: str, content: Any, file: str = "p.png", **more: Any) -> Case:
    return Case(name, [OK, row(images=(file,))], files={file: content}, **more)


def videos(name: str, *rows: Any, files: dict[str, Any] | None = None, **more: Any) -> Case:
    entry = {
        "formatting": "sharegpt",
        "columns": COLUMNS | {"videos": "videos"},
        "tags": TAGS,
    }
    made = {"v.mp4": video, "w.mp4": lambda path: video(path, 24), **(files or {})}
    return Case(name, [*rows], entry=entry, files=made, cutoff_len=100_000, **more)


def seen(question: str, shown: Any, answer: str = "this") -> dict[str, Any]:
    return {"messages": turns(question, answer), "images": [], "videos": shown}


def line(text: str) -> str:
    """A row of JSON lines with `text` as the answer, as it stands."""
    head = '{"messages":[{"role":"user","content":"<image>q"},{"role":"assistant","content":'
    return head + text + '}],"images":["a.png"]}'


def lines(name: str, *texts: str | bytes) -> Case:
    content = b"".join(text if isinstance(text, bytes) else text.encode() + b"\n" for text in texts)
    return Case(name, content, "data.jsonl")


def array(name: str, *texts: str) -> Case:
    return Case(name, ("[" + ",".join(texts) + "]").encode())


def both(name: str, text: str) -> list[Case]:
    """The same row in an array and in lines, after a good one."""
    good = json.dumps(OK)
    return [
        array(f"{name}-in-array", good, text),
        lines(f"{name}-in-lines", good, text),
    ]


def without(tag: str) -> dict[str, Any]:
    return {
        "formatting": "sharegpt",
        "columns": COLUMNS,
        "tags": {k: v for k, v in TAGS.items() if k != tag},
    }


JPEG, PNG = picture("JPEG", 96), picture("PNG", 96)
GOOD = json.dumps(OK)
STORY = "word " * 300
FROM = [{"from": "human", "value": "<image>q"}, {"from": "gpt", "value": "a"}]
CALL = '{"name": "f", "arguments": {"x": 1}}'
TOOLS = '[{"name": "f", "parameters": {}}]'


def _breaks_crc(data: bytes) -> bytes:
    return data[:200] + bytes(byte ^ 0xFF for byte in data[200:204]) + data[204:]


def _png_without_pixels() -> bytes:
    header = b"\x89PNG\r\n\x1a\n"
    chunk = b"IHDR" + (64).to_bytes(4, "big") * 2 + bytes((8, 2, 0, 0, 0))
    return header + (13).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")


def _rotated(path: Path) -> None:
    image = Image.new("RGB", (64, 96))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(path, "JPEG", exif=exif)


CASES: list[Case] = [
    # Turns
    Case("good", [OK, TEXT, chat("<image>a", "b", "c", "d", images=["a.png"])]),
    Case("good-lines", [OK, TEXT, OK], "data.jsonl"),
    Case("good-two-pictures", [row("<image><image>which?", images=("a.png", "b.png"))]),
    Case(
        "good-picture-later",
        [chat("hello", "yes?", "look: <image>", "I see", images=["a.png"])],
    ),
    Case(
        "good-system",
        [{"messages": turns("<image>q", "a", system="Be brief."), "images": ["a.png"]}],
    ),
    Case("good-unicode", [row("<image>这是什么?🙂", "é\u200b卡片 \u2028")]),
    Case(
        "good-absent-and-null-images",
        [OK, row("t", images=None), {**TEXT, "images": None}],
    ),
    Case("good-plain-string-images", [row(images="a.png"), row(images="b.png")]),
    Case("good-idx-in-text", [row("<image>{{idx}} {{content}}", "{{content}}{{idx}}")]),
    Case("odd-count", [OK, chat("q", "a", "q2")]),
    Case(
        "wrong-order",
        [
            OK,
            said(("assistant", "a"), ("user", "q")),
            said(("user", "q"), ("user", "q")),
        ],
    ),
    Case("unknown-role", [OK, said(("user", "q"), ("bot", "a"))]),
    Case(
        "role-in-capitals",
        [
            OK,
            said(("User", "q"), ("assistant", "a")),
            said(("user ", "q"), ("assistant", "a")),
        ],
    ),
    Case("system-alone", [OK, said(("system", "s"))]),
    Case(
        "system-in-the-middle",
        [OK, said(("user", "q"), ("system", "s"), ("user", "q"), ("assistant", "a"))],
    ),
    Case("system-null", [OK, said(("system", None), ("user", "q"), ("assistant", "a"))]),
    Case(
        "system-without-tag",
        [OK, said(("system", "s"), ("user", "q"), ("assistant", "a"))],
        entry=without("system_tag"),
    ),
    Case(
        "no-observation-tag",
        [OK, said({"content": "q"}, ("assistant", "a"))],
        entry=without("observation_tag"),
    ),
    Case(
        "no-function-tag",
        [OK, said(("user", "q"), {"content": "a"})],
        entry=without("function_tag"),
    ),
    Case(
        "no-user-tag",
        [OK, said({"content": "q"}, ("assistant", "a"))],
        entry=without("user_tag"),
    ),
    Case("no-role-tag", [OK], entry=without("role_tag")),
    Case(
        "no-messages",
        [
            OK,
            {"messages": [], "images": []},
            {"messages": None, "images": []},
            {"images": []},
        ],
    ),
    Case("keys-mixed", [OK, {"messages": FROM, "images": ["a.png"]}]),
    Case("keys-of-another-form", [{"messages": FROM, "images": ["a.png"]}]),
    Case("tags-left-out", [OK], entry={"formatting": "sharegpt", "columns": COLUMNS}),
    Case(
        "default-tags",
        [{"conversations": FROM, "images": ["a.png"]}],
        entry={
            "formatting": "sharegpt",
            "columns": COLUMNS | {"messages": "conversations"},
        },
    ),
    Case(
        "columns-left-out",
        [
            {
                "conversations": [
                    {"from": "human", "value": "q"},
                    {"from": "gpt", "value": "a"},
                ]
            }
        ],
        entry={"formatting": "sharegpt"},
    ),
    Case(
        "columns-without-messages",
        [OK],
        entry={"formatting": "sharegpt", "columns": {"images": "images"}, "tags": TAGS},
    ),
    Case("formatting-left-out", [OK], entry={"columns": COLUMNS, "tags": TAGS}),
    Case(
        "formatting-unknown",
        [OK],
        entry={"formatting": "chatml", "columns": COLUMNS, "tags": TAGS},
    ),
    Case(
        "column-missing",
        [OK],
        entry={
            "formatting": "sharegpt",
            "columns": COLUMNS | {"images": "pictures"},
            "tags": TAGS,
        },
    ),
    Case(
        "column-key-misspelt",
        [OK],
        entry={
            "formatting": "sharegpt",
            "columns": {"messages": "messages", "image": "images"},
            "tags": TAGS,
        },
    ),
    Case(
        "ranking",
        [OK],
        entry={
            "formatting": "sharegpt",
            "columns": COLUMNS,
            "tags": TAGS,
            "ranking": True,
        },
    ),
    Case(
        "preference-label",
        [{**OK, "label": True}, {**OK, "label": None}],
        entry={
            "formatting": "sharegpt",
            "columns": COLUMNS | {"kto_tag": "label"},
            "tags": TAGS,
        },
    ),
    Case(
        "messages-an-object",
        [{"messages": {"role": "user", "content": "q"}, "images": []}],
    ),
    Case("messages-strings", [{"messages": ["q", "a"], "images": []}]),
    Case(
        "a-turn-is-null",
        [
            OK,
            {"messages": [None, *turns("q", "a")], "images": []},
            {"messages": [*turns("q"), None], "images": []},
        ],
    ),
    Case(
        "wrong-role-before-null",
        [OK, {"messages": [{"role": "x", "content": "q"}, None], "images": []}],
    ),
    # Contents
    Case("content-null", [OK, row(answer=None), said(("bad", None))]),
    Case("content-number", [OK, row(answer=5)]),
    Case("content-number-lines", [OK, row(answer=5)], "data.jsonl"),
    Case(
        "content-parts",
        [
            said(
                ("user", [{"type": "text", "text": "q"}]),
                ("assistant", [{"type": "text", "text": "a"}]),
            )
        ],
    ),
    Case(
        "content-parts-mixed",
        [OK, said(("user", [{"type": "text", "text": "q"}]), ("assistant", "a"))],
    ),
    Case("empty-texts", [OK, row("", "", images=[]), row("<image>", " ")]),
    Case(
        "dates-as-answers",
        [row(answer="2024-01-01"), row(answer="2024-01-02")],
        "data.jsonl",
    ),
    # Placeholders
    Case("placeholder-missing", [OK, row("no mark")]),
    Case("placeholder-too-many", [OK, row("<image><image>")]),
    Case("placeholder-without-picture", [OK, row("<image>", images=[])]),
    Case(
        "placeholder-in-system",
        [
            OK,
            {"messages": turns("<image>q", "a", system="<image>"), "images": ["a.png"]},
        ],
    ),
    Case(
        "placeholder-only-in-system",
        [OK, {"messages": turns("q", "a", system="<image>"), "images": ["a.png"]}],
    ),
    Case("placeholder-in-answer", [OK, row("q", "<image>")]),
    Case(
        "placeholder-of-video",
        [
            OK,
            row("<image><video>"),
            row("<video>", images=[]),
            row("<audio>", images=[]),
        ],
    ),
    # Special tokens
    *[
        Case(
            f"token-{token[2:-2]}",
            [OK, row(f"<image>{token}"), row("q", f"a{token}", images=[])],
        )
        for token in (
            "<|image_pad|>",
            "<|video_pad|>",
            "<|vision_start|>",
            "<|im_end|>",
            "<|im_start|>",
            "<|endoftext|>",
        )
    ],
    Case(
        "tokens-that-are-fine",
        [row("<image><think>", "<tool_call>x</tool_call> <b> <|not a token|>")],
    ),
    # Tools
    Case(
        "tools",
        [
            {**OK, "tools": TOOLS},
            {**TEXT, "tools": ""},
            {**TEXT, "tools": "[]"},
            {**TEXT, "tools": None},
        ],
        entry={
            "formatting": "sharegpt",
            "columns": COLUMNS | {"tools": "tools"},
            "tags": TAGS,
        },
    ),
    Case(
        "tools-bad",
        [{**OK, "tools": text} for text in ("x", '{"name": "f"}', '["f"]', "5", '"f"', "null", "{}", '""')],
        entry={
            "formatting": "sharegpt",
            "columns": COLUMNS | {"tools": "tools"},
            "tags": TAGS,
        },
    ),
    Case(
        "tools-a-list",
        [{**OK, "tools": [{"name": "f"}]}],
        entry={
            "formatting": "sharegpt",
            "columns": COLUMNS | {"tools": "tools"},
            "tags": TAGS,
        },
    ),
    Case(
        "function-turns",
        [
            said(
                ("user", "q"),
                ("function", CALL),
                ("observation", "r"),
                ("assistant", "a"),
            ),
            said(
                ("user", "q"),
                ("function", f"<think>\nhm\n</think>\n\n[{CALL}, {CALL}]"),
            ),
            said(("user", "q"), ("function", f"so: <tool_call>{CALL}</tool_call>")),
            said(("user", "q"), ("function", "no json")),
            said(("user", "q"), ("function", '{"name": "f"}')),
            said(("user", "q"), ("function", '"f"')),
            said(("observation", "r"), ("assistant", "a")),
        ],
    ),
    # OpenAI's form
    openai("openai", said(("user", "q"), ("assistant", "a"))),
    openai(
        "openai-unknown-role",
        said(("user", "q"), ("bot", "a")),
        said(("user", "q"), {"content": "a"}),
    ),
    openai(
        "openai-odd",
        said(
            ("user", "q"),
        ),
        said(("user", "q"), ("user", "q")),
    ),
    openai(
        "openai-tools",
        said(
            ("user", "q"),
            ("assistant", CALL),
            ("observation", "r1"),
            ("observation", "r2"),
            ("assistant", "a"),
        ),
        said(("user", "q"), ("function", CALL), ("observation", "r1")),
    ),
    openai(
        "openai-tool-calls",
        said(
            ("user", "q"),
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}],
            },
        ),
    ),
    # Alpaca
    Case(
        "alpaca-default",
        [{"instruction": "q", "input": "i", "output": "a"}],
        entry={"formatting": "alpaca"},
    ),
    Case("alpaca-default-without-input", [qa()], entry={"formatting": "alpaca"}),
    alpaca("alpaca", [qa(), qa("", ""), qa(None), qa("q", None), qa("q", "")]),
    alpaca("alpaca-numbers", [qa("q", 5), qa("q", 6)]),
    alpaca("alpaca-number-questions", [qa(5), qa(0)]),
    alpaca("alpaca-number-texts", [qa("5", "6")]),
    alpaca("alpaca-truth-values", [qa(False), qa(True)]),
    alpaca(
        "alpaca-history",
        [qa(history=[["a", "b"]]), qa(history=None), qa(history=[])],
        {"history": "history"},
    ),
    alpaca(
        "alpaca-history-odd",
        [qa(history=[["a", "b", "c"]]), qa(history=[["a", None]])],
        {"history": "history"},
    ),
    alpaca("alpaca-history-text", [qa(history="x")], {"history": "history"}),
    alpaca(
        "alpaca-system",
        [qa(system="s"), qa(system=None), qa(system="")],
        {"system": "system"},
    ),
    alpaca("alpaca-system-number", [qa(system=5)], {"system": "system"}),
    alpaca(
        "alpaca-picture",
        [qa("<image>q", images=["a.png"]), qa(images=[])],
        {"images": "images"},
    ),
    alpaca("alpaca-label", [qa(label=True), qa(label=None)], {"kto_tag": "label"}),
    Case("alpaca-without-response", [qa()], entry={"columns": {"prompt": "instruction"}}),
    alpaca("alpaca-dates", [qa("q", "2024-01-01"), qa("q", "2024-01-02")]),
    alpaca(
        "alpaca-dates-in-lines",
        [qa("q", "2024-01-01"), qa("q", "2024-01-02")],
        file="data.jsonl",
    ),
    alpaca(
        "alpaca-date-questions",
        [qa("2024-01-01"), qa("2024-01-02 10:00:00")],
        file="data.jsonl",
    ),
    alpaca("alpaca-some-dates", [qa("q", "2024-01-01"), qa("q", "x")], file="data.jsonl"),
    Case(
        "alpaca-column-named-date",
        [{"q": "q", "date": "2024-01-01"}],
        entry={"columns": {"prompt": "q", "response": "date"}},
    ),
    Case(
        "alpaca-column-named-made-at",
        [{"q": "q", "made_at": "yesterday"}],
        entry={"columns": {"prompt": "q", "response": "made_at"}},
    ),
    # CSV
    alpaca(
        "csv",
        'instruction,output\nq,a\nq2,\n"q3 ""x"", y","two\nlines"\nq4,NA\nq5,null\nq6, x \nq7,#N/A\n',
        file="data.csv",
    ),
    alpaca("csv-numbers", "instruction,output\nq,1\nq2,2\n", file="data.csv"),
    alpaca("csv-number-questions", "instruction,output\n1,x\n2,y\n", file="data.csv"),
    alpaca("csv-some-numbers", "instruction,output\nq,1\nq2,x\n", file="data.csv"),
    alpaca("csv-semicolons", "instruction;output\nq;x\n", file="data.csv"),
    alpaca("csv-latin", "instruction,output\nq,caf\xe9\n".encode("latin1"), file="data.csv"),
    alpaca("csv-bom", "\ufeffinstruction,output\r\nq,x\r\n", file="data.csv"),
    alpaca("csv-too-long", "instruction,output\na,b\nq,x,y\n", file="data.csv"),
    alpaca("csv-too-short", "instruction,output\na,b\nq\n", file="data.csv"),
    alpaca("csv-open-quote", 'instruction,output\nq,"x\n', file="data.csv"),
    alpaca("csv-header-only", "instruction,output\n", file="data.csv"),
    alpaca("csv-empty", "", file="data.csv"),
    alpaca("csv-space-in-header", "instruction, output\nq,x\n", file="data.csv"),
    alpaca(
        "csv-pictures",
        "instruction,output,image\n<image>q,x,a.png\nt,y,\n",
        {"images": "image"},
        file="data.csv",
    ),
    Case(
        "csv-turns",
        'messages,images\n"[{}]",\n',
        "data.csv",
        entry={"formatting": "sharegpt", "columns": COLUMNS, "tags": TAGS},
    ),
    # Parquet and Arrow
    Case("parquet", [OK, TEXT, OK], "data.parquet"),
    Case(
        "parquet-embedded",
        [
            row(images=[{"bytes": PNG, "path": None}]),
            row(images=[{"bytes": JPEG[:-40], "path": "x.jpg"}]),
        ],
        "data.parquet",
    ),
    Case("parquet-bytes", [row(images=[PNG]), row(images=[b"x"])], "data.parquet"),
    Case("parquet-bad-rows", [OK, said(("user", "q")), row("no mark")], "data.parquet"),
    Case("parquet-broken", b"PAR1 not at all", "data.parquet"),
    Case("parquet-empty", lambda path: write(path, []), "data.parquet"),
    Case("arrow", [OK, TEXT, said(("user", "q"))], "data.arrow"),
    Case("arrow-broken", b"nothing", "data.arrow"),
    alpaca("text-file", "hello\nworld\n", file="data.txt"),
    # JSON as such
    *both("control-character", line('"a\tb"')),
    *both("control-newline", line('"a\nb"')),
    *both("lone-surrogate", line('"a\\ud800b"')),
    *both("surrogate-pair", line('"a\\ud83d\\ude00"')),
    *both("key-twice", line('"a"')[:-1] + ',"images":["b.png"]}'),
    *both(
        "key-twice-inside",
        line('"a"').replace('"role":"user"', '"role":"x","role":"user"'),
    ),
    *both("nan", line('"a"')[:-1] + ',"n":NaN}'),
    *both("infinity", line('"a"')[:-1] + ',"n":-Infinity}'),
    *both("leading-zero", line('"a"')[:-1] + ',"n":01}'),
    *both("trailing-comma", line('"a"')[:-1] + ",}"),
    *both("single-quotes", line("'a'")),
    *both("bad-escape", line('"a\\x"')),
    *both("huge-integer", line('"a"')[:-1] + ',"n":123456789012345678901234567890}'),
    *both("huge-exponent", line('"a"')[:-1] + ',"n":1e999}'),
    *both("integer-of-64-bits", line('"a"')[:-1] + ',"n":18446744073709551615}'),
    *both("null-character", line('"a\\u0000b"')),
    *both("deep", line('"a"')[:-1] + ',"n":' + "[" * 40 + "]" * 40 + "}"),
    *both("row-a-string", '"x"'),
    *both("row-null", "null"),
    *both("row-a-list", "[1]"),
    *both("row-empty", "{}"),
    *[
        Case(f"meta-{name}-{file[5:]}", [row(meta=a), row(meta=b)], file)
        for file in ("data.json", "data.jsonl")
        for name, a, b in (
            ("number-then-text", 1, "x"),
            ("whole-then-fraction", 1, 1.5),
            ("truth-then-number", True, 1),
            ("list-then-text", [1], "x"),
            ("mixed-list", [1, "x"], []),
            ("objects-apart", {"a": 1}, {"b": "x"}),
            ("objects-clash", {"a": 1}, {"a": "x"}),
            ("empty-objects", {}, {}),
            ("null-then-text", None, "x"),
            ("text-then-list", "x", ["x"]),
            ("big-and-negative", 2**63, -1),
        )
    ],
    Case("images-mixed", [OK, row(images="a.png")]),
    Case("images-mixed-lines", [OK, row(images="a.png")], "data.jsonl"),
    lines("lines-with-bom", b"\xef\xbb\xbf" + GOOD.encode() + b"\n", GOOD),
    Case("array-with-bom", b"\xef\xbb\xbf[" + GOOD.encode() + b"]"),
    lines("lines-crlf-and-blank", GOOD.encode() + b"\r\n\r\n" + GOOD.encode() + b"\r\n"),
    lines("lines-of-cr", GOOD.encode() + b"\r" + GOOD.encode()),
    lines("lines-latin", GOOD, line('"caf\xe9"').encode("latin1") + b"\n"),
    Case(
        "array-latin",
        b"[" + GOOD.encode() + b"," + line('"caf\xe9"').encode("latin1") + b"]",
    ),
    lines("lines-cut", GOOD, GOOD[:-9]),
    lines("lines-garbage", GOOD, "xx", GOOD),
    lines("lines-with-commas", GOOD + ",", GOOD + ","),
    lines("lines-two-in-one", GOOD + " " + GOOD, GOOD),
    lines("lines-of-arrays", f"[{GOOD}]", f"[{GOOD}]"),
    lines("lines-pretty", json.dumps(OK, indent=1), json.dumps(TEXT, indent=1)),
    lines("lines-pretty-broken", json.dumps(OK, indent=1), json.dumps(TEXT, indent=1)[:-4]),
    lines("lines-hold-an-array", f"  [{GOOD},\n{GOOD}]"),
    Case("array-holds-lines", (GOOD + "\n" + GOOD + "\n").encode()),
    Case("array-cut", ("[" + GOOD + "," + GOOD[:-5]).encode()),
    Case("array-without-end", ("[" + GOOD + "," + GOOD).encode()),
    Case("array-with-tail", ("[" + GOOD + "] x").encode()),
    Case("array-twice", ("[" + GOOD + "][" + GOOD + "]").encode()),
    Case("array-trailing-comma", ("[" + GOOD + ",]").encode()),
    Case("array-empty", b"[]"),
    Case("file-empty", b""),
    Case("file-of-spaces", b" \n \n", "data.jsonl"),
    Case("file-an-empty-object", b"{}"),
    Case("file-a-number", b"5"),
    Case("file-utf-16", ("[" + GOOD + "]").encode("utf-16")),
    Case("object-of-rows", {"0": OK, "1": OK}),
    Case("object-of-columns", {"messages": [OK["messages"]], "images": [["a.png"]]}),
    Case("object-wrapped", {"data": [OK, OK]}),
    # Files and folders
    Case(
        "file-missing",
        [OK],
        entry={
            "file_name": "other.json",
            "formatting": "sharegpt",
            "columns": COLUMNS,
            "tags": TAGS,
        },
    ),
    Case("file-ending-in-capitals", json.dumps([OK]), "data.JSON"),
    Case("file-without-ending", json.dumps([OK]), "data"),
    Case(
        "folder",
        [OK, TEXT],
        "part/1.json",
        {"file_name": "part"},
        {"part/2.json": [TEXT, said(("user", "q"))]},
    ),
    Case(
        "folder-mixed",
        [OK],
        "part/1.json",
        {"file_name": "part"},
        {"part/2.jsonl": [OK], "part/3.csv": "a,b\n"},
    ),
    Case(
        "folder-with-rubbish",
        [OK],
        "part/1.json",
        {"file_name": "part"},
        {"part/.DS_Store": b"x"},
    ),
    Case(
        "folder-of-other-columns",
        [OK],
        "part/1.json",
        {"file_name": "part"},
        {"part/2.json": [{**OK, "more": 1}]},
    ),
    Case(
        "folder-of-fewer-columns",
        [OK],
        "part/1.json",
        {"file_name": "part"},
        {"part/2.json": [row("t", images=None)]},
    ),
    Case(
        "folder-of-other-types",
        [{**OK, "meta": 1}],
        "part/1.json",
        {"file_name": "part"},
        {"part/2.json": [{**OK, "meta": [1]}]},
    ),
    Case(
        "folder-of-castable-types",
        [{**OK, "meta": "x"}],
        "part/1.json",
        {"file_name": "part"},
        {"part/2.json": [{**OK, "meta": 1}]},
    ),
    Case(
        "folder-null-then-pictures",
        [row("t", images=None, meta=1)],
        "part/1.json",
        {"file_name": "part"},
        {"part/2.json": [OK]},
    ),
    Case("folder-empty", lambda path: None, "part/none.json", {"file_name": "part"}),
    Case(
        "hub-before-file",
        [OK],
        entry={
            "hf_hub_url": "no/such",
            "formatting": "sharegpt",
            "columns": COLUMNS,
            "tags": TAGS,
        },
    ),
    # Splits and samples
    *[
        alpaca(f"split-{number}", [qa(str(i)) for i in range(10)], split=split)
        for number, split in enumerate(
            (
                "train",
                "all",
                "test",
                "train[:3]",
                "train[-2:]",
                "train[:25%]",
                "train[35%:]",
                "train+train[:1]",
                "train[1:2",
                "train[5:5]",
                "Train",
            )
        )
    ],
    *[
        alpaca(f"samples-{number}", [qa(str(i)) for i in range(10)], num_samples=number)
        for number in (3, 10, 15, 0, -1, "5", 2.0)
    ],
    # Columns that come late
    Case("late-pictures", [TEXT] * 1000 + [OK], whole=True),
    Case(
        "late-pictures-absent",
        [row("t", images=None)] * 1000 + [OK],
        "data.jsonl",
        whole=True,
    ),
    Case("pictures-just-in-time", [TEXT] * 999 + [OK], whole=True),
    Case("pictures-once-more", [OK] + [TEXT] * 1500 + [OK], whole=True),
    alpaca(
        "late-system",
        [qa(system=None)] * 1000 + [qa(system="s")],
        {"system": "system"},
        whole=True,
    ),
    alpaca(
        "late-tools",
        [qa(tools=None)] * 1000 + [qa(tools="")],
        {"tools": "tools"},
        whole=True,
    ),
    Case("late-pictures-in-small-batches", [TEXT] * 20 + [OK], whole=True, options={"preprocessing_batch_size": 10}),
    Case(
        "late-pictures-for-the-second-worker",
        [OK] + [TEXT] * 4000 + [OK],
        whole=True,
        options={"preprocessing_num_workers": 2},
    ),
    Case("null-images-for-10-MB", [{**TEXT, "images": None, "meta": "x" * 100_000}] * 110 + [OK], "data.jsonl"),
    Case("no-images-for-10-MB", [row("t", images=None, meta="x" * 100_000)] * 110 + [OK], "data.jsonl"),
    Case("another-type-after-10-MB", [{**OK, "meta": "x" * 100_000}] * 110 + [{**OK, "meta": [1]}], "data.jsonl"),
    Case("a-number-after-10-MB", [{**OK, "meta": "x" * 100_000}] * 110 + [{**OK, "meta": 1}], "data.jsonl"),
    Case("max-samples", [TEXT, OK, said(("user", "q")), OK], options={"max_samples": 2}),
    # Pictures
    *[
        with_picture(f"picture-{kind.lower()}", picture(kind), f"p.{kind.lower()}")
        for kind in (
            "BMP",
            "GIF",
            "TIFF",
            "WEBP",
            "AVIF",
            "PPM",
            "JPEG2000",
            "ICO",
            "TGA",
            "PCX",
        )
    ],
    with_picture("picture-wrong-ending", JPEG, "p.png"),
    with_picture("picture-without-ending", PNG, "p"),
    with_picture("picture-odd-name", PNG, "ü %20 🙂.png"),
    *[
        with_picture(f"picture-mode-{mode.lower()}", picture("PNG", mode=mode))
        for mode in ("L", "1", "P", "LA", "RGBA")
    ],
    with_picture("picture-mode-cmyk", picture("JPEG", mode="CMYK"), "p.jpg"),
    with_picture("picture-16-bits", sixteen_bits(4000)),
    with_picture("picture-16-bits-low", sixteen_bits(200)),
    with_picture("picture-float", picture("TIFF", mode="F"), "p.tiff"),
    with_picture("picture-turned", _rotated, "p.jpg"),
    with_picture("picture-transparent", flat(64, 64, "RGBA", (9, 9, 9, 0))),
    *[
        with_picture(f"picture-{w}x{h}", flat(w, h))
        for w, h in ((1, 1), (3000, 2), (2, 3000), (20000, 1), (201, 1), (2000, 1500))
    ],
    with_picture("picture-endless", flat(700000, 1)),
    with_picture("picture-bomb", flat(14000, 14000, "1")),
    with_picture("picture-large", flat(10000, 10000, "1")),
    with_picture("picture-empty", b""),
    with_picture("picture-text", b"<html>not found</html>"),
    with_picture("picture-svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
    with_picture("picture-jpeg-lacks-2-bytes", JPEG[:-2], "p.jpg"),
    with_picture("picture-jpeg-half", JPEG[: len(JPEG) // 2], "p.jpg"),
    with_picture("picture-jpeg-with-tail", JPEG + b"tail", "p.jpg"),
    with_picture("picture-png-lacks-its-end", PNG[:-12]),
    with_picture("picture-png-half", PNG[: len(PNG) // 2]),
    with_picture("picture-png-broken", _breaks_crc(PNG)),
    with_picture("picture-png-only-header", _png_without_pixels()),
    with_picture("picture-a-folder", lambda path: path.mkdir()),
    Case("picture-missing", [OK, row(images=("no.png",))]),
    Case(
        "picture-missing-in-dropped-row",
        [OK, {"messages": turns("<image>"), "images": ["no.png"]}],
    ),
    Case(
        "picture-an-address",
        [
            OK,
            row(images=("http://127.0.0.1:9/p.png",)),
            row(images=("data:image/png;base64,AA",)),
        ],
    ),
    Case("picture-path-empty", [OK, row(images=("",))]),
    Case("picture-path-with-space", [OK, row(images=(" a.png",))]),
    Case("picture-path-of-windows", [OK, row(images=(".\\a.png",))]),
    Case("picture-path-with-zero", [OK, row(images=("a\0.png",))]),
    Case("picture-a-number", [row(images=[1])]),
    Case("picture-null", [OK, row(images=[None])]),
    Case("picture-nested", [row(images=[["a.png"]])]),
    Case("picture-object-without-bytes", [row(images=[{"path": "a.png"}])]),
    Case(
        "picture-up",
        [
            OK,
            row(images=("../good/a.png",)),
            row(images=("./a.png",)),
            row(images=("x/../a.png",)),
        ],
    ),
    Case("picture-twice", [row("<image><image>", images=("a.png", "a.png"))]),
    # Cut by cutoff_len
    Case("cut-answer", [OK, row("q", STORY, images=[])], cutoff_len=64),
    Case("cut-question", [OK, row(STORY, "a", images=[])], cutoff_len=64),
    Case("cut-both", [OK, row(STORY, STORY, images=[])], cutoff_len=64),
    Case("cut-turns", [OK, chat(STORY, "a", "q", "b")], cutoff_len=64),
    Case("cut-picture", [OK, row(STORY + "<image>")], cutoff_len=64),
    Case(
        "cut-picture-behind-answer",
        [OK, chat("q", STORY, "<image>q", "a", images=["a.png"])],
        cutoff_len=64,
    ),
    Case("cut-after-picture", [OK, row("<image>" + STORY)], cutoff_len=64),
    Case("cut-to-the-token", [row()], cutoff_len=20),
    # Videos
    videos("video", seen("<video>q", ["v.mp4"]), seen("t", []), seen("<video>q", ["w.mp4"])),
    videos(
        "video-twice",
        seen("<video><video>q", ["v.mp4", "v.mp4"]),
        seen("<video><video>q", ["v.mp4", "w.mp4"]),
        seen("<video><video>q", ["w.mp4", "v.mp4"]),
    ),
    videos(
        "video-later",
        {
            "messages": turns("q", "a", "<video>q", "a"),
            "images": [],
            "videos": ["v.mp4"],
        },
    ),
    videos(
        "video-in-two-turns",
        {
            "messages": turns("<video>q", "a", "<video>q", "a"),
            "images": [],
            "videos": ["v.mp4", "v.mp4"],
        },
        {
            "messages": turns("<video>q", "a", "<video><video>q", "a"),
            "images": [],
            "videos": ["v.mp4", "v.mp4", "v.mp4"],
        },
    ),
    videos(
        "video-and-picture",
        {
            "messages": turns("<video><image>q", "a"),
            "images": ["a.png"],
            "videos": ["v.mp4"],
        },
    ),
    *[
        videos(f"video-{name}", seen("<video>q", [name]), files={name: made})
        for name, made in (
            ("odd.mp4", lambda p: video(p, 9)),
            ("one.mp4", lambda p: video(p, 1)),
            ("long.mp4", lambda p: video(p, 400)),
            ("v.mkv", video),
            ("v.avi", video),
            ("v.mov", video),
            ("tiny.mp4", lambda p: video(p, 4, (16, 16))),
            ("thin.mp4", lambda p: video(p, 4, (2048, 4))),
            ("big.mp4", lambda p: video(p, 4, (640, 480))),
            ("slow.mp4", lambda p: video(p, 8, rate=1)),
            ("text.mp4", b"text"),
            ("empty.mp4", b""),
            ("still.png", PNG),
        )
    ],
    videos("video-missing", seen("<video>q", ["no.mp4"])),
    videos(
        "video-frames",
        *[seen("<video>q", [["a.png"] * count]) for count in (1, 4, 5, 0)],
    ),
    videos("video-frames-missing", seen("<video>q", [["a.png", "no.png"]])),
    videos("video-frames-of-two-sizes", seen("<video>q", [["a.png", "b.png"]])),
    videos(
        "video-frames-twice",
        seen("<video><video>q", [["a.png"] * 2, ["a.png"] * 2]),
        seen("<video><video>q", [["a.png"] * 2, ["a.png"] * 6]),
    ),
    videos("video-a-plain-string", seen("<video>q", "v.mp4")),
    Case(
        "audio",
        [{**OK, "audios": ["a.wav"]}, {**OK, "audios": []}],
        entry={
            "formatting": "sharegpt",
            "columns": COLUMNS | {"audios": "audios"},
            "tags": TAGS,
        },
    ),
]
