"""What the tests of serving share: a server as its clients see it, questions, and a way to damage a model."""

import base64
import io
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
SERVING = REPOSITORY / "serving"
START_TIMEOUT_SECONDS = 300
KEY = "a-key-for-tests"
QUESTION = "Read the text in the image."


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    ready_file: Path
    log: Path
    key: str | None = None
    url: str = ""

    def wait_until_ready(self) -> "Server":
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not self.ready_file.exists():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        self.url = json.loads(self.ready_file.read_text())["url"]
        return self

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, headers=self._headers(), timeout=60, trust_env=False, **options)

    def post(self, body: Any) -> httpx.Response:
        return httpx.post(
            self.url + "/v1/chat/completions", json=body, headers=self._headers(), timeout=60, trust_env=False
        )

    def stream(self, body: dict[str, Any]) -> Any:
        return httpx.stream(
            "POST",
            self.url + "/v1/chat/completions",
            json={**body, "stream": True},
            headers=self._headers(),
            timeout=60,
            trust_env=False,
        )

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


Start = Callable[..., Server]


def set_row(weights: Path, name: str, row: int, element: bytes = bytes(2)) -> None:
    """Overwrite one row of the 2-D tensor of 2-byte elements whose name ends in `name`, by default with zeros."""
    data = bytearray(weights.read_bytes())
    header_size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + header_size])
    entry = next(value for key, value in header.items() if key.endswith(name))
    begin, end = (8 + header_size + offset for offset in entry["data_offsets"])
    row_bytes = (end - begin) // entry["shape"][0]
    data[begin + row * row_bytes : begin + (row + 1) * row_bytes] = element * (row_bytes // 2)
    weights.write_bytes(data)


def data_uri(picture: Image.Image, format: str, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return f"data:image/{format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def file_uri(picture: Path) -> str:
    return f"data:image/{picture.suffix[1:]};base64,{base64.b64encode(picture.read_bytes()).decode()}"


def question(url: str | None, text: str = QUESTION, model: str = "cards", **options: Any) -> dict[str, Any]:
    pictures = [{"type": "image_url", "image_url": {"url": url}}] if url else []
    content = [*pictures, {"type": "text", "text": text}]
    return {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 16, **options}


def events(response: httpx.Response) -> list[Any]:
    """The stream's events, parsed; [DONE] as it is."""
    data = [line.removeprefix("data: ") for line in response.read().decode().splitlines() if line.startswith("data: ")]
    return [event if event == "[DONE]" else json.loads(event) for event in data]


def streamed_text(answered: list[Any]) -> str:
    chunks = [event for event in answered if event != "[DONE]"]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()
