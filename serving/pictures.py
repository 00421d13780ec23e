"""Pictures that arrive as data URIs: checked here, and handed on in a form that LLaMA-Factory's API reads."""

import base64
import binascii
import io
import re

from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 50_000_000
READ_AS_SENT = ("png", "jpg", "jpeg", "gif", "bmp")

_DATA_URI = re.compile(r"data:image/([a-zA-Z0-9.+-]+)(?:;[a-zA-Z0-9-]+=[^;,]*)*;base64,", re.ASCII)
_SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")


class PictureError(ValueError):
    """A picture that cannot be used; the message says why, for the one who sent it."""


def normalize_picture(url: str) -> str:
    """Return a data URI that LLaMA-Factory reads, with the same pixels; PictureError for what is no whole picture.

    Types that it does not read (webp, tiff, avif ...) and 16-bit grays, which it would turn white, become BMP: the one
    format that costs no time to compress.
    """
    header = _DATA_URI.match(url)
    if header is None:
        raise PictureError(f"a picture must be a data URI (data:image/png;base64,...), not {url[:20]!r}...")
    picture = _decode(url[header.end() :])
    if header[1].lower() in READ_AS_SENT and picture.mode not in _SIXTEEN_BIT_MODES:
        return f"data:image/{header[1].lower()};base64,{url[header.end() :].strip()}"
    return to_data_uri(_to_rgb(picture), "BMP")


def to_data_uri(picture: Image.Image, format: str) -> str:
    """Encode `picture` losslessly as PNG or BMP."""
    buffer = io.BytesIO()
    picture.save(buffer, format, **({"compress_level": 1} if format == "PNG" else {}))
    return f"data:image/{format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _decode(encoded: str) -> Image.Image:
    try:
        data = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise PictureError("the picture's base64 text is damaged") from None
    if not data:
        raise PictureError("the picture is empty")
    try:
        picture = Image.open(io.BytesIO(data))
        if picture.width * picture.height > MAX_PIXELS:
            raise PictureError(f"the picture has {picture.width}x{picture.height} pixels, more than {MAX_PIXELS:,}")
        picture.load()
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError(
            "the data is not a picture of a type that can be read (png, jpeg, webp, tiff, gif, bmp ...)"
        ) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PictureError(f"the picture is damaged: {error}") from None
    return picture


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in _SIXTEEN_BIT_MODES:
        picture = picture.convert("I").point(lambda value: value / 256).convert("L")
    return picture.convert("RGB")
