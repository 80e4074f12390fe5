"""The flow of Glow-TTS: log-determinants against Jacobians, inverses, the start from data, published sizes."""

import dataclasses
import math

import pytest
import torch
from common import defaults_with
from lab import F64
from torch import nn

from vitslite.model.flows import Coupling, FlowSettings
from vitslite.model.glow import ActNorm, Block, GlowCoupling, GlowFlow, InvertibleConv, build_flow, squeeze, unsqueeze
from vitslite.model.layers import Dropout
from vitslite.objectives.kl import likelihood
from vitslite.tensors import Gaussian, Latents, sequence_mask

D, T, SQUEEZE = 4, 8, 2
C, N = D * SQUEEZE, T // SQUEEZE
LENGTHS = torch.tensor([8, 4])
MASK = sequence_mask(LENGTHS, T)
SMALL = FlowSettings("glow", hidden=6, kernel=3, n_layers=2, n_couplings=3)


@pytest.fixture(autouse=True)
def fp64_islands(monkeypatch):
    """What the couplings compute in fp32 under autocast is float64 here."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def moved(module, seed=0):
    """In float64 and far from its start: every scale, shift, matrix and network."""
    torch.manual_seed(seed)
    for m in module.modules():
        if isinstance(m, ActNorm):
            nn.init.normal_(m.log_scale, std=0.4)
            nn.init.normal_(m.shift, std=0.5)
        elif isinstance(m, InvertibleConv):
            m.weight.data += 0.3 * torch.randn_like(m.weight)
        elif isinstance(m, Coupling):
            nn.init.normal_(m.post.weight, std=0.5)
            nn.init.normal_(m.post.bias, std=0.3)
    return module.double()


def flow_of(settings=SMALL, cls=GlowFlow):
    torch.manual_seed(1)
    return moved(cls(settings, D))


def sample(channels=D, n_frames=T, seed=2):
    torch.manual_seed(seed)
    return torch.randn(2, channels, n_frames, dtype=F64)


LAYERS = {
    "actnorm": lambda: ActNorm(C),
    "mixing of 4": lambda: InvertibleConv(C, 4),
    "mixing of 2": lambda: InvertibleConv(C, 2),
    "mixing of 8": lambda: InvertibleConv(C, 8),
    "coupling": lambda: GlowCoupling(SMALL, C, "test"),
    "coupling, mean only": lambda: GlowCoupling(dataclasses.replace(SMALL, coupling="mean_only"), C, "test"),
    "block": lambda: Block(SMALL, C, "test"),
}
SQUEEZED_MASK = MASK[:, :, ::SQUEEZE]


def log_det_of_the_jacobian(f, x, mask):
    """log |det| over the valid frames of each utterance, by autograd."""
    jacobian = torch.autograd.functional.jacobian(lambda x: f(x, mask)[0], x)
    for b, n in enumerate(mask.sum(2)[:, 0].tolist()):
        matrix = jacobian[b, :, :n, b, :, :n].reshape(x.shape[1] * n, x.shape[1] * n)
        yield torch.linalg.slogdet(matrix).logabsdet


def check_log_det(f, x, mask):
    x = x * mask
    log_det = f(x, mask)[1]
    assert log_det.shape == x.shape and (log_det.masked_select(~mask) == 0).all()
    truth = torch.stack(list(log_det_of_the_jacobian(f, x, mask)))
    torch.testing.assert_close(log_det.sum((1, 2)), truth, atol=1e-10, rtol=0)
    return truth


def check_inverse(f, x, mask):
    x = x * mask
    y, _ = f(x, mask)
    assert (y.masked_select(~mask.expand_as(y)) == 0).all() and (y - x).abs().max() > 0.1
    torch.testing.assert_close(f.inverse(y, mask), x, atol=1e-12, rtol=0)
    torch.testing.assert_close(f(f.inverse(x, mask), mask)[0], x, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", LAYERS)
def test_each_layer_against_its_jacobian(name):
    torch.manual_seed(3)
    layer = moved(LAYERS[name]())
    truth = check_log_det(layer, sample(C, N), SQUEEZED_MASK)
    assert (truth.abs() > 0.1).all() or name == "coupling, mean only"
    check_inverse(layer, sample(C, N), SQUEEZED_MASK)


@pytest.mark.parametrize("coupling", ["affine", "mean_only"])
@pytest.mark.parametrize("n_squeeze", [1, 2, 4])
def test_the_flow_against_its_jacobian(coupling, n_squeeze):
    flow = flow_of(dataclasses.replace(SMALL, coupling=coupling, n_squeeze=n_squeeze))
    check_log_det(flow, sample(), MASK)
    check_inverse(flow, sample(), MASK)


def test_couplings_that_shift_leave_a_log_det_that_is_the_same_for_every_input():
    flow = flow_of(dataclasses.replace(SMALL, coupling="mean_only"))
    a, b = (flow(sample(seed=seed) * MASK, MASK)[1].sum((1, 2)) for seed in (2, 3))
    torch.testing.assert_close(a, b, atol=1e-12, rtol=0)
    assert a[0].abs() > 0.1 and a[0].item() == pytest.approx(2 * a[1].item())  # of twice the frames
    a, b = (flow_of()(sample(seed=seed) * MASK, MASK)[1].sum((1, 2)) for seed in (2, 3))
    assert (a - b).abs().max() > 0.1


@pytest.mark.parametrize("part", ["norm", "mixing", "coupling"])
def test_the_check_finds_a_log_det_that_is_dropped(part, monkeypatch):
    flow = flow_of()
    layer = type(getattr(flow.blocks[0], part))
    forward = layer.forward
    monkeypatch.setattr(layer, "forward", lambda *a: (forward(*a)[0], torch.zeros_like(forward(*a)[1])))
    with pytest.raises(AssertionError):
        check_log_det(flow, sample(), MASK)


def test_the_check_finds_a_log_det_of_one_group(monkeypatch):
    """The planted fault: log |det W| of one group, where all C / S groups are scaled by it."""
    flow, forward = flow_of(), InvertibleConv.forward
    monkeypatch.setattr(InvertibleConv, "forward", lambda *a: (forward(*a)[0], forward(*a)[1] * 4 / C))
    with pytest.raises(AssertionError):
        check_log_det(flow, sample(), MASK)


# --------------------------------------------------------------------------------------------------- what a layer does


def test_squeeze_puts_frames_side_by_side():
    x = sample(3, 6)
    y = squeeze(x, 2)
    assert y.shape == (2, 6, 3) and torch.equal(unsqueeze(y, 2), x)
    for d in range(3):
        for t in range(3):
            assert torch.equal(y[:, d, t], x[:, d, 2 * t]) and torch.equal(y[:, 3 + d, t], x[:, d, 2 * t + 1])


@pytest.mark.parametrize("n_split", [2, 4, 8])
def test_the_mixing_by_hand(n_split):
    """Channel by channel: group g takes S / 2 neighbours of each half."""
    layer, x, half = moved(InvertibleConv(C, n_split)), sample(C, N), n_split // 2
    y = layer(x, torch.ones(2, 1, N, dtype=torch.bool))[0]
    for g in range(C // n_split):
        channels = [side * C // 2 + g * half + j for side in (0, 1) for j in range(half)]
        torch.testing.assert_close(y[:, channels], layer.weight @ x[:, channels], atol=1e-12, rtol=0)


def test_the_mixing_starts_as_a_rotation():
    for seed in range(8):
        torch.manual_seed(seed)
        w = InvertibleConv(8, 4).weight.detach().double()
        torch.testing.assert_close(w @ w.T, torch.eye(4, dtype=F64), atol=1e-6, rtol=0)
        assert torch.linalg.det(w) == pytest.approx(1, abs=1e-6)


def test_the_coupling_by_hand():
    """x0 passes, x1 <- mean(x0) + exp(log_scale(x0)) x1, with the mean in the first half of what the network says."""
    layer, x = moved(GlowCoupling(SMALL, C, "test")), sample(C, N)
    everywhere = torch.ones(2, 1, N, dtype=torch.bool)
    x0, x1 = x.chunk(2, dim=1)
    mean, log_scale = layer.post(layer.wavenet(layer.pre(x0), everywhere)).chunk(2, dim=1)
    y, log_det = layer(x, everywhere)
    torch.testing.assert_close(y, torch.cat([x0, mean + log_scale.exp() * x1], 1), atol=1e-12, rtol=0)
    torch.testing.assert_close(log_det, torch.cat([torch.zeros_like(x0), log_scale], 1), atol=1e-12, rtol=0)


def test_padding_invariance():
    """An utterance in a batch and alone, with and without dropout; zero on padding."""
    flow, z, keys = flow_of(dataclasses.replace(SMALL, dropout=0.3)), sample() * MASK, torch.tensor([5, -6])
    alone, mask, n = z[1:, :, :4], MASK[1:, :, :4], 4
    for k in (None, keys):
        for y, y_1 in zip(flow(z, MASK, k), flow(alone, mask, None if k is None else k[1:]), strict=True):
            torch.testing.assert_close(y[1:, :, :n], y_1, atol=1e-12, rtol=0)
            assert (y[1, :, n:] == 0).all()
    torch.testing.assert_close(flow.inverse(z, MASK)[1:, :, :n], flow.inverse(alone, mask), atol=1e-12, rtol=0)
    assert (flow.inverse(z, MASK)[1, :, n:] == 0).all()


def test_what_is_left_over_of_a_length_is_padding_and_an_odd_number_of_frames_an_error():
    flow, z = flow_of(), sample()
    lengths = sequence_mask(torch.tensor([8, 5]), T)
    for y, y_4 in zip(flow(z * lengths, lengths), flow(z * MASK, MASK), strict=True):
        torch.testing.assert_close(y, y_4, atol=1e-12, rtol=0)
    with pytest.raises(AssertionError, match="7 frames are no multiple of 2"):
        flow(z[:, :, :7], MASK[:, :, :7])


def test_dropout_is_a_function_of_the_keys_and_no_two_share_their_purpose():
    flow, z = flow_of(dataclasses.replace(SMALL, dropout=0.3)), sample() * MASK
    none, a, again, b = (flow(z, MASK, k if k is None else torch.tensor([k, 9]))[0] for k in (None, 1, 1, 2))
    assert torch.equal(a, again) and not torch.equal(a[0], b[0]) and not torch.equal(a[0], none[0])
    assert torch.equal(a[1], b[1])
    purposes = [m.purpose for m in flow.modules() if isinstance(m, Dropout)]
    assert len(set(purposes)) == len(purposes) == SMALL.n_couplings * SMALL.n_layers
    check_log_det(lambda x, mask: flow(x, mask, torch.tensor([1, 9])), z, MASK)  # of the function that was drawn


# ---------------------------------------------------------------------------------------------- the start from data


def statistics(x, mask):
    """Mean and variance of every channel over the valid frames."""
    valid = torch.cat([x[b, :, :n] for b, n in enumerate(mask.sum(2)[:, 0].tolist())], dim=1)
    return valid.mean(1), valid.var(1, correction=0)


def test_the_start_normalises_every_layer():
    """Also behind networks that are no identity, one after the other, and whatever stands on padding."""
    flow, z = flow_of(), 3 * sample(seed=5) - 2
    garbage = torch.where(MASK, z, 1e3)
    flow.initialise(garbage, MASK)
    x = squeeze(z * MASK, SQUEEZE)
    for block in flow.blocks:
        mean, variance = statistics(block.norm(x, SQUEEZED_MASK)[0], SQUEEZED_MASK)
        torch.testing.assert_close(mean, torch.zeros(C, dtype=F64), atol=1e-10, rtol=0)
        torch.testing.assert_close(variance, torch.ones(C, dtype=F64), atol=1e-10, rtol=0)
        x, _ = block(x, SQUEEZED_MASK)
    first = {name: p.clone() for name, p in flow.state_dict().items()}
    flow.initialise(z, MASK)  # the same data: the same start
    assert all(torch.equal(p, first[name]) for name, p in flow.state_dict().items())
    check_log_det(flow, z, MASK)


def test_a_channel_that_does_not_move_has_a_finite_start():
    flow, z = flow_of(), sample()
    z[:, 1] = -11.5  # silence
    flow.initialise(z * MASK, MASK)
    assert all(p.isfinite().all() for p in flow.parameters())
    assert flow.blocks[0].norm.log_scale.max().item() == pytest.approx(math.log(1000))


def test_a_new_flow_rotates_and_nothing_else():
    """Couplings and ActNorms start as the identity: lengths are kept, the log-determinant is 0 to rounding."""
    torch.manual_seed(0)
    flow, z = GlowFlow(SMALL, D).double(), sample() * MASK
    z_p, log_det = flow(z, MASK)
    torch.testing.assert_close(z_p.square().sum((1, 2)), z.square().sum((1, 2)), atol=0, rtol=1e-5)
    assert log_det.abs().max() < 1e-6 and (z_p - z).abs().max() > 0.1


# ------------------------------------------------------------------------------------------------------- the likelihood


def test_the_likelihood_of_a_recording_is_the_change_of_variables():
    """-log p(mel | text) = -log N(f(mel); mean, 1) - log |det df/dmel|, by hand, per utterance."""
    flow, mel, mean = flow_of(), sample(seed=6) * MASK, sample(seed=7) * MASK
    z_p, log_det = flow(mel, MASK)
    unit = torch.zeros_like(mel)
    x = Latents(Gaussian(mel, unit), Gaussian(mean, unit), mel, z_p, log_det, MASK)
    value = (likelihood(x) * MASK).sum((1, 2))
    by_hand = []
    for b, volume in enumerate(log_det_of_the_jacobian(flow, mel, MASK)):
        n = int(LENGTHS[b])
        density = torch.distributions.Normal(mean[b, :, :n], 1.0).log_prob(z_p[b, :, :n]).sum()
        by_hand.append(-density - volume)
    torch.testing.assert_close(value, torch.stack(by_hand), atol=1e-10, rtol=0)
    dropped = (likelihood(x._replace(log_det=unit)) * MASK).sum((1, 2))
    assert (dropped - value).abs().min() > 0.1  # the planted fault would show


def test_its_density_integrates_to_one():
    """Two channels, one frame: exp(log N(f(x); 0, 1) + log_det) over a fine grid. No derivative is taken."""
    settings = FlowSettings("glow", hidden=4, kernel=1, n_layers=1, n_couplings=2, n_squeeze=1, n_split=2)
    torch.manual_seed(4)
    flow, side = GlowFlow(settings, 2).double(), torch.linspace(-9, 9, 401, dtype=F64)
    for block in flow.blocks:
        nn.init.normal_(block.norm.log_scale, std=0.2)
        nn.init.normal_(block.coupling.post.weight, std=0.3)
        block.mixing.weight.data += 0.1 * torch.randn(2, 2, dtype=F64)
    x = torch.cartesian_prod(side, side)[:, :, None]
    z_p, log_det = flow(x, torch.ones(len(x), 1, 1, dtype=torch.bool))
    unit = torch.zeros_like(z_p)
    density = torch.exp((Gaussian(unit, unit).log_prob(z_p) + log_det).sum((1, 2)))
    area = (side[1] - side[0]) ** 2
    density = density.detach()
    assert float(density.sum() * area) == pytest.approx(1, abs=1e-4)
    assert abs(float((density * torch.exp(-log_det.detach().sum((1, 2)))).sum() * area) - 1) > 0.01


# --------------------------------------------------------------------------------------------------------- settings


def test_published_size():
    """Kim et al. 2020: 80 mel bins, two frames squeezed into one, 12 blocks."""
    flow = build_flow(FlowSettings("glow", n_couplings=12), 80)
    sizes = {tuple(sum(p.numel() for p in m.parameters()) for m in block.children()) for block in flow.blocks}
    assert sizes == {(320, 16, 1_784_992)} and len(flow.blocks) == 12
    assert sum(p.numel() for p in flow.parameters()) == 21_423_936


def test_under_autocast_only_the_networks_are_in_half_precision(monkeypatch):
    monkeypatch.undo()
    flow, z = GlowFlow(SMALL, D), (sample() * MASK).to(torch.float32)
    y = flow(z, MASK)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(flow(z, MASK)[0], y)  # the couplings start at zero, the rest is fp32
        for block in flow.blocks:
            nn.init.normal_(block.coupling.post.weight, std=0.3)
        z_p, log_det = flow(z, MASK)
        back = flow.inverse(z_p, MASK)
    assert z_p.dtype == log_det.dtype == back.dtype == torch.float32
    torch.testing.assert_close(back, z, atol=5e-2, rtol=0)


def test_every_parameter_learns():
    flow = flow_of()
    z_p, log_det = flow(sample() * MASK, MASK)
    (0.5 * z_p.square() - log_det).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in flow.parameters())


def test_bad_sizes_are_errors():
    with pytest.raises(ValueError, match=r"model.flow.n_split=3 .*make it even"):
        defaults_with("model.flow.kind=glow", "model.flow.n_split=3")
    with pytest.raises(ValueError, match=r"model.n_latent=5 x model.flow.n_squeeze=2 .*model.flow.n_split=4"):
        defaults_with("model.flow.kind=glow", "model.n_latent=5")
    with pytest.raises(ValueError, match="objective.kl=carried_mean .*kind=glow .*use model/flow=mean_only or affine"):
        defaults_with("model.flow.kind=glow", "objective.kl=carried_mean")
    with pytest.raises(AssertionError, match="10 channels in groups of 4"):
        GlowFlow(SMALL, 5)
    defaults_with("model.flow.kind=glow", "model.n_latent=6", "model.flow.n_squeeze=2")
