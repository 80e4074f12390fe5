"""The refiner against the moments of its equation, its losses written out, and exact solutions for a Gaussian."""

import math

import pytest
import torch
from torch import nn

from vitslite import randomness
from vitslite.model.refiner import Diffusion, FlowMatching, RefinerSettings, build_refiner
from vitslite.tensors import sequence_mask

KINDS = {"diffusion": Diffusion, "flow_matching": FlowMatching}
MEAN, STD, MU = 1.5, 0.6, -0.7  # of the Gaussian worlds: recordings N(MEAN, STD^2), the prior's mean MU
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
EITHER_CENTRE = pytest.mark.parametrize("around", ["mu", "zero"])


class Answers(nn.Module):
    """A function (x_t, mu, t [B 1 1]) in the place of the network; remembers what it was asked last."""

    def __init__(self, function=lambda x, mu, t: torch.zeros_like(x)):
        super().__init__()
        self.function, self.asked = function, ()

    def forward(self, x, mu, mask, t, g=None):
        self.asked = (x, mu, t)
        return self.function(x, mu, t[:, None, None])


def refiner(kind, function=None, **changes):
    """With that function for a network, on whole utterances; the constants are published ones."""
    settings = RefinerSettings(**{"kind": kind, "segment_frames": None, **changes})
    return KINDS[kind](settings, Answers(function) if function else Answers())


def total_noise(t):
    """B(t) with the published constants: the integral of 0.05 + 19.95 t."""
    return 0.05 * t + 19.95 * t**2 / 2


# ------------------------------------------------------------------------------------ the Gaussian world, exactly


def moments(kind, t, around):
    """Mean and variance of x_t, and their derivatives in t, where recordings are N(MEAN, STD^2)."""
    if kind == "diffusion":
        left, beta = torch.exp(-total_noise(t) / 2), 0.05 + 19.95 * t
        mean, variance = left * MEAN + (1 - left) * around, left**2 * STD**2 + 1 - left**2
        return mean, variance, 0.5 * beta * (around - mean), beta * (1 - variance)
    kept = 1 - 1e-4
    variance = (1 - kept * t) ** 2 + t**2 * STD**2
    d_variance = 2 * t * STD**2 - 2 * kept * (1 - kept * t)
    return (1 - kept * t) * around + t * MEAN, variance, MEAN - kept * around, d_variance


def exact_answer(kind, around_mu=True, scale=1.0):
    """The score of x_t, or E[velocity | x_t] = mean' + 1/2 variance' (x_t - mean) / variance."""

    def answer(x, mu, t):
        mean, variance, d_mean, d_variance = moments(kind, t, mu if around_mu else torch.zeros_like(mu))
        normal = (x - mean) / variance
        return scale * (-normal if kind == "diffusion" else d_mean + 0.5 * d_variance * normal)

    return answer


def gaussian_world(n, seed=0):
    """Recordings, mu, mask, keys of n utterances with 2 x 3 elements each, in float64."""
    torch.manual_seed(seed)
    x = MEAN + STD * torch.randn(n, 2, 3, dtype=torch.float64)
    return x, torch.full_like(x, MU), torch.ones(n, 1, 3, dtype=torch.bool), torch.arange(n) + 10


@pytest.mark.parametrize(("around", "fault"), [("mu", 1.0), ("zero", 1.0), ("mu", 1.02)])
def test_noised_moments_solve_the_equation(around, fault):
    """dm/dt = 1/2 (mu - m) beta, dv/dt = (1 - v) beta from m = x, v = 0, by Runge and Kutta; a beta 2 % off shows."""
    diffusion = refiner("diffusion", around=around, beta_max=20.0 * fault)
    end = torch.tensor([MU if around == "mu" else 0.0, 1.0], dtype=torch.float64)
    y, n = torch.tensor([MEAN, 0.0], dtype=torch.float64), 2000

    def slope(t, y):
        return (0.05 + 19.95 * t) * (end - y) * torch.tensor([0.5, 1.0])

    for i in range(n):
        t, h = i / n, 1 / n
        k1 = slope(t, y)
        k2 = slope(t + h / 2, y + h / 2 * k1)
        k3 = slope(t + h / 2, y + h / 2 * k2)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(t + h, y + h * k3))
        if i + 1 in (20, 600, 2000):
            x, mu = (torch.full((1, 1, 1), v, dtype=torch.float64) for v in (MEAN, MU))
            mean, std = diffusion.noised(x, mu, torch.tensor([t + h], dtype=torch.float64))
            error = max(abs(mean.item() - y[0].item()), abs(std.item() ** 2 - y[1].item()))
            assert error < 1e-9 if fault == 1 else error > 1e-6


