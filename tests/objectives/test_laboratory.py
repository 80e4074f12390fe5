"""The axes of the laboratory in a real model: what trains, what reaches which part, how noisy it is.

The estimators themselves are tested on small exact worlds (test_kl.py, test_estimators.py); here they meet a text
encoder, a posterior, a flow and an alignment.
"""

import dataclasses
import math
from typing import NamedTuple

import pytest
import torch
from torch import nn

import train
from vitslite import build, randomness
from vitslite.config import remarks
from vitslite.config.settings import Config
from vitslite.metrics import gradients
from vitslite.model import alignment, flows, posterior_encoder, text_encoder
from vitslite.model.istft import Decoded
from vitslite.model.posterior_encoder import PosteriorEncoder, PosteriorEncoderSettings
from vitslite.model.vits import VITS
from vitslite.monitoring.tracking import Tracker
from vitslite.objectives import kl
from vitslite.objectives.objective import REDUCTIONS, Losses, Objective
from vitslite.objectives.proposed import PROPOSED
from vitslite.objectives.regularisers import SCHEDULES
from vitslite.tensors import Batch, Gaussian, Latents, Outputs
from vitslite.training import checkpoint
from vitslite.training.optimization import adamw, update

GIVEN = ["model.alignment.kind=given"]
BY_MEL = ["model.alignment.score=mel", "model.mel_head=true", "objective.weights.prior_mel=1"]
RESIDUAL = ["model.posterior.kind=residual", "model/flow=none", *GIVEN]
NO_FLOW = ["model/flow=none"]
NVAE_BALANCE = [
    f"objective.regulariser.{x}" for x in ("balance=channels", "balance_until=full_weight", "schedule=warmup")
]


class World(NamedTuple):
    config: Config
    model: VITS
    objective: Objective
    batches: list[Batch]  # of the first two steps
    outputs: Outputs  # of the first of them, in training mode
    losses: Losses


@pytest.fixture
def world(compose):
    """world(*overrides) -> a model all of whose layers have something to say, and what it makes of a batch."""

    def made(*overrides: str) -> World:
        config = build.parse(compose(*overrides), list(overrides))
        corpus = build.corpus(config)
        data = build.data(config, corpus)
        model = build.model(config, corpus.frontend.n_symbols).train()
        torch.manual_seed(0)
        for p in model.parameters():
            if (p == 0).all():
                nn.init.normal_(p, std=0.1)
        upcoming = data.loader.batches(0)
        batches = [data.features(next(upcoming)[0]) for _ in range(2)]
        upcoming.close()
        objective = build.objective(config)
        outputs = model(batches[0])
        return World(config, model, objective, batches, outputs, objective(outputs, objective.counts(batches[0])))

    return made


def named(overrides) -> str:
    return " ".join(overrides) or "default"


# ------------------------------------------------------------------------------------------------------- routing (T39)

