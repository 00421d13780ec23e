"""Claims about trainer/picture_grids.py and picture_runs.py: rows tokenized without pixels are the rows that LLaMA-Factory makes of pixels."""

import io
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from llamafactory.data.mm_plugin import Qwen2VLPlugin, Qwen3VLPlugin
from llamafactory.data.template import Template
from PIL import Image
from tokenizers import AddedToken
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

import random_qwen3_vl
from dataset_cases import CASES, OK, TEXT, Case, picture, row
from llama_factory_oracle import Oracle
from picture_grids import from_headers, picture_grids
from picture_runs import RunEncoder, encoded_once, is_apart

BASE = Path(__file__).resolve().parents[2] / "demo" / "tiny-qwen3-vl"
WITH_MEDIA = (
    "good",
    "picture",
    "placeholder",
    "parquet",
    "arrow",
    "cut",
    "video",
    "audio",
    "csv-pictures",
    "max-samples",
)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return Oracle(BASE, tmp_path_factory.mktemp("oracle"))


def tokenized(oracle: Oracle, case: Case, folder: Path) -> Any:
    """All columns with their types, and all rows; or the error."""
    made = oracle.tokenize(folder, "x", case.cutoff_len, **case.options)
    return re.sub(" at 0x[0-9a-f]+", "", made) if isinstance(made, str) else (made.features, made.to_list())


def both_ways(oracle: Oracle, case: Case, folder: Path) -> tuple[Any, Any]:
    own_way = tokenized(oracle, case, folder)
    with from_headers(), encoded_once():
        return own_way, tokenized(oracle, case, folder)


@pytest.fixture
def no_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be tokenized LLaMA-Factory's own way."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("pixels were asked for")

    monkeypatch.setattr(Qwen2VLImageProcessor, "preprocess", refuse)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name.startswith(WITH_MEDIA)], ids=lambda case: case.name
)
def test_every_column_is_llama_factorys(case: Case, oracle: Oracle, tmp_path: Path) -> None:
    if case.name == "picture-up":
        next(other for other in CASES if other.name == "good").make(tmp_path)
    own_way, ours = both_ways(oracle, case, case.make(tmp_path))
    assert ours == own_way


def several(pictures: int) -> list[dict[str, Any]]:
    """Rows of one to many pictures, and of text."""
    names = [f"{number}.jpg" for number in range(pictures)]
    rows = [row("<image>" * count + "which?", images=tuple(names[:count])) for count in range(1, pictures + 1)]
    return [*rows, TEXT, row("t", images=None)]


@pytest.mark.parametrize("workers", [None, 2])
@pytest.mark.parametrize(("most", "least"), [(768 * 768, 32 * 32), (2048, 1024), (10**6, 40_000)])
def test_every_column_is_llama_factorys_with(workers: int | None, most: int, least: int, tmp_path: Path) -> None:
    oracle = Oracle(BASE, tmp_path / "oracle", image_max_pixels=most, image_min_pixels=least)
    chance = random.Random(most)
    files = {f"{number}.jpg": encoded("JPEG", chance.randint(20, 900), chance.randint(20, 900)) for number in range(6)}
    case = Case("several", several(6), files=files, options={"preprocessing_num_workers": workers}, cutoff_len=10**6)
    own_way, ours = both_ways(oracle, case, case.make(tmp_path))
    assert ours == own_way and len(ours[1]) == 8


@pytest.mark.parametrize("workers", [None, 2])
def test_no_pixel_is_looked_at(workers: int | None, oracle: Oracle, tmp_path: Path, no_pixels: None) -> None:
    case = Case("plain", [OK, TEXT, OK, OK], options={"preprocessing_num_workers": workers})
    folder = case.make(tmp_path)
    with from_headers():
        assert len(tokenized(oracle, case, folder)[1]) == 4
    assert isinstance(tokenized(oracle, case, folder), str)


def test_llama_factorys_own_way_is_restored_after_an_error() -> None:
    def replaced() -> list[Any]:
        return [Qwen2VLPlugin._get_mm_token_metadata, Template._convert_elements_to_ids]

    own_way = replaced()
    with pytest.raises(ZeroDivisionError), from_headers(), encoded_once():
        assert not set(replaced()) & set(own_way)
        raise ZeroDivisionError
    assert replaced() == own_way


