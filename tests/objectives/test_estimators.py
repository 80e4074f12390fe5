"""Every estimator beyond the basic three: unbiased or not, its variance, its gradient. T11, T12, T21 to T25, T40."""

import math

import numpy as np
import pytest
import torch
from common import defaults_with
from lab import F64, ONE_D_KL, FlowOf, bent, cosine_shift, latents, leaves_of, line, moments, quadrature

from vitslite.objectives.kl import (
    ESTIMATORS,
    antithetic,
    half_analytic,
    k_sample,
    likelihood,
    mirrored,
    monte_carlo,
    optimal_control_variate,
    pushed_mean,
    redrawn,
    sticking_the_landing,
    without_log_det,
)
from vitslite.objectives.objective import ObjectiveSettings, build_estimator
from vitslite.tensors import Gaussian, SoftGaussian

R = 0.8 / 1.25  # std_q / std_p of the running example
D2R2 = (0.7 / 1.25 * R) ** 2  # d^2 r^2
UNBIASED = [half_analytic, monte_carlo, optimal_control_variate, antithetic, sticking_the_landing]


def linear_shift(z):
    return torch.cat([z[:, :1], z[:, 1:] + 0.8 * z[:, :1]], 1), torch.zeros_like(z)


def gradients(estimator, eps, **case) -> list[float]:
    leaves = leaves_of(**case)
    value = estimator(latents([[eps]], leaves=leaves)).sum()
    grads = torch.autograd.grad(value, leaves, allow_unused=True)
    return [0.0 if g is None else float(g) for g in grads]


def mean_gradients(estimator, n_nodes=8, **case) -> torch.Tensor:
    nodes, weights = quadrature(n_nodes)
    rows = torch.tensor([gradients(estimator, float(e), **case) for e in nodes[0]], dtype=F64)
    return (rows * weights[:, None]).sum(0)


# ------------------------------------------------------------------------------------------------ expectations


@pytest.mark.parametrize("estimator", UNBIASED)
@pytest.mark.parametrize("flow", [cosine_shift, linear_shift, bent])
def test_unbiased_behind_any_flow(estimator, flow):
    """T11, T12 and an affine flow: the expectation is that of half_analytic, whose T11 and T12 values are known."""
    case = {"q": ([0.2, -0.3], [0.6, 0.9]), "p": ([0.0, 0.4], [1.0, 1.1]), "flow": flow, "n_dims": 2}
    assert moments(estimator, **case)[0] == pytest.approx(moments(half_analytic, **case)[0], abs=1e-9)


@pytest.mark.parametrize("estimator", UNBIASED)
def test_t11_the_truth_behind_a_cosine_shift(estimator):
    case = {"q": ([0.0, 0.0], [1.0, 1.0]), "p": ([0.0, 0.0], [1.0, 1.0]), "flow": cosine_shift, "n_dims": 2}
    assert moments(estimator, **case)[0] == pytest.approx(0.25 * (1 + math.exp(-2)), abs=1e-9)


def test_pushed_mean_misses_what_a_shift_adds_to_the_variance():
    """T11: 0.5 instead of 0.2838. T12: too low by exactly 1/2 a^2 std_q0^2 / std_p1^2."""
    case = {"q": ([0.0, 0.0], [1.0, 1.0]), "p": ([0.0, 0.0], [1.0, 1.0]), "n_dims": 2}
    mean, variance = moments(pushed_mean, flow=cosine_shift, **case)
    assert mean == pytest.approx(0.5, abs=1e-12) and variance == pytest.approx(0, abs=1e-20)
    case = {"q": ([0.2, -0.3], [0.6, 0.9]), "p": ([0.0, 0.4], [1.0, 1.1]), "flow": linear_shift, "n_dims": 2}
    missed = moments(half_analytic, **case)[0] - moments(pushed_mean, **case)[0]
    assert moments(pushed_mean, **case)[0] == pytest.approx(0.3667029308, abs=1e-9)
    assert missed == pytest.approx(0.5 * 0.8**2 * 0.6**2 / 1.1**2, abs=1e-9)


def test_pushed_mean_is_right_where_the_shift_is_constant():
    def shift(z):
        return z + torch.tensor([0.3, -0.7], dtype=F64)[:, None], torch.zeros_like(z)

    case = {"q": ([0.2, -0.3], [0.6, 0.9]), "p": ([0.0, 0.4], [1.0, 1.1]), "flow": shift, "n_dims": 2}
    assert moments(pushed_mean, **case)[0] == pytest.approx(moments(half_analytic, **case)[0], abs=1e-10)


