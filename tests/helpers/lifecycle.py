"""A small run, as the tests of the loop train it."""

from omegaconf import open_dict

import train
from vitslite import build
from vitslite.training import checkpoint

DISCRIMINATOR = [
    "discriminator=mpd_mrd",
    "discriminator.period_channels=[4,4,4,4,4]",
    "discriminator.resolution_channels=4",
    "discriminator.start_step=5",
    "model.segment_frames=32",
]


def run(compose, tmp_path, name, *overrides) -> dict:
    """Train and give the last checkpoint."""
    cfg = compose("trainer.log_every_steps=1", "trainer.ema_decay=0.9", *overrides)
    with open_dict(cfg):
        cfg.run_dir = str(tmp_path / name)
    train.train(build.parse(cfg, list(overrides)), list(overrides))
    return checkpoint.read(tmp_path / name / "checkpoints" / "last.pt")
