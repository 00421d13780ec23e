"""A real HTTP server that speaks both hubs' protocols as their clients ask, and fails on cue."""

import hashlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" * 6 + "cafe"


class HubStandIn:
    """Serves `files` as the model `org/tiny`; what is set before a request decides how it is answered."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.requests: list[tuple[str, str | None]] = []
        """Path with query, and the Range header, in the order of coming."""
        self.token: str | None = None
        """With one, other requests are answered with 401; `gated` ones with 403."""
        self.gated = False
        self.cut: dict[str, list[int]] = {}
        """For each file name the number of bytes after which the connection breaks, one for each request."""
        self.stall: dict[str, int] = {}
        """For each file name the number of bytes after which nothing more comes."""
        self.served: dict[str, bytes] = {}
        """Content that differs from what is listed."""
        self.listed_size: dict[str, int] = {}
        self.status: int | None = None
        self.sent: dict[str, int] = {}
        self.secrets_on_cdn: list[str | None] = []
        """The Authorization header of each request to the other host that Hugging Face sends to for large files."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def ranges(self, name: str) -> list[str | None]:
        """The Range of each request for a file's content."""
        asked = [(unquote(path), span) for path, span in self.requests if not (is_large(name) and "/resolve/" in path)]
        return [span for path, span in asked if path.endswith((f"/{name}", f"FilePath={name}"))]

    def wait_for_bytes(self, name: str, count: int) -> None:
        """Return once so many bytes of a file have been sent."""
        until = time.monotonic() + 30
        while self.sent.get(name, 0) < count:
            assert time.monotonic() < until, f"{name}: {self.sent.get(name, 0)} bytes were sent, {count} are waited for"
            time.sleep(0.02)

    def hf_info(self) -> dict[str, Any]:
        siblings = []
        for name, content in self.files.items():
            entry: dict[str, Any] = {"rfilename": name, "size": self.listed_size.get(name, len(content))}
            if is_large(name):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": entry["size"], "pointerSize": 134}
                entry["blobId"] = hashlib.sha1(b"pointer" + content).hexdigest()
            else:
                entry["blobId"] = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            siblings.append(entry)
        return {"id": "org/tiny", "modelId": "org/tiny", "sha": COMMIT, "siblings": siblings}

    def modelscope_files(self) -> dict[str, Any]:
        files = [
            {
                "Path": name,
                "Name": name,
                "Type": "blob",
                "Size": self.listed_size.get(name, len(content)),
                "Sha256": hashlib.sha256(content).hexdigest(),
            }
            for name, content in self.files.items()
        ]
        return {"Code": 200, "Success": True, "Data": {"Files": [{"Path": "onnx", "Type": "tree"}, *files]}}


def is_large(name: str) -> bool:
    """Whether the hub keeps it in its large file storage."""
    return name.endswith((".safetensors", ".bin"))


def _handler(hub: HubStandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.requests.append((self.path, self.headers.get("Range")))
            url = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            refusal = self.refusal()
            if refusal is not None:
                return self.answer_error(*refusal)
            parts = unquote(url.path).strip("/").split("/")
            match parts:
                case ["api", "models", "org", "tiny", "revision", "main"]:
                    return self.answer_json(hub.hf_info())
                case ["api", "models", "org", "tiny", "revision", _]:
                    return self.answer_error(404, {"X-Error-Code": "RevisionNotFound"})
                case ["org", "tiny", "resolve", revision, name] if revision == COMMIT and is_large(name):
                    return self.redirect(f"{hub.url.replace('127.0.0.1', 'localhost')}/cdn/{name}")
                case ["cdn", name]:
                    hub.secrets_on_cdn.append(self.headers.get("Authorization"))
                    return self.answer_file(name)
                case ["org", "tiny", "resolve", revision, name] if revision == COMMIT and name in hub.files:
                    return self.answer_file(name)
                case ["api", "v1", "models", "org", "tiny", "repo", "files"] if query.get("Revision") == "master":
                    return self.answer_json(hub.modelscope_files())
                case ["api", "v1", "models", "org", "tiny", "repo"] if query.get("FilePath") in hub.files:
                    return self.answer_file(query["FilePath"])
            return self.answer_error(404, {"X-Error-Code": "RepoNotFound"})

        def refusal(self) -> tuple[int, dict[str, str]] | None:
            if hub.status is not None:
                return hub.status, {}
            if hub.gated and "/resolve/" in self.path:
                return 403, {"X-Error-Code": "GatedRepo"}
            if self.path.startswith("/cdn/"):
                return None
            authorized = self.headers.get("Authorization") == f"Bearer {hub.token}"
            return None if hub.token is None or authorized else (401, {})

        def redirect(self, location: str) -> None:
            self.send_response(302)
            self.send_header("Location", location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def answer_json(self, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def answer_error(self, status: int, headers: dict[str, str]) -> None:
            body = json.dumps({"error": "no", "Message": "no"}).encode()
            self.send_response(status)
            for name, value in (
                {"Content-Type": "application/json", "Content-Length": str(len(body))} | headers
            ).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def answer_file(self, name: str) -> None:
            content = hub.served.get(name, hub.files[name])
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
            self.send_response(206 if "Range" in self.headers else 200)
            if "Range" in self.headers:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            cuts = hub.cut.get(name)
            end = cuts.pop(0) if cuts else len(content)
            stop = min(end, hub.stall.get(name, len(content)))
            self.wfile.write(content[start:stop])
            hub.sent[name] = stop
            if name in hub.stall:
                time.sleep(60)
            if stop < len(content):
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