def test_what_the_network_sees_is_distributed_as_the_paths_are():
    """Paths of dX = 1/2 (mu - X) beta dt + sqrt(beta) dW, by Euler-Maruyama; draws of the loss at like times."""
    diffusion, n = refiner("diffusion"), 40_000
    x = torch.full((n, 1, 1), MEAN)
    diffusion.loss(x, torch.full_like(x, MU), torch.ones(n, 1, 1, dtype=torch.bool), torch.arange(n))
    seen, _, times = diffusion.network.asked
    torch.manual_seed(0)
    path, n_steps = torch.full((n,), MEAN), 400
    for i in range(n_steps):
        beta = 0.05 + 19.95 * (i + 0.5) / n_steps
        path = path + 0.5 * (MU - path) * beta / n_steps + math.sqrt(beta / n_steps) * torch.randn(n)
        t = (i + 1) / n_steps
        if t in (0.2, 0.5, 1.0):
            draws = seen.flatten()[(times - t).abs() < 0.02]
            assert len(draws) > 700
            error = math.sqrt(2 / len(draws))
            assert abs(draws.mean() - path.mean()) < 4 * error and abs(draws.var() - path.var()) < 5 * error


@EVERY_KIND
@EITHER_CENTRE
def test_loss_is_its_formula(kind, around):
    """Written out for an answer that depends on all it is given."""
    torch.manual_seed(0)
    mask, keys = sequence_mask(torch.tensor([21, 7, 10]), 21), torch.arange(3)
    x, mu = (torch.randn(3, 4, 21) * mask for _ in range(2))
    loss, loss_mask = refiner(kind, lambda x, mu, t: torch.sin(3 * x + mu + t), around=around).loss(x, mu, mask, keys)
    u = randomness.uniform(keys, "refiner.time", 1)[:, :, None]
    eps = randomness.normal(keys, "refiner.noise", *x.shape[1:])
    centre = mu if around == "mu" else 0 * mu
    if kind == "diffusion":
        t = 1e-5 + (1 - 2e-5) * u
        left, std = torch.exp(-total_noise(t) / 2), torch.sqrt(1 - torch.exp(-total_noise(t)))
        x_t = left * x + (1 - left) * centre + std * eps
        expected = (torch.sin(3 * x_t + mu + t) * std + eps) ** 2
    else:
        x_t = (1 - (1 - 1e-4) * u) * (centre + eps) + u * x
        expected = (torch.sin(3 * x_t + mu + u) - (x - (1 - 1e-4) * (centre + eps))) ** 2
    torch.testing.assert_close(loss, expected * mask, atol=1e-4, rtol=1e-4)
    assert torch.equal(loss_mask, mask) and u.unique().numel() == len(keys)


