"""The sum over all alignments against brute force, closed forms, autograd and quadrature."""

import itertools
import math

import numpy as np
import pytest
import torch

from vitslite.model import alignment, forward_sum
from vitslite.tensors import LOG_2PI, Gaussian, SoftGaussian

SIZES = [(n_tokens, n_frames) for n_frames in range(1, 8) for n_tokens in range(1, min(n_frames, 4) + 1)]
EVEN = torch.tensor([2]), torch.tensor([3])  # lengths of the two-token, three-frame examples


def all_paths(n_tokens, n_frames):
    """The token of each frame, for every monotonic path."""
    for cuts in itertools.combinations(range(1, n_frames), n_tokens - 1):
        yield np.repeat(np.arange(n_tokens), np.diff([0, *cuts, n_frames]))


def ragged(padding, scale=3.0, seed=0):
    """One utterance of each of SIZES in one batch [B, 4, 7] of float64, with `padding` beyond the lengths."""
    generator = torch.Generator().manual_seed(seed)
    score = torch.full((len(SIZES), 4, 7), padding, dtype=torch.float64)
    for b, (n, t) in enumerate(SIZES):
        score[b, :n, :t] = scale * torch.randn(n, t, generator=generator, dtype=torch.float64)
    return score, *torch.tensor(SIZES).T


def check_brute_force(total, share, score):
    """`total` [B] and `share` [B, L, T] against sums over every path, one by one."""
    for b, (n, t) in enumerate(SIZES):
        paths = np.array(list(all_paths(n, t)))
        scores = score[b].numpy()[paths, np.arange(t)].sum(1)
        assert total[b].item() == pytest.approx(np.logaddexp.reduce(scores), abs=1e-12)
        weights = np.exp(scores - np.logaddexp.reduce(scores))
        truth = torch.zeros(4, 7, dtype=torch.float64)
        for path, weight in zip(paths, weights, strict=True):
            truth[torch.from_numpy(path), torch.arange(t)] += weight
        torch.testing.assert_close(share[b], truth, atol=1e-12, rtol=0)


# ------------------------------------------------------------------------------------------- the sum and its shares


@pytest.mark.parametrize("padding", [0.0, math.nan, math.inf, -math.inf])
def test_brute_force(padding):
    """Every path counts once, and padding is neither read nor given a share."""
    score, *lengths = ragged(padding)
    check_brute_force(forward_sum.log_sum(score, *lengths), forward_sum.posterior(score, *lengths), score)


def test_brute_force_finds_other_sums():
    """Planted faults: paths that may end in any token; shares frame by frame, without regard to order."""
    score, *lengths = ragged(0.0)
    total, share = forward_sum.log_sum(score, *lengths), forward_sum.posterior(score, *lengths)
    anywhere = torch.stack([forward_sum.log_sum(score, lengths[0].clamp(max=n), lengths[1]) for n in range(1, 5)])
    with pytest.raises(AssertionError):
        check_brute_force(anywhere.logsumexp(0), share, score)
    with pytest.raises(AssertionError):
        check_brute_force(total, torch.softmax(score, 1), score)


def test_number_of_paths():
    score, *lengths = ragged(0.0, scale=0.0)
    counts = torch.tensor([math.comb(t - 1, n - 1) for n, t in SIZES], dtype=torch.float64)
    torch.testing.assert_close(forward_sum.log_n_paths(*lengths), counts.log(), atol=1e-12, rtol=0)
    torch.testing.assert_close(forward_sum.log_sum(score, *lengths), counts.log(), atol=1e-12, rtol=0)


def test_flat_scores_have_a_closed_form():
    """All paths alike: P(frame t in token l) = C(t, l) C(T-1-t, L-1-l) / C(T-1, L-1), the hypergeometric law."""
    n_tokens, n_frames = 60, 211
    lengths = torch.tensor([n_tokens]), torch.tensor([n_frames])
    score = torch.full((1, n_tokens, n_frames), -2.5)
    truth = torch.tensor(
        [
            [
                math.comb(t, i) * math.comb(n_frames - 1 - t, n_tokens - 1 - i) / math.comb(n_frames - 1, n_tokens - 1)
                for t in range(n_frames)
            ]
            for i in range(n_tokens)
        ]
    )
    share = forward_sum.posterior(score, *lengths)
    assert share.dtype == torch.float32
    torch.testing.assert_close(share[0], truth, atol=1e-7, rtol=1e-6)
    expected = -2.5 * n_frames + math.log(math.comb(n_frames - 1, n_tokens - 1))
    assert forward_sum.log_sum(score, *lengths).item() == pytest.approx(expected, abs=1e-9)