def encoded(kind: str, width: int = 90, height: int = 50, mode: str = "RGB", turned: int = 1, frames: int = 1) -> bytes:
    """A picture file of a gradient, perhaps turned by its EXIF or animated."""
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB").convert(mode)
    exif = Image.Exif()
    exif[0x0112] = turned
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": [image.rotate(90 * n) for n in range(1, frames)]} if frames > 1 else {}
    image.save(buffer, kind, exif=exif, **more)
    return buffer.getvalue()


TOLD = {
    **{f"jpeg {mode}": encoded("JPEG", mode=mode) for mode in ("RGB", "L", "CMYK")},
    **{f"jpeg turned {turned}": encoded("JPEG", turned=turned) for turned in range(2, 9)},
    **{f"png {mode}": encoded("PNG", mode=mode) for mode in ("RGB", "L", "1", "P", "LA", "RGBA", "I;16", "I")},
    "png turned": encoded("PNG", turned=6),
    "png animated": encoded("PNG", frames=3),
    "jpeg of several": encoded("MPO", frames=3),
    "webp": encoded("WEBP"),
    "webp RGBA": encoded("WEBP", mode="RGBA"),
    "webp turned": encoded("WEBP", turned=6),
    "webp animated": encoded("WEBP", frames=3),
    **{
        f"{w}x{h}": encoded("PNG", w, h)
        for w, h in ((1, 1), (27, 29), (29, 27), (3000, 12), (12, 3000), (4000, 15), (20000, 1), (1, 20000))
    },
}
DECODED = {
    "gif": encoded("GIF"),
    "gif animated": encoded("GIF", frames=3),
    "bmp": picture("BMP"),
    "tiff turned": encoded("TIFF", turned=6),
    "ico": picture("ICO"),
    "jpeg with a tail": encoded("JPEG") + b"tail",
    **{f"{kind} cut at {part:.0%}": encoded(kind, 300, 300)[: int(part * len(encoded(kind, 300, 300)))]
       for kind in ("JPEG", "PNG", "WEBP") for part in (0.99, 0.8, 0.5, 0.1)},
    "no picture": b"text",
    "nothing": b"",
}  # fmt: skip


class Row:
    """One row's pictures in the hands of a plugin and a processor of their own."""

    def __init__(
        self, plugin: type[Qwen2VLPlugin] = Qwen3VLPlugin, most: int = 768 * 768, least: int = 32 * 32
    ) -> None:
        self.plugin = plugin("<|image_pad|>", "<|video_pad|>", None)
        self.processor = random_qwen3_vl._processor()
        self.processor.image_max_pixels, self.processor.image_min_pixels = most, least

    def own_way(self, *images: Any) -> list[list[int]] | None:
        """LLaMA-Factory's grids, or None where it fails."""
        try:
            return self.plugin._get_mm_inputs(list(images), [], [], self.processor)["image_grid_thw"].tolist()
        except Exception:
            return None

    def ours(self, *images: Any) -> list[list[int]] | None:
        grids = picture_grids(self.plugin, list(images), self.processor)
        return None if grids is None else grids.tolist()


def as_path(data: bytes, folder: Path) -> str:
    (folder / "picture").write_bytes(data)
    return str(folder / "picture")


