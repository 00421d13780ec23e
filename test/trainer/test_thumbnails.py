"""Thumbnails: whatever the pictures are, those that can be read come, small and upright, within the room there is."""

import base64
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image

PROGRAM = Path(__file__).parents[2] / "trainer/thumbnails.py"


def thumbnails(*pictures: Path, most_bytes: int = 1_000_000) -> list[dict[str, Any]]:
    command = [sys.executable, PROGRAM, "--most-bytes", str(most_bytes), "--", *pictures]
    line = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(line)["thumbnails"]


def test_pictures_of_all_modes_come_and_what_is_none_is_left_out(tmp_path: Path) -> None:
    made = []
    for number, mode in enumerate(("RGB", "RGBA", "P", "L", "1", "CMYK", "I;16")):
        path = tmp_path / f"{number}.{'tiff' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (600, 300)).save(path)
        made.append(path)
    (tmp_path / "broken.png").write_bytes(made[0].read_bytes()[:40])
    found = thumbnails(tmp_path / "gone.png", *made, tmp_path / "broken.png", tmp_path)
    assert [each["path"] for each in found] == [str(path) for path in made]
    assert {(each["width"], each["height"]) for each in found} == {(240, 120)}
    data = base64.b64decode(found[0]["source"].removeprefix("data:image/webp;base64,"))
    assert Image.open(io.BytesIO(data)).size == (240, 120)


def test_a_turned_photo_stands_upright_and_a_small_picture_is_not_enlarged(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (400, 200)).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGB", (16, 8)).save(tmp_path / "small.png")
    turned, small = thumbnails(tmp_path / "turned.jpg", tmp_path / "small.png")
    assert (turned["width"], turned["height"]) == (120, 240)
    assert (small["width"], small["height"]) == (16, 8)


def test_what_finds_no_room_is_left_out(tmp_path: Path) -> None:
    Image.effect_noise((240, 240), 90).save(tmp_path / "large.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "small.png")
    found = thumbnails(tmp_path / "large.png", tmp_path / "small.png", most_bytes=1_000)
    assert [each["path"] for each in found] == [str(tmp_path / "small.png")]