def test_posterior_is_the_gradient():
    """d log_sum / d log_lik by autograd, with NaN on padding; and log_sum's own gradient by finite differences."""
    score, *lengths = ragged(math.nan)
    score.requires_grad_()
    (gradient,) = torch.autograd.grad(forward_sum.log_sum(score, *lengths).sum(), score)
    share = forward_sum.posterior(score, *lengths)
    assert not share.requires_grad
    torch.testing.assert_close(share, gradient, atol=1e-13, rtol=0)
    frames = torch.arange(7) < lengths[1][:, None]
    torch.testing.assert_close(share.sum(1), frames.double(), atol=1e-13, rtol=0)

    score, *lengths = ragged(0.0)
    assert torch.autograd.gradcheck(lambda x: forward_sum.log_sum(x, *lengths), score.requires_grad_())


@pytest.mark.parametrize("size", [1e3, 1e6, 1e9])
def test_large_scores(size):
    """No NaN however far apart the scores are: the best path takes all."""
    score = (-size * torch.rand(2, 9, 40, generator=torch.Generator().manual_seed(0))).requires_grad_()
    lengths = torch.tensor([9, 5]), torch.tensor([40, 31])
    total = forward_sum.log_sum(score, *lengths)
    (gradient,) = torch.autograd.grad(total.sum(), score)
    durations = alignment.monotonic_alignment(score, *lengths, ["a", "b"])
    path = alignment.dense(durations, 40)
    best = (score.detach().double() * path).sum((1, 2))
    assert (total >= best - 1e-12 * size).all() and (total <= best + forward_sum.log_n_paths(*lengths)).all()
    share = forward_sum.posterior(score, *lengths)
    torch.testing.assert_close(gradient, share, atol=1e-6, rtol=0)
    if size > 1e4:
        torch.testing.assert_close(share, path.float(), atol=1e-6, rtol=0)


def test_without_a_path():
    """More tokens than frames: the log of an empty sum, and of zero paths."""
    lengths = torch.tensor([4]), torch.tensor([3])
    assert forward_sum.log_sum(torch.zeros(1, 4, 3), *lengths).item() == -math.inf
    assert forward_sum.log_n_paths(*lengths).item() == -math.inf


# -------------------------------------------------------------------------------------------------- published numbers


def test_two_paths():
    """T30: the score table of two tokens and three frames."""
    z_p = torch.tensor([[[0.2, 1.5, 1.0], [-1.0, 0.3, 1.2]]])
    log_std = torch.tensor([[[0.0, math.log(2)], [math.log(0.5), 0.0]]])
    p_text = Gaussian(torch.tensor([[[0.0, 1.0], [-1.0, 1.0]]]), log_std)
    score = alignment.log_likelihood(z_p, p_text)
    total, ln_n = forward_sum.log_sum(score, *EVEN).item(), forward_sum.log_n_paths(*EVEN).item()
    assert total == pytest.approx(-6.466381, abs=2e-6) and ln_n == pytest.approx(math.log(2))
    best = (score * alignment.dense(alignment.monotonic_alignment(score, *EVEN, ["x"]), 3)).sum().item()
    assert best == pytest.approx(-6.523028, abs=2e-6) and best <= total <= best + ln_n
    odds = math.exp(-9.365484 + 6.466381)  # the other path stays in token 0 in the middle frame
    expected = torch.tensor([[[1.0, odds, 0.0], [0.0, 1 - odds, 1.0]]])
    torch.testing.assert_close(forward_sum.posterior(score, *EVEN), expected, atol=2e-6, rtol=0)


def test_bound_of_an_average_utterance():
    """T29: what the search can leave out, in nats per frame; with and without blanks."""
    n_paths = forward_sum.log_n_paths(torch.tensor([213, 106]), torch.tensor([566, 566]))
    assert (n_paths / 566).tolist() == pytest.approx([0.6546, 0.4737], abs=5e-5)