FORMS: dict[str, Callable[[bytes, Path], Any]] = {
    "a path": as_path,
    "bytes": lambda data, folder: data,
    "a dict of bytes": lambda data, folder: {"bytes": data, "path": "no such file"},
    "a dict of a path": lambda data, folder: {"bytes": None, "path": as_path(data, folder)},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("data", TOLD.values(), ids=TOLD)
def test_a_header_tells_the_grid_of(data: bytes, form: Callable[[bytes, Path], Any], tmp_path: Path) -> None:
    image, shown = form(data, tmp_path), Row()
    assert shown.ours(image) == shown.own_way(image) is not None


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("data", DECODED.values(), ids=DECODED)
def test_left_to_llama_factory_is(data: bytes, form: Callable[[bytes, Path], Any], tmp_path: Path) -> None:
    assert Row().ours(form(data, tmp_path)) is None


def test_a_whole_file_that_is_damaged_inside_fails_at_its_step_only() -> None:
    sound = encoded("PNG", 300, 300)
    damaged = sound[:-300] + bytes(60) + sound[-240:]
    assert Row().own_way(damaged) is None
    assert Row().ours(damaged) == Row().ours(sound) is not None


@pytest.mark.parametrize(
    "image", [None, 1, Path("a.png"), Image.new("RGB", (64, 64)), "no such file", "a\0b", {"path": "a.png"}]
)
def test_left_to_llama_factory_is_what_is_given_as(image: Any) -> None:
    assert Row().ours(image) is None


@pytest.mark.parametrize("plugin", [Qwen2VLPlugin, Qwen3VLPlugin])
@pytest.mark.parametrize(
    ("most", "least"), [(768 * 768, 32 * 32), (256 * 256, 1), (1024, 32 * 32), (900, 5000), (10**7, 300_000)]
)
def test_grids_of_any_size_are_llama_factorys(plugin: type[Qwen2VLPlugin], most: int, least: int) -> None:
    shown, chance = Row(plugin, most, least), random.Random(most)
    sizes = [(chance.randint(1, limit), chance.randint(1, limit)) for limit in (40, 300, 1500) for _ in range(12)]
    images = [encoded("PNG", width, height) for width, height in [*sizes, (700, 3), (3, 700), (2600, 13)]]
    for image in images:
        assert (ours := shown.ours(image)) is None or ours == shown.own_way(image)
    usual = [image for image in images if shown.ours(image)]
    assert len(usual) > len(images) / 2
    assert shown.ours(*usual) == shown.own_way(*usual)


def test_grids_of_the_processor_without_torch_are_llama_factorys() -> None:
    shown = Row()
    limits = {"shortest_edge": 32 * 32, "longest_edge": 256 * 256}
    shown.processor.image_processor = Qwen2VLImageProcessorPil(patch_size=16, merge_size=2, size=limits)
    images = [encoded("PNG", 900, 211), encoded("PNG", 30, 30)]
    assert shown.ours(*images) == shown.own_way(*images) is not None


class OtherPlugin(Qwen3VLPlugin):
    pass


class OtherProcessor(Qwen2VLImageProcessor):
    pass


UNUSUAL: dict[str, Callable[[Row], None]] = {
    "a processor that does not resize": lambda shown: setattr(shown.processor.image_processor, "do_resize", False),
    "another processor": lambda shown: setattr(shown.processor, "image_processor", OtherProcessor(patch_size=16)),
    "another plugin": lambda shown: setattr(shown, "plugin", OtherPlugin("<|image_pad|>", "<|video_pad|>", None)),
    "sides that may vanish": lambda shown: setattr(shown.processor, "image_min_pixels", 0),
    "no limit": lambda shown: setattr(shown.processor.image_processor.size, "shortest_edge", 0),
}


@pytest.mark.parametrize("change", UNUSUAL.values(), ids=UNUSUAL)
def test_left_to_llama_factory_are_pictures_for(change: Callable[[Row], None]) -> None:
    shown = Row()
    assert shown.ours(encoded("PNG")) is not None
    change(shown)
    assert shown.ours(encoded("PNG")) is None


PAD = "<|image_pad|>"


@pytest.mark.parametrize("text", [
    3 * PAD, f"a{2 * PAD}b", f" {2 * PAD} {5 * PAD}\n{PAD}", f"<|vision_start|>{900 * PAD}<|vision_end|>What is this?",
    f"{PAD[:-1]}{3 * PAD}{PAD[1:]}", f"<{2 * PAD}>", f"é{2 * PAD}é🙂", "no picture", "",
])  # fmt: skip
def test_runs_encoded_once_are_the_same_tokens(text: str) -> None:
    tokenizer = random_qwen3_vl._processor().tokenizer
    assert is_apart(tokenizer, PAD)
    runs = RunEncoder(tokenizer, PAD)
    assert runs.encode(text, add_special_tokens=False) == tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("added", [f"x{PAD}", f"{PAD}{PAD}", f"{PAD}<", "x<", "<|", ">x", "><"])
def test_runs_are_encoded_rightly_beside_the_added_token(added: str) -> None:
    tokenizer = random_qwen3_vl._processor().tokenizer
    tokenizer.add_tokens([AddedToken(added, normalized=False)])
    runs = RunEncoder(tokenizer, PAD) if is_apart(tokenizer, PAD) else tokenizer
    for text in (3 * PAD, f"x{3 * PAD}x", f"{PAD}x{2 * PAD}", f"x{PAD}"):
        assert runs.encode(text, add_special_tokens=False) == tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("flag", ["normalized", "lstrip", "rstrip", "single_word"])
def test_runs_are_not_encoded_once_when_the_token_looks_around(flag: str) -> None:
    tokenizer = random_qwen3_vl._processor().tokenizer
    tokenizer.add_tokens([AddedToken("<pad>", **{"normalized": False, flag: True})])
    assert not is_apart(tokenizer, "<pad>") and not is_apart(tokenizer, "what")
