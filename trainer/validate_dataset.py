"""Judges LLaMA-Factory datasets row by row and writes clean training and held-out splits.

  trainer/.venv/bin/python trainer/validate_dataset.py --dataset-dir data --dataset cards \
    --model models/qwen3-vl-4b-instruct --template qwen3_vl_nothink --cutoff-len 2048 --out runs/first/dataset
"""

import argparse
import time
from pathlib import Path
from typing import Any

from dataset.memory import Memory
from dataset.report import result_of
from dataset.settings import Settings
from protocol import Protocol, run

_TRUTH = {"true": True, "false": False, "null": None}


def main(protocol: Protocol) -> dict[str, Any]:
    """Validate as the command line says; the result is report.json in short, with `seconds` and where the whole is."""
    started = time.perf_counter()
    arguments = _parse()
    settings = Settings(
        dataset_dir=arguments.dataset_dir,
        datasets=_names(arguments.dataset),
        eval_datasets=_names(arguments.eval_dataset),
        out=arguments.out,
        media_dir=arguments.media_dir,
        model=arguments.model,
        template=arguments.template,
        cutoff_len=arguments.cutoff_len,
        packing=arguments.packing,
        image_max_pixels=arguments.image_max_pixels,
        image_min_pixels=arguments.image_min_pixels,
        video_max_pixels=arguments.video_max_pixels,
        video_min_pixels=arguments.video_min_pixels,
        video_fps=arguments.video_fps,
        video_maxlen=arguments.video_maxlen,
        default_system=arguments.default_system,
        tool_format=arguments.tool_format,
        train_on_prompt=arguments.train_on_prompt,
        mask_history=arguments.mask_history,
        enable_thinking=_TRUTH[arguments.enable_thinking],
        preserve_thinking=arguments.preserve_thinking,
        add_tokens=_names(arguments.add_tokens),
        add_special_tokens=_names(arguments.add_special_tokens),
        new_special_tokens_config=arguments.new_special_tokens_config,
        split_special_tokens=arguments.split_special_tokens,
        max_samples=arguments.max_samples,
        val_size=arguments.val_size,
        preprocessing_batch_size=arguments.preprocessing_batch_size,
        preprocessing_num_workers=max(1, arguments.preprocessing_num_workers),
        seed=arguments.seed,
        held_out_fraction=arguments.held_out_fraction,
        on_bad_row=arguments.on_bad_row,
        max_drop_fraction=arguments.max_drop_fraction,
        roots=arguments.roots.split(":") if arguments.roots else None,
        cache_dir=arguments.cache_dir,
    )
    if arguments.processes:
        settings.processes = arguments.processes
    report = _validate(settings, protocol)
    return {**result_of(report, settings.out), "seconds": round(time.perf_counter() - started, 3)}


def _validate(settings: Settings, protocol: Protocol) -> dict[str, Any]:
    memory = Memory(settings) if settings.cache_dir is not None else None
    if memory is not None and (report := memory.recall()) is not None:
        protocol.progress(report["rows"], report["rows"], "rows", "nothing has changed since it was judged")
        return report
    # What decodes and tokenizes is imported only when there is something to judge.
    from dataset.judge import Judge

    judge = Judge(settings, protocol.progress)
    report = judge.run()
    if memory is not None and judge.media is not None:
        memory.remember(judge.media)
    return report


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset-dir", type=Path, required=True, help="folder with dataset_info.json")
    parser.add_argument("--dataset", required=True, help="names in dataset_info.json, separated by commas")
    parser.add_argument("--eval-dataset", default="", help="names of the datasets that are only evaluated on")
    parser.add_argument("--out", type=Path, required=True, help="folder for the splits and the report")
    parser.add_argument("--media-dir", type=Path, help="folder that picture paths start from (default: --dataset-dir)")
    parser.add_argument("--model", type=Path, help="base model folder; with it tokens are counted")
    parser.add_argument("--template", default="qwen3_vl_nothink", help="LLaMA-Factory's template for the base")
    parser.add_argument("--cutoff-len", type=int, default=2048)
    parser.add_argument("--packing", action="store_true")
    parser.add_argument("--image-max-pixels", type=int, default=768 * 768)
    parser.add_argument("--image-min-pixels", type=int, default=32 * 32)
    parser.add_argument("--video-max-pixels", type=int, default=256 * 256)
    parser.add_argument("--video-min-pixels", type=int, default=16 * 16)
    parser.add_argument("--video-fps", type=float, default=2.0)
    parser.add_argument("--video-maxlen", type=int, default=128)
    parser.add_argument("--default-system", help="system prompt of rows that have none")
    parser.add_argument("--tool-format")
    parser.add_argument("--train-on-prompt", action="store_true")
    parser.add_argument("--mask-history", action="store_true")
    parser.add_argument("--enable-thinking", choices=tuple(_TRUTH), default="true")
    parser.add_argument("--preserve-thinking", action="store_true")
    parser.add_argument("--add-tokens", default="", help="tokens added to the base's, separated by commas")
    parser.add_argument("--add-special-tokens", default="")
    parser.add_argument("--new-special-tokens-config", type=Path, help="YAML file whose keys are special tokens to add")
    parser.add_argument("--split-special-tokens", action="store_true")
    parser.add_argument("--max-samples", type=int, help="take only the first rows of each dataset")
    parser.add_argument("--val-size", type=float, default=0.0, help="rows that LLaMA-Factory itself sets apart")
    parser.add_argument("--preprocessing-num-workers", type=int, default=1)
    parser.add_argument("--preprocessing-batch-size", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=42, help="draws num_samples as LLaMA-Factory with this seed does")
    parser.add_argument("--held-out-fraction", type=_fraction, default=0.1)
    parser.add_argument("--on-bad-row", choices=("fail", "drop"), default="fail")
    parser.add_argument("--max-drop-fraction", type=_fraction, default=0.1)
    parser.add_argument("--roots", help="folders that data may be in, separated by colons (default: anywhere)")
    parser.add_argument("--cache-dir", type=Path, help="folder that remembers verdicts between runs")
    parser.add_argument("--processes", type=int, help="processes that decode (default: one per CPU, at most 8)")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("must be from 0 to 1")
    return value


if __name__ == "__main__":
    run(main)
