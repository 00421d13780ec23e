"""Names the packages that LLaMA-Factory's options need and this Python lacks.

trainer/.venv/bin/python trainer/check_packages.py --options '{"report_to": "wandb"}'
"""

import argparse
import json
from typing import Any

from environment.packages import REPORTERS, check_optional
from protocol import Protocol, run


def main(protocol: Protocol) -> dict[str, Any]:
    """The missing packages; `reports` marks those that report_to asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--options", type=json.loads, required=True, help="a training YAML's options, as JSON")
    missing = [item for item in check_optional(parser.parse_args().options) if item.found == "not installed"]
    return {"items": [{**item.record(), "reports": item.name in REPORTERS.values()} for item in missing]}


if __name__ == "__main__":
    run(main)
