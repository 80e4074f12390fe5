"""The figures of every run against independent computations, and that looking changes nothing."""

import dataclasses
import itertools
import math

import matplotlib.image
import numpy as np
import pytest
import torch
from paths import Bent, normal

from vitslite import build
from vitslite.metrics.alignment import onset_errors, path_statistics, score_statistics
from vitslite.metrics.gradients import gradient_norms, matrix
from vitslite.metrics.latents import latent_statistics, latent_sums
from vitslite.metrics.probe import N_SAMPLES, probe, sampling_variance
from vitslite.monitoring import figures
from vitslite.objectives import kl
from vitslite.objectives.kl import without_log_det
from vitslite.tensors import Gaussian, Latents, Outputs, SoftGaussian, sequence_mask

F64 = torch.float64
B, D, T = 3, 4, 7
LENGTHS = torch.tensor([7, 4, 5])
RATE = 86.1328125  # frames per second


class Identity:
    def __call__(self, z, mask):
        return z, torch.zeros_like(z)


def some_latents(flow=None, soft=False) -> Latents:
    """q, p and a sample on ragged utterances; a silent channel 0, a wide channel 1."""
    flow = flow or Bent()
    mask = sequence_mask(LENGTHS, T)
    width = torch.tensor([0.0, 1.0, 0.3, 2.0], dtype=F64)[:, None]
    log_std = torch.tensor([0.0, 0.3, -0.6, -1.2], dtype=F64)[:, None]
    q = Gaussian(width * normal(B, D, T, seed=1) * mask, (log_std + 0.3 * normal(B, D, T, seed=2)) * mask)
    p = Gaussian(0.5 * width * normal(B, D, T, seed=3) * mask, 0.2 * normal(B, D, T, seed=4) * mask)
    if soft:
        weight = torch.softmax(3 * normal(B, 2, T, seed=5), 1) * mask
        p = SoftGaussian(Gaussian(p.mean[..., :2], p.log_std[..., :2]), weight)
    z = q.sample(normal(B, D, T, seed=6)) * mask
    z_p, log_det = flow(z, mask)
    return Latents(q, p, z, z_p, log_det, mask, flow, torch.arange(B) + 11)


def outputs_of(x: Latents) -> Outputs:
    """Outputs where only the latents mean anything."""
    n, one = len(x.z), torch.ones(len(x.z), dtype=torch.int64)
    tokens, audio = torch.zeros(n, x.z.shape[1], 1), torch.zeros(n, 1, 1)
    return Outputs(x, Gaussian(tokens, tokens), one[:, None], torch.zeros(n, 1), audio, audio, one)


def statistics(x: Latents) -> dict[str, float]:
    return latent_statistics(latent_sums(outputs_of(x)), RATE)