@EVERY_KIND
@EITHER_CENTRE
def test_the_exact_answer_costs_what_it_must_and_any_other_more(kind, around):
    """Diffusion: E (std score + eps)^2 = e^-B STD^2 / variance. Flow matching: Var[velocity | x_t]."""
    world, t = gaussian_world(20_000), (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    _, variance, _, d_variance = moments(kind, t, torch.tensor(0.0))
    least = torch.exp(-total_noise(t)) * STD**2 / variance
    if kind == "flow_matching":
        least = STD**2 + (1 - 1e-4) ** 2 - (0.5 * d_variance) ** 2 / variance
    costs = {}
    for scale in (0.9, 1.0, 1.1):
        answer = exact_answer(kind, around == "mu", scale)
        loss, _ = refiner(kind, answer, around=around).loss(*world)
        per_utterance = loss.mean((1, 2))
        costs[scale] = per_utterance.mean()
        error = per_utterance.std() / math.sqrt(len(per_utterance))
        assert (abs(costs[scale] - least.mean()) < 4 * error) == (scale == 1.0)
    assert costs[1.0] < min(costs[0.9], costs[1.1])


@EVERY_KIND
@pytest.mark.parametrize(("around", "noise_scale"), [("mu", 1.0), ("zero", 0.667)])
def test_sampling_reaches_the_exact_solution_at_first_order(kind, around, noise_scale):
    """The flow of a Gaussian carries x = mean + std w to the same w at every time; halved steps, half the error."""
    _, mu, mask, keys = gaussian_world(4)
    centre = mu if around == "mu" else torch.zeros_like(mu)
    start = centre + noise_scale * randomness.normal(keys, "refiner.start", *mu.shape[1:]).double()
    ends = torch.tensor([1.0, 0.0] if kind == "diffusion" else [0.0, 1.0], dtype=torch.float64)
    (mean_start, mean_end), (variance_start, variance_end), *_ = moments(kind, ends, centre.unique())
    exact = mean_end + (start - mean_start) * (variance_end / variance_start).sqrt()
    module = refiner(kind, exact_answer(kind, around == "mu"), around=around)
    errors = [(module.sample(mu, mask, keys, noise_scale, n) - exact).abs().max().item() for n in (200, 400, 800, 1600)]
    orders = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert all(0.9 < order < 1.1 for order in orders), (errors, orders)
    wrong = refiner(kind, exact_answer(kind, around == "mu", 1.01), around=around)
    assert (wrong.sample(mu, mask, keys, noise_scale, 1600) - exact).abs().max() > 1.5 * errors[-1]


@EVERY_KIND
@EITHER_CENTRE
def test_steps_are_those_of_the_published_samplers(kind, around):
    """Grad-TTS asks in the middle of a step, Matcha-TTS at its beginning: a matter of few steps, not of the limit."""
    _, mu, mask, keys = gaussian_world(2)
    centre = mu if around == "mu" else 0 * mu
    x = centre + 0.5 * randomness.normal(keys, "refiner.start", 2, 3)
    for i in range(4):
        if kind == "diffusion":
            t = 1 - (i + 0.5) / 4
            x = x - (centre - x - torch.sin(x + mu + t)) * (0.05 + 19.95 * t) / 8
        else:
            x = x + torch.sin(x + mu + i / 4) / 4
    sample = refiner(kind, lambda x, mu, t: torch.sin(x + mu + t), around=around).sample(mu, mask, keys, 0.5, 4)
    torch.testing.assert_close(sample, x)


@EVERY_KIND
@EITHER_CENTRE
@pytest.mark.parametrize("path", ["x_t", "mu"])
def test_the_gradient_reaches_mu_by_either_path(kind, around, path):
    """Through the noisy frames where noise is around mu, and through what the network is told."""
    x, mu, mask, keys = gaussian_world(3)
    module = refiner(kind, lambda x, mu, t: torch.sin(x if path == "x_t" else mu), around=around)
    loss, _ = module.loss(x, mu.requires_grad_(), mask, keys)
    if loss.requires_grad:
        loss.sum().backward()
    reached = mu.grad is not None and bool((mu.grad != 0).all())
    assert reached == (path == "mu" or around == "mu")


# ------------------------------------------------------------------------------------ segments, padding, keys


def test_segments_are_uniform_and_cut_everything_alike():
    n_utterances, n = 7000, 4
    module = refiner("flow_matching", segment_frames=n, sigma_min=0.0)
    frames = torch.arange(10.0).expand(n_utterances, 1, -1)
    mask = sequence_mask(torch.tensor([10, 3]).repeat(n_utterances // 2), 10)
    loss, cut = module.loss(frames * mask, (1000 + frames) * mask, mask, torch.arange(n_utterances))
    _, mu, _ = module.network.asked
    assert loss.shape == (n_utterances, 1, n) and torch.equal(cut.sum(2)[:2, 0], torch.tensor([4, 3]))
    assert not loss[1::2, :, 3].any() and not mu[1::2, :, 3].any() and (mu[1::2, 0, 0] == 1000).all()
    starts = (mu[::2, 0, 0] - 1000).long()
    assert torch.equal(mu[::2, 0] - 1000, starts[:, None] + torch.arange(n))
    counts = torch.bincount(starts, minlength=7)
    assert len(counts) == 7 and (counts - 500).abs().max() < 5 * math.sqrt(500)
    # x - mu is -1000 in every frame where both are cut alike; what is left is the noise.
    eps = randomness.normal(torch.arange(n_utterances), "refiner.noise", 1, n)
    torch.testing.assert_close(loss[::2], (1000 + eps[::2]) ** 2, atol=1, rtol=1e-5)


def test_faults_are_named():
    assert build_refiner(RefinerSettings(), 80) is None
    _, mu, mask, keys = gaussian_world(1)
    for kind in KINDS:
        with pytest.raises(ValueError, match=r"synthesis\.n_steps=0"):
            refiner(kind).sample(mu, mask, keys, 1.0, 0)
