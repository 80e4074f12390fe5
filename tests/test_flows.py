"""Every flow by the same checks: f^-1(f(z)) = z, and log_det is the log-determinant of the Jacobian."""

import pytest
import torch
from torch import nn

from vitslite.model.flows import KINDS, Flow, FlowSettings
from vitslite.tensors import Gaussian, sequence_mask

D, T = 4, 6
LENGTHS = torch.tensor([6, 4])
MASK = sequence_mask(LENGTHS, T)


def make(kind, n_couplings=4, weight_norm=True, cls=Flow, seed=0):
    """A small flow that is far from the identity it starts as."""
    torch.manual_seed(seed)
    settings = FlowSettings(kind, hidden=8, kernel=3, n_layers=2, n_couplings=n_couplings, weight_norm=weight_norm)
    flow = cls(settings, D)
    for coupling in flow.couplings:
        nn.init.normal_(coupling.post.weight, std=0.5)
        nn.init.normal_(coupling.post.bias, std=0.3)
    return flow


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
def test_log_det_is_that_of_the_jacobian(kind):
    check_log_det(make(kind))


@pytest.mark.parametrize("kind", ["mean_only", "none"])
def test_volume_preserving_kinds_have_log_det_exactly_zero(kind):
    assert (make(kind)(sample(), MASK)[1] == 0).all()


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


def test_log_det_stands_at_its_own_element():
    flow, z = make("affine", n_couplings=1), sample()
    z_p, log_det = flow(z, MASK)
    jacobian = torch.autograd.functional.jacobian(lambda x: flow(x, MASK)[0], z)
    for c in range(D):
        for t in range(T):  # one coupling: each output scales one input, which stands at the mirrored channel
            torch.testing.assert_close(jacobian[0, c, t, 0, D - 1 - c, t], log_det[0, c, t].exp())
    assert (log_det[0, : D // 2] != 0).all() and (log_det[0, D // 2 :] == 0).all()


def test_subtracting_log_det_equals_carrying_the_scale_of_the_posterior():
    """T17: with one coupling, log q of u = f(z) written with the scaled std equals log q(z) - log_det."""
    flow, z = make("affine", n_couplings=1), sample()
    z_p, log_det = flow(z, MASK)
    q = Gaussian(torch.zeros_like(z), torch.full_like(z, -0.4))
    carried = Gaussian(z_p, q.log_std + log_det)
    torch.testing.assert_close(carried.neg_entropy().sum(), (q.neg_entropy() - log_det).sum())


@pytest.mark.parametrize("kind", ["mean_only", "affine"])
@pytest.mark.parametrize("n_couplings", [3, 4])
def test_a_new_flow_is_the_identity_bit_for_bit(kind, n_couplings):
    """T15. An odd number of couplings leaves the channels reversed."""
    z = sample()
    z_p, log_det = Flow(FlowSettings(kind, hidden=8, n_layers=2, n_couplings=n_couplings), D)(z, MASK)
    assert torch.equal(z_p, z.flip(1) if n_couplings % 2 else z)
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


def test_published_size():
    flow = Flow(FlowSettings(), n_latent=192)
    sizes = [sum(p.numel() for p in c.parameters()) for c in flow.couplings]
    assert sizes == 4 * [1_775_520] and sum(p.numel() for p in flow.parameters()) == 7_102_080


def test_unknown_kind_and_odd_channels_are_errors():
    with pytest.raises(ValueError, match="model.flow.kind=planar .*mean_only, affine, none"):
        Flow(FlowSettings("planar"), 4)
    with pytest.raises(ValueError, match="model.n_latent=5"):
        Flow(FlowSettings(), 5)
    Flow(FlowSettings("none"), 5)
