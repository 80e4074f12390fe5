"""The exact KL behind a linear flow: against quadrature, the general formula for two Gaussians, and the closed form.

And what priced at other samples than its own an estimator reads under an alignment search.
"""

import pytest
import torch
from lab import F64, latents, leaves_of, quadrature

from vitslite.model import alignment
from vitslite.model.flows import LINEAR_KINDS, Flow, FlowSettings
from vitslite.objectives.kl import (
    antithetic,
    closed_form,
    exact_linear,
    half_analytic,
    k_sample,
    mirrored,
    pushed_mean,
    redrawn,
)
from vitslite.objectives.regularisers import posterior_side
from vitslite.tensors import Gaussian, Latents

CASE = {"q": ([0.2, -0.3, 1.1], [0.6, 0.9, 0.4]), "p": ([0.0, 0.4, -0.5], [1.0, 1.1, 0.7])}


def linear_flow(kind: str, n_layers: int, n_channels: int = 3) -> Flow:
    torch.manual_seed(n_layers)
    flow = Flow(FlowSettings(kind=kind, n_couplings=n_layers), n_channels).double()
    for p in flow.parameters():
        torch.nn.init.normal_(p, std=0.8)
    return flow


def behind(flow: Flow, eps: torch.Tensor, leaves: list[torch.Tensor]) -> Latents:
    x = latents(eps, leaves=leaves)
    return x._replace(flow=flow).at(x.z)


def mean_over_noise(estimator, flow: Flow, leaves: list[torch.Tensor]) -> torch.Tensor:
    """Per channel; exact for quadratics in the noise."""
    nodes, weights = quadrature(4, 3)
    return (estimator(behind(flow, nodes, leaves))[0] * weights).sum(1)


@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize("kind", LINEAR_KINDS)
def test_each_element_and_its_gradient_are_the_expectation_of_half_analytic(kind, n_layers):
    """With reversals of the channels between the layers, and an odd number of them."""
    flow, leaves = linear_flow(kind, n_layers), leaves_of(**CASE)
    exact = exact_linear(behind(flow, torch.zeros(3, 2, dtype=F64), leaves))
    truth = mean_over_noise(half_analytic, flow, leaves)
    torch.testing.assert_close(exact[0, :, 0], truth, atol=1e-12, rtol=1e-12)
    assert torch.equal(exact[0, :, 0], exact[0, :, 1])
    inputs = [*leaves, *flow.parameters()]
    found, expected = (torch.autograd.grad(v.sum(), inputs, retain_graph=True) for v in (exact[..., 0], truth))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-11)
    for faulty in (closed_form, pushed_mean):  # planted: the variance as if the channels stayed apart
        assert (mean_over_noise(faulty, flow, leaves) - truth).abs().max() > 0.01, faulty


@pytest.mark.parametrize("kind", LINEAR_KINDS)
def test_the_sum_is_the_kl_of_a_full_covariance(kind):
    """By torch.distributions, from the matrix that autograd sees in the flow."""
    flow, leaves = linear_flow(kind, 3), leaves_of(**CASE)
    x = behind(flow, torch.zeros(3, 1, dtype=F64), leaves)
    mask = torch.ones(1, 1, 1, dtype=torch.bool)
    a = torch.autograd.functional.jacobian(lambda z: flow(z[None, :, None], mask)[0][0, :, 0], x.z[0, :, 0])
    q = torch.distributions.MultivariateNormal(
        a @ x.q.mean[0, :, 0], a @ torch.diag(torch.exp(2 * x.q.log_std[0, :, 0])) @ a.T
    )
    p = torch.distributions.MultivariateNormal(x.p.mean[0, :, 0], torch.diag(torch.exp(2 * x.p.log_std[0, :, 0])))
    assert exact_linear(x).sum().item() == pytest.approx(torch.distributions.kl_divergence(q, p).item(), abs=1e-10)


def test_without_a_flow_it_is_the_closed_form():
    x = behind(linear_flow("none", 3), torch.zeros(3, 2, dtype=F64), leaves_of(**CASE))
    torch.testing.assert_close(exact_linear(x), closed_form(x), atol=1e-14, rtol=1e-14)


def test_the_flow_may_be_held_fixed():
    """objective.regulariser calls it with detached parameters: the value stays, the flow gets nothing."""
    flow, leaves = linear_flow("linear_iaf", 2), leaves_of(**CASE)
    x = behind(flow, torch.zeros(3, 1, dtype=F64), leaves)
    held = exact_linear(posterior_side(x))
    torch.testing.assert_close(held, exact_linear(x))
    grads = torch.autograd.grad(held.sum(), [leaves[0], *flow.parameters()], allow_unused=True)
    assert grads[0] is not None and all(g is None or not g.any() for g in grads[1:])


# ------------------------------------------------------------------------------------- other samples under a search


def searched(spread: float, seed: int = 0) -> Latents:
    """Many frames of alike tokens, the path searched at the sample that is priced."""
    n_tokens, n_frames, n_channels = 40, 200, 4
    generator = torch.Generator().manual_seed(seed)

    def normal(n):
        return torch.randn(1, n_channels, n, dtype=F64, generator=generator)

    p_text = Gaussian(spread * normal(n_tokens), torch.zeros(1, n_channels, n_tokens, dtype=F64))
    q = Gaussian(torch.zeros(1, n_channels, n_frames, dtype=F64), torch.zeros(1, n_channels, n_frames, dtype=F64))
    z = q.sample(normal(n_frames))
    mask = torch.ones(1, 1, n_frames, dtype=torch.bool)
    lengths = torch.tensor([n_tokens]), torch.tensor([n_frames])
    durations = alignment.monotonic_alignment(alignment.log_likelihood(z, p_text), *lengths, ["a"])
    p = Gaussian(*(alignment.expand(v, durations, n_frames) for v in p_text))
    flow = linear_flow("none", 1, n_channels)
    return Latents(q, p, z, *flow(z, mask), mask, flow, torch.tensor([seed]))


def test_further_samples_are_priced_on_the_path_of_the_first():
    """So they have none of its hindsight, and the mirror still less: k_sample and antithetic read more than one draw.

    k_sample reads (k - 1) / k of the hindsight more, and all of it is the path's: without a choice there is none.
    """

    def readings(spread: float) -> dict[str, float]:
        worlds = [searched(spread, seed) for seed in range(30)]
        estimators = {
            "own": half_analytic,
            "redrawn": lambda x: half_analytic(redrawn(x, 1)),
            "mirrored": lambda x: half_analytic(mirrored(x)),
            "k_sample": k_sample,
            "antithetic": antithetic,
            "exact": exact_linear,
        }
        return {name: sum(f(x).sum(1).mean().item() for x in worlds) / 30 for name, f in estimators.items()}

    found = readings(spread=0.5)
    hindsight = found["redrawn"] - found["own"]
    assert hindsight > 0.15 and found["mirrored"] > found["redrawn"] + 0.1
    assert found["k_sample"] - found["own"] == pytest.approx(0.75 * hindsight, abs=0.06)
    assert found["antithetic"] == pytest.approx(0.5 * (found["own"] + found["mirrored"]), abs=1e-9)
    assert found["exact"] == pytest.approx(found["redrawn"], abs=0.06), (
        "exact given the path, so without hindsight, too"
    )
    alike = readings(spread=0.0)  # every path costs the same
    assert max(alike.values()) - min(alike.values()) < 0.06
