"""Duration predictors against the published networks, the mathematics of flows, and a distribution they must learn."""

import math

import pytest
import torch
import torch.nn.functional as F
from common import defaults_with
from torch import nn

from vitslite import randomness
from vitslite.model.durations import DurationSettings, ElementwiseAffine, StochasticDurations, build_durations
from vitslite.model.splines import SplineCoupling, rational_quadratic
from vitslite.tensors import sequence_mask

HIDDEN = 16


def settings(kind, **changes):
    return DurationSettings(**{"kind": kind, "filters": HIDDEN, "n_flows": 4, **changes})


def predictor(kind, **changes):
    """Weights large enough that every flow bends and every token counts."""
    torch.manual_seed(0)
    module = build_durations(settings(kind, **changes), HIDDEN)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return module


def a_batch(lengths=(11, 4, 7), seed=0):
    torch.manual_seed(seed)
    lengths = torch.tensor(lengths)
    mask = sequence_mask(lengths, int(lengths.max()))
    h = torch.randn(len(lengths), HIDDEN, mask.shape[2])
    durations = torch.randint(1, 20, (len(lengths), mask.shape[2])) * mask[:, 0]
    return h, mask, durations, torch.arange(len(lengths)) + 100


def n_parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_published_parameter_counts():
    assert n_parameters(build_durations(DurationSettings(), 192)) == 1_317_168
    assert n_parameters(build_durations(DurationSettings(kind="deterministic", filters=256), 192)) == 345_857


# ---------------------------------------------------------------------------------------- splines


def random_spline(n=400, n_bins=10, seed=0, spread=2.0):
    torch.manual_seed(seed)
    return (
        torch.randn(2, n, n_bins) * spread,
        torch.randn(2, n, n_bins) * spread,
        torch.randn(2, n, n_bins - 1) * spread,
    )


def test_spline_and_its_inverse_agree():
    """Gentle curves give x back. Steep ones cannot, in fp32 (slopes of e-13), but lead to the same y again."""
    for spread, tolerance_x in ((0.5, 1e-4), (2.0, None)):
        shape = random_spline(spread=spread)
        x = (14 * torch.rand(2, 400) - 7).sort().values
        y, log_det = rational_quadratic(x, *shape, tail_bound=5.0)
        back, log_det_back = rational_quadratic(y, *shape, tail_bound=5.0, inverse=True)
        again, log_det_again = rational_quadratic(back, *shape, tail_bound=5.0)
        torch.testing.assert_close(again, y, atol=5e-5, rtol=0)
        torch.testing.assert_close(log_det_again, -log_det_back, atol=1e-3, rtol=0)
        if tolerance_x is not None:
            torch.testing.assert_close(back, x, atol=tolerance_x, rtol=0)
            torch.testing.assert_close(log_det_back, -log_det, atol=1e-4, rtol=0)
        outside = x.abs() > 5
        assert outside.any() and torch.equal(y[outside], x[outside]) and not log_det[outside].any()


def test_spline_log_det_is_the_derivative():
    shape = random_spline(spread=1.0)
    x = (14 * torch.rand(2, 400) - 7).requires_grad_()
    y, log_det = rational_quadratic(x, *shape, tail_bound=5.0)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(log_det, torch.log(slope), atol=2e-4, rtol=0)


def test_spline_is_continuous_and_increasing():
    """One curve on a fine grid: no jumps at the knots, nor at the tails."""
    curve = [s[:1, :1].expand(1, 20_001, -1) for s in random_spline()]
    x = torch.linspace(-7, 7, 20_001)[None]
    y, _ = rational_quadratic(x, *curve, tail_bound=5.0)
    steps = y.diff()
    assert steps.min() > -1e-6 and steps.max() < 0.05
    torch.testing.assert_close(
        rational_quadratic(torch.tensor([[-5.0, 5.0]]), *(c[:, :2] for c in curve), 5.0)[0][0],
        torch.tensor([-5.0, 5.0]),
    )


