"""Kill -9 at random moments: is the folder always byte-identical to an undisturbed one's, and what is kept.

    trainer/.venv/bin/python bench/merge_kills.py --work DIR [--kills 20] [--seed 0]

Merges a random base of 2.2 GB in shards of 200 MB by the command itself, again and again, each time killed after a
random part of the time that an undisturbed merge takes. A merge that finishes is compared and begun anew.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "trainer" / "merge_adapter.py"
MAKER = ROOT / "bench" / "merge.py"
SHARD_BYTES = 200_000_000


def main() -> None:
    """Print one line a kill, and the verdict; exit 1 if any folder differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    base, adapter, out = (options.work / name for name in ("base-kills", "adapter-kills", "out-kills"))
    tokenizer = ROOT / "demo" / "tiny-qwen3-vl"
    for made in (["make_base", base, "cut", tokenizer, SHARD_BYTES], ["make_adapter", adapter, "cut"]):
        subprocess.run([sys.executable, MAKER, *map(str, made)], check=True)
    command = [sys.executable, str(PROGRAM), str(base), str(adapter), str(out)]
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    whole = time.monotonic() - started
    expected = digests(out)
    shutil.rmtree(out)
    dice = random.Random(options.seed)
    kills = finished = 0
    while kills < options.kills:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        moment = dice.uniform(0, whole * 1.05)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            names = sorted(os.listdir(out)) if out.exists() else []
            shards = sum(name.endswith(".safetensors") for name in names)
            partial = sum(name.endswith(".partial") for name in names)
            print(f"kill {kills} after {moment:.2f} s: {shards} shards finished, {partial} begun", flush=True)
            continue
        finished += 1
        check(process.returncode, out, expected)
        shutil.rmtree(out)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    check(0, out, expected)
    print(f"{kills} kills, {finished + 1} merges finished, all byte-identical ({len(expected)} files)")
    for folder in (base, adapter, out):
        shutil.rmtree(folder)


def check(code: int, out: Path, expected: dict[str, str]) -> None:
    """Exit 1, naming the files, unless the folder is the undisturbed one's."""
    found = digests(out)
    wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    if code or wrong:
        sys.exit(f"exit code {code}, differing: {wrong}")


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file but the audit, which holds times."""
    found = {}
    for path in folder.iterdir():
        if path.name != "merge.json":
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


if __name__ == "__main__":
    main()
