"""Proposed fixes for a negative KL (abs, clamp), wrong on purpose, so that one can see what they do; and distances.

None of it changes what it was meant to fix, the noise of a single sample; each changes the objective instead. Where
q = p, that is where the KL is zero and nothing should move:

                          value     gradient to log_std_q     its own minimum, at r = std_q / std_p
    half_analytic          0                0                  1
    abs_first_term         1                +2                 exp(-1/2) = 0.607, a kink
    abs_elementwise        0.4839          +0.9679             0.626
    clamp_elementwise      0.2420          +0.4839             0.701

(expectations in nats per element; tests/objectives/test_proposed.py). All of them push the posterior's noise down.
"""

from jaxtyping import Float
from torch import Tensor

from vitslite.objectives.kl import Estimator, half_analytic
from vitslite.tensors import LOG_2PI, Latents


def abs_first_term(x: Latents) -> Float[Tensor, "B D T"]:
    """|log_std_p - log_std_q - 1/2| + 1/2 ((z_p - mean_p) / std_p)^2 - log_det.

    The absolute value turns the gradient of entropy and normaliser round wherever r > exp(-1/2), which includes q = p.
    """
    first = x.p.log_std - x.q.log_std - 0.5
    quadratic = -x.p.log_prob(x.z_p) - x.p.log_std - 0.5 * LOG_2PI
    return first.abs() + quadratic - x.log_det


def abs_elementwise(x: Latents) -> Float[Tensor, "B D T"]:
    """|half_analytic| of every element: noise of mean zero is folded into a positive bias."""
    return half_analytic(x).abs()


def clamp_elementwise(x: Latents) -> Float[Tensor, "B D T"]:
    """max(half_analytic, 0) of every element: no gradient at all from the 68 % that lie below zero at q = p."""
    return half_analytic(x).clamp(min=0)


def l1(x: Latents) -> Float[Tensor, "B D T"]:
    """|z_p - mean_p|: for z the recording, "any distance" in the place of the Gaussian. No likelihood of unit width."""
    return (x.z_p - x.p.mean).abs()


def l2(x: Latents) -> Float[Tensor, "B D T"]:
    """(z_p - mean_p)^2: of a prior of unit variance twice the likelihood, less a constant; so twice its gradient."""
    return (x.z_p - x.p.mean) ** 2


WHY_WRONG = {
    "abs_first_term": "turns the gradient of the entropy round where std_q > 0.61 std_p; its minimum is there",
    "abs_elementwise": "folds the noise of every element into a bias that narrows the posterior (r = 0.63)",
    "clamp_elementwise": "has no gradient from elements below 0, and narrows the posterior (r = 0.70)",
}
PROPOSED: dict[str, Estimator] = {f.__name__: f for f in (abs_first_term, abs_elementwise, clamp_elementwise)}
DISTANCES: dict[str, Estimator] = {f.__name__: f for f in (l1, l2)}