def by_numpy(x: Latents) -> dict[str, float]:
    """The same figures frame by frame, by other formulae: densities, and the flow written out once more."""
    frames = [(b, t) for b in range(B) for t in range(int(LENGTHS[b]))]
    m_q, l_q, m_p, l_p, z, log_det = (
        np.array([v[b, :, t].numpy() for b, t in frames]) for v in (*x.q, x.p.mean, x.p.log_std, x.z, x.log_det)
    )

    def push(v):
        v0, v1 = v[:, : D // 2], v[:, D // 2 :]
        return np.concatenate([v0, np.sin(2 * v0) + v1 * np.exp(0.5 * np.tanh(v0) - 0.3)], 1)

    def log_density(v, mean, log_std):
        return np.log(np.exp(-0.5 * ((v - mean) / np.exp(log_std)) ** 2) / np.sqrt(2 * np.pi * np.exp(log_std) ** 2))

    def two_gaussians(mean):
        return 0.5 * (np.exp(2 * l_q) / np.exp(2 * l_p) + (mean - m_p) ** 2 / np.exp(2 * l_p) - 1) + l_p - l_q

    r, eps, n = np.exp(l_q) / np.exp(l_p), (z - m_q) / np.exp(l_q), len(frames)
    log_p = log_density(push(z), m_p, l_p) + log_det
    mc = log_density(z, m_q, l_q) - log_p
    half = -0.5 * np.log(2 * np.pi * np.e * np.exp(l_q) ** 2) - log_p
    pushed_log_det = np.concatenate([np.zeros((n, D // 2)), 0.5 * np.tanh(m_q[:, : D // 2]) - 0.3], 1)
    w = np.exp(-mc.sum(1))
    variance = m_q.var(0)
    return {
        "kl/half_analytic": half.sum(1).mean(),
        "kl/monte_carlo": mc.sum(1).mean(),
        "kl/closed_form": two_gaussians(m_q).sum(1).mean(),
        "kl/pushed_mean": (two_gaussians(push(m_q)) - pushed_log_det).sum(1).mean(),
        "kl/optimal_control_variate": (mc + 0.5 * (1 - (r**2).mean(0)) * (eps**2 - 1)).sum(1).mean(),
        "kl/k3": (w - 1 - np.log(w)).mean(),
        "kl/normaliser": (l_p - l_q - 0.5).sum(1).mean(),
        "kl/quadratic": (0.5 * ((push(z) - m_p) / np.exp(l_p)) ** 2).sum(1).mean(),
        "kl/minus_log_det": -log_det.sum(1).mean(),
        "kl/standard_error": half.sum(1).std(ddof=1) / np.sqrt(n),
        "kl/noise_floor": np.sqrt(D / 2 / n),
        "kl/negative_elements": (half < 0).mean(),
        "kl/negative_frames": (half.sum(1) < 0).mean(),
        "kl/per_element": half.mean(),
        "kl/bits_per_second": half.sum(1).mean() * RATE / np.log(2),
        "latent/posterior_log_std": l_q.mean(),
        "latent/posterior_log_std_min": l_q.min(),
        "latent/posterior_log_std_max": l_q.max(),
        "latent/prior_log_std": l_p.mean(),
        "latent/ratio": np.exp((l_q - l_p).mean()),
        "latent/narrow_posterior": (np.exp(l_q) < np.exp(l_p) / np.sqrt(2)).mean(),
        "latent/noise_square": (eps**2).mean(),
        "latent/active_units": (variance > 0.01).sum(),
        "latent/active_kl_units": (two_gaussians(m_q).mean(0) > 0.01).sum(),
        "latent/snr_db": 10 * np.log10(variance.sum() / np.exp(2 * l_q).mean(0).sum()),
        "latent/flow_move": np.linalg.norm(push(z) - z) / np.linalg.norm(z),
    }


# ------------------------------------------------------------------------------------------------------- latents


def test_every_figure_against_an_independent_computation():
    found, expected = statistics(some_latents()), by_numpy(some_latents())
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, rel=1e-10, abs=1e-10)
    assert found["latent/active_units"] == 3  # channel 0 is silent
    without = by_numpy(some_latents()._replace(log_det=torch.zeros(B, D, T)))
    for name in ("kl/half_analytic", "kl/k3", "kl/minus_log_det"):
        assert found[name] != pytest.approx(without[name], rel=1e-3), "planted: the log-determinant dropped"


@pytest.mark.parametrize("soft", [False, True])
def test_the_parts_sum_to_the_whole(soft):
    found = statistics(some_latents(soft=soft))
    parts = [found[f"kl/{name}"] for name in ("normaliser", "quadratic", "minus_log_det")]
    assert sum(parts) == pytest.approx(found["kl/half_analytic"], abs=1e-10)
    assert found["kl/half_analytic"] == pytest.approx(
        float((kl.half_analytic(x := some_latents(soft=soft)) * x.mask).sum() / x.mask.sum())
    )


def test_the_quadratic_part_of_a_soft_prior_is_the_weighted_one():
    x = some_latents(soft=True)
    mean, log_std = (v[..., None] for v in x.p.tokens)
    squares = 0.5 * ((x.z_p[:, :, None] - mean) / torch.exp(log_std)) ** 2  # B D L T
    expected = (squares * x.p.weight[:, None]).sum() / LENGTHS.sum()
    assert statistics(x)["kl/quadratic"] == pytest.approx(float(expected), abs=1e-10)


@pytest.mark.parametrize("estimator", [kl.half_analytic, kl.monte_carlo, kl.optimal_control_variate, kl.pushed_mean])
def test_the_readout_of_an_estimator_is_what_it_would_be_as_a_loss(estimator):
    x = some_latents()
    expected = float((estimator(x) * x.mask).sum() / x.mask.sum())
    assert statistics(x)[f"kl/{estimator.__name__}"] == pytest.approx(expected, rel=1e-10)


def test_sums_of_parts_of_a_batch_merge_into_those_of_the_whole():
    x = some_latents()
    parts = [x._replace(**rows(x, i)) for i in (slice(0, 1), slice(1, 3))]
    sums = [latent_sums(outputs_of(part)) for part in parts]
    merged = latent_statistics(sums[0].merge(sums[1]), RATE)
    assert merged == pytest.approx(statistics(x), rel=1e-12, abs=1e-12)
    means = np.mean([list(latent_statistics(s, RATE).values()) for s in sums], 0)
    assert list(merged.values()) != pytest.approx(list(means), rel=1e-3), "planted: the mean of the parts' figures"


def rows(x: Latents, i: slice) -> dict:
    pairs = {name: Gaussian(*(v[i] for v in getattr(x, name))) for name in ("posterior", "p")}
    return pairs | {name: getattr(x, name)[i] for name in ("z", "z_p", "log_det", "mask", "keys")}


@pytest.mark.parametrize("garbage", [3.0, 1e30, math.inf])
def test_t8_garbage_on_padding_changes_nothing(garbage):
    x = some_latents()
    spoilt = {name: getattr(x, name).masked_fill(~x.mask, garbage) for name in ("z", "z_p", "log_det")}
    names = ("posterior", "p")
    pairs = {name: Gaussian(*(v.masked_fill(~x.mask, garbage) for v in getattr(x, name))) for name in names}
    if garbage == math.inf:  # the flow multiplies by the mask, and inf * 0 is NaN: its input has to be finite
        pairs["posterior"] = pairs["posterior"]._replace(mean=x.q.mean)
    assert statistics(x._replace(**spoilt, **pairs)) == statistics(x)
    unmasked = x._replace(mask=torch.ones_like(x.mask), **spoilt)
    assert statistics(unmasked)["kl/half_analytic"] != pytest.approx(statistics(x)["kl/half_analytic"], rel=1e-3)


def test_at_q_equal_p_only_the_half_analytic_readout_is_noisy():
    """T22: its standard error is the noise floor, 68 % of its elements are negative."""
    shape = (2, 192, 2000)
    q = Gaussian(0.3 * normal(2, 192, 1, seed=7).expand(shape), torch.full(shape, 0.1, dtype=F64))
    z = q.sample(normal(*shape, seed=8))
    x = Latents(q, q, z, z, torch.zeros_like(z), torch.ones(2, 1, shape[2], dtype=torch.bool))
    found = statistics(x)
    for name in ("monte_carlo", "closed_form", "pushed_mean", "optimal_control_variate", "k3"):
        assert found[f"kl/{name}"] == pytest.approx(0, abs=1e-9)
    assert found["kl/standard_error"] == pytest.approx(found["kl/noise_floor"], rel=0.05)
    assert abs(found["kl/half_analytic"]) < 4 * found["kl/noise_floor"]
    assert found["kl/negative_elements"] == pytest.approx(0.6826895, abs=2e-3)
    assert found["latent/noise_square"] == pytest.approx(1, abs=5e-3) and found["latent/flow_move"] == 0


def test_a_collapsed_posterior_has_figures():
    zero = torch.zeros(1, 2, 5, dtype=F64)
    q = Gaussian(zero, zero)
    z = q.sample(normal(1, 2, 5, seed=9))
    found = statistics(Latents(q, q, z, z, zero, torch.ones(1, 1, 5, dtype=torch.bool)))
    assert found["latent/active_units"] == found["latent/active_kl_units"] == 0
    assert found["latent/snr_db"] == pytest.approx(-100) and all(map(math.isfinite, found.values()))


# ----------------------------------------------------------------------------------------------------- alignment

TOKENS, FRAMES = torch.tensor([3, 2]), torch.tensor([6, 4])
DURATIONS = torch.tensor([[1, 2, 3], [3, 1, 0]])


def paths(n_tokens: int, n_frames: int):
    """Every monotonic path, as the token of each frame."""
    for cuts in itertools.combinations(range(1, n_frames), n_tokens - 1):
        yield np.searchsorted(cuts, np.arange(n_frames), side="right")


def test_path_statistics():
    found = path_statistics(DURATIONS, TOKENS, FRAMES)
    tokens = [[0, 1, 1, 2, 2, 2], [0, 0, 0, 1]]
    off = [abs(t / len(row) - i / n) for row, n in zip(tokens, (3, 2), strict=True) for t, i in enumerate(row)]
    assert found == pytest.approx(
        {
            "mas/zero_tokens": 0,
            "mas/max_duration": 3,
            "mas/log_paths_per_frame": (math.log(math.comb(5, 2)) + math.log(math.comb(3, 1))) / 10,
            "mas/diagonality": np.mean(off),
        }
    )
    garbage = path_statistics(torch.tensor([[1, 2, 3], [3, 1, 99]]), TOKENS, FRAMES)
    assert garbage == found, "padding counts"
    assert path_statistics(torch.tensor([[0, 3, 3], [4, 0, 0]]), TOKENS, FRAMES)["mas/zero_tokens"] == 2


def test_score_statistics_against_every_path():
    log_lik = 2 * normal(2, 3, 6, seed=10)
    gap, mass, entropy = [], [], []
    for b, (n_tokens, n_frames) in enumerate(zip(TOKENS.tolist(), FRAMES.tolist(), strict=True)):
        score = log_lik[b].numpy()
        every = list(paths(n_tokens, n_frames))
        sums = np.array([score[path, np.arange(n_frames)].sum() for path in every])
        weight = np.exp(sums - sums.max()) / np.exp(sums - sums.max()).sum()
        posterior = np.zeros((n_tokens, n_frames))
        for w, path in zip(weight, every, strict=True):
            posterior[path, np.arange(n_frames)] += w
        chosen = np.repeat(np.arange(3), DURATIONS[b])
        gap.append(np.log(np.exp(sums).sum()) - score[chosen, np.arange(n_frames)].sum())
        mass += list(posterior[chosen, np.arange(n_frames)])
        entropy += [-sum(p * np.log(p) for p in column if p > 0) for column in posterior.T]
    expected = {
        "mas/gap_per_frame": sum(gap) / 10,
        "mas/path_mass": np.mean(mass),
        "mas/entropy": np.mean(entropy),
    }
    assert score_statistics(log_lik, DURATIONS, TOKENS, FRAMES) == pytest.approx(expected, rel=1e-10)
    spoilt = log_lik.clone()
    spoilt[1, 2:], spoilt[1, :, 4:] = 1e6, math.nan
    assert score_statistics(spoilt, DURATIONS, TOKENS, FRAMES) == pytest.approx(expected, rel=1e-10)
    wrong = score_statistics(log_lik.flip(1), DURATIONS, TOKENS, FRAMES)
    assert wrong != pytest.approx(expected, rel=1e-2), "planted: tokens in reverse"


def test_changed_frames():
    previous = torch.tensor([[2, 1, 3], [3, 1, 0]])  # frame 1 was in token 0, and is in token 1 now

    def changed(old):
        return score_statistics(torch.zeros(2, 3, 6), DURATIONS, TOKENS, FRAMES, old)["mas/changed_frames"]

    assert changed(previous) == pytest.approx(0.1) and changed(DURATIONS) == 0


def test_onset_errors():
    durations, onsets = torch.tensor([2, 4, 1, 3]), [(1, 600), (3, 1700)]
    found = onset_errors(durations, onsets, 256, 16000, blanks=False)
    np.testing.assert_allclose(found, [abs(2 * 256 - 600) / 16, abs(7 * 256 - 1700) / 16])
    found = onset_errors(durations, onsets, 256, 16000, blanks=True)
    np.testing.assert_allclose(found, [abs(1 * 256 - 600) / 16, abs(6.5 * 256 - 1700) / 16])


# ------------------------------------------------------------------------------------------- gradients and probe

ROUTES = {
    "kl": {"text_encoder", "posterior_encoder", "flow"},
    "mel": {"posterior_encoder", "decoder"},
    "duration": {"duration_predictor"},
}


@pytest.fixture
def parts(compose):
    """A nano model in evaluation mode, its objective, and a batch."""
    config = build.parse(compose(), [])
    corpus = build.corpus(config)
    data = build.data(config, corpus)
    model = build.model(config, corpus.frontend.n_symbols).eval()
    torch.manual_seed(3)
    for coupling in model.flow.couplings:  # away from the identity it starts as
        torch.nn.init.normal_(coupling.post.weight, std=0.3)
    batch = data.features(next(data.loader.batches(0))[0])
    return model, build.objective(config), batch


def test_matrix_is_what_backward_leaves_behind(parts):
    model, objective, batch = parts
    terms = objective(model(batch), objective.counts(batch)).terms
    found = matrix(model, terms)
    assert len(found) == len(terms) * len(list(model.named_children()))
    assert all(p.grad is None for p in model.parameters())
    for term, value in terms.items():
        model.zero_grad(set_to_none=True)
        value.backward(retain_graph=True)
        for name, module in model.named_children():
            norm = math.sqrt(
                sum(float((p.grad.double() ** 2).sum()) for p in module.parameters() if p.grad is not None)
            )
            assert found[f"grad/{term}/{name}"] == pytest.approx(norm, rel=1e-5)
            assert (found[f"grad/{term}/{name}"] == 0.0) == (name not in ROUTES[term])
            assert gradient_norms(model, 2.0).get(f"grad/{name}", 0.0) == pytest.approx(2 * norm, rel=1e-5)


def test_matrix_of_a_term_that_nothing_moves(parts):
    assert set(matrix(parts[0], {"fixed": torch.tensor(1.0)}).values()) == {0.0}


def test_the_probe_looks_and_does_not_touch(parts):
    model, objective, batch = parts
    for i, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, float(i))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    generator, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    row, durations = probe(model, objective, batch, objective.counts(batch), None)
    assert torch.equal(torch.get_rng_state(), generator) and (np.random.get_state()[1] == numpy_state).all()
    assert all((p.grad == i).all() for i, p in enumerate(model.parameters()))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())

    assert all(map(math.isfinite, row.values())) and torch.equal(durations, model(batch).durations)
    assert row["grad/kl/decoder"] == 0.0 < row["grad/kl/flow"] and "mas/changed_frames" not in row
    assert row["latent/inverse_error"] < 1e-4 and row["mas/gap_per_frame"] >= 0
    assert (
        row["mas/gap_per_frame"]
        <= path_statistics(durations, batch.token_lengths, batch.frame_lengths)["mas/log_paths_per_frame"]
    )
    again, _ = probe(model, objective, batch, objective.counts(batch), durations)
    assert again.pop("mas/changed_frames") == 0.0 and again == row
    with torch.no_grad():
        assert probe(model, objective, batch, objective.counts(batch), None)[0] == row


def test_a_flow_that_does_not_invert_is_noticed(parts, monkeypatch):
    model, objective, batch = parts
    monkeypatch.setattr(model.flow, "inverse", lambda z_p, mask: z_p)
    row, _ = probe(model, objective, batch, objective.counts(batch), None)
    assert row["latent/inverse_error"] > 1e-2


def test_the_sampling_variance_without_a_flow_is_the_theory():
    """T21, T24: fixed keys, the mean over 3 x 4 x 4000 elements of the variance over 16 samples each."""
    n = 4000
    mask = sequence_mask(torch.tensor([n, n - 7, n]), n)
    log_std = torch.tensor([-1.0, -0.35, 0.0, 0.4], dtype=F64)[:, None] + 0.2 * normal(3, D, n, seed=12)
    q = Gaussian(normal(3, D, n, seed=13), log_std)
    p = Gaussian(torch.zeros_like(log_std), torch.full_like(log_std, 0.1))
    x = Latents(q, p, q.mean, q.mean, torch.zeros_like(log_std), mask, Identity(), torch.arange(3))
    found = sampling_variance(x)
    for name in ("half_analytic", "monte_carlo"):
        theory = found[f"kl/variance_{name}_theory"]
        assert found[f"kl/variance_{name}"] == pytest.approx(theory, rel=0.01)
        bent = sampling_variance(x._replace(flow=Bent()))
        assert bent[f"kl/variance_{name}"] != pytest.approx(theory, rel=0.05), "planted: a flow, which it ignores"
    assert N_SAMPLES == 16


def test_t21_variance_in_theory():
    """q = N(.5, .8^2), p = N(-.2, 1.25^2): .21233664 and .30273664."""
    q, p = (
        Gaussian(torch.full((1, 1, 3), m, dtype=F64), torch.full((1, 1, 3), math.log(s), dtype=F64))
        for m, s in ((0.5, 0.8), (-0.2, 1.25))
    )
    x = Latents(
        q,
        p,
        q.mean,
        q.mean,
        torch.zeros_like(q.mean),
        torch.ones(1, 1, 3, dtype=torch.bool),
        Identity(),
        torch.tensor([1]),
    )
    found = sampling_variance(x)
    assert found["kl/variance_half_analytic_theory"] == pytest.approx(0.21233664, abs=1e-12)
    assert found["kl/variance_monte_carlo_theory"] == pytest.approx(0.30273664, abs=1e-12)


def test_the_statistics_of_a_model(parts):
    model, _, batch = parts
    outputs = model(batch)
    found = latent_statistics(latent_sums(outputs), RATE)
    assert all(map(math.isfinite, found.values())) and found["kl/pushed_mean"] != found["kl/closed_form"]
    longer = dataclasses.replace(outputs, latents=without_log_det(outputs.latents))
    assert latent_statistics(latent_sums(longer), RATE) == pytest.approx(found), "mean-only: log_det is 0"


# ------------------------------------------------------------------------------------------- figure


@pytest.mark.parametrize(
    "norms", [{"kl": [3.0, 0.0], "mel": [0.0, 2e-4]}, {"kl": [0.0, 0.0]}, {"kl": [5.0]}, {"kl": [math.inf, 1.0]}]
)
def test_gradient_matrix_is_drawn(tmp_path, norms):
    values = {f"grad/{term}/{m}": v for term, row in norms.items() for m, v in zip("ab", row, strict=False)}
    path = figures.gradient_matrix(
        tmp_path / "new" / "matrix.png", values | {"grad/a": 1.0, "loss/kl": 2.0}, {"kl": 0.2}
    )
    assert matplotlib.image.imread(path).shape[0] > 100


def test_zeros_in_the_gradient_matrix_are_blank_but_for_their_zero(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, path, **_: drawn.append(figure) or path)
    values = {"grad/kl/flow": 3.0, "grad/kl/decoder": 0.0, "grad/mel/flow": 0.0, "grad/mel/decoder": 0.02}
    figures.gradient_matrix(tmp_path / "matrix.png", values | {"grad/flow": 9.0}, {"kl": 1.0})
    axes = drawn[0].axes[0]
    assert [text.get_text() for text in axes.texts] == ["3", "0", "0", "0.02"]
    assert axes.images[0].get_array().mask.tolist() == [[False, True], [True, False]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["flow", "decoder"]
