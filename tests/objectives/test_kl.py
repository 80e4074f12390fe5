"""The KL estimators against closed forms, quadrature and autograd. Numbers T1 to T18: see docs/identities.md."""

import math

import pytest
import torch
from lab import F64, bent, cosine_shift, latents, quadrature
from torch.distributions import Normal, kl_divergence

from vitslite.objectives.kl import closed_form, gaussian_kl, half_analytic, monte_carlo
from vitslite.tensors import Gaussian, Latents


def gaussian(mean, std):
    mean = torch.as_tensor(mean, dtype=F64)
    return Gaussian(mean, torch.log(torch.as_tensor(std, dtype=F64)).expand_as(mean))


def expectation(estimator, n_nodes=60, n_dims=2, **kwargs) -> float:
    nodes, weights = quadrature(n_nodes, n_dims)
    return float((estimator(latents(nodes, **kwargs)).sum(1)[0] * weights).sum())


T1_TABLE = {  # eps: (half_analytic, monte_carlo)
    -1.5: (0.026287, -0.598713),
    -0.5: (-0.024913, 0.350087),
    0.0: (0.103087, 0.603087),
    0.5: (0.333487, 0.708487),
    1.5: (1.101487, 0.476487),
}


def test_t1_values_without_a_flow():
    assert float(closed_form(latents([[0.0]]))) == pytest.approx(0.3078871026, abs=1e-10)
    for eps, (half, mc) in T1_TABLE.items():
        x = latents([[eps]])
        assert float(half_analytic(x)) == pytest.approx(half, abs=1e-6)
        assert float(monte_carlo(x)) == pytest.approx(mc, abs=1e-6)


@pytest.mark.parametrize("estimator", [half_analytic, monte_carlo])
def test_t2_two_points_are_exact(estimator):
    pair = estimator(latents([[1.0, -1.0]]))
    assert float(pair.mean()) == pytest.approx(0.30788710262841945, abs=1e-14)


def test_t3_estimators_differ_by_the_noise_alone():
    eps = torch.randn(2, 50, dtype=F64, generator=torch.Generator().manual_seed(0))
    for flow in (None, bent):
        x = latents(eps, flow=flow)
        difference = (half_analytic(x) - monte_carlo(x))[0]
        torch.testing.assert_close(difference, 0.5 * (eps**2 - 1), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("eps", "expected"),
    [(0.7, [0.8064, -0.548416, -0.8064, -0.016064]), (-1.3, [-0.2176, -0.773696, 0.2176, 0.926016])],
)
@pytest.mark.parametrize("estimator", [half_analytic, monte_carlo])
def test_t4_gradients_are_equal_sample_by_sample(estimator, eps, expected):
    leaves = [torch.tensor([[[v]]], dtype=F64, requires_grad=True) for v in (0.5, math.log(0.8), -0.2, math.log(1.25))]
    q, p = Gaussian(*leaves[:2]), Gaussian(*leaves[2:])
    z = q.sample(torch.full((1, 1, 1), eps, dtype=F64))
    x = Latents(q, p, z, z, torch.zeros_like(z), torch.ones(1, 1, 1, dtype=torch.bool))
    gradients = torch.autograd.grad(estimator(x).sum(), leaves)
    assert [float(g) for g in gradients] == pytest.approx(expected, abs=1e-9)


def test_t4_gradient_of_the_closed_form():
    leaves = [torch.tensor(v, dtype=F64, requires_grad=True) for v in (0.5, math.log(0.8), -0.2, math.log(1.25))]
    gradients = torch.autograd.grad(gaussian_kl(Gaussian(*leaves[:2]), Gaussian(*leaves[2:])), leaves)
    assert [float(g) for g in gradients] == pytest.approx([0.448, -0.5904, -0.448, 0.2768], abs=1e-9)


def test_t5_closed_form_is_that_of_torch_and_the_expectation_of_the_others():
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(2, 3, 4, 5, dtype=F64, generator=generator) for _ in range(2))
    q, p = Gaussian(a[0], a[1]), Gaussian(b[0], b[1])
    reference = kl_divergence(Normal(q.mean, q.log_std.exp()), Normal(p.mean, p.log_std.exp()))
    torch.testing.assert_close(gaussian_kl(q, p), reference, atol=1e-10, rtol=1e-10)
    for estimator in (half_analytic, monte_carlo):
        assert expectation(estimator, n_nodes=5, n_dims=1) == pytest.approx(0.3078871026, abs=1e-10)


def test_t6_is_the_prior_loss_of_grad_tts():
    """With a unit prior, half_analytic + log_std_q + 1/2 + 1/2 log 2 pi is 1/2 ((y - mu)^2 + log 2 pi)."""
    x = latents([[0.3, -1.2]], p=(0.4, 1.0))
    per_element = half_analytic(x) + x.q.log_std + 0.5 + 0.5 * math.log(2 * math.pi)
    prior_loss = 0.5 * ((x.z_p - x.p.mean) ** 2 + math.log(2 * math.pi))
    torch.testing.assert_close(per_element, prior_loss, atol=1e-12, rtol=0)
    at_the_mean = half_analytic(x._replace(z_p=x.p.mean)) + x.q.log_std + 0.5 + 0.5 * math.log(2 * math.pi)
    assert float(at_the_mean.mean()) == pytest.approx(0.918938533, abs=1e-9)


