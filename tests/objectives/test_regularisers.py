"""Who gets which gradient: free bits, the balance of sides and channels, schedules. T33 to T36."""

import pytest
import torch
from common import defaults_with
from lab import F64, ONE_D_KL, FlowOf, latents, leaves_of
from torch import nn

from vitslite.audio import AudioSettings
from vitslite.model.flows import Flow, FlowSettings
from vitslite.objectives.kl import half_analytic
from vitslite.objectives.objective import Counts, Objective, ObjectiveSettings
from vitslite.objectives.regularisers import (
    RegulariserSettings,
    channel_coefficients,
    posterior_side,
    prior_side,
    regularised,
    weight_factor,
    with_free_bits,
)
from vitslite.tensors import Gaussian, Latents

UNTIL = RegulariserSettings.__dataclass_fields__["balance_until"].metadata["choices"]


def world(seed=0):
    """Latents [2, 4, 6] behind a real coupling flow, with everything a gradient could reach as a leaf."""
    torch.manual_seed(seed)
    flow = Flow(FlowSettings("affine", hidden=8, kernel=3, n_layers=1, n_couplings=2), 4).double()
    for coupling in flow.couplings:
        nn.init.normal_(coupling.post.weight, std=0.3)
    leaves = [torch.randn(2, 4, 6, dtype=F64).mul(0.5).requires_grad_() for _ in range(4)]
    q, p = Gaussian(*leaves[:2]), Gaussian(*leaves[2:])
    mask = torch.ones(2, 1, 6, dtype=torch.bool)
    mask[1, :, 4:] = False
    z = q.sample(torch.randn(2, 4, 6, dtype=F64)) * mask
    z_p, log_det = flow(z, mask)
    return Latents(q, p, z, z_p, log_det, mask, flow, torch.arange(2)), leaves, list(flow.parameters())


def gradients(value, inputs):
    found = torch.autograd.grad(value, inputs, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(i) if g is None else g for i, g in zip(inputs, found, strict=True)]


def test_sides_have_the_same_value_and_share_the_gradient_exactly():
    x, leaves, parameters = world()
    whole = half_analytic(x)
    for side in (prior_side, posterior_side):
        torch.testing.assert_close(half_analytic(side(x)), whole, rtol=0, atol=0)
    full = gradients(whole.sum(), leaves + parameters)
    p_side = gradients(half_analytic(prior_side(x)).sum(), leaves + parameters)
    q_side = gradients(half_analytic(posterior_side(x)).sum(), leaves + parameters)
    for i, (f, a, b) in enumerate(zip(full, p_side, q_side, strict=True)):
        belongs_to_q = i < 2
        torch.testing.assert_close(b if belongs_to_q else a, f, rtol=1e-12, atol=1e-12)
        assert (a if belongs_to_q else b).abs().sum() == 0  # exactly


def test_t36_the_balance_of_sides():
    leaves = leaves_of()
    settings = RegulariserSettings(balance="sides", prior_share=0.8)
    x = latents([[0.7]], leaves=leaves)._replace(flow=None)
    value = regularised(half_analytic, x, settings).sum()
    assert value.item() == pytest.approx(half_analytic(x).item(), abs=1e-14)
    plain = torch.autograd.grad(half_analytic(x).sum(), leaves, retain_graph=True)
    shared = torch.autograd.grad(value, leaves)
    assert [float(a / b) for a, b in zip(shared, plain, strict=True)] == pytest.approx([0.2, 0.2, 0.8, 0.8])
    assert ONE_D_KL > 0


def per_channel(values, free):
    """Latents of one frame whose half_analytic elements are `values`, by their prior means."""
    values = torch.tensor(values, dtype=F64)
    zero = torch.zeros(1, len(values), 1, dtype=F64)
    leaves = [zero.clone().requires_grad_() for _ in range(4)]
    q, p = Gaussian(*leaves[:2]), Gaussian(*leaves[2:])
    z = q.sample(torch.sqrt(2 * values + 1).reshape(1, -1, 1))  # 1/2 eps^2 - 1/2 = value
    x = Latents(q, p, z, z, zero, torch.ones(1, 1, 1, dtype=torch.bool), FlowOf())
    return x, leaves


def test_t34_free_bits_leave_the_prior_its_gradient():
    x, leaves = per_channel([0.02, 0.3, -0.01, 1.5], 0.1)
    assert half_analytic(x).sum().item() == pytest.approx(1.81)
    x = x._replace(flow=None)
    value = with_free_bits(half_analytic, x, 0.1)
    assert float(value.sum()) == pytest.approx(2.0)
    plain = torch.autograd.grad(half_analytic(x).sum(), leaves, retain_graph=True)
    free = torch.autograd.grad(value.sum(), leaves)
    active = torch.tensor([False, True, False, True]).reshape(1, 4, 1)
    for a, b in zip(free[:2], plain[:2], strict=True):
        torch.testing.assert_close(a, b * active)
    for a, b in zip(free[2:], plain[2:], strict=True):
        torch.testing.assert_close(a, b)


