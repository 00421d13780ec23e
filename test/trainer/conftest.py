"""Makes the trainer's modules importable as they are for its programs; what tests of real trainings begin with."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "trainer"))
os.environ.setdefault("OMP_NUM_THREADS", "1")

from training import Training, make_dataset  # noqa: E402


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model; makes LLaMA-Factory warm for the forked trainers, too."""
    import torch

    import hooks  # noqa: F401
    from random_qwen3_vl import save_random_model

    return save_random_model(tmp_path_factory.mktemp("base") / "model", dtype=torch.float32, processor=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "cards")


@pytest.fixture(scope="module")
def new(folder: Path, base: Path, dataset: Path) -> Callable[..., Training]:
    return lambda name, **options: Training(folder / name, base, dataset, **options)
