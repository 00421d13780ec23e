"""Small copies of pictures, as data URLs for a page; those that can't be read, or find no room, are left out.

    python thumbnails.py --most-bytes 1500000 -- card.png photo.jpg
"""

import argparse
import base64
import io
import warnings
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from protocol import Protocol, run

SIDE = 240
"""Pixels of the longer side, at most."""


def main(_: Protocol) -> dict[str, Any]:
    """The thumbnails in the order of their pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most-bytes", type=int, required=True, help="of all data URLs together")
    parser.add_argument("pictures", nargs="*", type=Path)
    arguments = parser.parse_args()
    room = arguments.most_bytes
    thumbnails = []
    for path in arguments.pictures:
        thumbnail = _thumbnail(path)
        if thumbnail is None or len(thumbnail["source"]) > room:
            continue
        room -= len(thumbnail["source"])
        thumbnails.append({"path": str(path), **thumbnail})
    return {"thumbnails": thumbnails}


def _thumbnail(path: Path) -> dict[str, Any] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                image.draft("RGB", (2 * SIDE, 2 * SIDE))
                upright = ImageOps.exif_transpose(image)
                upright.thumbnail((SIDE, SIDE))
                small = upright.convert("RGB")
    except MemoryError:
        raise
    except Exception:  # whatever is wrong with it, a report can do without a picture
        return None
    data = io.BytesIO()
    small.save(data, "WEBP", quality=80, method=4)
    source = f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
    return {"source": source, "width": small.width, "height": small.height}


if __name__ == "__main__":
    run(main)
