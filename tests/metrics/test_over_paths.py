"""The KL over all paths against sums over every path, one by one; the hindsight of the search; clustered errors."""

import itertools
import math

import numpy as np
import pytest
import torch
from lab import F64, FlowOf, line
from paths import FRAMES, TOKENS, B, normal, outputs_of, outputs_with

from vitslite.metrics.over_paths import clustered_error, over_path_statistics, quiet, utterance_sums
from vitslite.model import alignment
from vitslite.objectives import kl
from vitslite.tensors import Gaussian, Latents, Outputs


def by_enumeration(outputs: Outputs, b: int) -> float:
    """-log (1/N sum_A p(z | A)) of utterance b, the density of each path by torch.distributions, in nats."""
    x, (n, t) = outputs.latents, (int(TOKENS[b]), int(FRAMES[b]))
    p = torch.distributions.Normal(outputs.p_text.mean[b, :, :n], outputs.p_text.log_std[b, :, :n].exp())
    log_densities = []
    for cuts in itertools.combinations(range(1, t), n - 1):
        path = np.repeat(np.arange(n), np.diff([0, *cuts, t]))
        score = sum(p.log_prob(x.z_p[b, :, frame, None])[:, token].sum() for frame, token in enumerate(path))
        log_densities.append(float(score + x.log_det[b, :, :t].sum()))
    return -(np.logaddexp.reduce(log_densities) - math.log(len(log_densities)))


KINDS = ["mas", "forward_sum", "given", "uniform"]


@pytest.mark.parametrize("kind", KINDS)
def test_against_every_path(kind):
    """Whatever picks the path, the figure is of all of them."""
    outputs = outputs_of(kind)
    x, found = outputs.latents, utterance_sums(outputs, TOKENS)
    for b in range(B):
        t = int(FRAMES[b])
        q = torch.distributions.Normal(x.q.mean[b, :, :t], x.q.log_std[b, :, :t].exp())
        minus_log_p = by_enumeration(outputs, b)
        assert found["over_paths"][b].item() == pytest.approx(minus_log_p - q.entropy().sum().item(), abs=1e-9)
        by_sample = minus_log_p + q.log_prob(x.z[b, :, :t]).sum().item()
        assert found["over_paths_monte_carlo"][b].item() == pytest.approx(by_sample, abs=1e-9)
    one_path = found["half_analytic"] - found["over_paths"]
    assert one_path[:2].abs().min() > 1e-3 and abs(one_path[2]) < 1e-9, (
        "planted: one path alone; a single token has one"
    )


@pytest.mark.parametrize("kind", ["mas", "given", "uniform"])
def test_the_identity_of_hard_paths(kind):
    """KL over paths = KL on the path + ln N - gap, by utterance and in the logged figures."""
    sums = utterance_sums(outputs_of(kind), TOKENS)
    torch.testing.assert_close(sums["over_paths"], sums["half_analytic"] + sums["log_paths"] - sums["gap"])
    figures = over_path_statistics([sums])
    on_path, paths = ((sums[name].sum() / FRAMES.sum()).item() for name in ("half_analytic", "log_paths"))
    assert figures["kl/over_paths"] == pytest.approx(on_path + paths - figures["mas/gap_per_frame"], abs=1e-12)
    assert (sums["gap"] > -1e-12).all() and (kind != "mas" or (sums["gap"] < sums["log_paths"] + 1e-12).all())


def test_a_soft_prior_is_a_surrogate():
    """Its value lies off log_sum by the entropy of the alignment, so the identity of hard paths does not hold of it."""
    sums = utterance_sums(outputs_of("forward_sum"), TOKENS)
    by_identity = sums["half_analytic"] + sums["log_paths"] - sums["gap"]
    assert (by_identity - sums["over_paths"])[:2].abs().min() > 1e-3
    hard = utterance_sums(outputs_of("mas"), TOKENS)
    torch.testing.assert_close(sums["over_paths"], hard["over_paths"])


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_recording(kind):
    outputs = outputs_of(kind, recording=True)
    sums = utterance_sums(outputs, TOKENS)
    assert sums["nll_over_paths"].tolist() == pytest.approx([by_enumeration(outputs, b) for b in range(B)], abs=1e-9)
    figures = over_path_statistics([sums])
    assert set(figures) == {"mas/gap_per_frame", "nll/over_paths", "nll/error_per_frame", "nll/error_over_paths"}