def test_free_bits_on_both_sides_would_silence_the_prior():
    """The planted fault: what the usual implementation does below the limit."""
    x, leaves = per_channel([0.02, 0.03], 0.1)
    naive = half_analytic(x).clamp(min=0.1).sum()
    assert all(float(g.abs().sum()) == 0 for g in gradients(naive, leaves))
    ours = with_free_bits(half_analytic, x._replace(flow=None), 0.1).sum()
    assert [float(g.abs().sum()) > 0 for g in gradients(ours, leaves)] == [False, False, True, True]


def test_t35_the_coefficients_of_nvae():
    """Two utterances, two groups: mean |KL| + 0.01, normalised to mean 1, here with NVAE's alpha = 1 for both."""
    elements = torch.tensor([[[4.0], [1.0]], [[2.0], [-0.5]]], dtype=F64, requires_grad=True)
    gamma = channel_coefficients(elements, torch.ones(2, 1, 1, dtype=torch.bool))
    assert gamma.flatten().tolist() == pytest.approx([2 * 3.01 / 3.77, 2 * 0.76 / 3.77], abs=1e-12)
    assert not gamma.requires_grad
    # With alpha = [1, 2] for two scales, which one group size does not have, these are the published coefficients.
    weighted = gamma.flatten() / torch.tensor([1.0, 2.0], dtype=F64)
    balanced = 2 * weighted / weighted.sum() * elements[..., 0]
    assert (2 * weighted / weighted.sum()).tolist() == pytest.approx([1.77581, 0.22419], abs=1e-5)
    assert balanced.sum(1).tolist() == pytest.approx([7.32743, 3.43953], abs=1e-5)


def test_channels_are_balanced_until_the_weight_is_full():
    """NVAE's code: sum_i kl_i gamma_i while its kl_coeff is below 1, and from then on the plain sum."""
    x, _, _ = world()
    elements = half_analytic(x)
    group = ((elements * x.mask).sum(2) / x.mask.sum(2)).abs().mean(0) + 0.01  # nats per channel, written out
    balanced = elements * (group / group.mean())[None, :, None]
    settings = {until: RegulariserSettings(balance="channels", balance_until=until) for until in UNTIL}
    for factor in (1e-4, 0.5, 0.999, 1.0):
        for until, setting in settings.items():
            expected = balanced if factor < 1 or until == "always" else elements
            torch.testing.assert_close(regularised(half_analytic, x, setting, factor), expected, rtol=1e-12, atol=1e-14)
    assert (balanced - elements).abs().max() > 0.1


def test_the_objective_tells_the_balance_its_step():
    x, _, _ = world()
    regulariser = RegulariserSettings("warmup", steps=10, balance="channels", balance_until="full_weight")
    o = Objective(ObjectiveSettings(regulariser=regulariser), AudioSettings(), None)
    counts = Counts(x.mask.sum().double(), *[torch.ones(())] * 3, mels=[])
    balanced = (half_analytic(x) * channel_coefficients(half_analytic(x), x.mask) * x.mask).sum() / x.mask.sum()
    plain = (half_analytic(x) * x.mask).sum() / x.mask.sum()
    for step, expected in ((0, balanced), (9, balanced), (10, plain), (None, plain)):
        assert o._kl(x, counts, step).item() == pytest.approx(expected.item(), rel=1e-12), step
    assert balanced.item() != pytest.approx(plain.item(), rel=0.01)


def test_t33_schedules():
    warmup = RegulariserSettings(schedule="warmup", steps=100)
    assert [weight_factor(warmup, s) for s in (0, 50, 100, 1000)] == [1e-4, 0.5, 1.0, 1.0]
    cyclic = RegulariserSettings(schedule="cyclic", steps=100, floor=0.0)
    assert [weight_factor(cyclic, s) for s in (0, 25, 50, 99, 100, 125)] == [0.0, 0.5, 1.0, 1.0, 0.0, 0.5]
    assert weight_factor(RegulariserSettings(), 0) == 1.0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["schedule=linear"], "regulariser.schedule=linear is unknown: choose one of constant, warmup, cyclic"),
        (["schedule=warmup"], "needs objective.regulariser.steps"),
        (["balance=both"], "regulariser.balance=both is unknown: choose one of none, sides, channels"),
        (["floor=2"], "objective.regulariser.floor=2: must be at least 0 and at most 1"),
        (["free_bits=-1"], "objective.regulariser.free_bits=-1: must be at least 0"),
        (["free_bits=0.1", "balance=sides"], "choose one of them"),
        (["balance_until=never"], "balance_until=never is unknown: choose one of always, full_weight"),
        (["balance_until=full_weight"], "add objective.regulariser.balance=channels and .schedule=warmup"),
        (["balance_until=full_weight", "balance=channels"], r"\.schedule=warmup, or use \.balance_until=always"),
    ],
)
def test_what_has_no_meaning_is_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        defaults_with(*(f"objective.regulariser.{override}" for override in overrides))