DEFAULT = {"text_encoder", "posterior_encoder", "flow"}
NO_POSTERIOR = {"text_encoder", "flow"}
BOTH_ENCODERS = {"text_encoder", "posterior_encoder"}
HEARD = {"posterior_encoder", "decoder"}
FLOWS = {kind: [f"model/flow={kind}"] for kind in flows.KINDS}
FLOWS["glow"].append("model.flow.n_squeeze=1")  # of frames as they come, an odd number or not
FLOW_KINDS = [k for k in flows.KINDS if k != "none"]
FOR_ANY_FLOW = [name for name in kl.ESTIMATORS if name != "exact_linear"]
KL_ROUTES = [
    *[([f"objective.kl={name}", "model/flow=mean_only"], DEFAULT) for name in FOR_ANY_FLOW if name != "closed_form"],
    *[(["objective.kl=exact_linear", f"model/flow={kind}"], DEFAULT) for kind in flows.LINEAR_KINDS],
    (["objective.kl=exact_linear", "model/flow=linear_iaf", "objective.regulariser.balance=sides"], DEFAULT),
    *[([f"objective.kl={name}"], DEFAULT) for name in PROPOSED],
    *[(FLOWS[kind], DEFAULT) for kind in FLOW_KINDS],
    *[([f"model.alignment.kind={kind}"], DEFAULT) for kind in alignment.KINDS],
    *[([f"model.text_encoder.prior_std={kind}"], DEFAULT) for kind in text_encoder.PRIOR_STDS if kind != "standard"],
    (["model.text_encoder.prior_std=standard", "model.alignment.kind=uniform"], {"posterior_encoder", "flow"}),
    (BY_MEL, DEFAULT),
    (["model.posterior.kind=clamped"], DEFAULT),
    (["model.posterior.kind=fixed_sigma"], DEFAULT),
    (["objective.regulariser.balance=sides"], DEFAULT),
    (["model/flow=affine", "objective.log_det=drop"], DEFAULT),
    # The closed form does not see the flow, and where there is none nothing of it can be reached.
    (["objective.kl=closed_form"], BOTH_ENCODERS),
    (["objective.kl=closed_form", "model/flow=affine"], BOTH_ENCODERS),
    (NO_FLOW, BOTH_ENCODERS),
    (RESIDUAL, BOTH_ENCODERS),
    # What keeps the KL from the posterior, and what leaves it nothing else.
    (["objective.detach_posterior=true"], NO_POSTERIOR),
    (["objective.detach_posterior=true", "objective.kl=likelihood"], NO_POSTERIOR),
    (["objective.detach_posterior=true", *NO_FLOW], {"text_encoder"}),
    (["objective.detach_posterior=true", "model.alignment.kind=forward_sum"], NO_POSTERIOR),
    (["objective.regulariser.free_bits=1000"], NO_POSTERIOR),
    (["objective.regulariser.balance=sides", "objective.regulariser.prior_share=1"], NO_POSTERIOR),
    (["objective.regulariser.balance=sides", "objective.regulariser.prior_share=0"], {"posterior_encoder"}),
]


def routes(model: nn.Module, terms: dict[str, torch.Tensor]) -> dict[str, set[str]]:
    """Which modules each term reaches: those whose gradient is not exactly zero."""
    found: dict[str, set[str]] = {term: set() for term in terms}
    for key, norm in gradients.matrix(model, terms).items():
        assert math.isfinite(norm), key
        _, term, module = key.split("/")
        if norm != 0:
            found[term].add(module)
    return found


@pytest.mark.parametrize(("overrides", "reached"), KL_ROUTES, ids=lambda x: named(x) if isinstance(x, list) else "")
def test_what_the_kl_trains(world, overrides, reached):
    w = world(*overrides)
    found = routes(w.model, w.losses.terms)
    assert found["kl"] == reached
    assert found["duration"] == {"duration_predictor"}
    residual = "model.posterior.kind=residual" in overrides  # whose sample is made of the prior, too
    assert found["mel"] == HEARD | ({"text_encoder"} if residual else set())


@pytest.mark.parametrize("kind", FLOW_KINDS)
def test_a_flow_on_the_posterior_side_is_heard(world, kind):
    w = world(*FLOWS[kind], "model.flow.side=posterior")
    found = routes(w.model, w.losses.terms)
    assert found["mel"] == HEARD | {"flow"} and found["kl"] == DEFAULT


def test_the_mel_head_trains_the_text_encoder_and_nothing_else(world):
    w = world("model.mel_head=true", "objective.weights.prior_mel=1")
    assert routes(w.model, w.losses.terms)["prior_mel"] == {"text_encoder", "mel_head"}


@pytest.mark.parametrize("overrides", [[], ["model/flow=affine"], ["model.alignment.kind=forward_sum"]], ids=named)
def test_without_the_kl_text_encoder_and_flow_get_nothing(world, overrides):
    """T33."""
    w = world("objective.weights.kl=0", *overrides)
    assert routes(w.model, {"total": w.losses.total})["total"] == HEARD | {"duration_predictor"}
    with_kl = {"total": w.losses.total + 1e-3 * w.losses.terms["kl"]}  # so the zeros are not for want of looking
    assert routes(w.model, with_kl)["total"] == DEFAULT | HEARD | {"duration_predictor"}


