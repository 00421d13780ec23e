"""Tokenizing without pixels: how many tokens a picture takes follows from its size, which its header tells.

LLaMA-Factory decodes and resizes every picture only to count its patches, at some 35 rows a second.
"""

import functools
from typing import Any

import torch
from llamafactory.data.mm_plugin import Qwen2VLPlugin
from PIL import Image
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize


def install() -> None:
    """Let Qwen's plugin take the grids of pictures from their headers; anything unusual goes LLaMA-Factory's way."""
    decode = Qwen2VLPlugin._get_mm_token_metadata

    @functools.wraps(decode)
    def from_headers(self: Qwen2VLPlugin, images: list, videos: list, audios: list, processor: Any) -> Any:
        if not images or audios or not resizes_as_usual(processor):
            return decode(self, images, videos, audios, processor)
        try:
            grids = [picture_grid(self, image, processor) for image in images]
        except Exception:
            return decode(self, images, videos, audios, processor)
        inputs: dict[str, Any] = {"image_grid_thw": torch.tensor(grids, dtype=torch.long)}
        if videos:
            video_inputs = self._get_video_token_metadata(videos, processor)
            if video_inputs is None:
                return None
            inputs.update(video_inputs)
        return inputs

    Qwen2VLPlugin._get_mm_token_metadata = from_headers


def resizes_as_usual(processor: Any) -> bool:
    pictures = getattr(processor, "image_processor", None)
    return type(pictures).__name__.startswith("Qwen2VLImageProcessor") and getattr(pictures, "do_resize", False)


def picture_grid(plugin: Qwen2VLPlugin, image: Any, processor: Any) -> tuple[int, int, int]:
    """Patches of one picture (time, height, width), as plugin and processor would cut it; raises where they might."""
    pictures = processor.image_processor
    with Image.open(image) as header:
        width, height = header.size
    width, height = plugin._get_qwen_video_size_after_regularization(
        width,
        height,
        image_max_pixels=getattr(processor, "image_max_pixels", 768 * 768),
        image_min_pixels=getattr(processor, "image_min_pixels", 32 * 32),
    )
    if min(width, height) < 1:
        raise ValueError("the picture would vanish")
    high, wide = smart_resize(
        height,
        width,
        factor=pictures.patch_size * pictures.merge_size,
        min_pixels=side(pictures, "shortest_edge"),
        max_pixels=side(pictures, "longest_edge"),
    )
    return 1, high // pictures.patch_size, wide // pictures.patch_size


def side(pictures: Any, name: str) -> int:
    return pictures.size[name] if isinstance(pictures.size, dict) else getattr(pictures.size, name)
