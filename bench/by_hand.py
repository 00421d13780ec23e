"""The procedure by hand, without Temper: llamafactory-cli train, export, the fp16 edit of config.json, api, one answer.

    python3 bench/by_hand.py --config TRAIN.yaml --work DIR --picture FILE

TRAIN.yaml is LLaMA-Factory's own; its output_dir is replaced. Prints a JSON line with the seconds of each step.
"""

import argparse
import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

SAME = ("model_name_or_path", "template", "image_max_pixels", "use_cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--picture", type=Path, required=True)
    options = parser.parse_args()
    print(json.dumps(by_hand(options.config, options.work, options.picture)))


def by_hand(config: Path, work: Path, picture: Path) -> dict[str, float]:
    """Seconds of each step, of a person who is never late."""
    options = OmegaConf.to_container(OmegaConf.load(config))
    assert isinstance(options, dict)
    work.mkdir(parents=True, exist_ok=True)
    adapter, merged = work / "adapter", work / "merged"
    model = {key: options[key] for key in SAME if key in options and key != "use_cpu"}
    exported = {**model, "adapter_name_or_path": str(adapter), "export_dir": str(merged), "export_size": 5}
    seconds = {}
    with timed(seconds, "train"):
        llamafactory("train", {**options, "output_dir": str(adapter), "overwrite_output_dir": True}, work)
    with timed(seconds, "export"):
        llamafactory("export", exported, work)
    with timed(seconds, "patch"):
        edit_dtype(merged / "config.json")
    with timed(seconds, "serve and answer"):
        served = {**model, "model_name_or_path": str(merged), "infer_backend": "huggingface"}
        serve_and_ask(served, work, picture)
    return {**{name: round(each, 1) for name, each in seconds.items()}, "all": round(sum(seconds.values()), 1)}


class timed:
    """Puts the seconds of its body under a name."""

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self.seconds, self.name = seconds, name

    def __enter__(self) -> None:
        self.began = time.monotonic()

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.seconds[self.name] = time.monotonic() - self.began


def llamafactory(command: str, options: dict[str, Any], work: Path) -> None:
    """Run `llamafactory-cli COMMAND` to its end; SystemExit with the end of its log when it fails."""
    yaml, log = work / f"{command}.yaml", work / f"{command}.log"
    yaml.write_text(json.dumps(options))
    with log.open("w") as output:
        done = subprocess.run(cli(command, yaml), stdout=output, stderr=output, check=False)
    if done.returncode != 0:
        raise SystemExit(f"llamafactory-cli {command} failed:\n{log.read_text()[-3000:]}")


def cli(command: str, yaml: Path) -> list[str]:
    return [sys.executable, "-c", "from llamafactory.cli import main; main()", command, str(yaml)]


def edit_dtype(config: Path) -> None:
    """What people do for a V100: bfloat16 becomes float16, wherever it stands."""
    config.write_text(config.read_text().replace('"bfloat16"', '"float16"'))


def serve_and_ask(options: dict[str, Any], work: Path, picture: Path) -> None:
    yaml, log = work / "api.yaml", work / "api.log"
    yaml.write_text(json.dumps(options))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "API_PORT": str(port), "API_HOST": "127.0.0.1"}
    with log.open("w") as output:
        server = subprocess.Popen(cli("api", yaml), stdout=output, stderr=output, env=environment)
    try:
        while server.poll() is None:
            try:
                return ask(f"http://127.0.0.1:{port}", picture)
            except urllib.error.URLError:
                time.sleep(0.2)
        raise SystemExit(f"llamafactory-cli api failed:\n{log.read_text()[-3000:]}")
    finally:
        server.terminate()
        server.wait()


def ask(url: str, picture: Path, name: str = "test") -> None:
    """One question about a picture to an OpenAI-compatible API, answered in at most 32 tokens."""
    data = base64.b64encode(picture.read_bytes()).decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    message = {"role": "user", "content": [image, {"type": "text", "text": "识别这张工牌"}]}
    body = json.dumps({"model": name, "messages": [message], "max_tokens": 32}).encode()
    request = urllib.request.Request(f"{url}/v1/chat/completions", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        json.load(answer)


if __name__ == "__main__":
    main()
