import json
import os
import signal
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import trackers
from training import TRAINER, Training

# (metric's step, loss) in the order they were told.
Rows = list[tuple[int, float]]

needs_trackers = pytest.mark.skipif(
    os.environ.get("TEMPER_TEST_TRACKERS") != "1", reason="npm run test:trackers installs what it needs"
)
KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody has logged in, and nothing is set."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith(("WANDB", "SWANLAB", "MLFLOW", "TRACKIO", "TENSORBOARD"))]:
        monkeypatch.delenv(name)


def prepared(output: Path, *wanted: str, **options: object) -> tuple[dict, dict[str, str], list[str]]:
    failed: list[str] = []
    config = {"report_to": list(wanted), **options}
    arguments, variables = trackers.prepare(config, output, lambda tracker, _: failed.append(tracker))
    return arguments, variables, failed


def test_a_training_keeps_its_run_and_another_one_under_its_name_gets_its_own(tmp_path: Path) -> None:
    output = tmp_path / "runs/cards/train/output"
    first, again = prepared(output, "wandb"), prepared(output, "wandb")
    assert first == again
    assert first[0]["run_name"] == "cards"
    assert first[1]["WANDB_RESUME"] == "allow"
    output.rename(tmp_path / "superseded")
    assert prepared(output, "wandb")[1]["WANDB_RUN_ID"] != first[1]["WANDB_RUN_ID"]


def test_trackio_which_knows_runs_by_name_gets_one_for_each_training(tmp_path: Path) -> None:
    names = {prepared(tmp_path / run / "train/output", "trackio", run_name="cards")[0]["run_name"] for run in "ab"}
    assert len(names) == 2
    assert all(name.startswith("cards-") for name in names)


