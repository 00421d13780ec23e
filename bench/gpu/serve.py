"""What serving takes at Qwen3-VL-4B's true shape (random weights, fp16) on a GPU host: start, memory, latency.

    python3 bench/gpu/serve.py --work DIR [--shape 4b]

DIR needs 18 GB. Two servers are started one after the other, as champion and candidate are; memory by /health is compared
with what nvidia-smi says of the process, since placement goes by the former.
"""

import argparse
import base64
import io
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from model_and_rows import ROOT, make_random_base

GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--shape", default="4b")
    parser.add_argument("--questions", type=int, default=32)
    options = parser.parse_args()
    model = _make_model(options.work, options.shape)
    servers = []
    try:
        for place in ("champion", "candidate beside it"):
            server = _start(model, options.work / f"server-{len(servers)}")
            servers.append(server)
            print(f"{place}: {server['seconds']:.1f} s until it has answered about a picture")
            print(f"  {_memory(server)}")
        for clients in (1, 4):
            print(f"  {clients} at a time: {_ask(servers[0], options.questions, clients)}")
        print(f"  afterwards: {_memory(servers[0])}")
    finally:
        for server in servers:
            started = time.monotonic()
            server["process"].send_signal(signal.SIGTERM)
            code = server["process"].wait(60)
            print(f"  SIGTERM: exit code {code} after {time.monotonic() - started:.1f} s")


def _make_model(work: Path, shape: str) -> Path:
    """A base of random weights whose token ids are the tiny tokenizer's, brought to fp16 by the pipeline's own patch."""
    base, model = work / f"base-{shape}", work / f"model-{shape}"
    if not model.exists():
        make_random_base(base, shape)
        done = [sys.executable, str(ROOT / "trainer/patch_fp16.py"), str(base), "--out", str(model), "--clamp"]
        subprocess.run(done, check=True, stdout=subprocess.DEVNULL)
    return model


def _start(model: Path, folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    ready = folder / "ready.json"
    ready.unlink(missing_ok=True)
    arguments = ["--model", str(model), "--name", "bench", "--port", "0", "--ready-file", str(ready)]
    started = time.monotonic()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "serving/serve.py"), *arguments], stdout=log, stderr=log, env=dict(os.environ)
        )
    while not ready.exists() or not _is_healthy(json.loads(ready.read_text())["url"]):
        if process.poll() is not None:
            raise SystemExit((folder / "log").read_text()[-3000:])
        time.sleep(0.2)
    return {
        "process": process,
        "url": json.loads(ready.read_text())["url"],
        "seconds": time.monotonic() - started,
    }


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=60) as answer:
            return answer.status == 200
    except OSError:
        return False


def _memory(server: dict[str, Any]) -> str:
    with urllib.request.urlopen(f"{server['url']}/health", timeout=60) as answer:
        facts = json.load(answer)
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    listed = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    by_pid = {int(pid): int(mib) * 2**20 for pid, mib in (line.split(",") for line in listed.splitlines() if line)}
    total = sum(by_pid.values())
    used = by_pid.get(server["process"].pid)
    of_process = f"{used / GIB:.2f} GiB of this process" if used else f"{total / GIB:.2f} GiB of all"
    peak = facts["peakMemoryBytes"] / GIB
    return f"/health: {facts['dtype']}, at most {peak:.2f} GiB; nvidia-smi: {of_process}"


def _ask(server: dict[str, Any], questions: int, clients: int) -> str:
    from PIL import Image

    noise = random.Random(1)

    def ask(_: int) -> float:
        picture = io.BytesIO()
        Image.effect_noise((512, 512), noise.randint(20, 200)).convert("RGB").save(picture, "PNG")
        url = "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is this?"}]
        body = {"model": "bench", "max_tokens": 64, "messages": [{"role": "user", "content": parts}]}
        request = urllib.request.Request(
            f"{server['url']}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        started = time.monotonic()
        with urllib.request.urlopen(request, timeout=300) as answer:
            json.load(answer)
        return time.monotonic() - started

    started = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        seconds = sorted(pool.map(ask, range(questions)))
    rate = questions / (time.monotonic() - started)
    p95 = seconds[int(0.95 * (len(seconds) - 1))]
    return f"median {statistics.median(seconds):.2f} s, 95 % within {p95:.2f} s, {rate:.2f} answers a second"


if __name__ == "__main__":
    main()
