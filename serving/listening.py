"""How the API and the chat page listen: a port claimed early, a ready file once it answers, an orderly end."""

import ipaddress
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from model_folder import StartError

sys.path.append(str(Path(__file__).resolve().parent.parent / "trainer"))

LOOPBACK_NAMES = ("localhost", "ip6-localhost")


def is_loopback(host: str) -> bool:
    """True when only this machine can reach a server bound to `host`."""
    if host in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def claim_port(host: str, port: int) -> socket.socket:
    """Bind `host`:`port` (0 chooses a free port) without listening yet; StartError when that is not possible."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        claimed = socket.socket(family, kind, proto)
        claimed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        claimed.bind(address)
    except OSError as error:
        raise StartError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return claimed


def serve(
    app: Any,
    claimed: socket.socket,
    ready_file: Path | None,
    drain_seconds: int,
    on_drained: Callable[[], None] | None = None,
) -> NoReturn:
    """Serve `app` until SIGTERM or SIGINT, answer those in flight for up to `drain_seconds`, and exit with 0."""
    import uvicorn

    class ReadyServer(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                _say_ready(claimed, ready_file)

    config = uvicorn.Config(
        app,
        lifespan="on",
        timeout_graceful_shutdown=drain_seconds,
        # Longer than a proxy keeps idle connections, so that it never sends on one that is being closed.
        timeout_keep_alive=75,
    )
    logging.getLogger("uvicorn.access").addFilter(lambda record: record.args[2] != "/health")
    server = ReadyServer(config)
    # uvicorn's own handlers are in place only while it runs, and raise the signal again at the end.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    try:
        server.run(sockets=[claimed])
    finally:
        if on_drained is not None:
            on_drained()
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)
    if not server.started:
        raise StartError(f"cannot listen on {':'.join(map(str, claimed.getsockname()[:2]))}; the log above says why")
    # All is answered; taking the interpreter down in order would keep the GPU for seconds more.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _say_ready(claimed: socket.socket, ready_file: Path | None) -> None:
    from protocol import write_whole

    host, port = claimed.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    print(f"listening on {url}", file=sys.stderr, flush=True)
    if ready_file is not None:
        write_whole(ready_file, json.dumps({"pid": os.getpid(), "port": port, "url": url}))