def test_without_trackers_nothing_is_prepared(tmp_path: Path) -> None:
    assert prepared(tmp_path / "output", "none") == ({}, {}, [])
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("tracker", "environment", "expected"),
    [
        ("wandb", {}, {"WANDB_MODE": "offline"}),
        ("wandb", {"WANDB_API_KEY": KEY}, {"WANDB_MODE": None}),
        ("wandb", {"WANDB_MODE": "disabled"}, {"WANDB_MODE": None}),
        ("wandb", {"WANDB_DIR": "/data/wandb"}, {"WANDB_DIR": None}),
        ("swanlab", {}, {"SWANLAB_MODE": "offline", "SWANLAB_RUN_ID": None}),
        ("swanlab", {"SWANLAB_API_KEY": KEY}, {"SWANLAB_MODE": "cloud", "SWANLAB_RESUME": "allow"}),
        ("trackio", {"TRACKIO_DIR": "/data/trackio"}, {"TRACKIO_DIR": None}),
    ],
)
def test_what_the_environment_says_counts(
    tracker: str, environment: dict[str, str], expected: dict[str, str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    _, variables, failed = prepared(tmp_path / "output", tracker)
    assert failed == []
    assert {name: variables.get(name) for name in expected} == expected
    assert KEY not in json.dumps(variables)


def test_tensorboard_gets_a_folder_for_each_training_wherever_the_logs_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    folders = {prepared(tmp_path / run / "train/output", "tensorboard")[1]["TENSORBOARD_LOGGING_DIR"] for run in "ab"}
    assert {Path(folder).parent for folder in folders} == {tmp_path / "logs"}
    assert len(folders) == 2


def test_a_tracker_that_cannot_be_prepared_is_left_out_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(identity: trackers.Identity, folder: Path) -> dict[str, str]:
        raise ConnectionError("no answer")

    monkeypatch.setitem(trackers.PREPARED, "mlflow", away)
    arguments, _, failed = prepared(tmp_path / "output", "mlflow", "wandb")
    assert failed == ["mlflow"]
    assert arguments["report_to"] == ["wandb"]


def test_an_address_is_told_without_its_keys() -> None:
    said = trackers.without_secrets("GET http://me:pass@host:5000/api?token=abc&x=1 failed")
    assert said == "GET http://…@host:5000/api?… failed"


@pytest.fixture(scope="module")
def tracked(new: Callable[..., Training]) -> Training:
    """A training that five trackers watch, killed twice and resumed."""
    names = list(READERS)
    training = new("home/runs/cards/train", report_to=names, max_steps=60, save_steps=20, val_size=4, eval_steps=15,
                   eval_strategy="steps")  # fmt: skip
    for attempt, step in enumerate((33, 47, None), 1):
        trainer = start(training, attempt)
        if step is not None:
            training.wait_for_step(step, trainer.pid)
            os.kill(json.loads((training.folder / "process.json").read_text())["pid"], signal.SIGKILL)
        assert trainer.wait(120) == (128 + signal.SIGKILL if step else 0), training.log()
    assert [event["resumedAtStep"] for event in training.events("started")] == [0, 20, 40]
    return training


@needs_trackers
def test_no_tracker_failed(tracked: Training) -> None:
    assert tracked.events("trackerFailed") == []


@needs_trackers
@pytest.mark.parametrize("tracker", ["mlflow", "swanlab", "tensorboard", "trackio", "wandb"])
def test_after_two_kills_a_tracker_has_every_step_of_one_run(tracker: str, tracked: Training) -> None:
    runs, rows = READERS[tracker](tracked.folder / "trackers")
    assert runs == 1
    assert dict(rows) == pytest.approx(tracked.losses())
    if tracker == "tensorboard":
        assert len(rows) == len(tracked.losses())


@needs_trackers
def test_keys_stay_out_of_the_run_directory(tracked: Training) -> None:
    files = [path for path in tracked.folder.parent.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


@needs_trackers
def test_a_server_that_is_away_costs_what_it_would_have_shown(new: Callable[..., Training]) -> None:
    training = new("away/runs/cards/train", report_to=["mlflow", "tensorboard"])
    away = {"MLFLOW_TRACKING_URI": "http://me:secret@127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    assert start(training, 1, away).wait(120) == 0, training.log()
    [failed] = training.events("trackerFailed")
    assert failed["tracker"] == "mlflow"
    assert "secret" not in training.log() + json.dumps(failed)
    assert dict(read_tensorboard(training.folder / "trackers")[1]) == pytest.approx(training.losses())


@needs_trackers
def test_trackers_that_die_in_the_middle_cost_no_step(new: Callable[..., Training]) -> None:
    import psutil

    training = new("dying/runs/cards/train", report_to=list(READERS), max_steps=60, save_steps=20)
    trainer = start(training, 1)
    training.wait_for_step(20, trainer.pid)
    for store in ("mlflow.db", "trackio/huggingface.db"):
        (training.folder / "trackers" / store).write_bytes(b"no database" * 1000)
    [service] = [child for child in psutil.Process(trainer.pid).children(recursive=True) if child.name() == "wandb-core"]
    service.kill()
    assert trainer.wait(120) == 0, training.log()
    assert sorted(training.losses()) == list(range(1, 61))
    assert {event["tracker"] for event in training.events("trackerFailed")} >= {"mlflow", "wandb"}
    assert dict(read_tensorboard(training.folder / "trackers")[1]) == pytest.approx(training.losses())


def start(training: Training, attempt: int, environment: dict[str, str] | None = None) -> subprocess.Popen:
    """As a worker starts it: below its keeper, in the worker's environment."""
    keys = {"HF_TOKEN": KEY, "WANDB_API_KEY": KEY, "SWANLAB_API_KEY": KEY}
    offline = {"WANDB_MODE": "offline", "SWANLAB_MODE": "offline"}
    who = ["--attempt", str(attempt), "--owner", "test"]
    keeper = [sys.executable, TRAINER / "keeper.py", "--train-dir", training.folder, *who, "--"]
    train = [sys.executable, TRAINER / "train.py", *training.argv("--attempt", str(attempt))]
    return subprocess.Popen([*keeper, *train], stdin=subprocess.DEVNULL, env={**os.environ, **keys, **offline, **(environment or {})})


def read_tensorboard(folder: Path) -> tuple[int, Rows]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logs = list((folder / "tensorboard").iterdir())
    reader = EventAccumulator(str(logs[0]), size_guidance={"scalars": 0})
    reader.Reload()
    return len(logs), [(scalar.step, scalar.value) for scalar in reader.Scalars("train/loss")]


def read_mlflow(folder: Path) -> tuple[int, Rows]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert runs[0].info.status == "FINISHED"
    assert runs[0].data.params["learning_rate"] == "0.005"
    history = client.get_metric_history(runs[0].info.run_id, "loss")
    return len(runs), [(metric.step, metric.value) for metric in sorted(history, key=lambda metric: metric.timestamp)]


def read_trackio(folder: Path) -> tuple[int, Rows]:
    database = sqlite3.connect(f"file:{folder}/trackio/huggingface.db?mode=ro", uri=True)
    told = database.execute("select run_name, metrics from metrics order by step").fetchall()
    metrics = [json.loads(text) for _, text in told]
    return len({run for run, _ in told}), [(row["train/global_step"], row["train/loss"]) for row in metrics if "train/loss" in row]


def read_wandb(folder: Path) -> tuple[int, Rows]:
    """Its offline files, one a start, which `wandb sync` sends under the run's one ID."""
    from wandb.proto.wandb_internal_pb2 import Record

    runs, rows = set(), []
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for data in leveldb_records(file.read_bytes()):
            record = Record.FromString(data)
            if record.HasField("run"):
                runs.add(record.run.run_id)
            told = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            if "train/loss" in told:
                rows.append((told["train/global_step"], told["train/loss"]))
    return len(runs), rows


def read_swanlab(folder: Path) -> tuple[int, Rows]:
    """Its offline files, one a start; `swanlab sync --id` sends them into one experiment."""
    names, rows = set(), []
    for file in sorted(folder.glob("swanlab/run-*/backup.swanlab")):
        for record in map(json.loads, leveldb_records(file.read_bytes())):
            data = record["data"]
            if record["model_type"] == "Experiment":
                names.add(data["name"])
            if record["model_type"] == "Scalar" and data["key"] == "train/loss":
                rows.append((data["step"], data["metric"]["data"]))
    return len(names), rows


def leveldb_records(file: bytes) -> Iterator[bytes]:
    """The whole records of a log in LevelDB's format (github.com/google/leveldb, doc/log_format.md) after 7 bytes of their own."""
    block, position, parts = 32768, 7, b""
    while position + 7 <= len(file):
        left = block - position % block
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", file[position : position + 7])
        data = file[position + 7 : position + 7 + length]
        if kind == 0 or len(data) < length:
            return
        position += 7 + length
        parts += data
        if kind in (1, 4):
            yield parts
            parts = b""


READERS: dict[str, Callable[[Path], tuple[int, Rows]]] = {
    "mlflow": read_mlflow,
    "swanlab": read_swanlab,
    "tensorboard": read_tensorboard,
    "trackio": read_trackio,
    "wandb": read_wandb,
}
