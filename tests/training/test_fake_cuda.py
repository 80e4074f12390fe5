"""A training step as a GPU would take it, without one: torch's fake tensors have shapes and devices, and no values.

A tensor made on the wrong device fails it, and so does a value that the host reads. The kernels and the alignment
search are replaced by functions that give the right shapes, and so is the backward pass, which would start a GPU's
streams.
"""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vitslite import build
from vitslite.benchmarks.step import build_trainer
from vitslite.kernels import available
from vitslite.model import vits
from vitslite.tensors import Batch, sequence_mask
from vitslite.training.trainer import Trainer

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")  # copy.deepcopy, of the EMA

CUDA = torch.device("cuda", 0)
HIFIGAN = ["model.decoder.kind=hifigan", "audio=mel_22k", "model.segment_frames=32"]
STOCHASTIC = ["model/duration=stochastic", "model.text_encoder.dropout=0.1", "model.duration.dropout=0.5"]
MEL_HEAD = ["model.mel_head=true", "objective.weights.prior_mel=1", "model.alignment.score=mel"]
NARROW = ["discriminator.period_channels=[4,4]", "discriminator.periods=[2,3]", "discriminator.resolution_channels=4"]
CASES = {
    "whole utterances": [],
    "segments, hifigan, vits": [*HIFIGAN, "discriminator=vits", "model.posterior.weight_norm=true"],
    "bf16, mpd_mrd": ["trainer.precision=bf16", "discriminator=mpd_mrd", "trainer.optimizer.max_grad_norm=0"],
    "affine, k_sample, micro-batches": ["model/flow=affine", "objective.kl=k_sample", "trainer.accumulate=2"],
    "householder, noise on the score": ["model/flow=householder", "model.alignment.noise=0.01"],
    "linear_iaf, linear spectrogram": ["model/flow=linear_iaf", "model.posterior.input=linear"],
    "stochastic durations, no EMA": [*STOCHASTIC, "trainer.ema_decay=0"],
    "forward_sum, diagonal penalty": ["model.alignment.kind=forward_sum", "model.alignment.diagonal_steps=10"],
    "residual posterior, mel score": ["model/flow=none", "model.posterior.kind=residual", *MEL_HEAD],
    "given durations, free bits": ["model.alignment.kind=given", "objective.regulariser.free_bits=0.1"],
}


class Search:
    """In the place of kernels.alignment_triton."""

    @staticmethod
    def durations(score, token_lengths, frame_lengths):
        assert score.device == token_lengths.device == frame_lengths.device == CUDA
        n_items, _, n_tokens = score.shape
        finite = torch.ones(n_items, dtype=torch.bool, device=CUDA)
        return torch.ones(n_items, n_tokens, dtype=torch.int64, device=CUDA), finite


class Apart(TorchDispatchMode):
    """Refuses operations between GPU and host, as in x.cpu() and x[indices on the host]. Single numbers may go in."""

    def __init__(self):
        super().__init__()
        self.dtypes = set()  # of what was computed

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        taken, given = ([x for x in tree_leaves(t) if isinstance(x, torch.Tensor)] for t in ((args, kwargs), result))
        if any(x.is_cuda for x in taken):
            here = [x for x in taken if not x.is_cuda and x.ndim > 0] + [x for x in given if not x.is_cuda]
            assert not here, f"{func} is between GPU and host"
            self.dtypes |= {x.dtype for x in given}
        return result


@torch.no_grad()
def moved(module: nn.Module, device: torch.device) -> nn.Module:
    """`Module.to`, which would exchange a fake parameter's values in place, and cannot."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            part._parameters[name] = None if parameter is None else nn.Parameter(parameter.to(device))
        for name, buffer in part._buffers.items():
            part._buffers[name] = buffer.to(device)
    return module


class FakeTrainer(Trainer):
    """Real parts go in, and fake ones train: random weights are drawn outside of the mode, which knows no values."""

    def __init__(self, *parts):
        self.mode, self.seen = FakeTensorMode(allow_non_fake_inputs=True), Apart()
        with self.mode:
            super().__init__(*parts)

    @property
    def parameters(self) -> list[nn.Parameter]:
        players = [self.model] + ([self.adversary.discriminator] if self.adversary else [])
        return [p for player in players for p in player.parameters()]

    def step(self, batches):
        with self.mode, self.seen:
            return super().step(batches)


def fake_step(compose, tmp_path, monkeypatch, overrides) -> FakeTrainer:
    """Takes the second step: the first is logged, and so read."""
    overrides = [*overrides, *NARROW, "trainer.log_every_steps=0"]
    config = build.parse(compose(*overrides), overrides)
    corpus = build.corpus(config)
    monkeypatch.setattr(available, "on_gpu", lambda name, device: Search if name == "alignment_triton" else None)
    monkeypatch.setattr(nn.Module, "to", moved)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    trainer = build_trainer(config, corpus, CUDA, tmp_path / "run", FakeTrainer)

    def backward(loss: torch.Tensor) -> None:
        assert loss.is_cuda and loss.requires_grad and loss.shape == ()
        for p in trainer.parameters:
            p.grad = torch.zeros_like(p)

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    trainer.completed_steps = 1
    n_parts = config.trainer.accumulate
    trainer.step([Batch(**trainer.data.loader.make(1, part, n_parts)) for part in range(n_parts)])
    return trainer


@pytest.mark.parametrize("kind", CASES)
def test_a_step_stays_on_the_gpu(compose, tmp_path, monkeypatch, kind):
    trainer = fake_step(compose, tmp_path, monkeypatch, CASES[kind])
    assert trainer.parameters and all(p.device == CUDA for p in trainer.parameters)
    assert (torch.bfloat16 in trainer.seen.dtypes) == ("trainer.precision=bf16" in CASES[kind])


def without_device(lengths, max_length):
    return torch.arange(max_length)[None, None, :] < lengths[:, None, None]


def read(lengths, max_length):
    return sequence_mask(lengths, min(max_length, lengths.max().item()))


def compared(lengths, max_length):
    assert (lengths <= max_length).all()
    return sequence_mask(lengths, max_length)


def copied(lengths, max_length):
    return sequence_mask(lengths.cpu(), max_length).to(lengths.device)


def chosen_by_mask(lengths, max_length):
    return sequence_mask(lengths[lengths > 0], max_length)


def indexed_from_the_host(lengths, max_length):
    return sequence_mask(lengths[torch.arange(len(lengths))], max_length)


FAULTS = {
    without_device: "same device",
    read: "_local_scalar_dense",
    compared: "_local_scalar_dense",
    copied: "between GPU and host",
    chosen_by_mask: "nonzero",
    indexed_from_the_host: "between GPU and host",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_a_planted_fault_fails(compose, tmp_path, monkeypatch, fault):
    monkeypatch.setattr(vits, "sequence_mask", fault)
    with pytest.raises((RuntimeError, AssertionError), match=FAULTS[fault]):
        fake_step(compose, tmp_path, monkeypatch, [])