@pytest.mark.parametrize("estimator", ["closed_form", "half_analytic", "monte_carlo"])
def test_t31_the_kl_of_a_residual_posterior_does_not_move_the_mean_of_the_prior(world, estimator):
    """d KL / d mean_p = 0 at a fixed difference: when the prior moves, the posterior moves along."""

    def pulled(*overrides: str) -> tuple[float, float]:
        """The gradient to mean and log_std of the text, as norms."""
        w = world(f"objective.kl={estimator}", *NO_FLOW, *GIVEN, *overrides)
        return tuple(g.norm().item() for g in torch.autograd.grad(w.losses.terms["kl"], [*w.outputs.p_text]))

    mean, log_std = pulled("model.posterior.kind=residual")
    assert mean < 1e-6 * log_std
    mean, log_std = pulled("model.posterior.kind=gaussian")  # the planted fault: the prior left alone
    assert mean > 0.1 * log_std


# ---------------------------------------------------------------------------------- one gradient for several estimators


def kl_gradients(model: VITS, x: Latents, estimator: str) -> tuple[float, dict[str, torch.Tensor]]:
    """The KL by this estimator in nats per frame, and its gradient to every parameter that it reaches."""
    term = (kl.ESTIMATORS[estimator](x) * x.mask).sum() / x.mask.sum()
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    return term.item(), {n: g.double() for n, g in zip(names, found, strict=True) if g is not None}


