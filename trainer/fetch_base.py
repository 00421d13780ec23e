"""Fetches a base model from a hub into a folder: resumably, verified, whole or not at all.

trainer/.venv/bin/python trainer/fetch_base.py hf:Qwen/Qwen3-VL-4B-Instruct /data/model/qwen3-vl-4b-instruct
trainer/.venv/bin/python trainer/fetch_base.py modelscope:Qwen/Qwen3-VL-4B-Instruct FOLDER --revision master --plan
"""

import argparse
import errno
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from disk_room import free_bytes
from fetch.explain import explain
from fetch.folder import (
    begin,
    end,
    fault,
    is_begun,
    is_own_and_complete,
    locked,
    read_record,
    set_aside,
    undo,
    write_record,
)
from fetch.hubs import Hub, HubFile, Listing, WrongFile, open_hub
from protocol import Protocol, TemperError, run

_PROGRESS_SECONDS = 2.0


def main(protocol: Protocol) -> dict[str, Any]:
    """The base's state: `present` (nothing was asked of the network), `fetched`, or with --plan `absent`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="hf:ORG/NAME or modelscope:ORG/NAME")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--revision", help="branch, tag or commit (default: the hub's default branch)")
    parser.add_argument("--plan", action="store_true", help="only say what is there and what would be fetched")
    arguments = parser.parse_args()
    hub = open_hub(arguments.source, arguments.revision)
    if hub is None:
        raise TemperError("ConfigError", f"{arguments.source} is neither hf:ORG/NAME nor modelscope:ORG/NAME")
    folder = arguments.folder.absolute()
    present = _present(folder, hub, arguments.revision)
    if present is not None:
        return present
    try:
        return _plan(folder, hub) if arguments.plan else Fetch(protocol, folder, hub, arguments.revision).run()
    except TemperError:
        raise
    except Exception as error:
        explained = explain(error, hub)
        if explained is None:
            raise
        raise explained from error


def _present(folder: Path, hub: Hub, revision: str | None) -> dict[str, Any] | None:
    """The folder's state by its record alone, or by what somebody else has put there; None if something lacks."""
    record = read_record(folder)
    if record is None:
        if not is_own_and_complete(folder):
            return None
        note = f"{folder} is a whole base that Temper has not fetched; it is used as it is, unchecked against the hub"
        return {"state": "present", "folder": str(folder), "commit": None, "bytes": 0, "files": 0, "note": note}
    fetched, asked = record["source"], f"{hub.scheme}:{hub.name}"
    same = revision is None or revision in (record["revision"], record["commit"])
    if fetched.partition(":")[2] != hub.name or not same:
        raise TemperError(
            "ConfigError",
            f"{folder} holds {fetched} at {record['revision']}, and {asked} at {hub.revision} is asked for; "
            "name another folder in train.model_name_or_path, or remove this one",
        )
    note = None if fetched == asked else f"{folder} was fetched from {fetched}, the same model on the other hub"
    size = sum(file["size"] for file in record["files"])
    result = {"state": "present", "folder": str(folder), "commit": record["commit"], "bytes": size}
    return result | {"files": len(record["files"]), "note": note}


def _plan(folder: Path, hub: Hub) -> dict[str, Any]:
    """What a fetch would do; nothing is written."""
    listing = _listing(hub)
    missing = listing.size - _on_disk(folder, hub, listing)
    return {
        "state": "absent",
        "folder": str(folder),
        "commit": listing.commit,
        "bytes": listing.size,
        "files": len(listing.files),
        "missingBytes": missing,
        "freeBytes": free_bytes(folder),
    }