def test_k_samples_average_independent_draws():
    """T24: the variance falls as 1 / K, and k = 1 is half_analytic itself."""
    n = 20_000
    x = latents(torch.randn(1, n, dtype=F64, generator=torch.Generator().manual_seed(0)))
    variances = []
    for k in (1, 2, 4, 8):
        values = k_sample(x, k)[0, 0]
        assert float(values.mean()) == pytest.approx(ONE_D_KL, abs=4 * float(values.std()) / n**0.5)
        variances.append(float(values.var()))
    slope = np.polyfit(np.log([1, 2, 4, 8]), np.log(variances), 1)[0]
    assert slope == pytest.approx(-1, abs=0.02)
    assert torch.equal(k_sample(x, 1), half_analytic(x))
    assert torch.equal(build_estimator(ObjectiveSettings(kl="k_sample", kl_samples=3))(x), k_sample(x, 3))
    # The same draw again and again would not help: the planted fault.
    stuck = x._replace(keys=None)
    assert float(sum(half_analytic(stuck) for _ in range(4))[0, 0].var() / 16) == pytest.approx(variances[0], rel=1e-9)


# --------------------------------------------------------------------------------------------------- variances


def test_t21_variances_of_the_running_example():
    assert moments(half_analytic) == pytest.approx((ONE_D_KL, D2R2 + 0.5 * R**4), abs=1e-10)
    assert moments(monte_carlo) == pytest.approx((ONE_D_KL, D2R2 + 0.5 * (R**2 - 1) ** 2), abs=1e-10)
    assert moments(optimal_control_variate) == pytest.approx((ONE_D_KL, D2R2), abs=1e-10)
    assert moments(antithetic) == pytest.approx((ONE_D_KL, 0.5 * R**4), abs=1e-10)
    assert moments(lambda x: 0.5 * (monte_carlo(x) + monte_carlo(mirrored(x)))) == pytest.approx(
        (ONE_D_KL, 0.5 * (R**2 - 1) ** 2), abs=1e-10
    )
    assert pytest.approx(0.21233664) == D2R2 + 0.5 * R**4 and pytest.approx(0.12845056) == D2R2


def test_the_crossover_is_at_one_over_root_two():
    for r, half_is_better in ((0.70, True), (0.71, False)):
        case = {"q": (0.3, r), "p": (0.0, 1.0)}
        assert (moments(half_analytic, **case)[1] < moments(monte_carlo, **case)[1]) == half_is_better


def test_t23_k3_is_never_negative_and_unbiased_where_its_variance_exists():
    """w - 1 - log w with w = p / q. Its mean is the KL; its variance needs std_p^2 < 2 std_q^2."""
    case = {"q": (0.1, 1.0), "p": (0.0, 1.1)}
    eps, weights = line()
    log_w = -monte_carlo(latents(eps, **case))[0, 0]
    k3 = torch.expm1(log_w) - log_w
    assert float(k3.min()) >= 0
    assert float((k3 * weights).sum()) == pytest.approx(moments(half_analytic, **case)[0], abs=1e-8)
    with pytest.raises(ValueError, match="every run logs it as kl/k3"):
        defaults_with("objective.kl=k3")


# --------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("eps", [0.7, -1.3])
def test_the_control_variate_changes_no_gradient(eps):
    for other in (monte_carlo, half_analytic):
        assert gradients(optimal_control_variate, eps) == pytest.approx(gradients(other, eps), abs=1e-12)


def test_t25_sticking_the_landing():
    assert gradients(sticking_the_landing, 0.7) == pytest.approx([-0.0686, -0.038416, -0.8064, -0.016064], abs=1e-9)
    assert gradients(sticking_the_landing, -1.3) == pytest.approx([1.4074, -1.463696, 0.2176, 0.926016], abs=1e-9)
    assert mean_gradients(sticking_the_landing).tolist() == pytest.approx([0.448, -0.5904, -0.448, 0.2768], abs=1e-9)
    same = {"q": (0.3, 0.7), "p": (0.3, 0.7)}
    for eps in (-2.0, 0.4, 1.7):
        assert gradients(sticking_the_landing, eps, **same)[:2] == pytest.approx([0, 0], abs=1e-12)
        assert gradients(half_analytic, eps, **same)[:2] == pytest.approx([eps / 0.7, eps**2 - 1], abs=1e-12)


