"""What a validation is asked to do."""

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Settings:
    """What to judge, and how strictly; the options that have LLaMA-Factory's names mean what they mean there."""

    dataset_dir: Path
    datasets: list[str]
    out: Path
    eval_datasets: list[str] = field(default_factory=list)
    media_dir: Path | None = None
    model: Path | None = None
    template: str = "qwen3_vl_nothink"
    cutoff_len: int = 2048
    packing: bool = False
    image_max_pixels: int = 768 * 768
    image_min_pixels: int = 32 * 32
    video_max_pixels: int = 256 * 256
    video_min_pixels: int = 16 * 16
    video_fps: float = 2.0
    video_maxlen: int = 128
    default_system: str | None = None
    tool_format: str | None = None
    train_on_prompt: bool = False
    mask_history: bool = False
    enable_thinking: bool | None = True
    preserve_thinking: bool = False
    add_tokens: list[str] = field(default_factory=list)
    add_special_tokens: list[str] = field(default_factory=list)
    new_special_tokens_config: Path | None = None
    split_special_tokens: bool = False
    max_samples: int | None = None
    val_size: float = 0
    preprocessing_num_workers: int = 1
    preprocessing_batch_size: int = 1000
    seed: int = 42
    held_out_fraction: float = 0.1
    on_bad_row: str = "fail"
    max_drop_fraction: float = 0.1
    roots: list[str] | None = None
    cache_dir: Path | None = None
    processes: int = field(default_factory=lambda: max(1, min(8, len(os.sched_getaffinity(0)))))

    @property
    def limit(self) -> int:
        """The tokens that a row may have: with packing, LLaMA-Factory takes one off."""
        return self.cutoff_len - self.packing

    @property
    def drops(self) -> bool:
        """Whether bad rows are set aside rather than refused with the dataset."""
        return self.on_bad_row == "drop"
