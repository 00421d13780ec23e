"""Run the API and its chat page as one unit: what a container starts.

    python serving/start.py --model /app/models --name cards

The page listens on --page-host. The API listens beside it only if the environment variable API_KEY holds a key or with
--published-on-loopback, else on loopback for the page alone. All other options are serve.py's. When one of the two
ends, the other is stopped too.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

from listening import is_loopback

KEY_VARIABLE = "API_KEY"
FOLDER = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(prog="start.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="/app/models", metavar="DIR", help="the model folder; default: /app/models")
    parser.add_argument("--name", default="qwen3-vl", help="the model's name in the API; default: qwen3-vl")
    parser.add_argument("--host", default="0.0.0.0", help="where the API listens if it has a key; default: 0.0.0.0")
    parser.add_argument("--port", default=8000, type=int, help="the API's port; default: 8000")
    parser.add_argument("--page-host", default="0.0.0.0", help="where the page listens; default: 0.0.0.0")
    parser.add_argument("--page-port", default=7860, type=int, help="the page's port; default: 7860")
    parser.add_argument(
        "--published-on-loopback",
        action="store_true",
        help="the container's ports are published on the host's loopback alone: the API needs no key",
    )
    options, of_api = parser.parse_known_args()

    keyed = ["--api-key-env", KEY_VARIABLE] if os.environ.get(KEY_VARIABLE) else []
    of_api += ["--published-on-loopback"] if options.published_on_loopback else []
    is_safe = bool(keyed) or options.published_on_loopback or is_loopback(options.host)
    host = options.host if is_safe else "127.0.0.1"
    if host != options.host:
        print(f"start.py: without {KEY_VARIABLE} the API is there for the page only", file=sys.stderr, flush=True)
    reached_at = host if is_loopback(host) else "127.0.0.1"
    common = ["--name", options.name, *keyed]
    api = ["serve.py", "--model", options.model, "--host", host, "--port", str(options.port), *common, *of_api]
    page = ["chat_page.py", "--api", f"http://{reached_at}:{options.port}", *common]
    page += ["--host", options.page_host, "--port", str(options.page_port)]
    sys.exit(_run_together(api, page))


def _run_together(*programs: list[str]) -> int:
    """Run the programs until one ends or a signal comes; return 0 after a signal, else what the first returned."""
    stopped = False
    running: set[int] = set()

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True
        for pid in tuple(running):
            os.kill(pid, signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    for script, *args in programs:
        # Not by subprocess, which would reap processes behind the back of the loop below.
        running.add(os.posix_spawn(sys.executable, [sys.executable, str(FOLDER / script), *args], os.environ))
    if stopped:
        stop()
    first_code: int | None = None
    while running:
        # As process 1 of a container it is handed orphans too.
        pid, status = os.wait()
        if pid not in running:
            continue
        running.remove(pid)
        if first_code is None:
            first_code = 0 if stopped else os.waitstatus_to_exitcode(status)
            stop()
    return abs(first_code or 0)


if __name__ == "__main__":
    main()
