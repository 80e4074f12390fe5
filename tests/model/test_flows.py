"""Every flow by the same checks: f^-1(f(z)) = z, and log_det is the log-determinant of the Jacobian.

Numbers T13 to T37: see docs/identities.md.
"""

import math

import pytest
import torch
from common import defaults_with
from lab import F64, moments
from torch import nn

from vitslite.model.flows import KINDS, LINEAR_KINDS, VOLUME_PRESERVING, Coupling, Flow, FlowSettings
from vitslite.model.glow import ActNorm, build_flow
from vitslite.model.linear_flows import UnitTriangular
from vitslite.objectives.kl import gaussian_kl, half_analytic, monte_carlo
from vitslite.tensors import Gaussian, sequence_mask

D, T = 4, 6
LENGTHS = torch.tensor([6, 4])
MASK = sequence_mask(LENGTHS, T)


def make(kind, n_couplings=4, weight_norm=True, cls=build_flow, seed=0):
    """A small flow that is far from the identity it starts as."""
    torch.manual_seed(seed)
    settings = FlowSettings(kind, hidden=8, kernel=3, n_layers=2, n_couplings=n_couplings, weight_norm=weight_norm)
    flow = cls(settings, D)
    for layer in flow.modules():
        if isinstance(layer, Coupling):
            nn.init.normal_(layer.post.weight, std=0.5)
            nn.init.normal_(layer.post.bias, std=0.3)
        elif isinstance(layer, UnitTriangular):
            nn.init.normal_(layer.weight, std=0.5)
        elif isinstance(layer, ActNorm):
            nn.init.normal_(layer.log_scale, std=0.3)
            nn.init.normal_(layer.shift, std=0.3)
    return flow  # reflections and rotations are random from the start


def sample(seed=1):
    torch.manual_seed(seed)
    return torch.randn(2, D, T) * MASK


