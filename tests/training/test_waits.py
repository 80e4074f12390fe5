"""A training step reads nothing of what it computes: on a GPU the host would have to wait for it.

Seen on a CPU by what goes through the dispatcher: `_local_scalar_dense` is behind .item(), float(), bool() and `if`,
the others have a result whose shape only the data knows.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vitslite import build
from vitslite.benchmarks.step import build_trainer, step_of
from vitslite.benchmarks.timing import refuse_waits
from vitslite.model import alignment
from vitslite.tensors import Batch

READS = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "repeat_interleave"}
READS |= {"_unique2", "unique_dim", "unique_consecutive"}


class Reads(TorchDispatchMode):
    """Counts operations that read a tensor's values on the host."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in READS or (name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def reads_of_a_step(compose, tmp_path, monkeypatch, overrides) -> list[str]:
    """Of the second step, as on a GPU: the search on the device (here even durations), nobody looks at the guard."""
    config = build.parse(compose(*overrides), list(overrides))
    trainer = build_trainer(config, build.corpus(config), torch.device("cpu"), tmp_path / "run")
    trainer.guard.checks_at_once = False
    monkeypatch.setattr(
        alignment,
        "scored_search",
        lambda z_p, p_text, items, *_: alignment.uniform(*items[1:3], p_text.mean.shape[2]),
    )
    batches = [Batch(**trainer.data.loader.make(k)) for k in range(2)]
    trainer.step(batches[:1])
    with Reads() as reads:
        trainer.step(batches[1:])
    return reads.names


NARROW = ["discriminator.period_channels=[4,4]", "discriminator.periods=[2]"]
CASES = [
    [],
    ["model/duration=stochastic", "model.text_encoder.dropout=0.1", "model.duration.dropout=0.5"],
    [
        "model.decoder.kind=hifigan",
        "audio=mel_22k",
        "model.segment_frames=32",
        "discriminator=vits",
        "trainer.ema_decay=0",
    ],
    ["discriminator=mpd_mrd", "trainer.precision=bf16", "trainer.optimizer.max_grad_norm=0"],
    ["model.flow.kind=affine", "objective.kl=k_sample"],
    [
        "model/flow=glow",
        "model.flow.n_squeeze=1",
        "model.text_encoder.prenet=1",
        "trainer.optimizer.schedule=noam",
        "trainer.optimizer.max_grad_value=5",
    ],
]


@pytest.mark.parametrize("overrides", CASES, ids=lambda o: " ".join(o) or "nano")
def test_a_step_reads_nothing(compose, tmp_path, monkeypatch, overrides):
    assert reads_of_a_step(compose, tmp_path, monkeypatch, [*overrides, *NARROW, "trainer.log_every_steps=0"]) == []


def test_a_read_would_be_seen(compose, tmp_path, monkeypatch):
    names = reads_of_a_step(compose, tmp_path, monkeypatch, ["trainer.log_every_steps=1"])
    assert "_local_scalar_dense" in names, "the diagnostics of a logged step are read"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("overrides", CASES, ids=lambda o: " ".join(o) or "nano")
def test_a_gpu_is_not_waited_for(compose, tmp_path, overrides):
    overrides = ["trainer.device=cuda", *overrides, *NARROW, "trainer.log_every_steps=0"]
    config = build.parse(compose(*overrides), overrides)
    trainer = build_trainer(config, build.corpus(config), torch.device("cuda"), tmp_path / "run")
    step = step_of(trainer)
    for _ in range(2):  # compiles, and logs
        step()
    refuse_waits("a training step", step)
    trainer.guard.check()
