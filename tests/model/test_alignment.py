"""Monotonic alignment search against published numbers, brute force over every path, and a plain float64 reference."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from common import defaults_with

from vitslite import randomness
from vitslite.model import alignment
from vitslite.model.alignment import AlignmentSettings, Items
from vitslite.tensors import Gaussian, sequence_mask

KEYS = torch.tensor([randomness.key(0, 0, name) for name in "abc"])
NOISY = AlignmentSettings(noise=0.01, noise_steps=100)


def all_durations(n_tokens, n_frames):
    """Every way to give n_tokens at least one of n_frames each: C(T - 1, L - 1) rows."""
    for cuts in itertools.combinations(range(1, n_frames), n_tokens - 1):
        yield np.diff([0, *cuts, n_frames])


def path_score(score, durations):
    """score [L, T], summed along the path in float64."""
    tokens = np.repeat(np.arange(len(durations)), durations)
    return score.astype(np.float64)[tokens, np.arange(len(tokens))].sum()


def reference(score):
    """The textbook dynamic programme on [L, T], in float64; ties stay."""
    n_tokens, n_frames = score.shape
    best = np.full((n_frames, n_tokens), -np.inf)
    best[0, 0] = score[0, 0]
    for t in range(1, n_frames):
        for i in range(n_tokens):
            came = best[t - 1, i - 1] if i > 0 else -np.inf
            best[t, i] = score[i, t] + max(best[t - 1, i], came)
    durations, i = np.zeros(n_tokens, np.int64), n_tokens - 1
    for t in range(n_frames - 1, -1, -1):
        durations[i] += 1
        if t > 0 and i > 0 and (i == t or best[t - 1, i - 1] > best[t - 1, i]):
            i -= 1
    return durations


def search(score, token_lengths, frame_lengths, settings, step):
    """`alignment.search` of a score summed over 4 channels, with a key for each utterance."""
    return alignment.search(score, items(token_lengths, frame_lengths), settings, step, 4)


def items(token_lengths, frame_lengths, keys=KEYS):
    n = len(token_lengths)
    return Items([str(b) for b in range(n)], token_lengths, frame_lengths, keys[:n])


def align(score):
    """Durations of one utterance, score [L, T] in numpy."""
    n_tokens, n_frames = score.shape
    lengths = torch.tensor([n_tokens]), torch.tensor([n_frames])
    return alignment.monotonic_alignment(torch.from_numpy(score)[None].float(), *lengths, ["x"])[0].numpy()


# ---------------------------------------------------------------------------------------- the search


def test_published_numbers():
    """T30: scores of two unit examples, the best path and its value."""
    assert align(np.array([[0.0, -2, -3], [-1, -1, 0]])).tolist() == [1, 2]

    z_p = torch.tensor([[[0.2, 1.5, 1.0], [-1.0, 0.3, 1.2]]])
    log_std = torch.tensor([[[0.0, np.log(2)], [np.log(0.5), 0.0]]]).float()
    p_text = Gaussian(torch.tensor([[[0.0, 1.0], [-1.0, 1.0]]]), log_std)
    score = alignment.log_likelihood(z_p, p_text)[0].numpy()
    expected = [[-1.16473, -5.64973, -11.32473], [-4.61102, -2.80727, -2.55102]]
    np.testing.assert_allclose(score, expected, atol=2e-5)
    assert path_score(score, [2, 1]) == pytest.approx(-9.365484, abs=1e-5)
    assert path_score(score, align(score)) == pytest.approx(-6.523028, abs=1e-5)


def test_ties_stay_so_the_last_token_takes_the_slack():
    assert align(np.zeros((3, 6))).tolist() == [1, 1, 4]
    assert align(np.zeros((3, 40))).tolist() == [1, 1, 38]


@pytest.mark.parametrize("kind", ["random", "integer"])
def test_brute_force(kind):
    rng = np.random.default_rng(0)
    for n_frames in range(1, 8):
        for n_tokens in range(1, min(n_frames, 4) + 1):
            for _ in range(10):
                shape = n_tokens, n_frames
                score = rng.normal(size=shape) if kind == "random" else rng.integers(-1, 2, shape).astype(float)
                found = align(score)
                assert found.sum() == n_frames and found.min() >= 1
                assert found.tolist() == reference(score).tolist()
                best = max(path_score(score, d) for d in all_durations(*shape))
                assert path_score(score, found) == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize(
    "n_tokens, n_frames", [(1, 1), (1, 30), (9, 9), (17, 17), (5, 8), (16, 64), (31, 97), (60, 211)]
)
def test_float64_reference(n_tokens, n_frames):
    """Sizes round the eight-frame sweep; small integers are exact in fp32, so ties have to agree, too."""
    rng = np.random.default_rng(n_tokens)
    for score in (rng.normal(size=(n_tokens, n_frames)), rng.integers(-2, 3, (n_tokens, n_frames)).astype(float)):
        assert align(score).tolist() == reference(score.astype(np.float32)).tolist()


@pytest.mark.parametrize("n_tokens, n_frames", [(20, 40), (31, 33), (9, 80)])
def test_paths_along_the_edges_of_the_band(n_tokens, n_frames):
    for token in (0, n_tokens // 2, n_tokens - 1):
        truth = np.ones(n_tokens, np.int64)
        truth[token] += n_frames - n_tokens
        score = np.zeros((n_tokens, n_frames))
        score[np.repeat(np.arange(n_tokens), truth), np.arange(n_frames)] = 1.0
        assert align(score).tolist() == truth.tolist()


def test_threads_and_layouts_agree():
    """More than SERIAL_CELLS cells, so several threads; and a score that is not a view of [B, T, L]."""
    generator = torch.Generator().manual_seed(0)
    score = torch.randn(9, 150, 800, generator=generator)
    token_lengths = torch.randint(1, 151, (9,), generator=generator)
    frame_lengths = torch.randint(150, 801, (9,), generator=generator)
    ids = [str(i) for i in range(9)]
    n_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        together = alignment.monotonic_alignment(score, token_lengths, frame_lengths, ids)
    finally:
        torch.set_num_threads(n_threads)
    for b, (n, t) in enumerate(zip(token_lengths.tolist(), frame_lengths.tolist(), strict=True)):
        assert together[b, :n].tolist() == align(score[b, :n, :t].numpy()).tolist()
        assert not together[b, n:].any()


def test_ten_thousand_shapes_give_the_best_path_or_an_error():
    """From 0 to 12 tokens and 0 to 30 frames, many of them without a path; one in eight holds NaN or infinity.

    Scores are multiples of 1/8, so that fp32 adds them exactly and the float64 reference meets the same ties.
    """
    rng = np.random.default_rng(0)
    counts = {"path": 0, "too short": 0, "no tokens": 0, "not finite": 0}
    for _ in range(10_000):
        n_tokens, n_frames = int(rng.integers(0, 13)), int(rng.integers(0, 31))
        padding = rng.integers(0, 3, 2)
        score = rng.integers(-20, 21, (n_tokens + padding[0], n_frames + padding[1])) / 8
        score[n_tokens:], score[:, n_frames:] = np.nan, np.inf
        valid = score[:n_tokens, :n_frames]
        if spoiled := valid.size > 0 and rng.integers(8) == 0:
            valid[rng.integers(n_tokens), rng.integers(n_frames)] = rng.choice([np.nan, np.inf, -np.inf])
        arguments = torch.from_numpy(score)[None].float(), torch.tensor([n_tokens]), torch.tensor([n_frames]), ["x"]
        kind = "no tokens" if n_tokens == 0 else "too short" if n_frames < n_tokens else "path"
        kind = "not finite" if kind == "path" and spoiled else kind
        counts[kind] += 1
        if kind == "path":
            found = alignment.monotonic_alignment(*arguments)[0]
            assert found[:n_tokens].tolist() == reference(valid).tolist() and not found[n_tokens:].any()
        else:
            with pytest.raises(
                ValueError, match={"too short": "need at least", "not finite": "holds NaN"}.get(kind, kind)
            ):
                alignment.monotonic_alignment(*arguments)
    assert min(counts.values()) > 500, counts


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_padding_is_never_read(garbage):
    generator = torch.Generator().manual_seed(1)
    score = torch.full((4, 21, 70), garbage)
    token_lengths, frame_lengths = torch.tensor([21, 1, 13, 8]), torch.tensor([64, 70, 13, 31])
    for b, (n, t) in enumerate(zip(token_lengths.tolist(), frame_lengths.tolist(), strict=True)):
        score[b, :n, :t] = torch.randn(n, t, generator=generator)
    found = alignment.monotonic_alignment(score, token_lengths, frame_lengths, list("abcd"))
    assert found.dtype == torch.int64 and found.sum(1).tolist() == frame_lengths.tolist()
    for b, (n, t) in enumerate(zip(token_lengths.tolist(), frame_lengths.tolist(), strict=True)):
        assert found[b, :n].tolist() == reference(score[b, :n, :t].numpy()).tolist()
        assert not found[b, n:].any()


def test_scores_below_any_large_negative_number():
    """A sentinel of -1e9 for "unreachable" would beat these scores and let the path leave the band."""
    score = np.random.default_rng(0).normal(size=(4, 30)) * 1e7 - 1e9
    found = align(score)
    assert found.min() >= 1 and found.tolist() == reference(score.astype(np.float32)).tolist()


def test_a_transposed_score_is_noticed():
    """Planted fault: the same numbers read as frames by tokens lose score, or have more tokens than frames."""
    score = np.random.default_rng(0).normal(size=(4, 9))
    best = max(path_score(score, d) for d in all_durations(4, 9))
    assert path_score(score, align(score)) == pytest.approx(best)
    assert path_score(score, align(score.reshape(9, 4).T.copy())) < best - 0.5
    with pytest.raises(ValueError, match="9 tokens need at least 9 frames, it has 4"):
        align(score.T.copy())


# ---------------------------------------------------------------------------------------- the guards


@pytest.mark.parametrize(
    "n_tokens, n_frames, message",
    [
        (205, 172, "utterance LJ001-0088: 205 tokens need at least 205 frames, it has 172; drop it or set text.blanks"),
        (0, 5, "utterance LJ001-0088: no tokens"),
        (0, 0, "utterance LJ001-0088: no tokens"),
        (1, 0, "utterance LJ001-0088: 1 tokens need at least 1 frames, it has 0"),
    ],
)
def test_lengths_that_cannot_be_aligned(n_tokens, n_frames, message):
    lengths = torch.tensor([3, n_tokens]), torch.tensor([9, n_frames])
    with pytest.raises(ValueError, match=message):
        alignment.monotonic_alignment(torch.zeros(2, 205, 300), *lengths, ["fine", "LJ001-0088"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("cell", [(0, 0), (4, 0), (0, 39), (2, 17), (4, 39)])
def test_a_score_that_is_not_finite(value, cell):
    """Also in cells that lie on no path, and wherever in the valid region."""
    score = torch.zeros(3, 5, 40)
    score[1][cell] = value
    lengths = torch.tensor([5, 5, 5]), torch.tensor([40, 40, 40])
    with pytest.raises(ValueError, match="utterance b: the alignment score holds NaN or infinity"):
        alignment.monotonic_alignment(score, *lengths, ["a", "b", "c"])


# ---------------------------------------------------------------------------------------- the score


def a_prior(log_std_low, log_std_high, n_channels=24, n_tokens=7, n_frames=19, seed=0):
    generator = torch.Generator().manual_seed(seed)
    spread = torch.rand(2, n_channels, n_tokens, generator=generator)
    p_text = Gaussian(
        torch.randn(2, n_channels, n_tokens, generator=generator), log_std_low + (log_std_high - log_std_low) * spread
    )
    return torch.randn(2, n_channels, n_frames, generator=generator), p_text


@pytest.mark.parametrize("low, high, tolerance", [(-0.5, 0.5, 2e-6), (-3.0, 1.0, 2e-6), (-10.0, 10.0, 2e-6)])
def test_score_is_the_summed_log_density(low, high, tolerance):
    z_p, p_text = a_prior(low, high)
    wide = Gaussian(*(x.double()[..., None] for x in p_text))
    truth = wide.log_prob(z_p.double()[:, :, None].expand(-1, -1, 7, -1)).sum(1)
    score = alignment.log_likelihood(z_p, p_text)
    assert score.shape == (2, 7, 19) and score.transpose(1, 2).is_contiguous() and torch.isfinite(score).all()
    assert (score - truth).abs().max() <= tolerance * truth.abs().max()


def test_score_is_fp32_under_autocast_and_for_half_inputs():
    z_p, p_text = a_prior(-7.0, 0.0)
    plain = alignment.log_likelihood(z_p, p_text)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(alignment.log_likelihood(z_p, p_text), plain)
    half = alignment.log_likelihood(z_p.half(), Gaussian(p_text.mean.half(), p_text.log_std.half()))
    assert half.dtype == torch.float32 and torch.isfinite(half).all()


def test_reduced_precision_products_do_not_reach_the_score():
    z_p, p_text = a_prior(-3.0, 0.0)
    plain = alignment.log_likelihood(z_p, p_text)
    try:
        torch.set_float32_matmul_precision("medium")
        assert torch.equal(alignment.log_likelihood(z_p, p_text), plain)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_search_finds_what_was_planted_and_has_no_gradient():
    generator = torch.Generator().manual_seed(0)
    mean = (3 * torch.randn(2, 16, 5, generator=generator)).requires_grad_()
    truth = torch.tensor([[2, 1, 4, 3, 2], [1, 6, 2, 0, 0]])
    token_lengths, frame_lengths = torch.tensor([5, 3]), torch.tensor([12, 9])
    z_p = alignment.expand(mean, truth, 12) + 0.1 * torch.randn(2, 16, 12, generator=generator)
    p_text = Gaussian(mean, torch.full_like(mean, -1.0))
    score = alignment.log_likelihood(z_p, p_text)
    found = search(score, token_lengths, frame_lengths, AlignmentSettings(), 0)
    assert found.tolist() == truth.tolist() and not found.requires_grad


# ---------------------------------------------------------------------------------------- aids for early training


def test_diagonal_penalty_fades():
    """With a flat score only the penalty speaks: even durations at first, all slack to the last token afterwards."""
    score, lengths = torch.zeros(1, 3, 12), (torch.tensor([3]), torch.tensor([12]))
    on = AlignmentSettings(diagonal_steps=100)
    durations = [search(score, *lengths, on, step)[0].tolist() for step in (0, 99, 100, None)]
    assert durations == [[4, 4, 4], [4, 4, 4], [1, 1, 10], [1, 1, 10]]
    assert search(score, *lengths, AlignmentSettings(), 0)[0].tolist() == [1, 1, 10] and not score.any()
    distance = alignment.diagonal_distance(items(torch.tensor([2]), torch.tensor([4])), 2, 4)
    torch.testing.assert_close(distance[0, 1], torch.tensor([0.625, 0.375, 0.125, -0.125]) ** 2)


def test_diagonal_penalty_is_per_channel():
    score, lengths = torch.ones(1, 2, 4), (torch.tensor([2]), torch.tensor([4]))
    settings = AlignmentSettings(diagonal_steps=10, diagonal_weight=8.0)
    penalised = alignment.penalised(score, items(*lengths), settings, 5, 16)
    torch.testing.assert_close(penalised, 1 - 0.5 * 16 * 8 * alignment.diagonal_distance(items(*lengths), 2, 4))


def noise(score, token_lengths, frame_lengths, settings=NOISY, step=0, keys=KEYS):
    """What `perturbed` adds to the score, in its valid cells."""
    found = alignment.perturbed(score, items(token_lengths, frame_lengths, keys), settings, step) - score
    valid = sequence_mask(token_lengths, score.shape[1]).transpose(1, 2)
    return found * (valid & sequence_mask(frame_lengths, score.shape[2]))


def a_ragged_score():
    """Three utterances of very different spread, float64 so that what was added can be seen."""
    score = torch.randn(3, 20, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (
        score * torch.tensor([1.0, 50, 400])[:, None, None] - 1000,
        torch.tensor([20, 9, 17]),
        torch.tensor([60, 33, 52]),
    )


def test_no_noise_leaves_the_score_bitwise():
    score, *lengths = a_ragged_score()
    for settings, step in ((AlignmentSettings(), 0), (NOISY, 100), (NOISY, 5000)):
        assert torch.equal(alignment.perturbed(score, items(*lengths), settings, step), score)
    assert not torch.equal(alignment.perturbed(score, items(*lengths), NOISY, 99), score)
    never = AlignmentSettings(noise=0.01, noise_steps=0)
    assert torch.equal(alignment.perturbed(score, items(*lengths), never, 0), score)


def test_noise_has_the_size_that_was_asked_for():
    """noise * std of the valid cells at first, and on a straight line to zero."""
    score, *lengths = a_ragged_score()
    first = noise(score, *lengths)
    for b, (n, t) in enumerate(zip(*(x.tolist() for x in lengths), strict=True)):
        std = score[b, :n, :t].std(correction=0).item()
        drawn = randomness.normal(KEYS[b : b + 1], "alignment", n, t)[0].double()
        torch.testing.assert_close(first[b, :n, :t], 0.01 * std * drawn, atol=1e-9, rtol=1e-9)
        assert first[b, :n, :t].std().item() == pytest.approx(0.01 * std, rel=0.1)
    torch.testing.assert_close(noise(score, *lengths, step=75), 0.25 * first, atol=1e-9, rtol=1e-9)


def test_noise_depends_on_the_utterance_alone():
    """Not on its company, nor on what stands in padding: VITS2's spread over the padded batch would."""
    score, *lengths = a_ragged_score()
    together = noise(score, *lengths)
    for b, (n, t) in enumerate(zip(*(x.tolist() for x in lengths), strict=True)):
        alone = noise(score[b : b + 1, :n, :t], *(x[b : b + 1] for x in lengths), keys=KEYS[b : b + 1])
        torch.testing.assert_close(alone[0], together[b, :n, :t], atol=1e-10, rtol=1e-10)
    padded = torch.nn.functional.pad(score, (0, 9, 0, 5), value=float("nan"))
    assert torch.equal(noise(padded, *lengths).nan_to_num()[:, :20, :60], together)
    other_keys = noise(score, *lengths, keys=KEYS.roll(1))
    assert (other_keys - together).abs().amax((1, 2)).gt(0.01).all()
    assert score.std() < 0.7 * score[2].std()  # planted fault: the spread of the batch is another one


