"""A digest that tells one base's weights from another's in well under a second, however large they are.

    python base_digest.py MODEL_DIR

It covers every weight file's name, size and header (so each tensor's name, type, shape and place), and 64 KiB at 64
evenly spaced places of each file. Two models with the same layout, such as a base and a full fine-tune of it, differ
nearly everywhere and so in the samples; a single flipped bit between the samples is not seen. Configuration files
are left out: a folder of links with a changed config.json is the same base.
"""

import argparse
import hashlib
import os
from pathlib import Path
from typing import Any

from merge.safetensors_file import SafetensorsFile, read_folder
from protocol import Protocol, run

SAMPLES = 64
SAMPLE_BYTES = 64 * 1024


def base_digest(files: list[SafetensorsFile]) -> str:
    """Hex sha256 over the sorted weight files of a model, as described above."""
    digest = hashlib.sha256(b"temper base 1\n")
    for file in sorted(files, key=lambda f: f.path.name):
        digest.update(f"{file.path.name} {file.size} {hashlib.sha256(file.header).hexdigest()}\n".encode())
        start = len(file.header)
        span = max(0, file.size - start - SAMPLE_BYTES)
        with file.path.open("rb", buffering=0) as stream:
            for place in sorted({start + span * i // (SAMPLES - 1) for i in range(SAMPLES)}):
                digest.update(os.pread(stream.fileno(), SAMPLE_BYTES, place))
    return digest.hexdigest()


def main(_: Protocol) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir", type=Path)
    files = read_folder(parser.parse_args().model_dir)
    return {"baseDigest": base_digest(files), "files": len(files), "bytes": sum(file.size for file in files)}


if __name__ == "__main__":
    run(main)
