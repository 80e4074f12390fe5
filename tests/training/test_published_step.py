"""The first step of `experiment=ljspeech_vits`, networks made small, against the losses of VITS written out.

What the layers compute is tested elsewhere, against other implementations of them (tests/model). Here they are called
for their outputs alone, and everything between and after them is formulas: sampling, alignment, expansion, durations,
segments, spectrograms, the five losses of the model and that of its discriminators, AdamW. In float64, dropout on.
"""

import copy
import dataclasses
import math

import hydra
import jaxtyping
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from common import ROOT
from hydra.core.global_hydra import GlobalHydra
from torch import nn

from vitslite import build, randomness
from vitslite.audio import mel_filters
from vitslite.benchmarks.step import build_trainer
from vitslite.tensors import Batch, sequence_mask
from vitslite.training.optimization import rate_factor
from vitslite.training.trainer import Trainer

N_FFT, HOP, SEGMENT = 1024, 256, 32
RATE, BETA1, EPS, DECAY = 2e-4, 0.8, 1e-9, 0.01
SMALL = [
    "experiment=ljspeech_vits",
    "data=demo",
    "model=vits",
    "data.batch_size=3",
    "model.n_latent=6",
    "model.text_encoder={hidden: 8, filters: 12, n_layers: 1}",
    "model.posterior={hidden: 8, n_layers: 2}",
    "model.flow={hidden: 8, n_layers: 2, n_couplings: 2}",
    "model.duration={filters: 8, n_flows: 3}",
    "model.decoder.hifigan={channels: 16, resblock_kernels: [3, 5], resblock_dilations: [[1, 3], [1, 3]]}",
    "discriminator.period_channels=[4, 6, 6, 6, 6]",
    "trainer.precision=fp32",
]


@pytest.fixture
def double(monkeypatch):
    """Float64 wherever the project says fp32; the checks of annotations, which say so, are off meanwhile."""
    plain, normal = torch.Tensor.float, randomness.normal
    monkeypatch.setattr(torch.Tensor, "float", lambda x: plain(x) if x.dtype == torch.bool else x.double())
    monkeypatch.setattr(randomness, "normal", lambda *where: normal(*where).double())
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def before_the_first_step(compose, tmp_path) -> tuple[Trainer, Batch]:
    """A trainer and its first batch, all in float64; what starts with zeros has something to say."""
    config = build.parse(compose(*SMALL), SMALL)
    trainer = build_trainer(config, build.corpus(config), torch.device("cpu"), tmp_path / "run")
    assert trainer.ema is None and trainer.adversary is not None
    torch.manual_seed(1)
    for part in (trainer.model, trainer.adversary.discriminator, trainer.objective, trainer.data.features):
        part.double()
        for p in part.parameters():
            if (p == 0).all():
                nn.init.normal_(p, std=0.1)
    batch = Batch(**trainer.data.loader.make(0))
    batch = trainer.data.features(dataclasses.replace(batch, audio=batch.audio.double() / 32768))
    assert batch.frame_lengths.unique().numel() > 1  # there is padding
    return trainer, batch


# ---------------------------------------------------------------------------------------- VITS, written out