@pytest.mark.parametrize("estimator", [e for e in UNBIASED if e is not sticking_the_landing])
def test_expected_gradients_are_those_of_the_kl(estimator):
    assert mean_gradients(estimator).tolist() == pytest.approx([0.448, -0.5904, -0.448, 0.2768], abs=1e-9)


def test_likelihood_lacks_the_entropy_and_nothing_else():
    """T40: prior and flow get the gradient of the KL, the posterior does not; floor 1/2 log 2 pi for a unit prior."""
    for eps in (0.7, -1.3):
        mean_q, log_std_q, *prior = gradients(likelihood, eps)
        kl = gradients(half_analytic, eps)
        assert prior == pytest.approx(kl[2:], abs=1e-12)
        assert (mean_q, log_std_q) == pytest.approx((kl[0], kl[1] + 1), abs=1e-12)
    x = latents([[0.0]], q=(0.4, 0.5), p=(0.4, 1.0))
    assert float(likelihood(x)) == pytest.approx(0.918938533, abs=1e-9)


# ------------------------------------------------------------------------------------------------- containers


def test_another_point_goes_through_the_flow_and_stays_off_the_padding():
    x = latents([[0.3, 1.0], [-0.5, 2.0]], q=([0.0, 1.0], [1.0, 0.5]), p=([0.0, 0.0], [1.0, 1.0]), flow=bent)
    mask = torch.tensor([[[True, False]]])
    moved = x._replace(mask=mask).at(x.z + 1)
    torch.testing.assert_close(moved.z[..., 0], x.z[..., 0] + 1)
    assert (moved.z[..., 1] == 0).all()
    torch.testing.assert_close(moved.z_p, bent(moved.z)[0])
    torch.testing.assert_close(moved.log_det, bent(moved.z)[1])
    torch.testing.assert_close(mirrored(x).noise, -x.noise)
    torch.testing.assert_close(x.noise[0], torch.tensor([[0.3, 1.0], [-0.5, 2.0]], dtype=F64))


def test_a_dropped_log_determinant_stays_dropped_in_other_points():
    x = latents([[0.3], [-0.5]], q=([0.0, 1.0], [1.0, 0.5]), p=([0.0, 0.0], [1.0, 1.0]), flow=bent)
    assert x.log_det.abs().sum() > 0
    assert without_log_det(x).log_det.abs().sum() == 0
    assert redrawn(without_log_det(x), 1).log_det.abs().sum() == 0
    dropped = build_estimator(ObjectiveSettings(kl="antithetic", log_det="drop"))(x)
    mean_log_det = 0.5 * (x.log_det + mirrored(x).log_det)
    torch.testing.assert_close(dropped, antithetic(x) + mean_log_det)


def test_a_soft_prior_with_one_token_per_frame_is_that_token():
    tokens = Gaussian(torch.randn(1, 2, 2, dtype=F64), torch.randn(1, 2, 2, dtype=F64))
    weight = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]], dtype=F64)
    hard = Gaussian(*(v @ weight for v in tokens))
    x = torch.randn(1, 2, 3, dtype=F64)
    soft = SoftGaussian(tokens, weight)
    torch.testing.assert_close(soft.log_prob(x), hard.log_prob(x))
    torch.testing.assert_close(soft.mean, hard.mean)
    halves = SoftGaussian(tokens, torch.full_like(weight, 0.5))
    parts = [Gaussian(*(v[:, :, i : i + 1] for v in tokens)).log_prob(x) for i in range(2)]
    torch.testing.assert_close(halves.log_prob(x), 0.5 * (parts[0] + parts[1]))


@pytest.mark.parametrize("name", [n for n in ESTIMATORS if n != "carried_mean"])  # that one needs couplings
def test_t38_finite_for_any_width(name):
    grid = torch.linspace(-10, 10, 21, dtype=torch.float32)
    widths = [g.reshape(1, 1, -1).clone().requires_grad_() for g in torch.meshgrid(grid, grid, indexing="ij")]
    zero = torch.zeros_like(widths[0])
    x = latents(torch.ones(1, 441), flow=lambda z: (z, torch.zeros_like(z)))
    q, p = Gaussian(zero, widths[0]), Gaussian(zero, widths[1])
    x = x._replace(posterior=q, p=p, flow=FlowOf()).at(q.sample(torch.ones_like(zero)))
    value = ESTIMATORS[name](x)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert all(w.grad is None or torch.isfinite(w.grad).all() for w in widths)
