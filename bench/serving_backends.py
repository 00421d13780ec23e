"""Rows a second by vLLM and by Hugging Face's backend, on the CPU and on the same transformers, and whether they agree.

    serving/.venv-vllm-cpu/bin/python bench/serving_backends.py RUN_DIRECTORY

Asks the run's merged model about its held-out rows; `npm run test:vllm` makes the environment.
"""

import base64
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BACKENDS = ("vllm", "huggingface")
ROUNDS = 2
TIMES = 3


def main() -> None:
    run = Path(sys.argv[1])
    rows = [json.loads(line) for line in (run / "dataset/held_out.jsonl").read_text(encoding="utf-8").splitlines()]
    bodies = [_question(row) for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        servers = {backend: _start(backend, run / "merged", Path(folder)) for backend in BACKENDS}
        try:
            urls = {backend: _url(server, Path(folder) / backend) for backend, server in servers.items()}
            _compare(urls, bodies)
        finally:
            for server in servers.values():
                server.terminate()
                server.wait(30)


def _compare(urls: dict[str, str], bodies: list[bytes]) -> None:
    ours, theirs = ([_ask(url, body) for body in bodies] for url in urls.values())
    print(f"{sum(map(str.__eq__, ours, theirs))} of {len(bodies)} answers are the same")
    for _ in range(ROUNDS):
        for clients in (1, 4, 20):
            vllm, huggingface = (_rows_per_second(url, bodies, clients) for url in urls.values())
            print(f"{clients:2} clients: {vllm:.1f} and {huggingface:.1f} rows/s, {vllm / huggingface:.2f} times")


def _start(backend: str, model: Path, folder: Path) -> subprocess.Popen[bytes]:
    options = ["--backend", backend, "--cpu", "--model", model, "--name", "bench", "--port", "0"]
    return subprocess.Popen(
        [sys.executable, ROOT / "serving/serve.py", *options, "--ready-file", folder / backend],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
    )


def _url(server: subprocess.Popen[bytes], ready_file: Path) -> str:
    while not ready_file.exists():
        if server.poll() is not None:
            sys.exit(f"{ready_file.name} did not start")
        time.sleep(0.1)
    return json.loads(ready_file.read_text())["url"]


def _question(row: dict[str, Any]) -> bytes:
    picture = base64.b64encode(Path(row["images"][0]).read_bytes()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
        {"type": "text", "text": row["messages"][0]["content"].removeprefix("<image>")},
    ]
    return json.dumps({"model": "bench", "messages": [{"role": "user", "content": content}], "max_tokens": 32}).encode()


def _ask(url: str, body: bytes) -> str:
    request = urllib.request.Request(f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)["choices"][0]["message"]["content"]


def _rows_per_second(url: str, bodies: list[bytes], clients: int) -> float:
    started = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        answered = list(pool.map(lambda body: _ask(url, body), bodies * TIMES))
    return len(answered) / (time.monotonic() - started)


if __name__ == "__main__":
    main()
