"""The wrong objectives are wrong in exactly the way their docstrings say. T26, T27."""

import pytest
import torch
from lab import F64, ONE_D_KL, latents, leaves_of, line, moments

from vitslite.objectives.kl import half_analytic
from vitslite.objectives.proposed import PROPOSED, WHY_WRONG, abs_elementwise, abs_first_term, clamp_elementwise

SAME = {"q": (0.0, 1.0), "p": (0.0, 1.0)}


def expected(estimator, q, p) -> tuple[float, float]:
    """Value and gradient to log_std_q, on a fine grid: the integrands have kinks."""
    eps, weights = line()
    leaves = leaves_of(q, p)
    value = (estimator(latents(eps, leaves=leaves))[0, 0] * weights).sum()
    return float(value.detach()), float(torch.autograd.grad(value, leaves[1])[0])


@pytest.mark.parametrize(
    ("estimator", "value", "gradient"),
    [
        (half_analytic, 0.0, 0.0),
        (abs_first_term, 1.0, 2.0),
        (abs_elementwise, 0.48394145, 0.96788290),
        (clamp_elementwise, 0.24197072, 0.48394145),
    ],
)
def test_t26_what_they_do_where_nothing_should_move(estimator, value, gradient):
    assert expected(estimator, **SAME) == pytest.approx((value, gradient), abs=1e-6)


@pytest.mark.parametrize(
    ("estimator", "minimum"),
    [(half_analytic, 1.0), (abs_first_term, 0.60653), (abs_elementwise, 0.62577), (clamp_elementwise, 0.70143)],
)
def test_t26_where_their_minimum_is(estimator, minimum):
    """Over the width of the posterior, at equal means: the KL has it at r = 1, they at a narrower posterior."""
    eps, weights = line(40_001)

    def lowest(widths) -> float:
        values = [(estimator(latents(eps, (0.0, float(r)), (0.0, 1.0)))[0, 0] * weights).sum() for r in widths]
        return float(widths[int(torch.stack(values).argmin())])

    coarse = lowest(torch.linspace(0.5, 1.1, 61, dtype=F64))
    fine = lowest(torch.linspace(coarse - 0.01, coarse + 0.01, 101, dtype=F64))
    assert fine == pytest.approx(minimum, abs=2e-4)


def test_every_proposal_says_why_it_is_wrong():
    assert WHY_WRONG.keys() == PROPOSED.keys()


def test_t27_a_clamped_element_gives_no_gradient():
    leaves = leaves_of(**SAME)
    for eps, is_below in ((0.5, True), (1.5, False)):
        gradients = torch.autograd.grad(clamp_elementwise(latents([[eps]], leaves=leaves)).sum(), leaves)
        assert all(float(g) == 0 for g in gradients) == is_below


@pytest.mark.parametrize("name", PROPOSED)
def test_none_of_them_is_an_estimate_of_the_kl(name):
    """Above it by three per cent or more in the running example: what was noise became bias."""
    assert expected(PROPOSED[name], (0.5, 0.8), (-0.2, 1.25))[0] > 1.03 * ONE_D_KL
    assert moments(half_analytic)[0] == pytest.approx(ONE_D_KL, abs=1e-12)