def test_search_makes_the_kl_negative_and_the_sum_does_not():
    """T28: three frames, tokens N1 = N(-1, 1) and N2 = N(1, 1). The outer frames have no choice; z is the middle one.

    The KL with the best path, integrated on a grid, for two posteriors of the middle frame: N(0, s^2), where
    it is s^2 / 2 - s sqrt(2 / pi) - ln s, at the best s; and the best of all, max(N1, N2) / (1 + TV), which reaches the
    bound -ln(1 + TV).
    """
    z = torch.linspace(-15, 15, 60001, dtype=torch.float64)
    tokens = -0.5 * LOG_2PI - 0.5 * (z - torch.tensor([[-1.0], [1.0]])) ** 2
    score = torch.zeros(len(z), 2, 3, dtype=torch.float64)
    score[:, :, 1] = tokens.T
    lengths = torch.tensor([2]).expand(len(z)), torch.tensor([3]).expand(len(z))
    path = alignment.dense(alignment.monotonic_alignment(score, *lengths, [""] * len(z)), 3)
    best, total = (score * path).sum((1, 2)), forward_sum.log_sum(score, *lengths)
    mixture = total - forward_sum.log_n_paths(*lengths)

    def kl(log_q, log_p):
        return torch.trapezoid(log_q.exp() * (log_q - log_p), z).item()

    c = math.sqrt(2 / math.pi)
    std = (c + math.sqrt(c * c + 4)) / 2
    q = Gaussian(torch.zeros_like(z), torch.full_like(z, math.log(std))).log_prob(z)
    assert kl(q, tokens[0]) == pytest.approx(0.6996, abs=5e-5)  # as if the path were fixed
    assert kl(q, best) == pytest.approx(std**2 / 2 - std * c - math.log(std), abs=1e-6)
    assert kl(q, best) == pytest.approx(-0.47773, abs=5e-6)
    assert kl(q, best) + math.log(2) == pytest.approx(0.21542, abs=5e-6)
    assert kl(q, mixture) == pytest.approx(0.01548, abs=5e-6)

    normaliser = 1 + math.erf(math.sqrt(0.5))  # the integral of max(N1, N2): more than 1, so it is no density
    assert torch.trapezoid(best.exp(), z).item() == pytest.approx(normaliser, abs=1e-6)
    assert torch.trapezoid(mixture.exp(), z).item() == pytest.approx(1, abs=1e-9)
    assert kl(best - math.log(normaliser), best) == pytest.approx(-math.log(normaliser), abs=1e-6)
    assert -math.log(normaliser) == pytest.approx(-0.52039, abs=5e-6)


# -------------------------------------------------------------------------------------------- in place of the best path


def gradients(loss, *inputs):
    return torch.autograd.grad(loss, inputs)


def test_a_soft_prior_has_the_gradient_of_the_sum():
    """With shares held fixed, -sum_t SoftGaussian.log_prob has the gradient of -log_sum to z, mean and log_std."""
    generator = torch.Generator().manual_seed(0)
    z, mean = (torch.randn(2, 5, n, generator=generator, dtype=torch.float64) for n in (11, 4))
    log_std = 0.5 * torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (z, mean, log_std)]
    lengths = torch.tensor([4, 3]), torch.tensor([11, 8])
    wide = Gaussian(mean[..., None], log_std[..., None])
    score = wide.log_prob(z[:, :, None].expand(-1, -1, 4, -1)).sum(1)
    truth = gradients(-forward_sum.log_sum(score, *lengths).sum(), *inputs)

    def soft(weight):
        return gradients(-SoftGaussian(Gaussian(mean, log_std), weight).log_prob(z).sum(), *inputs)

    for found, expected in zip(soft(forward_sum.posterior(score, *lengths)), truth, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-11, rtol=1e-11)
    single = alignment.log_likelihood(z, Gaussian(mean, log_std))  # the fp32 score of the model
    for found, expected in zip(soft(forward_sum.posterior(single, *lengths).double()), truth, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)

    best = alignment.dense(alignment.monotonic_alignment(score, *lengths, ["a", "b"]), 11).double()
    for found, expected in zip(soft(best), truth, strict=True):  # planted fault: the one best path
        assert (found - expected).abs().max() > 0.01
