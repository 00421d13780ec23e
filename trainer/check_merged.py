"""Which files of a merged folder are no longer what the merge wrote.

    python check_merged.py RUN/merged

All of them are read.
"""

import argparse
from pathlib import Path
from typing import Any

from merge.output_folder import check_folder
from protocol import Protocol, run


def main(_: Protocol) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir", type=Path)
    digest, changed = check_folder(parser.parse_args().model_dir)
    return {"mergeDigest": digest, "changed": changed}


if __name__ == "__main__":
    run(main)