def log_mel(audio: torch.Tensor, sample_rate: int) -> torch.Tensor:
    """One recording [S] -> [80, T]."""
    extended = F.pad(audio[None, None], ((N_FFT - HOP) // 2,) * 2, mode="reflect")[0, 0]
    spectrum = torch.fft.rfft(extended.unfold(0, N_FFT, HOP) * torch.hann_window(N_FFT))  # in fp32, as is the recipe's
    magnitude = torch.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-6).t()
    return torch.log((mel_filters(sample_rate, N_FFT, 80).double() @ magnitude).clamp(min=1e-5))


def best_path(score: np.ndarray) -> list[int]:
    """Frames per token of the monotonic path through [L, T] with the largest sum: section 2.2.1."""
    n_tokens, n_frames = score.shape
    best = np.full((n_tokens, n_frames), -np.inf)
    best[0, 0] = score[0, 0]
    for t in range(1, n_frames):
        before = np.concatenate([[-np.inf], best[:-1, t - 1]])
        best[:, t] = score[:, t] + np.maximum(best[:, t - 1], before)
    token, durations = n_tokens - 1, [0] * n_tokens
    for t in range(n_frames - 1, -1, -1):
        durations[token] += 1
        if t and token and best[token - 1, t - 1] > best[token, t - 1]:
            token -= 1
    return durations


def duration_bound(predictor: nn.Module, h, mask, durations, keys) -> torch.Tensor:
    """log q(u, v | d, c) - log p(d - u, v | c) of every token: equation 7, with the flows of both sides."""

    def through(flows, x, c):
        x, log_det = flows[0](x, mask)
        for flow in flows[1:]:
            x, more = flow(x, mask, c)
            x, log_det = x.flip(1), log_det + more
        return x, log_det

    def log_normal(x):
        return (-0.5 * math.log(2 * math.pi) - 0.5 * x**2).sum(1)

    d = durations[:, None].double()
    c = predictor.conv_proj(predictor.conv_dds(predictor.conv_pre(h), mask, keys)) * mask
    seen = predictor.post_conv_proj(predictor.post_conv_dds(predictor.post_conv_pre(d), mask, keys)) * mask
    noise = randomness.normal(keys, "duration.posterior", 2, h.shape[2]) * mask
    both, log_det = through(predictor.post_flows, noise, c + seen)
    u = torch.sigmoid(both[:, :1])
    log_q = log_normal(noise) - log_det - torch.log(u * (1 - u))[:, 0]
    left = torch.where(mask, d - u, 1.0)
    z, log_det = through(predictor.flows, torch.cat([torch.log(left), both[:, 1:]], 1), c)
    log_p = log_normal(z) + log_det - torch.log(left)[:, 0]
    return (log_q - log_p) * mask[:, 0]


def generated(model: nn.Module, batch: Batch, sample_rate: int):
    """The losses that need no discriminator, and recording and reconstruction of the segments."""
    keys, mask = batch.keys, sequence_mask(batch.frame_lengths, batch.spec.shape[2])
    h, (m_p, logs_p) = model.text_encoder(batch.tokens, batch.token_mask, keys)
    m_q, logs_q = model.posterior_encoder(batch.spec, mask)
    z = (m_q + torch.exp(logs_q) * randomness.normal(keys, "posterior", *m_q.shape[1:])) * mask
    z_p, _ = model.flow(z, mask)

    durations = torch.zeros_like(batch.tokens)
    kl = 0.0
    for b, (n, t) in enumerate(zip(batch.token_lengths.tolist(), batch.frame_lengths.tolist(), strict=True)):
        m, logs, x = m_p[b, :, :n], logs_p[b, :, :n], z_p[b, :, :t]
        standard = (x[:, None, :] - m[:, :, None]) * torch.exp(-logs)[:, :, None]
        score = (-0.5 * math.log(2 * math.pi) - logs[:, :, None] - 0.5 * standard**2).sum(0)
        durations[b, :n] = torch.tensor(best_path(score.detach().numpy()))
        m, logs = (p.repeat_interleave(durations[b, :n], dim=1) for p in (m, logs))
        kl = kl + (logs - logs_q[b, :, :t] - 0.5 + 0.5 * (x - m) ** 2 * torch.exp(-2 * logs)).sum()
    terms = {"kl": kl / batch.frame_lengths.sum()}
    bound = duration_bound(model.duration_predictor, h.detach(), batch.token_mask, durations, keys)
    terms["duration"] = bound.sum() / batch.token_lengths.sum()

    u = randomness.uniform(keys, "segment", 1)[:, 0]
    starts = [int(x) for x in torch.floor(u * (batch.frame_lengths - SEGMENT + 1))]
    y_hat = model.decoder(torch.stack([z[b, :, s : s + SEGMENT] for b, s in enumerate(starts)]), None, keys).audio
    y = torch.stack([batch.audio[b, :, s * HOP : (s + SEGMENT) * HOP] for b, s in enumerate(starts)])
    lengths = (batch.frame_lengths * HOP).tolist()
    whole = [log_mel(batch.audio[b, 0, :n], sample_rate) for b, n in enumerate(lengths)]
    target = torch.stack([x[:, s : s + SEGMENT] for x, s in zip(whole, starts, strict=True)])
    said = torch.stack([log_mel(x[0], sample_rate) for x in y_hat])
    terms["mel"] = F.l1_loss(said, target)
    of_the_segment = torch.stack([log_mel(x[0], sample_rate) for x in y])
    assert (F.l1_loss(said, of_the_segment) - terms["mel"]).abs() > 1e-3  # where the target is from is seen
    return terms, y, y_hat


def judged(discriminator: nn.Module, y: torch.Tensor, y_hat: torch.Tensor) -> dict[str, torch.Tensor]:
    """Equations 5, 6 and that of feature matching, as sums over the discriminators."""
    terms = dict.fromkeys(("discriminator", "adversarial", "feature_matching"), torch.zeros((), dtype=torch.float64))
    for real, fake in zip(discriminator(y), discriminator(y_hat), strict=True):
        terms["discriminator"] = terms["discriminator"] + ((1 - real.score) ** 2).mean() + (fake.score**2).mean()
        terms["adversarial"] = terms["adversarial"] + ((1 - fake.score) ** 2).mean()
        for a, b in zip(real.features, fake.features, strict=True):
            terms["feature_matching"] = terms["feature_matching"] + 2 * (a.detach() - b).abs().mean()
    return terms


def adamw_once(weight: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """The first step of AdamW, where mean and square of the gradient, both unbiased, are those of one gradient."""
    return weight * (1 - RATE * DECAY) - RATE * gradient / (gradient.abs() + EPS)


# ---------------------------------------------------------------------------------------- the comparison


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], rel: float) -> None:
    """Every tensor, relative to the norm of the expected one; a gradient of nothing but rounding may be either."""
    assert found.keys() == expected.keys()
    largest = max(x.norm() for x in expected.values())
    for name, x in expected.items():
        assert (found[name] - x).norm() <= rel * x.norm() + 1e-12 * largest, name