def furthest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest distance of two gradients over parameters, each relative to the gradient of its whole module."""
    assert a.keys() == b.keys()
    norm = {m: math.hypot(*(g.norm().item() for n, g in a.items() if n.startswith(m))) for m in DEFAULT}
    return max((a[n] - b[n]).norm().item() / norm[n.split(".")[0]] for n in a)


@pytest.mark.parametrize("kind", ["mean_only", "affine"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp64", 1e-10)])
def test_half_analytic_and_monte_carlo_train_the_same_model(world, monkeypatch, kind, precision, tolerance):
    """T5 in a model: equal gradients to every parameter, sample by sample; sticking the landing has another."""
    w = world(f"model/flow={kind}")
    x, batch = w.outputs.latents, w.batches[0]
    if precision == "fp64":
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # the fp32 islands, too
        heard = Decoded(w.outputs.audio_hat)  # the decoder is for fp32, and the KL does not hear it
        w.model.decoder.forward = lambda *_, **__: heard
        floats = {name: getattr(batch, name).double() for name in ("audio", "spec", "mel")}
        x = w.model.double()(dataclasses.replace(batch, **floats)).latents
        assert x.z_p.dtype == torch.float64
    half, reference = kl_gradients(w.model, x, "half_analytic")
    assert half == pytest.approx(w.losses.terms["kl"].item(), rel=1e-5)
    assert {name.split(".")[0] for name in reference} == DEFAULT
    monte_carlo, found = kl_gradients(w.model, x, "monte_carlo")
    assert furthest(reference, found) < tolerance
    noise = (0.5 * (x.noise**2 - 1) * x.mask).sum() / x.mask.sum()  # all that lies between the two numbers
    assert half - monte_carlo == pytest.approx(noise.item(), abs=tolerance)
    assert furthest(reference, kl_gradients(w.model, x, "optimal_control_variate")[1]) < tolerance
    assert furthest(reference, kl_gradients(w.model, x, "sticking_the_landing")[1]) > 0.01


# ------------------------------------------------------------------------------------------- the noise of the readouts


def valid(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return x.masked_select(mask)


@torch.no_grad()
def test_t21_the_variance_of_the_readouts_after_training(compose, tmp_path):
    """Over 64 samples of q, per element: d^2 r^2 + r^4 / 2 and d^2 r^2 + (r^2 - 1)^2 / 2, from a checkpoint.

    IWAE is no axis, so it is not read here: it needs the likelihood of the audio, in nats per utterance, under its
    logsumexp, and the L1 distance of log-mels is no likelihood.
    """
    overrides = [*NO_FLOW, "trainer.steps=60", "trainer.diagnose_every_steps=0", "trainer.sample_every_steps=0"]
    with torch.enable_grad():
        trainer = train.train(build.parse(compose(*overrides), overrides), overrides)
    model = build.model(build.parse(compose(*overrides), overrides), len(trainer.model.text_encoder.embedding.weight))
    model.load_state_dict(checkpoint.read(tmp_path / "run" / "checkpoints" / "last.pt")["model"])
    model.eval()
    found, theory = {"half_analytic": [], "monte_carlo": []}, {"half_analytic": [], "monte_carlo": []}
    for batch in trainer.data.validation:
        x = model(trainer.data.features(batch)).latents
        drawn = [kl.redrawn(x, k) for k in range(1, 65)]
        for name, variances in found.items():
            values = torch.stack([kl.ESTIMATORS[name](sample).double() for sample in drawn])
            variances.append(valid(values.var(0), x.mask))
        r2 = (2 * (x.q.log_std - x.p.log_std).double()).exp()
        d2 = ((x.q.mean - x.p.mean).double() / x.p.log_std.double().exp()) ** 2
        theory["half_analytic"].append(valid(d2 * r2 + r2**2 / 2, x.mask))
        theory["monte_carlo"].append(valid(d2 * r2 + (r2 - 1) ** 2 / 2, x.mask))
    measured = {name: torch.cat(v).mean().item() for name, v in found.items()}
    expected = {name: torch.cat(v).mean().item() for name, v in theory.items()}
    assert measured == pytest.approx(expected, rel=0.05)
    swapped = dict(zip(expected, reversed(expected.values()), strict=True))
    for name, value in measured.items():
        assert value != pytest.approx(swapped[name], rel=0.05)


# ------------------------------------------------------------------------------------------------ every option trains

MODEL_OPTIONS = [
    *FLOWS.values(),
    *[[*flow, "model.flow.side=posterior"] for flow in FLOWS.values()],
    [*FLOWS["glow"], "model.flow.coupling=mean_only"],
    ["model/flow=affine", "objective.log_det=drop"],
    *[[f"model.posterior.kind={kind}"] for kind in posterior_encoder.KINDS if kind not in ("residual", "recording")],
    RESIDUAL,
    ["model.posterior.kind=residual", *NO_FLOW, "model.alignment.kind=uniform"],
    ["model.posterior.kind=residual", *NO_FLOW, *BY_MEL],
    [*RESIDUAL, "model.posterior.clamp=true"],
    *[[f"model.text_encoder.prior_std={kind}"] for kind in text_encoder.PRIOR_STDS if kind != "standard"],
    ["model.text_encoder.prior_std=unit", "model.text_encoder.mean_only=true", "model.text_encoder.prenet=2"],
    *[[f"model.alignment.kind={kind}"] for kind in alignment.KINDS],
    ["model.alignment.noise=0.01"],
    BY_MEL,
    [*BY_MEL, "model.alignment.kind=forward_sum"],
]
OBJECTIVE_OPTIONS = [
    *[[f"objective.kl={name}"] for name in (*FOR_ANY_FLOW, *PROPOSED)],
    *[[f"objective.kl={name}", *NO_FLOW] for name in ("closed_form", "exact_linear")],
    *[["objective.kl=exact_linear", f"model/flow={kind}"] for kind in flows.LINEAR_KINDS],
    ["objective.kl=carried_mean", "model/flow=affine", "model.flow.n_couplings=1"],
    ["objective.regulariser.free_bits=0.1"],
    ["objective.regulariser.balance=sides"],
    ["objective.regulariser.balance=channels"],
    [*NVAE_BALANCE, "objective.regulariser.steps=1"],
    *[[f"objective.regulariser.schedule={name}", "objective.regulariser.steps=4"] for name in SCHEDULES],
    *[[f"objective.reduction={name}"] for name in REDUCTIONS],
    ["objective.detach_posterior=true"],
]


@pytest.mark.parametrize("overrides", MODEL_OPTIONS + OBJECTIVE_OPTIONS, ids=named)
def test_every_option_trains_and_speaks(world, overrides):
    w = world(*overrides)
    optimizer = adamw(w.model, w.config.trainer.optimizer)
    before = {name: p.detach().clone() for name, p in w.model.named_parameters()}
    for step, batch in enumerate(w.batches):
        losses = w.objective(w.model(batch), w.objective.counts(batch), step=step)
        assert all(value.isfinite() for value in (*losses.terms.values(), losses.total))
        optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        update(optimizer, 1e-3, torch.tensor(0.0))
    moved = {name.split(".")[0] for name, p in w.model.named_parameters() if not torch.equal(p, before[name])}
    still = {"flow"} if "objective.kl=closed_form" in overrides or not [*w.model.flow.parameters()] else set()
    assert moved == {name for name, _ in w.model.named_children()} - still

    model, batch = w.model.eval(), w.batches[0]
    spoken = model.infer(batch.tokens, batch.token_lengths, batch.keys)
    assert spoken.audio.isfinite().all() and spoken.audio.std() > 0
    assert spoken.audio_lengths.max() == spoken.audio.shape[2]
    copy = model.reconstruct(batch)
    assert copy.shape == batch.audio.shape and copy.isfinite().all()
    torch.testing.assert_close(copy, model(batch).audio_hat.detach(), atol=1e-5, rtol=1e-4)


# ----------------------------------------------------------------------------------------- the residual posterior (T31)


def posterior_of(
    kind: str, mean: float, log_std: float, prior: Gaussian | None = None, clamp: bool = False
) -> Gaussian:
    settings = PosteriorEncoderSettings(kind=kind, hidden=2, n_layers=1, clamp=clamp)
    encoder = PosteriorEncoder(settings, n_bins=1, n_latent=1)
    return encoder.posterior(gaussian(mean, log_std), torch.ones(1, 1, 1, dtype=torch.bool), prior)


def gaussian(mean: float, log_std: float) -> Gaussian:
    return Gaussian(*(torch.full((1, 1, 1), x, dtype=torch.float64) for x in (mean, log_std)))


@pytest.mark.parametrize(
    ("prior", "delta", "formula", "clamped"),
    [
        ((0.3, math.log(0.5)), (-0.2, math.log(0.8)), 0.1231436, 0.1154218),
        ((4.0, -1.0), (2.0, -1.0), 15.3458, 2.9166),
    ],
)
def test_t31_the_kl_of_a_residual_posterior(prior, delta, formula, clamped):
    """1/2 (mean^2 / std_p^2 + std^2 - 1) - log std; and NVAE's code, which limits both distributions after the sum."""
    p = gaussian(*prior)
    residual = kl.gaussian_kl(posterior_of("residual", *delta, p), p).item()
    std = math.exp(delta[1])
    assert residual == pytest.approx(0.5 * ((delta[0] / math.exp(prior[1])) ** 2 + std**2 - 1) - delta[1], abs=1e-12)
    assert residual == pytest.approx(formula, rel=1e-5)
    absolute = [a + b for a, b in zip(prior, delta, strict=True)]
    assert kl.gaussian_kl(posterior_of("gaussian", *absolute), p).item() == pytest.approx(residual, abs=1e-12)
    limited = kl.gaussian_kl(posterior_of("clamped", *absolute), posterior_of("clamped", *prior)).item()
    assert limited == pytest.approx(clamped, rel=1e-4)
    assert kl.gaussian_kl(posterior_of("gaussian", *delta), p).item() != pytest.approx(residual, rel=0.01)
    # The same by the setting, which limits the prior, too: the posterior alone would be another number.
    q = posterior_of("residual", *delta, p, clamp=True)
    assert kl.gaussian_kl(q, posterior_of("clamped", *prior)).item() == pytest.approx(limited, abs=1e-12)
    assert kl.gaussian_kl(q, p).item() != pytest.approx(limited, rel=0.01)