def test_noise_is_none_in_a_single_cell():
    one = torch.tensor([1])
    score = torch.full((1, 1, 1), -3.0)
    assert torch.equal(alignment.perturbed(score, items(one, one), NOISY, 0), score)


def test_noise_reaches_the_search_in_training_alone():
    """A flat path has ties everywhere: the least noise decides them, its own way for each key."""
    score = torch.zeros(3, 5, 40)
    score[:, 0, 0] = 1e-3  # on every path; gives the score a spread
    lengths = torch.tensor([5, 5, 5]), torch.tensor([40, 40, 40])
    noisy = search(score, *lengths, NOISY, 0)
    assert len({tuple(row) for row in noisy.tolist()}) == 3 and noisy.sum(1).tolist() == [40] * 3
    for step in (100, None):
        assert search(score, *lengths, NOISY, step).tolist() == [[1, 1, 1, 1, 36]] * 3


# ---------------------------------------------------------------------------------------- even durations, settings


def test_uniform_durations():
    for n_frames in range(1, 25):
        for n_tokens in range(1, n_frames + 1):
            lengths = torch.tensor([n_tokens, 1]), torch.tensor([n_frames, n_frames])
            durations = alignment.uniform(*lengths, n_tokens + 2)
            assert durations.dtype == torch.int64 and durations[1].tolist() == [n_frames] + [0] * (n_tokens + 1)
            valid = durations[0, :n_tokens]
            starts = [n_frames * i // n_tokens for i in range(n_tokens + 1)]
            assert valid.tolist() == np.diff(starts).tolist() and not durations[0, n_tokens:].any()
            assert valid.sum() == n_frames and valid.min() >= 1 and valid.max() - valid.min() <= 1
    assert alignment.uniform(torch.tensor([3]), torch.tensor([8]), 3).tolist() == [[2, 3, 3]]


@pytest.mark.parametrize(
    "override, message",
    [
        ("kind=viterbi", "model.alignment.kind=viterbi is unknown: choose one of mas, forward_sum, uniform, given"),
        ("score=audio", "model.alignment.score=audio is unknown: choose one of latent, mel"),
        ("noise=-0.01", "model.alignment.noise=-0.01: must be at least 0"),
        ("noise=.nan", "model.alignment.noise=nan: must be a finite number"),
        ("noise_steps=-1", "model.alignment.noise_steps=-1: must be at least 0"),
        ("diagonal_steps=-1", "model.alignment.diagonal_steps=-1: must be at least 0"),
    ],
)
def test_impossible_settings(override, message):
    with pytest.raises(ValueError, match=message):
        defaults_with(f"model.alignment.{override}")


# ---------------------------------------------------------------------------------------- using durations


def test_expansion_is_the_product_with_the_dense_path():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, generator=generator, requires_grad=True)
    durations = torch.tensor([[2, 0, 1, 4, 1], [3, 1, 2, 0, 0]])
    path = alignment.dense(durations, 8)
    assert path.sum(2).tolist() == durations.tolist()
    assert path.sum(1).tolist() == [[1] * 8, [1] * 6 + [0] * 2]
    assert alignment.frame_to_token(durations, 8).tolist() == [[0, 0, 2, 3, 3, 3, 3, 4], [0, 0, 0, 1, 2, 2, 4, 4]]

    valid = path.any(1, keepdim=True)
    product = x @ path.float()
    assert torch.equal(alignment.expand(x, durations, 8) * valid, product)
    (gradient,) = torch.autograd.grad((alignment.expand(x, durations, 8) * valid).pow(3).sum(), x)
    (truth,) = torch.autograd.grad(product.pow(3).sum(), x)
    torch.testing.assert_close(gradient, truth)


