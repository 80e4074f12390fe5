"""The gradient-noise scale against closed forms, and as a run measures it."""

import numpy as np
import pytest
import torch
from torch import nn

import train
from vitslite import build, runs
from vitslite.metrics.gradients import noise_scale

N, BATCH = 2000, 8


class Linear(nn.Module):
    """Two modules whose gradients are known: the loss of an utterance is the inner product of weights and its g."""

    def __init__(self, sizes):
        super().__init__()
        for name, size in sizes.items():
            setattr(self, name, nn.Linear(size, 1, bias=False))


def known(signal: dict[str, float], sigma: dict[str, float], size=40):
    """A linear model, its samples g_i = G + sigma e_i with |G|^2 = signal, and their shares of the mean loss."""
    model, generator = Linear(dict.fromkeys(signal, size)), torch.Generator().manual_seed(0)
    samples = {
        name: (signal[name] / size) ** 0.5 + sigma[name] * torch.randn(N, size, generator=generator) for name in signal
    }
    weights = dict(model.named_children())
    shares = (sum((weights[name].weight[0] * g[i]).sum() for name, g in samples.items()) / N for i in range(N))
    return model, samples, shares


def test_a_linear_model_with_known_noise():
    """tr S = size sigma^2, so the scale is size sigma^2 / |G|^2, of both modules by their sums."""
    signal, sigma = {"a": 4.0, "b": 1.0}, {"a": 0.5, "b": 1.5}
    model, _, shares = known(signal, sigma)
    row = noise_scale(model, shares, BATCH)
    traces = {name: 40 * sigma[name] ** 2 for name in sigma}
    for name, trace, square in [
        *((name, traces[name], signal[name]) for name in signal),
        ("total", sum(traces.values()), sum(signal.values())),
    ]:
        assert row[f"noise/scale/{name}"] == pytest.approx(trace / square, rel=0.1), name
        assert row[f"noise/snr/{name}"] == pytest.approx(BATCH * square / trace, rel=0.1), name
    assert all(p.grad is None for p in model.parameters())


def test_the_estimate_is_that_of_two_batch_sizes():
    """Digit by digit: the sample covariance, and McCandlish et al., A.2 and A.3, with batches of 1 and of n."""
    model, samples, shares = known({"a": 4.0}, {"a": 0.5})
    row, g = noise_scale(model, shares, BATCH), samples["a"].double().numpy()
    small, big = (g**2).sum(1).mean(), (g.mean(0) ** 2).sum()
    trace, square = (small - big) / (1 - 1 / N), (N * big - small) / (N - 1)
    assert trace == pytest.approx(np.cov(g.T).trace(), rel=1e-9)
    assert row["noise/scale/a"] == row["noise/scale/total"] == pytest.approx(trace / square, rel=1e-4)


def test_pure_noise_has_no_signal():
    """The mean of few samples is not 0; counted as signal, it would make the scale n, whatever the truth."""
    snr = []
    for seed in range(200):
        model, g = Linear({"a": 40}), torch.randn(4, 40, generator=torch.Generator().manual_seed(seed))
        row = noise_scale(model, ((model.a.weight[0] * x).sum() / 4 for x in g), 4)
        snr.append(row["noise/snr/a"])
        assert ("noise/scale/a" in row) == (row["noise/snr/a"] > 0)
    assert abs(np.mean(snr)) < 4 * np.std(snr) / 200**0.5
    assert np.mean(snr) + 1 > 0.9, "without the correction each would be higher by 1"


def test_too_few_and_unreached():
    model = Linear({"a": 3, "b": 3})
    assert noise_scale(model, [model.a.weight.sum()], BATCH) == {}
    row = noise_scale(model, ((model.a.weight * i).sum() for i in (1.0, 2.0)), BATCH)
    assert {key.split("/")[-1] for key in row} == {"a", "total"}


def test_a_run_measures_it_of_training_utterances_alone(compose, tmp_path, monkeypatch):
    """The same at the same step, whatever came before: and never in the batches of validation."""
    monkeypatch.setattr("vitslite.monitoring.observer.N_UTTERANCES", 3)
    overrides = ["trainer.steps=1", "trainer.diagnose_every_steps=1", "trainer.sample_every_steps=0"]
    trainer = train.train(build.parse(compose(*overrides), overrides), overrides)
    loader = trainer.data.loader
    drawn = [[b.ids[0] for b in loader.singles(step, 3)] for step in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and all(len(set(ids)) == 3 for ids in drawn)
    assert set(sum(drawn, [])) <= {u.id for u in trainer.data.corpus.train}
    assert len(loader.singles(0, 10**6)) == len(trainer.data.corpus.train)
    logged = [row for row in runs.read_rows(tmp_path / "run") if "noise/snr/total" in row]
    assert [row["step"] for row in logged] == [0, 1]
    modules = {key.split("/")[2] for key in logged[0] if key.startswith("noise/snr/")}
    assert modules == {"text_encoder", "posterior_encoder", "flow", "duration_predictor", "decoder", "total"}
