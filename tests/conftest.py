"""What several tests share: composing a configuration, and a small demo corpus made once for the whole session."""

import os
import signal
from pathlib import Path

import hydra
import pytest
import torch
from common import ROOT
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from vitslite import build

os.environ["WANDB_MODE"] = "offline"
os.environ |= {"WANDB_CONSOLE": "off", "WANDB_X_DISABLE_STATS": "true"}  # test_wandb_mirror.py asks for both
build.register_schema()


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small tensors gain nothing from more, and results then do not depend on the machine's cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """The cache folder of the session; the first test that needs a demo corpus makes it there."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def compose(cache, tmp_path):
    """compose(*overrides) -> configuration of a small and fast run in tmp_path/run."""
    small = [
        "model=nano",
        "tracking=local",
        "threads=1",
        "data.n_sentences=60",
        "data.batch_size=4",
        "trainer.device=cpu",
        "validation.n_heard=0",
        f"data.cache={cache}",
        f"run_dir={tmp_path / 'run'}",
    ]

    def composed(*overrides: str) -> DictConfig:
        GlobalHydra.instance().clear()
        with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            return hydra.compose("train", overrides=[*small, *overrides])

    return composed


@pytest.fixture
def full_disk():
    """A file may have 4,000 bytes: what the system says is as on a full disk, without the privilege to make one."""
    resource = pytest.importorskip("resource")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)
