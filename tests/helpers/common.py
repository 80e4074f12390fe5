"""What several tests share: where things are, the schema's defaults, and reading back what a run has left."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from omegaconf import OmegaConf

from vitslite import build
from vitslite.config.settings import Config

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"  # real speech, beside the project on some machines; never part of it


def defaults_with(*overrides: str) -> Config:
    """The defaults of the dataclasses, without configs/, and these changes; refused where a run would refuse them."""
    return build.parse(OmegaConf.from_dotlist(list(overrides)), list(overrides))


def losses(path: Path) -> list[tuple]:
    """Every logged number except speeds, exactly."""
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [tuple((k, float(v).hex()) for k, v in row.items() if not k.startswith("time/")) for row in rows]


def differences(a, b, path="") -> list[str]:
    """Where two checkpoints differ, bit for bit."""
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [path]
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        return [d for k in a for d in differences(a[k], b[k], f"{path}/{k}")]
    if isinstance(a, list | tuple):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{path}/{i}")]
    return [] if a == b else [path]


def without_header(state: dict) -> dict:
    return {k: v for k, v in state.items() if k not in ("config", "environment", "version", "commit")}


def read_back(folder: Path, *options: str) -> list[dict]:
    """The records of an offline W&B run, by W&B's own reader."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", *options, "--json", str(folder)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in out.splitlines()]


def reached(model, term) -> set[str]:
    """The top-level modules whose weights a loss term moves."""
    model.zero_grad(set_to_none=True)
    term.backward()
    return {
        name
        for name, module in model.named_children()
        if any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
    }
