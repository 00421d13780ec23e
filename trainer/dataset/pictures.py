"""Pictures, fully decoded by the decoder that training uses."""

import hashlib
import struct
import warnings
from dataclasses import dataclass
from io import BytesIO

import PIL
from PIL import Image

from dataset.file_judge import Kind, read_file

_ORIENTATION = 0x0112


@dataclass(slots=True, frozen=True)
class Picture:
    """What a picture file is: digest of its bytes, size in pixels as decoded, and what is wrong or doubtful with it."""

    sha256: str
    error: str | None = None
    width: int = 0
    height: int = 0
    mode: str = ""
    orientation: int = 1
    transparent: bool = False
    """Some pixels are transparent; training shows the colors under them."""
    clipped: bool = False
    """More than 8 bits a channel, with values above 255, which training makes white."""


def judge_picture(path: str) -> tuple[int, int, Picture]:
    """Decode every pixel of a file; returns size, mtime in ns and the verdict. Never raises."""
    try:
        size, mtime, data = read_file(path)
    except OSError as error:
        return 0, 0, Picture("", f"it cannot be read ({error.strerror})")
    digest = hashlib.sha256(data).hexdigest()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(BytesIO(data)) as image:
                return size, mtime, _judge(image, digest)
    except MemoryError:
        raise
    except Exception as error:
        return size, mtime, Picture(digest, _reason(error, data))


PICTURES = Kind("pictures", f"{PIL.__version__}-1", judge_picture, Picture)


def _judge(image: Image.Image, digest: str) -> Picture:
    width, height = image.size
    mode = image.mode
    orientation = image.getexif().get(_ORIENTATION, 1)
    # An eighth of a JPEG's size: every coefficient is still decoded, so the same files fail, but fewer pixels computed.
    image.draft(None, (max(1, width // 8), max(1, height // 8)))
    image.load()
    clipped = transparent = False
    if mode != "RGB":
        image.crop((0, 0, 1, 1)).convert("RGB")  # a mode that cannot be converted fails here, as it would there
        if mode.startswith("I") or mode == "F":
            highest = image.getextrema()[1]
            clipped = isinstance(highest, (int, float)) and highest > 255
        elif image.has_transparency_data:
            transparent = image.convert("RGBA").getchannel("A").getextrema()[0] < 255  # type: ignore[operator]
    return Picture(
        digest,
        width=width,
        height=height,
        mode=mode,
        orientation=orientation if isinstance(orientation, int) else 1,
        transparent=transparent,
        clipped=clipped,
    )


def _reason(error: Exception, data: bytes) -> str:
    text = str(error)
    if not data:
        return "the file is empty"
    if data.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the picture"
    if "cannot identify image file" in text:
        return f"it is no picture that Pillow knows (it begins with {data[:12]!r})"
    if "truncated" in text or isinstance(error, struct.error):
        return "the file is cut off (image file is truncated)"
    return text or type(error).__name__
