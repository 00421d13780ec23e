"""A base is fetched whole or not at all, from where it broke off, by the hubs' own clients against a local stand-in."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fetch_base
from fetch.folder import RECORD
from fetch.hubs import WORK, is_needed
from hub_stand_in import COMMIT, HubStandIn

CHECKOUT = Path(__file__).resolve().parents[2]
PROGRAM = CHECKOUT / "trainer" / "fetch_base.py"
TINY = {path.name: path.read_bytes() for path in (CHECKOUT / "demo" / "tiny-qwen3-vl").iterdir()}
UNWANTED = {"pytorch_model.bin": b"pickle", "model.onnx": b"onnx", "README.md": b"# Tiny", ".gitattributes": b""}
WEIGHTS = "model.safetensors"
SIZE = len(TINY[WEIGHTS])
MIB = 1024 * 1024
SCHEMES = ("hf", "modelscope")

each_hub = pytest.mark.parametrize("scheme", SCHEMES)


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    stand_in = HubStandIn(TINY | UNWANTED)
    yield stand_in
    stand_in.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models" / "org--tiny"


class Fetched:
    """What the program said and how it ended."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code, self.stdout, self.stderr = code, stdout, stderr
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in stdout.splitlines()]
        self.last = self.lines[-1]

    def failed(self, type: str, *says: str) -> None:
        assert (self.code, self.last["event"], self.last.get("type")) == (1, "error", type), self.stdout + self.stderr
        for word in says:
            assert word in self.last["message"]


# The last one makes Hugging Face's client offline too; LLaMA-Factory's own modules may have set it in this process.
OF_HUBS = ("HF_", "MODELSCOPE_", "TRANSFORMERS_")


def start(scheme: str, url: str, folder: Path, *options: str, **env: str) -> subprocess.Popen[str]:
    home = str(folder.parent.parent / "home")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OF_HUBS)}
    hubs = {"HF_ENDPOINT": url, "HF_HOME": home, "MODELSCOPE_ENDPOINT": url, "MODELSCOPE_CACHE": home}
    hubs |= {"MODELSCOPE_HOME": home, "MODELSCOPE_DOWNLOAD_INTRA_CLOUD": "false"}
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), f"{scheme}:org/tiny", str(folder), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=kept | hubs | {"no_proxy": "127.0.0.1,localhost"} | env,
    )


def finish(process: subprocess.Popen[str]) -> Fetched:
    stdout, stderr = process.communicate(timeout=120)
    return Fetched(process.returncode, stdout, stderr)


def fetch(scheme: str, hub: HubStandIn, folder: Path, *options: str, **env: str) -> Fetched:
    return finish(start(scheme, hub.url, folder, *options, **env))