class Fetch:
    """One fetch into one folder."""

    def __init__(self, protocol: Protocol, folder: Path, hub: Hub, revision: str | None) -> None:
        self.protocol, self.folder, self.hub, self.revision = protocol, folder, hub, revision
        self.source = f"{hub.scheme}:{hub.name}"

    def run(self) -> dict[str, Any]:
        """Fetch what is lacking; another fetch into the folder is waited for, and what it has fetched is used."""
        listing = _listing(self.hub)
        waiting = f"another run is fetching into {self.folder}"
        with locked(self.folder, lambda: self.protocol.progress(0, listing.size, "bytes", waiting)):
            present = _present(self.folder, self.hub, self.revision)
            if present is None:
                return self._fetch(listing)
            undo(self.folder)
            return present

    def _fetch(self, listing: Listing) -> dict[str, Any]:
        try:
            digests, wrong = self._judge(listing)
            self._check_room(listing, digests)
            aside = [set_aside(path) for path in wrong]
            begin(self.folder, self.source)
        except BaseException:
            undo(self.folder)
            raise
        missing = [file for file in listing.files if file.name not in digests]
        with self._progress(listing):
            digests |= self._download(listing, missing)
        files = [{"name": file.name, "size": file.size, "sha256": digests[file.name]} for file in listing.files]
        record = {"source": self.source, "revision": self.hub.revision, "commit": listing.commit, "files": files}
        write_record(self.folder, record)
        end(self.folder)
        result = {"state": "fetched", "folder": str(self.folder), "commit": listing.commit, "bytes": listing.size}
        return result | {"files": len(files), "note": _note(aside)}

    def _judge(self, listing: Listing) -> tuple[dict[str, str], list[Path]]:
        """The sha256 of each right file that is there, and the wrong ones; those that a fetch has left are removed."""
        digests: dict[str, str] = {}
        wrong: list[Path] = []
        checked = 0
        for file in listing.files:
            path = self.folder / file.name
            if not path.is_file():
                continue
            self.protocol.progress(checked, listing.size, "bytes", f"checking {file.name}, which is there already")
            reason, digest = fault(path, file)
            checked += file.size
            if reason is None:
                digests[file.name] = digest
            elif is_begun(self.folder):
                path.unlink()
            else:
                wrong.append(path)
        return digests, wrong

    def _check_room(self, listing: Listing, digests: dict[str, str]) -> None:
        """Raises DiskFullError when what is missing has no room."""
        missing = sum(
            file.size - min(file.size, _size_of(self.hub.partial(self.folder, file)))
            for file in listing.files
            if file.name not in digests
        )
        free = free_bytes(self.folder)
        if missing > free:
            raise TemperError(
                "DiskFullError",
                f"{self.source} needs {_size(missing)} more in {self.folder}, and its disk has {_size(free)} free; "
                "free some space, or name a folder on a larger disk in TEMPER_MODELS or train.model_name_or_path",
            )

    def _download(self, listing: Listing, missing: list[HubFile]) -> dict[str, str]:
        """Every missing file's sha256, once it is in place and verified; the first failure stops the others."""
        pool = ThreadPoolExecutor(self.hub.workers)
        try:
            # Small files first: a name or a token that is wrong shows before gigabytes have come.
            tasks = {
                file.name: pool.submit(self._download_one, listing, file)
                for file in sorted(missing, key=lambda file: file.size)
            }
            wait(tasks.values(), return_when=FIRST_EXCEPTION)
            failures = [task.exception() for task in tasks.values() if task.done()]
            for failure in filter(None, failures):
                raise failure
            return {name: task.result() for name, task in tasks.items()}
        finally:
            self.hub.stop()
            pool.shutdown(cancel_futures=True)

    def _download_one(self, listing: Listing, file: HubFile) -> str:
        try:
            self.hub.download(self.folder, listing, file)
        except WrongFile as error:
            raise self._wrong(file, str(error)) from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._full(listing) from error
            raise
        path = self.folder / file.name
        wrong, digest = fault(path, file)
        if wrong is not None:
            path.unlink()
            raise self._wrong(file, wrong)
        return digest

    def _wrong(self, file: HubFile, reason: str) -> TemperError:
        return TemperError(
            "HostError",
            f"{file.name} of {self.source} came wrong from {self.hub.endpoint}: {reason}. It was removed; start the "
            "run again to fetch it anew. If that doesn't help, a proxy or mirror on the way changes it",
        )

    def _full(self, listing: Listing) -> TemperError:
        missing = listing.size - _on_disk(self.folder, self.hub, listing)
        return TemperError(
            "DiskFullError",
            f"The disk of {self.folder} is full, and {_size(missing)} of {self.source} are still to come. What is "
            "there is kept; free some space, and the fetch goes on from there",
        )

    @contextmanager
    def _progress(self, listing: Listing) -> Iterator[None]:
        """Say how many bytes are there, as long as files come."""
        with _every(_PROGRESS_SECONDS, lambda: self._say(listing)):
            yield
        self._say(listing)

    def _say(self, listing: Listing) -> None:
        self.protocol.progress(_on_disk(self.folder, self.hub, listing), listing.size, "bytes", self.source)


def _listing(hub: Hub) -> Listing:
    listing = hub.listing()
    if not any(file.name.endswith(".safetensors") for file in listing.files):
        raise TemperError(
            "ConfigError", f"{hub.scheme}:{hub.name} at {hub.revision} has no .safetensors weights; name another model"
        )
    return listing


def _on_disk(folder: Path, hub: Hub, listing: Listing) -> int:
    """How many of the listing's bytes are there, whole files and begun ones."""
    there = 0
    for file in listing.files:
        sizes = [_size_of(folder / file.name), _size_of(hub.partial(folder, file))]
        there += min(file.size, max(sizes))
    return there


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"


def _note(aside: list[Path]) -> str | None:
    if not aside:
        return None
    names = ", ".join(path.name for path in aside)
    return f"files that were not the hub's were there, and are kept as {names}"


@contextmanager
def _every(seconds: float, say: Callable[[], None]) -> Iterator[None]:
    """Call `say` at once and then every so many seconds, from a thread of its own."""
    stop = threading.Event()

    def repeat() -> None:
        say()
        while not stop.wait(seconds):
            say()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


if __name__ == "__main__":
    run(main)