def test_t11_behind_a_nonlinear_shift_sampling_is_right_and_the_closed_form_is_not():
    standard = {"q": ([0.0, 0.0], [1.0, 1.0]), "p": ([0.0, 0.0], [1.0, 1.0]), "flow": cosine_shift}
    truth = 0.25 * (1 + math.exp(-2))
    assert expectation(half_analytic, **standard) == pytest.approx(truth, abs=1e-10)
    assert expectation(monte_carlo, **standard) == pytest.approx(truth, abs=1e-10)
    assert expectation(closed_form, **standard) == pytest.approx(0.0, abs=1e-12)
    pushed = gaussian_kl(gaussian([0.0, 1.0], [1.0, 1.0]), gaussian([0.0, 0.0], [1.0, 1.0]))
    assert float(pushed.sum()) == pytest.approx(0.5)


def test_t12_behind_a_linear_shift():
    def shift(z):
        return torch.cat([z[:, :1], z[:, 1:] + 0.8 * z[:, :1]], 1), torch.zeros_like(z)

    case = {"q": ([0.2, -0.3], [0.6, 0.9]), "p": ([0.0, 0.4], [1.0, 1.1]), "flow": shift}
    assert expectation(half_analytic, **case) == pytest.approx(0.4619095424, abs=1e-9)
    assert expectation(monte_carlo, **case) == pytest.approx(0.4619095424, abs=1e-9)
    assert expectation(closed_form, **case) == pytest.approx(0.4486864019, abs=1e-9)


@pytest.mark.parametrize(
    ("s", "truth", "dropped"),
    [(-1, 0.5676676, -0.4323324), (-0.5, 0.1839397, -0.3160603), (0, 0.0, 0.0), (0.5, 0.3591409, 0.8591409)],
)
def test_t16_scaling_needs_its_log_determinant(s, truth, dropped):
    case = {"q": (0.0, 1.0), "p": (0.0, 1.0), "n_dims": 1}
    for estimator in (half_analytic, monte_carlo):
        value = expectation(estimator, flow=lambda z: (z * math.exp(s), torch.full_like(z, s)), **case)
        assert value == pytest.approx(truth, abs=1e-7)
        faulty = expectation(estimator, flow=lambda z: (z * math.exp(s), torch.zeros_like(z)), **case)
        assert faulty == pytest.approx(dropped, abs=1e-7)


def test_t17_carrying_the_scale_is_subtracting_the_log_determinant():
    eps = torch.tensor([[0.3, -1.1], [0.9, 0.2]], dtype=F64)
    x = latents(eps, flow=bent)
    carried = x._replace(posterior=Gaussian(x.q.mean, x.q.log_std + x.log_det), log_det=torch.zeros_like(x.log_det))
    torch.testing.assert_close(half_analytic(x), half_analytic(carried), atol=1e-12, rtol=0)


def test_t18_a_constant_log_determinant_shifts_the_value_only():
    eps = torch.randn(192, 7, dtype=F64, generator=torch.Generator().manual_seed(2))
    x = latents(eps)
    shifted = x._replace(log_det=x.log_det + 4 * math.log(2))
    shift = (half_analytic(x) - half_analytic(shifted)).sum(1).mean()
    assert float(shift) == pytest.approx(532.34, abs=5e-3)


def test_t22_noise_at_q_equal_p():
    """monte_carlo is zero there; half_analytic is negative for 68 % of the elements, with variance 1/2."""
    nodes, weights = quadrature(5, 1)
    x = latents(nodes, q=(0.3, 0.7), p=(0.3, 0.7))
    assert float(monte_carlo(x).abs().max()) < 1e-12
    half = half_analytic(x)[0, 0]
    assert float((half**2 * weights).sum() - (half * weights).sum() ** 2) == pytest.approx(0.5)
    eps = torch.linspace(-8, 8, 400_001, dtype=F64)
    density = torch.exp(-0.5 * eps**2)
    negative = half_analytic(latents(eps[None], q=(0.3, 0.7), p=(0.3, 0.7)))[0, 0] < 0
    assert float((density * negative).sum() / density.sum()) == pytest.approx(0.6826895, abs=1e-4)


@pytest.mark.parametrize("estimator", [half_analytic, monte_carlo, closed_form])
def test_t38_finite_for_any_width(estimator):
    grid = torch.linspace(-10, 10, 21)
    q_log_std, p_log_std = (g.reshape(1, 1, -1) for g in torch.meshgrid(grid, grid, indexing="ij"))
    q_log_std = q_log_std.clone().requires_grad_()
    p_log_std = p_log_std.clone().requires_grad_()
    zero = torch.zeros_like(q_log_std)
    q, p = Gaussian(zero, q_log_std), Gaussian(zero, p_log_std)
    z = q.sample(torch.ones_like(zero))
    value = estimator(Latents(q, p, z, z, zero, torch.ones(1, 1, zero.shape[2], dtype=torch.bool)))
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(q_log_std.grad).all() and torch.isfinite(p_log_std.grad).all()
