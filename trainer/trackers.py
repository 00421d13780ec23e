"""The trackers of `report_to`: a training is one run in each of them, however often its trainer is started.

What names that run lies in the output folder, which a training keeps through all its starts and which another training
of the same name does not get. Where the environment says nothing else, trackers keep their data beside it.
"""

import json
import netrc
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from events import EventLog
from protocol import write_whole

IDENTITY = "tracker-run.json"
MESSAGE_CHARACTERS = 300


def prepare(
    config: dict[str, Any], output_dir: Path, on_failure: Callable[[str, Exception], None]
) -> tuple[dict[str, Any], dict[str, str]]:
    """What LLaMA-Factory and the environment are given so that each tracker goes on with the training's own run.

    A tracker that can't be reached is left out of this start, and `on_failure` is told.
    """
    wanted = reporters(config)
    if not wanted:
        return {}, {}
    identity = Identity(config, output_dir)
    folder = output_dir.with_name("trackers")
    folder.mkdir(parents=True, exist_ok=True)
    variables: dict[str, str] = {}
    for tracker in wanted:
        try:
            variables |= PREPARED[tracker](identity, folder) if tracker in PREPARED else {}
        except Exception as error:
            on_failure(tracker, error)
            wanted = [other for other in wanted if other != tracker]
    # Trackio finds a run by its name, so a training that is begun anew needs another one.
    name = identity.unique_name if "trackio" in wanted else identity.name
    arguments: dict[str, Any] = {"report_to": [each for each in wanted if each in listed(config)], "run_name": name}
    if config.get("use_swanlab") and "swanlab" not in wanted:
        arguments["use_swanlab"] = False
    return arguments, variables


class Identity:
    """Names a training in its trackers."""

    def __init__(self, config: dict[str, Any], output_dir: Path) -> None:
        self.path = output_dir / IDENTITY
        self.state: dict[str, str] = {}
        if self.path.exists():
            self.state = json.loads(self.path.read_bytes())
        else:
            output_dir.mkdir(parents=True, exist_ok=True)
            # 21 letters and digits, as SwanLab wants it.
            self.remember("id", secrets.token_hex(11)[:21])
        self.id = self.state["id"]
        self.name = str(config.get("run_name") or output_dir.parent.parent.name)
        self.unique_name = f"{self.name}-{self.id[:8]}"

    def remember(self, key: str, value: str) -> None:
        self.state[key] = value
        write_whole(self.path, json.dumps(self.state, indent=1) + "\n")


def reporters(config: dict[str, Any]) -> list[str]:
    """The trackers that the config wants, those by options of their own included."""
    wanted = listed(config)
    return [*wanted, "swanlab"] if config.get("use_swanlab") and "swanlab" not in wanted else wanted


def listed(config: dict[str, Any]) -> list[str]:
    """`report_to` as a list; `all` is every tracker that is installed."""
    given = config.get("report_to") or []
    names = [str(name) for name in ([given] if isinstance(given, str) else given)]
    if "all" in names:
        from transformers.integrations import get_available_reporting_integrations

        return list(get_available_reporting_integrations())
    return [name for name in names if name != "none"]


def prepare_tensorboard(identity: Identity, folder: Path) -> dict[str, str]:
    parent = os.environ.get("TENSORBOARD_LOGGING_DIR") or folder / "tensorboard"
    return {"TENSORBOARD_LOGGING_DIR": str(Path(parent).expanduser() / identity.unique_name)}


def prepare_wandb(identity: Identity, folder: Path) -> dict[str, str]:
    return {
        "WANDB_RUN_ID": identity.id,
        "WANDB_RESUME": "allow",
        # Seconds until what it was told is in its file; a step before a checkpoint is told once.
        **unless_set("WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL", "0.5"),
        **unless_set("WANDB_DIR", str(folder)),
        **({"WANDB_MODE": "offline"} if wandb_is_offline() else {}),
    }


def prepare_swanlab(identity: Identity, folder: Path) -> dict[str, str]:
    """Only its cloud has runs that go on; offline, each start leaves a folder, for `swanlab sync --id`."""
    place = unless_set("SWANLAB_LOG_DIR", str(folder / "swanlab"))
    Path(place.get("SWANLAB_LOG_DIR") or os.environ["SWANLAB_LOG_DIR"]).mkdir(parents=True, exist_ok=True)
    mode = "offline" if swanlab_is_offline() else os.environ.get("SWANLAB_MODE", "cloud")
    run = {"SWANLAB_RUN_ID": identity.id, "SWANLAB_RESUME": "allow"} if mode == "cloud" else {}
    return {"SWANLAB_MODE": mode, **place, **run}


def prepare_trackio(identity: Identity, folder: Path) -> dict[str, str]:
    return unless_set("TRACKIO_DIR", str(folder / "trackio"))


def prepare_mlflow(identity: Identity, folder: Path) -> dict[str, str]:
    """MLflow resumes only a run that is there, so it is made first; its parameters can't be told twice."""
    from mlflow import MlflowClient

    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder}/mlflow.db"
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "temper"
    client = MlflowClient(tracking_uri=uri)
    if "mlflowRunId" not in identity.state:
        experiment = client.get_experiment_by_name(name)
        artifacts = (folder / "mlflow-artifacts").as_uri() if uri.startswith("sqlite:") else None
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(name, artifacts)
        made = client.create_run(experiment_id, run_name=identity.name)
        identity.remember("mlflowRunId", made.info.run_id)
    run = client.get_run(identity.state["mlflowRunId"])
    return {
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_EXPERIMENT_NAME": name,
        "MLFLOW_RUN_ID": run.info.run_id,
        **({"MLFLOW_MAX_LOG_PARAMS": "0"} if run.data.params else {}),
    }


PREPARED = {
    "mlflow": prepare_mlflow,
    "swanlab": prepare_swanlab,
    "tensorboard": prepare_tensorboard,
    "trackio": prepare_trackio,
    "wandb": prepare_wandb,
}


def unless_set(variable: str, value: str) -> dict[str, str]:
    return {} if os.environ.get(variable) else {variable: value}


def wandb_is_offline() -> bool:
    """Whether it has no key to send with, or is not to send."""
    return os.environ.get("WANDB_MODE", "online" if has_login("WANDB", "~/.netrc") else "offline") == "offline"


def swanlab_is_offline() -> bool:
    mode = os.environ.get("SWANLAB_MODE", "cloud" if has_login("SWANLAB", "~/.swanlab/.netrc") else "offline")
    return mode == "offline"


def has_login(tracker: str, file: str) -> bool:
    """Whether the environment, or a login that was made before, has a tracker's key."""
    if os.environ.get(f"{tracker}_API_KEY"):
        return True
    try:
        return any(tracker.lower() in host for host in netrc.netrc(os.path.expanduser(file)).hosts)
    except (OSError, netrc.NetrcParseError):
        return False


def tell(events: EventLog, tracker: str, error: Exception, step: int) -> None:
    """Say in the log and in an event that a tracker failed."""
    message = without_secrets(f"{type(error).__name__}: {error}")[:MESSAGE_CHARACTERS]
    print(f"{tracker} failed, and the training goes on without it: {message}", flush=True)
    events.emit("trackerFailed", tracker=tracker, message=message, atStep=step)


def without_secrets(message: str) -> str:
    """The message without what an address has before @ or after ?, which may be a key."""
    return re.sub(r"\?\S+", "?…", re.sub(r"://[^/@\s]+@", "://…@", message))
