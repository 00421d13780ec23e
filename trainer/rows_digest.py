"""The digest of a run's clean rows as they lie now, read with every picture and video that they show.

    python rows_digest.py RUN/dataset

It is the one in report.json for as long as nothing has changed.
"""

import argparse
from pathlib import Path
from typing import Any

from dataset.rows_digest import digest_of_folder
from protocol import Protocol, run


def main(_: Protocol) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_dir", type=Path)
    digest, rows = digest_of_folder(parser.parse_args().dataset_dir)
    return {"digest": digest, "rows": rows}


if __name__ == "__main__":
    run(main)