def toy(kind: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """T28: three frames, tokens N(-1, 1) and N(1, 1). The outer frames are the tokens themselves, the middle one is
    N(0, s^2) at the best s. Sums of 20,001 such utterances on a grid of the middle frame, and the grid's weights."""
    c = math.sqrt(2 / math.pi)
    std = (c + math.sqrt(c * c + 4)) / 2
    nodes, weights = line(20_001)
    n = nodes.shape[1]
    q = Gaussian(
        torch.tensor([[[-1.0, 0.0, 1.0]]], dtype=F64).expand(n, 1, 3),
        torch.tensor([[[0.0, math.log(std), 0.0]]], dtype=F64).expand(n, 1, 3),
    )
    eps = normal(n, 1, 3, seed=0)
    eps[:, 0, 1] = nodes[0]
    z = q.sample(eps)
    p_text = Gaussian(torch.tensor([[[-1.0, 1.0]]], dtype=F64).expand(n, 1, 2), torch.zeros(n, 1, 2, dtype=F64))
    lengths = torch.full((n,), 2), torch.full((n,), 3)
    durations = alignment.uniform(*lengths, 2)
    if kind == "mas":
        durations = alignment.monotonic_alignment(alignment.log_likelihood(z, p_text), *lengths, [""] * n)
    p = Gaussian(*(alignment.expand(v, durations, 3) for v in p_text))
    flow = FlowOf()
    mask = torch.ones(n, 1, 3, dtype=torch.bool)
    x = Latents(q, p, z, *flow(z, mask), mask, flow, torch.arange(n))
    return utterance_sums(outputs_with(x, p_text, durations), lengths[0]), weights


@pytest.mark.parametrize(
    ("kind", "on_path", "hindsight"), [("mas", -0.47773, 0.6996 + 0.47773), ("uniform", 0.6996, 0)]
)
def test_the_toy_whose_kl_the_search_makes_negative(kind, on_path, hindsight):
    """T28: the KL on the found path is negative, over all paths it is not, and is the same whatever the path.

    The sample that the path did not see is priced as if the path were fixed.
    """
    sums, weights = toy(kind)
    found = {name: (sums[name] * weights).sum().item() for name in sums}
    assert found["monte_carlo"] == pytest.approx(on_path, abs=5e-5)
    assert found["over_paths_monte_carlo"] == pytest.approx(0.01548, abs=1e-5)
    assert found["hindsight"] == pytest.approx(hindsight, abs=0.08)  # one redrawn sample each
    assert found["half_analytic"] == pytest.approx(on_path, abs=0.08)


def test_quiet_is_the_control_variate_of_an_utterance_alone():
    x = outputs_of("mas").latents
    for b in range(B):
        one = slice(b, b + 1)
        alone = x._replace(
            posterior=Gaussian(*(v[one] for v in x.q)),
            p=Gaussian(*(v[one] for v in x.p)),
            **{name: getattr(x, name)[one] for name in ("z", "z_p", "log_det", "mask")},
        )
        torch.testing.assert_close(quiet(x)[one], kl.optimal_control_variate(alone))


@pytest.mark.parametrize("garbage", [1e30, math.nan])
def test_padding_has_no_influence(garbage):
    clean, spoilt = (utterance_sums(outputs_of("mas", padding=value), TOKENS) for value in (0.0, garbage))
    assert all(torch.equal(clean[name], spoilt[name]) for name in clean)


def test_the_error_is_clustered_by_utterance():
    """The spread of the figure over redrawn sets of utterances, whose frames are all alike; and not sqrt(frames)."""
    generator = np.random.default_rng(0)
    figures, errors = [], []
    for _ in range(2000):
        frames = generator.integers(20, 60, size=40)
        sums = frames * generator.normal(2.0, 0.5, size=40)  # every frame of an utterance has its value
        figures.append(sums.sum() / frames.sum())
        errors.append(clustered_error(torch.tensor(sums), torch.tensor(frames).double()))
    assert np.mean(errors) == pytest.approx(np.std(figures), rel=0.05)
    assert 0.5 / math.sqrt(40 * 40) < 0.2 * np.mean(errors), "planted: frames as if they were independent"
    one = {name: values[:1] for name, values in utterance_sums(outputs_of("mas"), TOKENS).items()}
    assert not any("error" in key for key in over_path_statistics([one])) and over_path_statistics([one])