def nvae(mean: torch.Tensor, log_std: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and std of a Gaussian in NVAE's code."""
    return 5 * torch.tanh(mean / 5), torch.exp(5 * torch.tanh(log_std / 5)) + 0.01


def test_nvae_s_code_in_the_model(world):
    """posterior.clamp=true: q and p of the whole model, their KL and its gradient to the text, by formulas."""
    overrides = ["objective.kl=closed_form", *RESIDUAL]
    w = world(*overrides, "model.posterior.clamp=true")
    batch, mask = w.batches[0], w.outputs.latents.mask
    stats = w.model.posterior_encoder(batch.mel if w.config.model.posterior.input == "mel" else batch.spec, mask)
    _, p_text = w.model.text_encoder(batch.tokens, batch.token_mask, batch.keys)
    raw = [alignment.expand(x, batch.durations, mask.shape[2]) for x in p_text]
    mean_q, std_q = nvae(raw[0] + stats.mean, raw[1] + stats.log_std)
    mean_p, std_p = nvae(*raw)
    elements = 0.5 * (((mean_q - mean_p) / std_p) ** 2 + (std_q / std_p) ** 2) - 0.5 - torch.log(std_q / std_p)
    by_hand = (elements * mask).sum() / mask.sum()
    assert w.losses.terms["kl"].item() == pytest.approx(by_hand.item(), rel=1e-5)
    text = list(w.model.text_encoder.parameters())
    found, expected = (torch.autograd.grad(loss, text, retain_graph=True) for loss in (w.losses.terms["kl"], by_hand))
    for a, b in zip(found, expected, strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm() + 1e-7
    # The paper's property that the code gives up: the KL leaves the mean of the prior alone.
    assert torch.autograd.grad(by_hand, p_text.mean)[0].norm() > 1e-3
    # What it speaks by, and what the frames of padding are.
    frames, text_prior = w.outputs.latents.p, w.outputs.p_text
    assert all((x * ~mask == 0).all() for x in frames) and all((x * ~batch.token_mask == 0).all() for x in text_prior)
    torch.testing.assert_close(text_prior.log_std.exp() * batch.token_mask, nvae(*p_text)[1] * batch.token_mask)
    speech = [
        w.model.infer(batch.tokens, batch.token_lengths, batch.keys, x, durations=batch.durations) for x in (0.0, 2.0)
    ]
    _, p_text = w.model.text_encoder(batch.tokens, batch.token_mask)  # without dropout
    mean_p, std_p = nvae(*(alignment.expand(x, batch.durations, mask.shape[2]) for x in p_text))
    noise = randomness.normal(batch.keys, "prior", *mean_p.shape[1:])
    torch.testing.assert_close(speech[0].z, mean_p * mask, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(speech[1].z, (mean_p + 2 * std_p * noise) * mask, atol=1e-5, rtol=1e-5)


def test_a_clamp_of_other_posteriors_is_refused(compose):
    overrides = ["model.posterior.clamp=true", "model.posterior.kind=fixed_sigma"]
    with pytest.raises(ValueError, match=r"clamp=true is for model.posterior.kind=residual, not fixed_sigma: use that"):
        build.parse(compose(*overrides), overrides)


def test_the_clamped_posterior():
    """5 tanh(x / 5) of both, and 0.01 more std: never beyond 5, never narrower than exp(-5) + 0.01."""
    for mean, log_std in ((0.0, 0.0), (3.0, -2.0), (-40.0, -40.0), (40.0, 40.0)):
        q = posterior_of("clamped", mean, log_std)
        assert q.mean.item() == pytest.approx(5 * math.tanh(mean / 5), abs=1e-12)
        assert q.log_std.exp().item() == pytest.approx(math.exp(5 * math.tanh(log_std / 5)) + 0.01, rel=1e-12)


# ------------------------------------------------------------------------------------------------- company and padding

NOISY = ["model.alignment.noise=0.5"]


def alone(batch: Batch, i: int) -> Batch:
    """Utterance i by itself, cut to its own length."""
    n, t = int(batch.token_lengths[i]), int(batch.frame_lengths[i])
    one = slice(i, i + 1)
    return dataclasses.replace(
        batch,
        ids=batch.ids[one],
        keys=batch.keys[one],
        tokens=batch.tokens[one, :n],
        token_lengths=batch.token_lengths[one],
        audio=batch.audio[one, :, : t * (batch.audio.shape[2] // batch.mel.shape[2])],
        frame_lengths=batch.frame_lengths[one],
        spec=batch.spec[one, :, :t],
        mel=batch.mel[one, :, :t],
        durations=batch.durations[one, :n],
    )


def check_company(w: World) -> None:
    """The elements of the KL of every utterance, by itself and in a batch."""
    batch = w.batches[0]
    assert batch.frame_lengths.min() < batch.frame_lengths.max()  # there is padding
    together = w.objective.estimator(w.outputs.latents)
    for i, t in enumerate(batch.frame_lengths):
        by_itself = w.objective.estimator(w.model(alone(batch, i)).latents)
        torch.testing.assert_close(together[i, :, :t], by_itself[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        *[[f"model.alignment.kind={kind}"] for kind in alignment.KINDS if kind != "mas"],
        NOISY,
        BY_MEL,
        RESIDUAL,
        ["model/flow=householder"],
        FLOWS["glow"],
        ["model.posterior.kind=clamped"],
    ],
    ids=named,
)
def test_the_kl_of_an_utterance_is_its_own(world, overrides):
    check_company(world(*overrides))


def test_noise_by_the_spread_of_the_whole_batch_is_noticed(world, monkeypatch):
    """The planted fault, that of VITS2's public code: the standard deviation of the score over the padded batch."""

    def of_the_batch(log_lik, items, settings, step):
        noise = randomness.normal(items.keys, "alignment", *log_lik.shape[1:])
        return log_lik + settings.noise * log_lik.std() * noise

    monkeypatch.setattr(alignment, "perturbed", of_the_batch)
    with pytest.raises(AssertionError):
        check_company(world(*NOISY))


# ----------------------------------------------------------------------------------------------------- wrong on purpose

WRONG = [
    *[[f"objective.kl={name}"] for name in PROPOSED],
    *[[f"objective.kl={name}"] for name in ("closed_form", "pushed_mean", "carried_mean", "likelihood")],
    ["objective.kl=closed_form", "model/flow=householder"],
    ["objective.log_det=drop", "model/flow=affine"],
    ["objective.log_det=drop", "model/flow=glow"],
    ["model=grad_tts_tiny", "objective.kl=l1"],
    ["model=grad_tts_tiny", "model/refiner=none", "model/flow=mean_only", "objective.kl=l2"],
]
PLAIN = [
    [],
    *[[f"model/flow={kind}"] for kind in flows.KINDS],
    *[[f"objective.kl={name}", *NO_FLOW] for name in ("closed_form", "pushed_mean", "monte_carlo")],
    ["objective.kl=carried_mean", "model.flow.n_couplings=1"],
    *[["objective.kl=exact_linear", f"model/flow={kind}"] for kind in ("householder", "linear_iaf", "none")],
    ["objective.kl=likelihood", "objective.detach_posterior=true"],
    ["objective.log_det=drop"],
    *[[f"objective.kl={name}"] for name in ("monte_carlo", "antithetic", "k_sample", "sticking_the_landing")],
    ["model.alignment.kind=forward_sum"],
    RESIDUAL,
]


class TagsOnly(Tracker):
    def __init__(self, settings, run_dir, name, tags, *_):
        self.tags = tags


def test_a_distance_behind_a_flow_with_a_volume_is_marked_for_that_too(compose):
    """With a log-determinant that it lacks, nothing keeps z_p from shrinking: as with objective.log_det=drop."""
    for model, is_unbounded in (("glow_tts_tiny", True), ("grad_tts_tiny", False)):
        overrides = [f"model={model}", "objective=likelihood", "objective.kl=l1"]
        found = " ".join(remarks.wrong_on_purpose(build.parse(compose(*overrides), overrides)))
        assert "is a distance" in found and ("shrinking z_p" in found) == is_unbounded


@pytest.mark.parametrize(
    ("overrides", "n_remarks"),
    [*((o, 1) for o in WRONG), *((o, 0) for o in PLAIN)],
    ids=lambda x: named(x) if isinstance(x, list) else str(x),
)
def test_what_is_wrong_on_purpose_is_marked(compose, monkeypatch, tmp_path, overrides, n_remarks):
    config = build.parse(compose(*overrides), overrides)
    assert len(remarks.wrong_on_purpose(config)) == n_remarks, overrides
    monkeypatch.setattr(build, "Tracker", TagsOnly)
    assert build.tracker(config, tmp_path, overrides).tags.count("wrong-on-purpose") == n_remarks
