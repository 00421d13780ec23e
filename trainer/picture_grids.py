"""Tokenizing without pixels: how many tokens a picture takes follows from its size, which its header tells.

LLaMA-Factory decodes, resizes and normalizes every picture only to count its patches. While `from_headers` holds, its
plugin gets the same counts from the pictures' headers, and all else of tokenizing is its own code. Whatever might count
otherwise or fail there goes LLaMA-Factory's own way. A whole file that is damaged inside is found only by decoding it,
as the dataset's validation does: its row is tokenized here, and fails at the step that loads it.
"""

import contextlib
import functools
import os
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
from llamafactory.data.mm_plugin import Qwen2VLPlugin, Qwen3VLPlugin
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor, smart_resize

PLUGINS = (Qwen2VLPlugin, Qwen3VLPlugin)
PROCESSORS = (Qwen2VLImageProcessor, Qwen2VLImageProcessorPil)
ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "WEBP": b""}
"""Formats whose header gives the size they decode to, and how whole files end; a cut WebP fails when it is opened."""


@contextlib.contextmanager
def from_headers() -> Iterator[None]:
    """Let Qwen's plugin take the grids of pictures from their headers, in this process and those it forks meanwhile.

    A streamed dataset is tokenized later, while it trains, and so LLaMA-Factory's own way.
    """
    own_way = Qwen2VLPlugin._get_mm_token_metadata

    @functools.wraps(own_way)
    def token_metadata(self: Qwen2VLPlugin, images: list, videos: list, audios: list, processor: Any) -> Any:
        grids = None if audios or not images else picture_grids(self, images, processor)
        if grids is None:
            return own_way(self, images, videos, audios, processor)
        of_videos = own_way(self, [], videos, [], processor)
        return None if of_videos is None else {"image_grid_thw": grids, **of_videos}

    Qwen2VLPlugin._get_mm_token_metadata = token_metadata
    try:
        yield
    finally:
        Qwen2VLPlugin._get_mm_token_metadata = own_way


def picture_grids(plugin: Qwen2VLPlugin, images: list[Any], processor: Any) -> np.ndarray | None:
    """The grids of a row's pictures, shape (pictures, 3), or None when only LLaMA-Factory's own way is sure.

    The plugin only multiplies their numbers, for which a tensor takes 20 times as long.
    """
    pictures = processor.image_processor
    if type(plugin) not in PLUGINS or type(pictures) not in PROCESSORS or not pictures.do_resize:
        return None
    try:
        return np.array([picture_grid(plugin, image, processor) for image in images])
    except Exception:
        return None


def picture_grid(plugin: Qwen2VLPlugin, image: Any, processor: Any) -> tuple[int, int, int]:
    """Patches of one picture (time, height, width), as plugin and processor would cut it; raises where they might.

    The rules are Qwen2VLPlugin._preprocess_image of LLaMA-Factory 0.9.5, which has them for frames of videos as a
    function of their size, and then Qwen2VLImageProcessor._preprocess of transformers 5.6.0.
    """
    pictures = processor.image_processor
    min_pixels = getattr(processor, "image_min_pixels", 32 * 32)
    if min_pixels < 1:
        raise ValueError("a side might vanish, at which resizing fails")
    width, height = plugin._get_qwen_video_size_after_regularization(
        *picture_size(image),
        image_max_pixels=getattr(processor, "image_max_pixels", 768 * 768),
        image_min_pixels=min_pixels,
    )
    high, wide = smart_resize(
        height,
        width,
        factor=pictures.patch_size * pictures.merge_size,
        min_pixels=side(pictures, "shortest_edge"),
        max_pixels=side(pictures, "longest_edge"),
    )
    return 1, high // pictures.patch_size, wide // pictures.patch_size


def picture_size(image: Any) -> tuple[int, int]:
    """Width and height in pixels of a path, bytes or {"path", "bytes"}; raises where decoding might tell others."""
    if isinstance(image, dict):
        image = image["path"] if image["bytes"] is None else image["bytes"]
    if not isinstance(image, (str, bytes)):
        raise TypeError(f"a picture given as {type(image).__name__}")
    with open(image, "rb") if isinstance(image, str) else BytesIO(image) as file:
        with Image.open(file) as header:
            size, end = header.size, ENDS[header.format]
        file.seek(-len(end), os.SEEK_END)
        if file.read() != end:
            raise ValueError("the file is cut off, or has something behind the picture")
    return size


def side(pictures: Any, name: str) -> int:
    """A limit in pixels; raises when it is missing or 0, which the processor refuses."""
    limit = pictures.size[name] if isinstance(pictures.size, dict) else getattr(pictures.size, name)
    if not limit:
        raise ValueError(f"the processor has no {name}")
    return limit