def content(folder: Path) -> dict[str, bytes]:
    """All files of a folder; nothing but files may be left in it."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != RECORD}


@each_hub
def test_a_base_comes_whole_without_what_nobody_reads_and_with_a_record(
    scheme: str, hub: HubStandIn, folder: Path
) -> None:
    fetched = fetch(scheme, hub, folder)
    assert (fetched.code, fetched.last["state"]) == (0, "fetched"), fetched.stderr
    assert content(folder) == TINY
    record = json.loads((folder / RECORD).read_text())
    commit = COMMIT if scheme == "hf" else "master"
    assert (record["source"], record["commit"]) == (f"{scheme}:org/tiny", commit)
    sums = {file["name"]: (file["size"], file["sha256"]) for file in record["files"]}
    assert sums == {name: (len(each), hashlib.sha256(each).hexdigest()) for name, each in TINY.items()}
    total = sum(map(len, TINY.values()))
    progress = [line for line in fetched.lines if line["event"] == "progress"]
    assert (progress[-1]["done"], progress[-1]["total"], progress[-1]["unit"]) == (total, total, "bytes")


@each_hub
def test_the_second_time_nothing_is_asked_of_the_network(scheme: str, hub: HubStandIn, folder: Path) -> None:
    assert fetch(scheme, hub, folder).code == 0
    hub.requests.clear()
    again = fetch(scheme, hub, folder)
    assert (again.code, again.last["state"], hub.requests) == (0, "present", [])
    assert finish(start(scheme, "http://127.0.0.1:1", folder)).last["state"] == "present"


@each_hub
def test_a_file_whose_connection_breaks_goes_on_from_there(scheme: str, hub: HubStandIn, folder: Path) -> None:
    hub.cut[WEIGHTS] = [MIB + 500_000, 2 * MIB + 100_000]
    assert fetch(scheme, hub, folder).code == 0
    # Hugging Face's client hands on whole blocks only.
    kept = [MIB, 2 * MIB] if scheme == "hf" else [MIB + 500_000, 2 * MIB + 100_000]
    assert hub.ranges(WEIGHTS) == [None, *(f"bytes={count}-" for count in kept)]
    assert content(folder) == TINY


@each_hub
def test_a_fetch_that_is_killed_goes_on_from_there(scheme: str, hub: HubStandIn, folder: Path) -> None:
    hub.stall[WEIGHTS] = 2 * MIB + 100_000
    process = start(scheme, hub.url, folder)
    hub.wait_for_bytes(WEIGHTS, MIB)
    part = part_of(scheme, folder)
    until = time.monotonic() + 30
    tokenizer = folder / "tokenizer.json"
    while not (part.exists() and part.stat().st_size >= 2 * MIB and tokenizer.exists()):
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (folder / RECORD).exists()
    kept = part.stat().st_size
    hub.stall.clear()
    hub.requests.clear()
    assert fetch(scheme, hub, folder).code == 0
    assert hub.ranges(WEIGHTS) == [f"bytes={kept}-"]
    assert hub.ranges("tokenizer.json") == []
    assert content(folder) == TINY


def part_of(scheme: str, folder: Path) -> Path:
    if scheme == "modelscope":
        return folder / f"{WEIGHTS}.incomplete"
    return folder / WORK / f"{hashlib.sha256(TINY[WEIGHTS]).hexdigest()}.part"


@each_hub
def test_what_was_left_by_another_file_of_that_name_does_no_harm(scheme: str, hub: HubStandIn, folder: Path) -> None:
    (folder / WORK).mkdir(parents=True)
    part_of(scheme, folder).write_bytes(b"x" * MIB)
    first = fetch(scheme, hub, folder)
    if scheme == "hf":
        first.failed("HostError", f"{WEIGHTS} of hf:org/tiny came wrong", "its sha256 is")
        assert fetch(scheme, hub, folder).code == 0
    assert content(folder) == TINY


@each_hub
@pytest.mark.parametrize(
    "wrong", [TINY[WEIGHTS][:-1], TINY[WEIGHTS] + b"x", TINY[WEIGHTS][:-1] + b"x"], ids=["short", "long", "flipped"]
)
def test_a_wrong_file_is_named_and_removed_and_fetched_anew(
    scheme: str, wrong: bytes, hub: HubStandIn, folder: Path
) -> None:
    hub.served[WEIGHTS] = wrong
    fetch(scheme, hub, folder).failed("HostError", f"{WEIGHTS} of {scheme}:org/tiny came wrong", "It was removed")
    assert not (folder / WEIGHTS).exists()
    assert not part_of(scheme, folder).exists()
    assert not (folder / RECORD).exists()
    there = [path.name for path in folder.iterdir() if path.is_file()]  # others were on their way when it failed
    hub.served.clear()
    hub.requests.clear()
    assert fetch(scheme, hub, folder).code == 0
    assert hub.ranges(WEIGHTS) == [None]
    assert [name for name in there if hub.ranges(name)] == []
    assert content(folder) == TINY


@each_hub
def test_a_small_file_that_is_wrong_shows_by_its_digest_too(scheme: str, hub: HubStandIn, folder: Path) -> None:
    hub.served["config.json"] = TINY["config.json"].replace(b"qwen3_vl", b"qwen2_vl", 1)
    fetch(scheme, hub, folder).failed("HostError", f"config.json of {scheme}:org/tiny came wrong")


@each_hub
def test_without_a_token_the_error_says_where_it_goes(scheme: str, hub: HubStandIn, folder: Path) -> None:
    hub.token = "hf_secret"
    variable = "HF_TOKEN" if scheme == "hf" else "MODELSCOPE_API_TOKEN"
    fetch(scheme, hub, folder).failed("HostError", "HTTP 401", "gated or private", "accept its licence", variable)
    assert not folder.exists()
    wrong = fetch(scheme, hub, folder, **{variable: "hf_other"})
    wrong.failed("HostError", f"the token in {variable} does not open it")
    assert "hf_other" not in wrong.stdout + wrong.stderr
    right = fetch(scheme, hub, folder, **{variable: "hf_secret"})
    assert right.code == 0, right.stderr
    assert "hf_secret" not in right.stdout + right.stderr + (folder / RECORD).read_text()
    assert hub.secrets_on_cdn == ([None] if scheme == "hf" else [])


def test_a_gated_model_shows_at_its_first_file(hub: HubStandIn, folder: Path) -> None:
    hub.gated = True
    fetch("hf", hub, folder).failed("HostError", "HTTP 403", "accept its licence on", "HF_TOKEN")


@each_hub
def test_a_model_or_a_revision_that_is_not_there_is_the_configs_fault(
    scheme: str, hub: HubStandIn, folder: Path
) -> None:
    fetch(scheme, hub, folder, "--revision=v9").failed("ConfigError", "org/tiny", "revision v9", "model.revision")
    hub.status = 404
    fetch(scheme, hub, folder).failed("ConfigError", "has no model org/tiny", "correct model.source")
    assert not folder.exists()


def test_a_hub_that_is_down_or_not_there_is_tried_again_later(hub: HubStandIn, folder: Path) -> None:
    hub.status = 503
    fetch("hf", hub, folder).failed("DownloadError", hub.url, "HTTP 503")
    fetch("hf", hub, folder, HF_HUB_OFFLINE="1").failed("HostError", "HF_HUB_OFFLINE is set")
    finish(start("hf", "http://127.0.0.1:1", folder)).failed(
        "DownloadError", "http://127.0.0.1:1 could not be reached", "HF_ENDPOINT"
    )
    finish(start("modelscope", "http://127.0.0.1:1", folder)).failed("DownloadError", "MODELSCOPE_ENDPOINT")


def test_a_connection_that_breaks_for_good_keeps_what_has_come(hub: HubStandIn, folder: Path) -> None:
    hub.cut[WEIGHTS] = [2 * MIB + 1] * 20
    fetch("hf", hub, folder).failed("DownloadError", "What has come is kept")
    assert part_of("hf", folder).stat().st_size == 2 * MIB
    hub.cut.clear()
    assert fetch("hf", hub, folder).code == 0
    assert hub.ranges(WEIGHTS)[-1] == f"bytes={2 * MIB}-"


def test_a_model_without_weights_that_can_be_read_is_the_configs_fault(folder: Path) -> None:
    hub = HubStandIn({"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    fetch("hf", hub, folder).failed("ConfigError", "has no .safetensors weights")
    hub.close()


def test_a_source_of_another_form_is_refused(folder: Path) -> None:
    process = subprocess.run([sys.executable, PROGRAM, "Qwen/Tiny", folder], capture_output=True, text=True)
    Fetched(process.returncode, process.stdout, "").failed("ConfigError", "neither hf:ORG/NAME nor modelscope:ORG/NAME")


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(hub: HubStandIn, folder: Path) -> None:
    hub.listed_size[WEIGHTS] = 2**60
    fetch("hf", hub, folder).failed("DiskFullError", "needs 1152921504.61 GB more", "GB free")
    assert not folder.exists()
    assert hub.ranges("config.json") == []


@each_hub
def test_a_disk_that_gets_full_keeps_what_has_come(scheme: str, hub: HubStandIn, folder: Path) -> None:
    """Every write to /dev/full is answered with ENOSPC by the system itself."""
    (folder / WORK).mkdir(parents=True)
    part_of(scheme, folder).symlink_to("/dev/full")
    full = fetch(scheme, hub, folder)
    full.failed("DiskFullError", "is full", "2.7", " MB of ", "still to come", "is kept")
    kept = [name for name in TINY if (folder / name).exists()]
    part_of(scheme, folder).unlink()
    hub.requests.clear()
    assert fetch(scheme, hub, folder).code == 0
    assert [name for name in kept if hub.ranges(name)] == []
    assert content(folder) == TINY


def test_two_at_once_fetch_each_file_once(hub: HubStandIn, folder: Path) -> None:
    runs = [start("hf", hub.url, folder) for _ in range(2)]
    states = [finish(run).last["state"] for run in runs]
    assert sorted(states) == ["fetched", "present"]
    assert {name: len(hub.ranges(name)) for name in TINY} == dict.fromkeys(TINY, 1)
    assert content(folder) == TINY


def test_a_whole_base_of_ones_own_is_used_as_it_is(hub: HubStandIn, folder: Path) -> None:
    folder.mkdir(parents=True)
    own = TINY | {"config.json": TINY["config.json"] + b"\n"}
    for name, each in own.items():
        (folder / name).write_bytes(each)
    used = fetch("hf", hub, folder)
    assert (used.code, used.last["state"], hub.requests) == (0, "present", [])
    assert "used as it is" in used.last["note"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == own


@each_hub
def test_a_half_base_of_ones_own_is_completed_and_nothing_of_it_lost(
    scheme: str, hub: HubStandIn, folder: Path
) -> None:
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_bytes(TINY["tokenizer.json"])
    (folder / "config.json").write_bytes(b"{}")
    fetched = fetch(scheme, hub, folder)
    assert "config.json.before-fetch" in fetched.last["note"]
    assert hub.ranges("tokenizer.json") == []
    assert content(folder) == TINY | {"config.json.before-fetch": b"{}"}


def test_a_file_that_went_away_comes_again_alone(hub: HubStandIn, folder: Path) -> None:
    assert fetch("hf", hub, folder).code == 0
    (folder / WEIGHTS).unlink()
    hub.requests.clear()
    assert fetch("hf", hub, folder).last["state"] == "fetched"
    assert [len(hub.ranges(name)) for name in (WEIGHTS, "tokenizer.json")] == [1, 0]
    assert content(folder) == TINY


def test_a_folder_that_holds_something_else_is_refused(hub: HubStandIn, folder: Path) -> None:
    assert fetch("hf", hub, folder).code == 0
    fetch("hf", hub, folder, "--revision=v2").failed("ConfigError", "holds hf:org/tiny at main", "model_name_or_path")
    assert fetch("hf", hub, folder, f"--revision={COMMIT}").last["state"] == "present"
    other = fetch("modelscope", hub, folder)
    assert (other.last["state"], "the other hub" in other.last["note"]) == ("present", True)


def test_a_plan_says_how_much_would_come_and_writes_nothing(hub: HubStandIn, folder: Path) -> None:
    total = sum(map(len, TINY.values()))
    plan = fetch("hf", hub, folder, "--plan").last
    assert (plan["state"], plan["bytes"], plan["missingBytes"]) == ("absent", total, total)
    assert plan["freeBytes"] > 0
    assert not folder.exists()
    fetch("hf", hub, folder)
    assert fetch("hf", hub, folder, "--plan").last["state"] == "present"


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("model-00001-of-00002.safetensors", True),
        ("model.safetensors.index.json", True),
        ("merges.txt", True),
        ("chat_template.jinja", True),
        ("tokenizer.model", True),
        ("pytorch_model.bin", False),
        ("pytorch_model.bin.index.json", False),
        ("model.gguf", False),
        ("onnx/config.json", False),
        ("../config.json", False),
        (".temper-source.json", False),
    ],
)
def test_only_what_training_and_serving_read_is_fetched(name: str, needed: bool) -> None:
    assert is_needed(name) is needed


def test_sizes_are_for_people() -> None:
    assert [fetch_base._size(count) for count in (8_880_000_000, 2_720_000)] == ["8.88 GB", "2.72 MB"]
