"""The tiny model's shape: every part of a Qwen3-VL, each very small, about 1.35 million parameters."""

import torch
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from .badges import HEIGHT, WIDTH

PATCH = 16
MERGE = 2
HIDDEN = 128


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLForConditionalGeneration:
    """A model in fp32 with weights drawn from torch's random state."""
    special = {token: tokenizer.convert_tokens_to_ids(token) for token in tokenizer.all_special_tokens}
    config = Qwen3VLConfig(
        text_config={
            "hidden_size": HIDDEN,
            "num_hidden_layers": 3,
            "intermediate_size": 256,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "vocab_size": -(-len(tokenizer) // 64) * 64,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
            "pad_token_id": special["<|endoftext|>"],
            "bos_token_id": special["<|endoftext|>"],
            "eos_token_id": special["<|im_end|>"],
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
                "rope_theta": 1e4,
            },
        },
        vision_config={
            "depth": 3,
            "hidden_size": 96,
            "intermediate_size": 288,
            "num_heads": 4,
            "out_hidden_size": HIDDEN,
            "deepstack_visual_indexes": [1],
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "num_position_embeddings": 256,
        },
        image_token_id=special["<|image_pad|>"],
        video_token_id=special["<|video_pad|>"],
        vision_start_token_id=special["<|vision_start|>"],
        vision_end_token_id=special["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    model = Qwen3VLForConditionalGeneration(config).float()
    _start_seeing(model.model.visual)
    generation = model.generation_config
    generation.eos_token_id, generation.pad_token_id = special["<|im_end|>"], special["<|endoftext|>"]
    generation.do_sample = False
    return model


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLProcessor:
    """A processor that scales every picture to a badge's area at most, so that any picture costs at most 4 tokens."""
    area = {"shortest_edge": 32 * 32, "longest_edge": WIDTH * HEIGHT}
    mean = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=PATCH, merge_size=MERGE, size=area, **mean),
        video_processor=Qwen3VLVideoProcessor(patch_size=PATCH, merge_size=MERGE, size=area, **mean),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
    )


def _start_seeing(visual: torch.nn.Module) -> None:
    """Start from patch filters that ignore a flat background and from positions that differ: it learns sooner."""
    with torch.no_grad():
        filters = visual.patch_embed.proj.weight
        filters.normal_(0, 0.04)
        filters -= filters.mean((2, 3, 4), keepdim=True)
        visual.patch_embed.proj.bias.zero_()
        visual.pos_embed.weight.normal_(0, 0.3)
