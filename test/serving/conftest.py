"""Real servers, started once: a sound one, and one that fails at every picture and never stops talking by itself."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from servers import KEY, REPOSITORY, SERVING, Server, Start, set_row

sys.path.insert(0, str(SERVING))


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start a program of serving/ on a free port, without waiting; all of them are stopped at the end."""
    servers: list[Server] = []

    def begin(script: str, *args: str, key: str | None = None, python: str = sys.executable) -> Server:
        folder = tmp_path_factory.mktemp("server")
        ready_file, log = folder / "ready.json", folder / "log"
        keyed = ["--api-key-env", "TEST_API_KEY"] if key else []
        with log.open("wb") as output:
            process = subprocess.Popen(
                [python, SERVING / script, *args, *keyed, "--port", "0", "--ready-file", ready_file],
                stdout=output,
                stderr=output,
                env={**os.environ, "OMP_NUM_THREADS": "1", "TEST_API_KEY": key or ""},
            )
        servers.append(Server(process, ready_file, log, key))
        return servers[-1]

    yield begin
    for server in servers:
        server.process.terminate()
    for server in servers:
        try:
            server.process.wait(30)
        except subprocess.TimeoutExpired:
            server.process.kill()


@pytest.fixture(scope="session")
def model() -> Path:
    return REPOSITORY / "demo" / "tiny-qwen3-vl"


@pytest.fixture(scope="session")
def endless_blind_model(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with another image token in its config, so that pictures fail, and no way to say that it has ended."""
    folder = tmp_path_factory.mktemp("blind") / "model"
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["image_token_id"] = config["vision_start_token_id"]
    (folder / "config.json").write_text(json.dumps(config))
    set_row(folder / "model.safetensors", "embed_tokens.weight", config["text_config"]["eos_token_id"])
    return folder


@pytest.fixture(scope="session")
def started(start: Start, model: Path, endless_blind_model: Path) -> tuple[Server, Server]:
    """Both servers begin together, for most of a start is imports."""
    origin = ["--run", "first", "--model-digest", "ab12"]
    sound = start("serve.py", "--cpu", "--model", str(model), "--name", "cards", "--max-length", "300", *origin)
    blind = start("serve.py", "--cpu", "--model", str(endless_blind_model), "--name", "blind", key=KEY)
    return sound, blind


@pytest.fixture(scope="session")
def api(started: tuple[Server, Server]) -> Server:
    return started[0].wait_until_ready()


@pytest.fixture(scope="session")
def blind(started: tuple[Server, Server]) -> Server:
    return started[1].wait_until_ready()


@pytest.fixture(scope="session")
def card() -> Image.Image:
    picture = Image.new("RGB", (256, 64), (236, 230, 220))
    ImageDraw.Draw(picture).text((20, 8), "K7", fill=(20, 40, 60), font_size=44)
    return picture
