"""Two ranks are one: same global batch, same losses, same gradients, under torchrun with gloo on the CPU."""

import os
import subprocess
import sys

import pytest
import torch
from common import ROOT

OVERRIDES = [
    "model.text_encoder.dropout=0.1",
    "model.segment_frames=32",
    "discriminator=mpd",
    "discriminator.period_channels=[4,4,4,4,4]",
    "discriminator.start_step=1",
]


def steps(tmp_path, cache, n_ranks: int, fault: str = "none") -> list[dict]:
    out = tmp_path / f"{n_ranks}-{fault}.pt"
    command = [
        str(ROOT / "tests" / "helpers" / "distributed_worker.py"),
        str(out),
        str(tmp_path / f"run{n_ranks}"),
        str(cache),
    ]
    launcher = [sys.executable]
    if n_ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n_ranks}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, *command, fault, *OVERRIDES], capture_output=True, text=True, env=environment, check=False
    )
    assert out.exists(), done.stderr[-3000:]
    return torch.load(out, weights_only=True)


def gradient_error(a: dict, b: dict) -> float:
    """|a - b| / |b| over all parameters."""
    difference = sum(float(((a["gradients"][n] - g) ** 2).sum()) for n, g in b["gradients"].items())
    return (difference / sum(float((g**2).sum()) for g in b["gradients"].values())) ** 0.5


def moment_error(a: dict, b: dict) -> float:
    difference = sum(float(((a["discriminator"][n] - m) ** 2).sum()) for n, m in b["discriminator"].items())
    return (difference / sum(float((m**2).sum()) for m in b["discriminator"].values())) ** 0.5


def test_two_ranks_equal_one(tmp_path, cache):
    one = steps(tmp_path, cache, 1)
    two = steps(tmp_path, cache, 2)
    assert set(two[1]["terms"]) == {"kl", "mel", "duration", "adversarial", "feature_matching", "discriminator"}
    for name, value in one[0]["terms"].items():
        assert two[0]["terms"][name] == pytest.approx(value, rel=1e-6), name
    assert gradient_error(two[0], one[0]) <= 1e-6
    for name, gradient in one[0]["gradients"].items():
        if not name.endswith("attention.key.bias"):  # shifts all scores of a query alike: its gradient is rounding
            error = float((two[0]["gradients"][name] - gradient).norm() / gradient.norm())
            assert error <= 1e-6, (name, error)
    # The gradient of the discriminator, as AdamW has averaged it in an update of its own. Its biases are sums over all
    # places of both sides, which fp32 knows to 6e-5, in one process as in two (found with float64).
    assert moment_error(two[0], one[0]) <= 6e-5
    # After one update: AdamW divides by the gradient's size, so rounding in tiny gradients shows; still close.
    for name, value in one[1]["terms"].items():
        assert two[1]["terms"][name] == pytest.approx(value, rel=1e-3), name

    faulty = steps(tmp_path, cache, 2, "planted")
    assert gradient_error(faulty[0], one[0]) > 1e-4, "means per rank instead of over the global batch went unseen"
    assert moment_error(faulty[0], one[0]) > 1e-4, "a discriminator whose gradients are not summed went unseen"