def check_inverse(flow):
    z = sample()
    z_p, _ = flow(z, MASK)
    torch.testing.assert_close(flow.inverse(z_p, MASK), z, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(flow(flow.inverse(z, MASK), MASK)[0], z, atol=2e-6, rtol=1e-5)


def check_log_det(flow):
    """T17: the sum over an utterance is slogdet of the full Jacobian over its valid frames. T37: 0 on padding."""
    z = sample()
    _, log_det = flow(z, MASK)
    jacobian = torch.autograd.functional.jacobian(lambda x: flow(x, MASK)[0], z)
    for b, n in enumerate(LENGTHS.tolist()):
        matrix = jacobian[b, :, :n, b, :, :n].reshape(D * n, D * n)
        torch.testing.assert_close(log_det[b].sum(), torch.linalg.slogdet(matrix.double()).logabsdet.float())
        assert (log_det[b, :, n:] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_couplings", [1, 3, 4])
def test_forward_and_inverse(kind, n_couplings):
    check_inverse(make(kind, n_couplings))


@pytest.mark.parametrize("kind", KINDS)
def test_the_flows_of_these_tests_are_far_from_the_identity(kind):
    """Else an inverse or a log-determinant that is missing would not show."""
    moved = (make(kind)(sample(), MASK)[0] - sample()).abs().mean()
    assert moved > 0.1 or (kind == "none" and moved == 0)


@pytest.mark.parametrize("kind", KINDS)
def test_log_det_is_that_of_the_jacobian(kind):
    check_log_det(make(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_volume_preserving_kinds_and_no_others_have_log_det_exactly_zero(kind):
    assert bool((make(kind)(sample(), MASK)[1] == 0).all()) == (kind in VOLUME_PRESERVING)


def test_the_checks_find_a_dropped_log_det_and_a_forgotten_flip():
    class Dropped(Flow):
        def forward(self, z, mask):
            z_p, log_det = super().forward(z, mask)
            return z_p, torch.zeros_like(log_det)

    class NoFlip(Flow):
        def inverse(self, z_p, mask):
            for coupling in reversed(self.couplings):
                z_p = coupling.inverse(z_p, mask)
            return z_p

    class WrongSign(Flow):
        def forward(self, z, mask):
            z_p, log_det = super().forward(z, mask)
            return z_p, -log_det

    for fault, check in ((Dropped, check_log_det), (WrongSign, check_log_det), (NoFlip, check_inverse)):
        with pytest.raises(AssertionError):
            check(make("affine", cls=fault))
    with pytest.raises(AssertionError):
        check_inverse(make("linear_iaf", cls=NoFlip))


@pytest.mark.parametrize("check", [check_inverse, check_log_det])
def test_the_checks_find_a_triangular_layer_with_a_non_unit_diagonal(check, monkeypatch):
    def with_diagonal(layer):
        return torch.tril(layer.weight, -1) + 0.1 * torch.eye(D)

    monkeypatch.setattr(UnitTriangular, "_below_diagonal", with_diagonal)
    with pytest.raises(AssertionError):
        check(make("linear_iaf", n_couplings=1))


def test_log_det_stands_at_its_own_element():
    flow, z = make("affine", n_couplings=1), sample()
    z_p, log_det = flow(z, MASK)
    jacobian = torch.autograd.functional.jacobian(lambda x: flow(x, MASK)[0], z)
    for c in range(D):
        for t in range(T):  # one coupling: each output scales the input of its own channel
            torch.testing.assert_close(jacobian[0, c, t, 0, c, t], log_det[0, c, t].exp())
    assert (log_det[0, : D // 2] == 0).all() and (log_det[0, D // 2 :] != 0).all()


def test_subtracting_log_det_equals_carrying_the_scale_of_the_posterior():
    """T17: with one coupling, log q of u = f(z) written with the scaled std equals log q(z) - log_det."""
    flow, z = make("affine", n_couplings=1), sample()
    z_p, log_det = flow(z, MASK)
    q = Gaussian(torch.zeros_like(z), torch.full_like(z, -0.4))
    carried = Gaussian(z_p, q.log_std + log_det)
    torch.testing.assert_close(carried.neg_entropy().sum(), (q.neg_entropy() - log_det).sum())


@pytest.mark.parametrize("kind", ["mean_only", "affine", "linear_iaf"])
@pytest.mark.parametrize("n_couplings", [3, 4])
def test_a_new_flow_is_the_identity_bit_for_bit(kind, n_couplings):
    """T15, with the channels in their order after an odd number of couplings, too."""
    z = sample()
    z_p, log_det = Flow(FlowSettings(kind, hidden=8, n_layers=2, n_couplings=n_couplings), D)(z, MASK)
    assert torch.equal(z_p, z)
    assert (log_det == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_padding_invariance(kind):
    flow, z = make(kind, weight_norm=False), sample()
    n = 4
    alone, mask = z[1:, :, :n], torch.ones(1, 1, n, dtype=torch.bool)
    for y, y_1 in zip(flow(z, MASK), flow(alone, mask), strict=True):
        torch.testing.assert_close(y[1:, :, :n], y_1, atol=1e-6, rtol=1e-5)
        assert (y[1, :, n:] == 0).all()
    torch.testing.assert_close(flow.inverse(z, MASK)[1:, :, :n], flow.inverse(alone, mask), atol=1e-6, rtol=1e-5)
    assert (flow.inverse(z, MASK)[1, :, n:] == 0).all()


def test_latents_stay_fp32_under_autocast():
    flow = make("affine")
    with torch.autocast("cpu", torch.bfloat16):
        z_p, log_det = flow(sample(), MASK)
        z = flow.inverse(z_p, MASK)
    assert z_p.dtype == log_det.dtype == z.dtype == torch.float32
    torch.testing.assert_close(z, sample(), atol=5e-2, rtol=0)


@pytest.mark.parametrize("kind", LINEAR_KINDS)
def test_linear_kinds_do_not_notice_autocast(kind):
    flow, x = make(kind), sample()
    y, z = flow(x, MASK)[0], flow.inverse(x, MASK)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(flow(x, MASK)[0], y) and torch.equal(flow.inverse(x, MASK), z)


def test_published_size():
    flow = Flow(FlowSettings(), n_latent=192)
    sizes = [sum(p.numel() for p in c.parameters()) for c in flow.couplings]
    assert sizes == 4 * [1_775_520] and sum(p.numel() for p in flow.parameters()) == 7_102_080


def test_unknown_kind_or_side_and_odd_channels_are_errors():
    with pytest.raises(ValueError, match=f"model.flow.kind=planar .*{', '.join(KINDS)}"):
        defaults_with("model.flow.kind=planar")
    with pytest.raises(ValueError, match="model.flow.side=decoder .*prior, posterior"):
        defaults_with("model.flow.side=decoder")
    with pytest.raises(ValueError, match="model.n_latent=5"):
        defaults_with("model.n_latent=5")
    with pytest.raises(AssertionError, match="halves"):
        Flow(FlowSettings(), 5)
    for kind in (*LINEAR_KINDS, "none"):
        defaults_with("model.n_latent=5", f"model.flow.kind={kind}")
        Flow(FlowSettings(kind), 5)


# -------------------------------------------------------------------------------------------- linear flows (T19)

Q3 = ([0.5, -0.2, 0.3], [0.8, 1.2, 0.6])
UNIT3 = ([0.0] * 3, [1.0] * 3)


def linear_flow(kind, **parameters):
    """One layer with the given parameters on three channels, in float64."""
    flow = Flow(FlowSettings(kind, n_couplings=1), 3).double()
    flow.couplings[0].load_state_dict({name: torch.tensor(value, dtype=F64) for name, value in parameters.items()})
    return flow


def through(flow):
    """What lab.latents calls: z -> (z_p, log_det), no padding."""
    return lambda z: flow(z, torch.ones(len(z), 1, z.shape[2], dtype=torch.bool))


def matrix_of(layer):
    """The matrix of a linear layer: what it makes of the unit vectors, one per frame."""
    return through(layer)(torch.eye(3, dtype=F64)[None])[0][0].detach()


def test_t19_a_reflection_has_determinant_minus_one_and_keeps_lengths():
    flow = linear_flow("householder", v=[1.0, 2.0, 2.0])
    matrix = matrix_of(flow.couplings[0])
    expected = torch.eye(3, dtype=F64) - 2 * torch.tensor([[1.0, 2, 2], [2, 4, 4], [2, 4, 4]], dtype=F64) / 9
    torch.testing.assert_close(matrix, expected, atol=1e-12, rtol=0)
    sign, log_abs = torch.linalg.slogdet(matrix)
    assert float(sign) == pytest.approx(-1) and float(log_abs) == pytest.approx(0, abs=1e-12)
    torch.manual_seed(1)
    z = torch.randn(2, 3, 50, dtype=F64)
    torch.testing.assert_close(through(flow)(z)[0].norm(dim=1), z.norm(dim=1), atol=1e-12, rtol=0)


@pytest.mark.parametrize("estimator", [half_analytic, monte_carlo])
def test_t19_a_reflection_leaves_the_kl_to_a_standard_normal_as_it_was(estimator):
    """Sample by sample; so also in expectation, which is the closed form. With another prior it does change."""
    flow = through(linear_flow("householder", v=[1.0, 2.0, 2.0]))

    def moved(x):
        z_p, log_det = flow(x.z)
        return (estimator(x._replace(z_p=z_p, log_det=log_det)) - estimator(x)).sum(1, keepdim=True).abs()

    largest, _ = moments(moved, 5, 3, q=Q3, p=UNIT3)
    assert largest < 1e-12
    q, p = (Gaussian(torch.tensor(m, dtype=F64), torch.tensor(s, dtype=F64).log()) for m, s in (Q3, UNIT3))
    value, _ = moments(estimator, 5, 3, q=Q3, p=UNIT3, flow=flow)
    assert value == pytest.approx(float(gaussian_kl(q, p).sum()), abs=1e-12)
    other = {"q": Q3, "p": ([0.4, 0.0, 0.0], [1.0, 1.0, 1.0])}
    assert abs(moments(estimator, 5, 3, flow=flow, **other)[0] - moments(estimator, 5, 3, **other)[0]) > 0.05


@pytest.mark.parametrize("estimator", [half_analytic, monte_carlo])
def test_t19_a_linear_iaf_changes_the_kl_although_its_log_det_is_zero(estimator):
    """The truth is the KL of the full-covariance Gaussian L z to N(0, I)."""
    flow = linear_flow("linear_iaf", weight=[[9.0, 9, 9], [0.7, 9, 9], [-0.4, 0.5, 9]])  # the nines are never read
    lower = torch.tensor([[1.0, 0, 0], [0.7, 1, 0], [-0.4, 0.5, 1]], dtype=F64)
    torch.testing.assert_close(matrix_of(flow.couplings[0]), lower, atol=1e-12, rtol=0)
    mean, std = (torch.tensor(v, dtype=F64) for v in Q3)
    covariance = lower @ torch.diag(std**2) @ lower.T
    truth = 0.5 * (covariance.trace() + (lower @ mean).square().sum() - 3 - torch.logdet(covariance))
    value, _ = moments(estimator, 5, 3, q=Q3, p=UNIT3, flow=through(flow))
    assert value == pytest.approx(float(truth), abs=1e-12)
    assert value - moments(estimator, 5, 3, q=Q3, p=UNIT3)[0] > 0.1


def test_a_triangular_layer_learns_below_its_diagonal_alone():
    flow = make("linear_iaf", n_couplings=1)
    (flow(sample(), MASK)[0] ** 2).sum().backward()
    gradient = flow.couplings[0].weight.grad
    assert torch.equal(gradient != 0, torch.ones(D, D).tril(-1).bool())


# ---------------------------------------------------------------------------------------- the carried mean (T13, T17)


def posterior(seed=2):
    torch.manual_seed(seed)
    return Gaussian(torch.randn(2, D, T, dtype=F64) * MASK, 0.3 * torch.randn(2, D, T, dtype=F64) * MASK)


def check_carry(flow):
    """T17: log_std grows by log_det, per utterance; a mean at the sample goes where the sample goes. 0 on padding."""
    flow, q = flow.double(), posterior()
    z = sample().double()
    z_p, log_det = flow(z, MASK)
    carried = flow.carry(q, z, MASK)
    expected = -q.log_std.sum((1, 2)) - log_det.sum((1, 2))
    torch.testing.assert_close(-carried.log_std.sum((1, 2)), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(flow.carry(q._replace(mean=z), z, MASK).mean, z_p, atol=1e-12, rtol=0)
    assert all((x.masked_select(~MASK) == 0).all() for x in carried)


@pytest.mark.parametrize("kind", ["mean_only", "affine", "none"])
@pytest.mark.parametrize("n_couplings", [1, 3, 4])
def test_t17_carrying_the_log_std_is_subtracting_log_det(kind, n_couplings):
    check_carry(make(kind, n_couplings))


def test_t17_per_element_behind_one_affine_coupling():
    """Conditioned on the first half, z_p is N(carried): by scaling and shifting q's second half by hand."""
    flow, q, z = make("affine", n_couplings=1).double(), posterior(), sample().double()
    z_p, log_det = flow(z, MASK)
    slope = log_det.exp()
    by_hand = z_p + slope * (q.mean - z)
    by_hand[:, : D // 2] = q.mean[:, : D // 2]  # the half that passes
    carried = flow.carry(q, z, MASK)
    torch.testing.assert_close(carried.mean, by_hand * MASK, atol=1e-6, rtol=0)  # the network's scale is fp32
    torch.testing.assert_close(carried.log_std, q.log_std + log_det, atol=1e-12, rtol=0)


def test_the_check_finds_a_carry_that_forgets_the_flip():
    class NoFlip(Flow):
        def carry(self, q, z, mask):
            mean, log_std = q
            for coupling in self.couplings:
                shift, log_scale = coupling.shift_and_log_scale(z, mask)
                mean, log_std = shift + mean * log_scale.exp() * mask, log_std + log_scale
                z = coupling(z, mask)[0].flip(1)
            return Gaussian(mean * mask, log_std * mask)

    for kind in ("mean_only", "affine"):
        with pytest.raises(AssertionError):
            check_carry(make(kind, cls=NoFlip))


@pytest.mark.parametrize("kind", LINEAR_KINDS)
def test_linear_kinds_cannot_carry(kind):
    z = sample()
    with pytest.raises(AssertionError, match="no halves"):
        make(kind).carry(Gaussian(z, torch.zeros_like(z)), z, MASK)
    with pytest.raises(ValueError, match="objective.kl=carried_mean .*couplings.*use model/flow=mean_only or affine"):
        defaults_with("objective.kl=carried_mean", f"model.flow.kind={kind}")


class Given(Coupling):
    """A coupling of two channels whose shift and log-scale are given functions of the first channel."""

    def __init__(self, shift, log_scale=torch.zeros_like):
        nn.Module.__init__(self)
        self.functions = shift, log_scale

    def shift_and_log_scale(self, x, mask, keys=None, g=None):
        x0 = x[:, :1]
        return tuple(torch.cat([torch.zeros_like(x0), f(x0)], dim=1) for f in self.functions)


def given_flow(*couplings):
    flow = Flow(FlowSettings("affine", n_couplings=0), 2)
    flow.couplings.extend(couplings)
    return flow


def carried_mean(flow, at=lambda x: x.z):
    return lambda x: gaussian_kl(flow.carry(x.q, at(x), x.mask), x.p)


T12 = {"q": ([0.2, -0.3], [0.6, 0.9])}
P12 = ([0.0, 0.4], [1.0, 1.1])


def test_t13_behind_one_coupling_the_carried_mean_is_unbiased_with_far_less_variance():
    flow = given_flow(Given(torch.cos))
    case = {"n_dims": 2, "q": ([0.0, 0.0], [1.0, 1.0]), "p": ([0.0, 0.0], [1.0, 1.0]), "flow": through(flow)}
    square = 0.5 * (1 + math.exp(-2))  # E[cos(z0)^2]
    least = (0.5 * (1 + math.exp(-8)) - math.exp(-4)) / 16  # Var[cos(z0)^2 / 2] = 0.0301
    variances = {
        carried_mean(flow): least,
        monte_carlo: square + least,
        half_analytic: 1 + square + least - math.exp(-2),
    }
    for estimator, variance in variances.items():
        assert moments(estimator, **case) == pytest.approx((0.5 * square, variance), abs=1e-9)
    assert (0.5 * square, least) == pytest.approx((0.2838338208, 0.030116), abs=1e-6)
    pushed = carried_mean(flow, at=lambda x: x.q.mean)  # the network must see the sample: at the mean it is biased
    assert moments(pushed, **case)[0] == pytest.approx(0.5)


@pytest.mark.parametrize("log_scale", [torch.zeros_like, lambda x0: 0.5 * torch.tanh(x0)], ids=["shift", "affine"])
def test_t13_one_coupling_is_unbiased_behind_a_scale_too(log_scale):
    flow = given_flow(Given(lambda x0: 0.8 * x0, log_scale))
    case = {"n_dims": 2, "p": P12, "flow": through(flow), **T12}
    truth = moments(half_analytic, **case)[0]
    assert moments(carried_mean(flow), **case)[0] == pytest.approx(truth, abs=1e-9)
    if log_scale is torch.zeros_like:
        assert truth == pytest.approx(0.4619095424, abs=1e-9)


def test_t13_behind_two_couplings_it_is_biased():
    """The missing part is a b std_q0^2 / std_p0^2: the covariance of z0 with the shift that comes back to it."""
    flow = given_flow(Given(lambda x0: 0.8 * x0), Given(lambda x0: 0.7 * x0))
    case = {"n_dims": 2, "p": P12, "flow": through(flow), **T12}
    truth = moments(half_analytic, **case)[0]
    carried = moments(carried_mean(flow), **case)[0]
    assert truth == pytest.approx(0.9036095, abs=1e-7)
    assert carried == pytest.approx(0.7020095, abs=1e-7)
    assert truth - carried == pytest.approx(0.8 * 0.7 * 0.6**2, abs=1e-9)