def test_importing_does_not_load_the_compiler():
    code = "import sys; from vitslite.model import alignment; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("fault", [None, "one key for all"])
def test_one_utterance_after_the_other_is_all_at_once(monkeypatch, fault):
    """With all that may be added to the score; also where the surroundings run in half precision."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([9, 12, 1, 7]), torch.tensor([40, 31, 5, 7])
    z_p, mean, log_std = (torch.randn(4, 6, n, generator=generator) for n in (40, 12, 12))
    settings = AlignmentSettings(noise=0.5, noise_steps=10, diagonal_steps=10)
    p_text = Gaussian(mean, 0.3 * log_std)

    def found(small_score, keys):
        monkeypatch.setattr(alignment, "_SMALL_SCORE", small_score)
        return alignment.scored_search(z_p, p_text, items(*lengths, keys), settings, 3)

    keys = torch.cat([KEYS, KEYS[:1] + 1])
    together = found(2**18, keys)
    one_by_one = found(0, keys if fault is None else keys[:1].expand(4))
    assert torch.equal(together, one_by_one) == (fault is None)
    assert together.sum(1).tolist() == lengths[1].tolist()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(found(0, keys), together)


def test_one_utterance_after_the_other_names_what_is_wrong(monkeypatch):
    monkeypatch.setattr(alignment, "_SMALL_SCORE", 0)
    p_text = Gaussian(torch.zeros(2, 3, 5), torch.zeros(2, 3, 5))

    def search(z_p, token_lengths, frame_lengths):
        named = items(torch.tensor(token_lengths), torch.tensor(frame_lengths))._replace(ids=["a", "b"])
        return alignment.scored_search(z_p, p_text, named, AlignmentSettings(), None)

    with pytest.raises(ValueError, match="utterance b: 5 tokens need at least 5 frames, it has 4"):
        search(torch.zeros(2, 3, 9), [5, 5], [9, 4])
    spoiled = torch.zeros(2, 3, 9)
    spoiled[1, 0, 8] = float("nan")
    assert search(spoiled, [5, 5], [9, 8]).sum(1).tolist() == [9, 8], "what lies beyond the end is not read"
    with pytest.raises(ValueError, match="utterance b: the alignment score holds NaN"):
        search(spoiled, [5, 5], [9, 9])
