"""The two hubs by their official clients: what a model holds, and one file of it, going on from what is there.

huggingface_hub's `snapshot_download` and `hf_hub_download` throw an interrupted file away when their process ends, and
transfers by Xet keep no partial file either. Its `http_get`, on which both stand, resumes: it is used directly here.
modelscope's client resumes by itself from NAME.incomplete.
"""

import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

# Read by the clients when they are imported: no bars on stderr, and for modelscope files that take longer than its hour
# and break off more than five times, and no lock files in the user's cache, since the folder has a lock of its own.
CLIENT_SETTINGS = {
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "10",
    "MODELSCOPE_DOWNLOAD_TOTAL_TIMEOUT": str(7 * 24 * 3600),
    "MODELSCOPE_DOWNLOAD_FILE_LOCK": "false",
}
CHUNK_BYTES = 1024 * 1024
WORK = ".temper-fetch"

_SOURCE = re.compile(r"(hf|modelscope):([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)")
_NEEDED = (".safetensors", ".json", ".jinja", ".txt", ".tiktoken", "tokenizer.model")


@dataclass(frozen=True)
class HubFile:
    """A file as the hub lists it; `sha256` and `git_sha1` where the hub states them."""

    name: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None


@dataclass(frozen=True)
class Listing:
    """What of a model training and serving need, at one commit (a hub that names none: the revision)."""

    commit: str
    files: list[HubFile]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


class WrongFile(Exception):
    """The hub has sent something else than it lists; nothing of it was kept."""


class Stopped(Exception):
    """Another file has failed."""


class Hub(Protocol):
    """A model on a hub at a revision."""

    scheme: str
    name: str
    revision: str
    token_variable: str
    endpoint_variable: str
    workers: int

    @property
    def endpoint(self) -> str: ...

    def has_token(self) -> bool: ...

    def listing(self) -> Listing: ...

    def partial(self, folder: Path, file: HubFile) -> Path:
        """Where the bytes of a file lie that is not whole yet."""
        ...

    def download(self, folder: Path, listing: Listing, file: HubFile) -> None:
        """Put the file into the folder, going on from its partial one. Raises WrongFile or what the client raises."""
        ...

    def stop(self) -> None:
        """End the downloads of other threads at their next bytes."""
        ...


def open_hub(source: str, revision: str | None) -> Hub | None:
    """The model that `hf:ORG/NAME` or `modelscope:ORG/NAME` names; None when `source` is neither."""
    match = _SOURCE.fullmatch(source)
    if match is None:
        return None
    for name, value in CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)
    scheme, model = match.groups()
    return HuggingFace(model, revision) if scheme == "hf" else ModelScope(model, revision)


def is_needed(name: str) -> bool:
    """Whether training or serving reads a file of this name; weights in other formats are left on the hub."""
    return name.endswith(_NEEDED) and "/" not in name and not name.startswith((".", "pytorch_model"))


class HuggingFace:
    """huggingface.co, or the mirror that HF_ENDPOINT names."""

    scheme, token_variable, endpoint_variable = "hf", "HF_TOKEN", "HF_ENDPOINT"
    workers = 4

    def __init__(self, name: str, revision: str | None) -> None:
        self.name, self.revision = name, revision or "main"
        self._stopped = threading.Event()

    @property
    def endpoint(self) -> str:
        import huggingface_hub.constants

        return huggingface_hub.constants.ENDPOINT

    def has_token(self) -> bool:
        import huggingface_hub

        return huggingface_hub.get_token() is not None

    def listing(self) -> Listing:
        from huggingface_hub import HfApi

        info = HfApi().model_info(self.name, revision=self.revision, files_metadata=True, timeout=60)
        files = [self._file(entry) for entry in info.siblings or [] if is_needed(entry.rfilename)]
        return Listing(info.sha or self.revision, sorted(files, key=lambda file: file.name))

    @staticmethod
    def _file(entry: Any) -> HubFile:
        if entry.lfs is not None:
            return HubFile(entry.rfilename, entry.lfs.size, sha256=entry.lfs.sha256)
        return HubFile(entry.rfilename, entry.size or 0, git_sha1=entry.blob_id)

    def partial(self, folder: Path, file: HubFile) -> Path:
        return folder / WORK / f"{file.sha256 or file.git_sha1 or file.name}.part"

    def download(self, folder: Path, listing: Listing, file: HubFile) -> None:
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.errors import HfHubHTTPError
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        constants.DOWNLOAD_CHUNK_SIZE = CHUNK_BYTES  # 10 MiB would be lost at each interruption
        url = hf_hub_url(self.name, file.name, revision=listing.commit)
        # A compressed answer knows no ranges.
        headers = build_hf_headers() | {"accept-encoding": "identity"}
        part = self.partial(folder, file)
        if part.is_file() and part.stat().st_size > file.size:
            part.unlink()
        with part.open("ab") as out:
            try:
                target: Any = _StoppableFile(out, self._stopped)
                http_get(url, target, resume_size=out.tell(), headers=headers, expected_size=file.size)
            except HfHubHTTPError:
                raise
            except OSError as error:
                if error.errno is not None:
                    raise
                part.unlink()
                raise WrongFile(f"it is not of {file.size} bytes, as the hub lists it") from error
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, folder / file.name)

    def stop(self) -> None:
        self._stopped.set()


class _StoppableFile:
    """A file to write to until the event is set; each write is in the system's hands when it returns."""

    def __init__(self, file: BinaryIO, stopped: threading.Event) -> None:
        self._file, self._stopped = file, stopped
        self.seek, self.tell, self.truncate = file.seek, file.tell, file.truncate

    def write(self, data: bytes) -> int:
        if self._stopped.is_set():
            raise Stopped
        count = self._file.write(data)
        self._file.flush()
        return count


class ModelScope:
    """modelscope.cn, or the site that MODELSCOPE_ENDPOINT names."""

    scheme, token_variable, endpoint_variable = "modelscope", "MODELSCOPE_API_TOKEN", "MODELSCOPE_ENDPOINT"
    workers = 1

    def __init__(self, name: str, revision: str | None) -> None:
        self.name, self.revision = name, revision or "master"
        self._opened: Any = None

    @property
    def _api(self) -> Any:
        if self._opened is None:
            from modelscope_hub import HubApi

            self._opened = HubApi()
        return self._opened

    @property
    def endpoint(self) -> str:
        return self._api.legacy.endpoint

    def has_token(self) -> bool:
        return bool(self._api.legacy.token)

    def listing(self) -> Listing:
        entries = self._api.list_repo_files(self.name, "model", revision=self.revision, recursive=False)
        files = [
            HubFile(entry.path, entry.size, sha256=entry.sha256 or None)
            for entry in entries
            if entry.type == "blob" and is_needed(entry.path)
        ]
        return Listing(self.revision, sorted(files, key=lambda file: file.name))

    def partial(self, folder: Path, file: HubFile) -> Path:
        return folder / f"{file.name}.incomplete"

    def download(self, folder: Path, listing: Listing, file: HubFile) -> None:
        from modelscope_hub.errors import FileIntegrityError

        try:
            self._api.download_file(
                self.name,
                "model",
                file.name,
                revision=listing.commit,
                local_dir=folder,
                expected_sha256=file.sha256,
                file_size=file.size,
            )
        except FileIntegrityError as error:
            raise WrongFile(error.message) from error

    def stop(self) -> None:
        """There are no other threads."""