def test_the_recipe_has_the_numbers_of_vits():
    """What a first step does not show: that it goes on alike, and on what."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = build.parse(hydra.compose("train", overrides=["experiment=ljspeech_vits"]), [])
    optimizer, data = config.trainer.optimizer, config.data
    steps_per_epoch = 12_500 // data.batch_size
    for epoch in (1, 100, 4000):  # 0.999875 an epoch
        factor = rate_factor(optimizer, epoch * steps_per_epoch, config.trainer.steps)
        assert factor == pytest.approx(0.999875**epoch, rel=1e-3)
    assert [round(13_100 * x) for x in (data.validation_fraction, data.test_fraction)] == [100, 500]
    assert (config.trainer.ema_decay, optimizer.max_grad_norm, optimizer.warmup_steps) == (0, 0, 0)
    assert (config.text.edges, config.text.blanks, config.text.units) == (False, True, "codepoints")


def test_the_first_step_is_that_of_vits(compose, tmp_path, double):
    trainer, batch = before_the_first_step(compose, tmp_path)
    model, adversary, sample_rate = trainer.model, trainer.adversary, trainer.data.audio.sample_rate
    model_before, judge = copy.deepcopy(model).train(), copy.deepcopy(adversary.discriminator)
    result = trainer.step([batch])

    # The discriminators first.
    terms, y, y_hat = generated(model_before, batch, sample_rate)
    names, weights = zip(*judge.named_parameters(), strict=True)
    terms["discriminator"] = judged(judge, y, y_hat.detach())["discriminator"]
    gradients = torch.autograd.grad(terms["discriminator"], weights)
    states = adversary.optimizer.state
    averages = [states[p]["exp_avg"] for p in adversary.discriminator.parameters()]
    found = {n: a / (1 - BETA1) for n, a in zip(names, averages, strict=True)}
    assert_same(found, dict(zip(names, gradients, strict=True)), 1e-9)
    with torch.no_grad():
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.copy_(adamw_once(weight, gradient))
    for a, b in zip(adversary.discriminator.parameters(), weights, strict=True):
        assert (a - b).abs().max() < 1e-3 * RATE

    # Then the model, judged by what they have become.
    terms |= {k: v for k, v in judged(judge, y, y_hat).items() if k != "discriminator"}
    assert result.terms.keys() == terms.keys()
    for name, value in terms.items():
        assert result.terms[name].item() == pytest.approx(value.item(), rel=1e-9), name
    total = terms["kl"] + 45 * terms["mel"] + sum(terms[n] for n in ("duration", "adversarial", "feature_matching"))
    names, weights = zip(*model_before.named_parameters(), strict=True)
    gradients = dict(zip(names, torch.autograd.grad(total, weights, allow_unused=True), strict=True))
    assert {n for n, g in gradients.items() if g is None} == {n for n, p in model.named_parameters() if p.grad is None}
    used = {n: g for n, g in gradients.items() if g is not None}
    assert_same({n: p.grad for n, p in model.named_parameters() if p.grad is not None}, used, 1e-8)
    norm = math.sqrt(sum(g.square().sum().item() for g in used.values()))
    assert result.grad_norm.item() == pytest.approx(norm, rel=1e-9)
    after = dict(model.named_parameters())
    for name, weight in zip(names, weights, strict=True):
        if name in used:
            assert (after[name] - adamw_once(weight, used[name])).abs().max() < 1e-3 * RATE, name
