"""Converts pictures with texts into a dataset of LLaMA-Factory, registered with every key.

    python convert_dataset.py SOURCE OUT [--from FORMAT] [--name NAME] [--pictures keep|copy|link] [--skip-bad] …

OUT gets NAME.jsonl and its entry in dataset_info.json, images/ unless the pictures are kept where they are, and with
--skip-bad skipped.jsonl. It is written beside OUT and put there when it is whole.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from importers import NotThisFormat, Options
from importers.formats import READERS, detect
from importers.writer import DatasetWriter
from protocol import Protocol, TemperError, run

EVERY = 500


def main(protocol: Protocol) -> dict[str, Any]:
    arguments = parse()
    source, out = arguments.source.resolve(), Path(os.path.abspath(arguments.out))
    if not source.is_file():
        raise TemperError("ConfigError", f"{source} is no file; name the file with the rows.")
    name = arguments.name or out.name
    if source == out / f"{name}.jsonl":
        raise TemperError("ConfigError", f"{source} would be written over by what is made of it; convert elsewhere.")
    pictures_from = (arguments.pictures_from or source.parent).resolve()
    try:
        kind = arguments.kind or detect(source)
        writer = DatasetWriter(out, name, pictures_from, arguments.pictures, arguments.replace)
        try:
            size = source.stat().st_size
            for count, draft in enumerate(READERS[kind](source, options_of(arguments)), 1):
                writer.add(draft)
                if count % EVERY == 0:  # of the file's bytes it is a guess: rows are about as long as what is written
                    protocol.progress(min(writer.file.tell(), size), size, "bytes")
            protocol.progress(size, size, "bytes")
            writer.finish(source, arguments.skip_bad)
        finally:
            writer.discard()
    except UnicodeDecodeError as error:
        what = f"it is no UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8 (iconv -t utf-8)"
        raise TemperError("DatasetError", f"{source} can't be read: {what}.") from error
    except NotThisFormat as error:
        raise TemperError("DatasetError", f"{source} can't be read: {error}.") from error
    return {
        "format": kind, "detected": arguments.kind is None, "name": name, "datasetDir": str(out),
        "rows": writer.rows, "skipped": writer.bad, "duplicates": writer.duplicates,
    }  # fmt: skip


def options_of(arguments: argparse.Namespace) -> Options:
    return Options(
        prompt=arguments.prompt,
        picture_column=arguments.picture_column,
        text_column=arguments.text_column,
        question_column=arguments.question_column,
        first_caption=arguments.first_caption,
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Convert pictures with texts into a dataset of LLaMA-Factory.")
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--from", dest="kind", choices=list(READERS))
    parser.add_argument("--name")
    parser.add_argument("--pictures", choices=["keep", "copy", "link"], default="copy")
    parser.add_argument("--pictures-from", type=Path)
    parser.add_argument("--prompt", default=Options.prompt)
    parser.add_argument("--picture-column")
    parser.add_argument("--text-column")
    parser.add_argument("--question-column")
    parser.add_argument("--first-caption", action="store_true")
    parser.add_argument("--skip-bad", action="store_true")
    parser.add_argument("--replace", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
