"""Two ranks are one: same global batch, same losses, same gradients, under torchrun with gloo on the CPU."""

import functools
import json
import os
import subprocess
import sys

import pytest
import torch
from common import ROOT
from families import FAMILIES, REFINED

VITS = [
    "model.text_encoder.dropout=0.1",
    "model.segment_frames=32",
    "discriminator=mpd",
    "discriminator.period_channels=[4,4,4,4,4]",
    "discriminator.start_step=1",
]
RECORDING = ["model.text_encoder.dropout=0.1", "model.refiner.segment_frames=100"]  # longer than some utterances
CASES = {"vits": VITS} | {family: [*overrides, *RECORDING] for family, overrides in FAMILIES.items()}

FAULTY = {case: CASES[case] for case in ("vits", "grad_tts")}


def launched(tmp_path, cache, n_ranks: int, fault: str = "none") -> dict[str, list[dict]]:
    """case -> its two steps."""
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
        [*launcher, *command, fault, json.dumps(CASES if fault == "none" else FAULTY)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
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


@pytest.fixture(scope="module")
def ranks(tmp_path_factory, cache):
    """ranks(n, fault) -> case -> its two steps; the processes are started once."""
    folder = tmp_path_factory.mktemp("ranks")
    return functools.cache(lambda n, fault="none": launched(folder, cache, n, fault))


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one(ranks, case):
    one, two = ranks(1)[case], ranks(2)[case]
    first = {"kl"} if case == "vits" else {"prior", "energy", "pitch"}
    judged = {"adversarial", "feature_matching", "discriminator"} if case == "vits" else set()
    assert set(two[1]["terms"]) == first | judged | {"mel", "duration"} | {REFINED[c] for c in [case] if c in REFINED}
    for name, start in one[0]["started"].items():  # also the ActNorm of Glow, which starts from data
        assert torch.equal(two[0]["started"][name], start), name
    for name, value in one[0]["terms"].items():
        assert two[0]["terms"][name] == pytest.approx(value, rel=1e-6), name
    assert gradient_error(two[0], one[0]) <= 1e-6
    for name, gradient in one[0]["gradients"].items():
        if not name.endswith("attention.key.bias"):  # shifts all scores of a query alike: its gradient is rounding
            error = float((two[0]["gradients"][name] - gradient).norm() / gradient.norm())
            assert error <= 1e-6, (name, error)
    if judged:
        # The gradient of the discriminator, as AdamW has averaged it in an update of its own. Its biases are sums over
        # all places of both sides, which fp32 knows to 6e-5, in one process as in two (found with float64).
        assert moment_error(two[0], one[0]) <= 6e-5
    # After one update: AdamW divides by the gradient's size, so rounding in tiny gradients shows; still close.
    for name, value in one[1]["terms"].items():
        assert two[1]["terms"][name] == pytest.approx(value, rel=1e-3), name


@pytest.mark.parametrize("case", FAULTY)
def test_means_per_rank_are_noticed(ranks, case):
    """The test above can fail: each rank divides by its own counts, and a discriminator's gradients are not summed."""
    one, faulty = ranks(1)[case], ranks(2, "planted")[case]
    assert gradient_error(faulty[0], one[0]) > 1e-4
    if case == "vits":
        assert moment_error(faulty[0], one[0]) > 1e-4
    for name, value in one[0]["terms"].items():
        if name in REFINED.values():
            assert faulty[0]["terms"][name] != pytest.approx(value, rel=1e-5), name