def test_spline_gradients_stay_finite_at_the_ends_and_far_outside():
    shape = [s[:1, :6].clone().requires_grad_() for s in random_spline(spread=10.0)]
    x = torch.tensor([[-1e6, -5.0, 0.0, 5.0, 5.0001, 1e6]], requires_grad=True)
    y, log_det = rational_quadratic(x, *shape, tail_bound=5.0)
    for gradient in torch.autograd.grad((y + log_det).sum(), [x, *shape]):
        assert torch.isfinite(gradient).all()


# ---------------------------------------------------------------------------------------- flows


@pytest.mark.parametrize(
    "make", [ElementwiseAffine, lambda: SplineCoupling(HIDDEN, 3, 10, 5.0)], ids=["affine", "spline"]
)
def test_flow_inverts_and_its_log_det_is_that_of_the_jacobian(make):
    torch.manual_seed(0)
    flow = make()
    for p in flow.parameters():
        nn.init.normal_(p, std=0.3)
    mask = torch.ones(1, 1, 5, dtype=torch.bool)
    extra = [torch.randn(1, HIDDEN, 5)] if isinstance(flow, SplineCoupling) else []
    x = torch.randn(1, 2, 5)
    y, log_det = flow(x, mask, *extra)
    if extra:
        back, log_det_back = flow(y, mask, *extra, inverse=True)
        torch.testing.assert_close(log_det_back, -log_det, atol=1e-4, rtol=0)
    else:
        back = flow.inverse(y, mask)
    torch.testing.assert_close(back, x, atol=1e-4, rtol=0)
    # The network looks at neighbours, so only the whole Jacobian has a determinant.
    jacobian = torch.autograd.functional.jacobian(
        lambda v: flow(v.reshape(x.shape), mask, *extra)[0].flatten(), x.flatten()
    )
    assert torch.linalg.slogdet(jacobian)[1].item() == pytest.approx(log_det.sum().item(), abs=1e-4)


def test_forward_then_prediction_returns_the_log_durations():
    """The prior flow sends log-durations to noise; prediction, which leaves one coupling out, must send it back."""
    module = predictor("stochastic")
    h, mask, durations, _ = a_batch()
    with torch.no_grad():
        log_d = torch.log(durations[:, None].float().clamp(min=1)) * mask
        start = torch.cat([log_d, torch.randn_like(log_d) * mask], 1)
        z, _ = module._flow(module.flows, start, mask, module._condition(h, mask, None))
        torch.testing.assert_close(module.invert(h, mask, z), log_d[:, 0], atol=1e-4, rtol=0)
        assert (z[:, :1] - log_d).abs().max() > 0.5  # planted fault: the flow does something


# ---------------------------------------------------------------------------------------- both kinds


@pytest.mark.parametrize("kind", ["stochastic", "deterministic"])
def test_a_ragged_batch_equals_single_runs(kind):
    module = predictor(kind)
    h, mask, durations, keys = a_batch()
    for training in (True, False):
        for b, n in enumerate(mask[:, 0].sum(1).tolist()):
            one = slice(b, b + 1)
            dropout_keys = (keys, keys[one]) if training else (None, None)
            together = module(h, mask, durations, keys, dropout_keys[0])
            alone = module(h[one, :, :n], mask[one, :, :n], durations[one, :n], keys[one], dropout_keys[1])
            torch.testing.assert_close(together[one, :n], alone, atol=2e-5, rtol=1e-5)
            assert not together[b, n:].any()
    together = module.predict(h, mask, keys, 0.8)
    for b, n in enumerate(mask[:, 0].sum(1).tolist()):
        one = slice(b, b + 1)
        alone = module.predict(h[one, :, :n], mask[one, :, :n], keys[one], 0.8)
        torch.testing.assert_close(together[one, :n], alone, atol=1e-5, rtol=0)
        assert not together[b, n:].any()
    # Planted fault: what stands on padding must be looked at if the mask says so.
    assert (
        module.predict(h, torch.ones_like(mask), keys)[1, :4] - module.predict(h, mask, keys)[1, :4]
    ).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["stochastic", "deterministic"])
def test_keys_decide_dropout_and_noise(kind):
    module = predictor(kind)
    h, mask, durations, keys = a_batch()
    loss = module(h, mask, durations, keys, keys)
    assert loss.shape == durations.shape and torch.equal(loss, module(h, mask, durations, keys, keys))
    assert not torch.equal(loss, module(h, mask, durations, keys, keys + 1))
    without_dropout = module(h, mask, durations, keys)
    assert torch.equal(without_dropout, module(h, mask, durations, keys + 1)) == (kind == "deterministic")
    same = torch.equal(module.predict(h, mask, keys), module.predict(h, mask, keys + 1))
    assert same == (kind == "deterministic")
    assert torch.isfinite(module.predict(h, mask, keys, noise_scale=0.0)).all()


@pytest.mark.parametrize("kind", ["stochastic", "deterministic"])
def test_every_weight_has_a_gradient(kind):
    module = predictor(kind, dropout=0.1)
    h, mask, durations, keys = a_batch()
    h.requires_grad_()
    module(h, mask, durations, keys, keys).sum().backward()
    for name, p in module.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().max() > 0, name
    assert h.grad.abs().sum() > 0  # detaching is the caller's decision


def test_deterministic_loss_is_the_squared_log_ratio():
    module = predictor("deterministic", dropout=0.0)
    h, mask, durations, keys = a_batch()
    predicted = torch.exp(module.predict(h, mask).double())
    truth = torch.log(predicted / (durations + 1e-6)) ** 2
    loss = module(h, mask, durations, keys)
    torch.testing.assert_close(loss.double()[mask[:, 0]], truth[mask[:, 0]], rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------------------------------- published networks


def published(name):
    transformers = pytest.importorskip("transformers")
    from transformers.models.vits import modeling_vits

    torch.manual_seed(1)
    config = transformers.VitsConfig(
        hidden_size=HIDDEN, duration_predictor_filter_channels=24, speaker_embedding_size=0
    )
    module = getattr(modeling_vits, name)(config).eval()
    for p in module.parameters():
        p.data.add_(0.2 * torch.randn_like(p))
    return module


def test_deterministic_prediction_equals_the_independent_implementation():
    theirs = published("VitsDurationPredictor")
    ours = build_durations(settings("deterministic", filters=24), HIDDEN)
    ours.load_state_dict(theirs.state_dict())
    h, mask, _, _ = a_batch()
    with torch.no_grad():
        torch.testing.assert_close(ours.predict(h, mask), theirs(h, mask.float())[:, 0], atol=1e-5, rtol=0)


def test_stochastic_prediction_equals_the_independent_implementation(monkeypatch):
    theirs = published("VitsStochasticDurationPredictor")
    ours = build_durations(settings("stochastic"), HIDDEN)
    ours.load_state_dict(theirs.state_dict())
    h, mask, _, _ = a_batch()
    noise = torch.randn(3, 2, h.shape[2])
    monkeypatch.setattr(torch, "randn", lambda *shape: noise)
    with torch.no_grad():
        expected = theirs(h, mask.float(), reverse=True, noise_scale=0.8)[:, 0]
        torch.testing.assert_close(ours.invert(h, mask, 0.8 * noise), expected * mask[:, 0], atol=2e-5, rtol=0)


def test_stochastic_loss_equals_one_put_together_from_independent_parts():
    """VITS' order, affine, then (coupling, exchange) each; transformers' own training direction has another one."""
    theirs = published("VitsStochasticDurationPredictor")
    ours = build_durations(settings("stochastic"), HIDDEN)
    ours.load_state_dict(theirs.state_dict())
    h, mask, durations, keys = a_batch(lengths=(9,))
    m, d = mask.float(), durations[:, None].float()
    noise = randomness.normal(torch.zeros(1, dtype=torch.int64), "duration.posterior", 2, 9)

    def run(flows, x, c):
        x, total = flows[0](x, m)
        for flow in flows[1:]:
            x, log_det = flow(x, m, c)
            x, total = x.flip(1), total + log_det
        return x, total

    def log_normal(x):
        return (-0.5 * math.log(2 * math.pi) - 0.5 * x**2).sum()

    with torch.no_grad():
        c = theirs.conv_proj(theirs.conv_dds(theirs.conv_pre(h), m))
        seen = theirs.post_conv_proj(theirs.post_conv_dds(theirs.post_conv_pre(d), m))
        uv, log_det_q = run(theirs.post_flows, noise, c + seen)
        u = torch.sigmoid(uv[:, :1])
        log_q = log_normal(noise) - log_det_q - torch.log(u * (1 - u)).sum()
        z, log_det_p = run(theirs.flows, torch.cat([torch.log(d - u), uv[:, 1:]], 1), c)
        log_p = log_normal(z) + log_det_p - torch.log(d - u).sum()
        loss = ours(h, mask, durations, torch.zeros(len(h), dtype=torch.int64))
    assert loss.sum().item() == pytest.approx((log_q - log_p).item(), rel=1e-5)


# ---------------------------------------------------------------------------------------- what the loss means


def test_untrained_loss_per_token():
    """Before training only the duration matters. Published networks: 1.07, 1.72, 3.14, 5.94, 9.21, from few samples."""
    torch.manual_seed(0)
    module = StochasticDurations(settings("stochastic"), HIDDEN)
    h, mask = torch.randn(4, HIDDEN, 1000), torch.ones(4, 1, 1000, dtype=torch.bool)
    for frames, expected in {1: 1.07, 2: 1.72, 3: 3.14, 8: 5.94, 20: 9.21}.items():
        with torch.no_grad():
            loss = module(h, mask, torch.full((4, 1000), frames), torch.arange(4), torch.arange(4)).mean()
        assert loss.item() == pytest.approx(expected, rel=0.06)


def test_stochastic_durations_learn_a_distribution():
    """Two kinds of token, each with its own distribution over frames. The loss must come down to its entropy, never
    below, and samples must follow it."""
    torch.manual_seed(0)
    odds = torch.tensor([[0.6, 0.0, 0.4, 0.0, 0.0, 0.0], [0.0, 0.1, 0.0, 0.2, 0.0, 0.7]])
    entropy = torch.special.entr(odds).sum(1).mean().item()
    module = build_durations(settings("stochastic", dropout=0.0, n_flows=3), HIDDEN)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    mask = torch.ones(8, 1, 32, dtype=torch.bool)

    def sample(step):
        tokens = torch.randint(0, 2, (8, 32))
        durations = torch.multinomial(odds[tokens].flatten(0, 1), 1).reshape(8, 32) + 1
        h = F.one_hot(tokens, HIDDEN).float().transpose(1, 2)
        return tokens, h, durations, torch.arange(8) + 8 * step

    losses = []
    for step in range(150):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / 150)
        _, h, durations, keys = sample(step)
        loss = module(h, mask, durations, keys).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    final = sum(losses[-40:]) / 40
    assert entropy - 0.05 < final < entropy + 0.3 and losses[0] > entropy + 1

    tokens, h, _, keys = sample(1000)
    drawn = torch.cat([torch.ceil(torch.exp(module.predict(h, mask, keys + 8 * i))) for i in range(16)]).detach()
    tokens = tokens.repeat(16, 1)
    for kind in range(2):
        seen = torch.stack([(drawn[tokens == kind] == n + 1).float().mean() for n in range(6)])
        assert (seen - odds[kind]).abs().max() < 0.12, seen


@pytest.mark.parametrize(
    "override, message",
    [
        ("kind=normal", "model.duration.kind=normal is unknown: choose one of stochastic, deterministic"),
        ("rounding=floor", "model.duration.rounding=floor is unknown: choose one of ceil, nearest"),
        ("kernel=4", "model.duration.kernel=4: must be odd"),
        ("n_flows=1", "model.duration.n_flows=1: must be at least 2"),
        ("n_bins=1", "model.duration.n_bins=1: must be at least 2"),
        ("tail_bound=0", "model.duration.tail_bound=0: must be above 0"),
        ("dropout=1", "model.duration.dropout=1: must be at least 0 and below 1"),
    ],
)
def test_settings_that_cannot_work_say_so(override, message):
    with pytest.raises(ValueError, match=message):
        defaults_with(f"model.duration.{override}")
