"""The adversary's side of a step: one pass over both sides is two, and the model's turn leaves no trace in it."""

import dataclasses

import pytest
import torch

from vitslite.model.discriminators import DiscriminatorSettings, build_discriminator
from vitslite.objectives import adversarial
from vitslite.tensors import Batch, Gaussian, Latents, Outputs
from vitslite.training.adversary import Adversary
from vitslite.training.optimization import OptimizerSettings

HOP, FRAMES = 16, 8


def make(kind="mpd_mrd", n_frames=20, n_items=3):
    torch.manual_seed(0)
    sizes = {"periods": [2, 3], "period_channels": [4, 8, 8], "resolutions": [64], "resolution_channels": 4}
    discriminator = build_discriminator(DiscriminatorSettings(kind=kind, segment_frames=FRAMES, **sizes))
    audio, audio_hat = 0.1 * torch.randn(2, n_items, 1, n_frames * HOP)
    frames = torch.full((n_items,), n_frames)
    unused = torch.zeros(n_items, 1, 1)
    q = Gaussian(unused, unused)
    latents = Latents(q, q, unused, unused, unused, unused.bool())
    tokens = torch.zeros(n_items, 1, dtype=torch.long)
    outputs = Outputs(latents, q, tokens, unused[:, 0], audio_hat.requires_grad_(), audio, frames)
    batch = Batch(0, list("abc")[:n_items], torch.arange(n_items), tokens, tokens[:, 0], audio, frames)
    return Adversary(discriminator, OptimizerSettings(), HOP), outputs, batch


def gradients(module):
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def two_passes(adversary, outputs, batch):
    """As the loss is written: sum_k mean (1 - D_k(y))^2 + mean D_k(y_hat)^2, each side for itself."""
    real, fake = adversarial.excerpts(outputs, batch, FRAMES, HOP)
    real, fake = adversary.discriminator(real), adversary.discriminator(fake.detach())
    per_item = sum(
        ((1 - r.score) ** 2).flatten(1).mean(1) + (f.score**2).flatten(1).mean(1)
        for r, f in zip(real, fake, strict=True)
    )
    return per_item.sum() / 5


@pytest.mark.parametrize("kind", ["mpd_mrd", "vits"])
@pytest.mark.parametrize("fault", [None, "sides exchanged"])
def test_one_pass_is_two(kind, fault):
    adversary, outputs, batch = make(kind)
    expected = two_passes(adversary, outputs, batch)
    expected.backward()
    wanted = gradients(adversary.discriminator)
    adversary.discriminator.zero_grad()
    if fault:
        outputs = dataclasses.replace(outputs, audio=outputs.audio_hat.detach(), audio_hat=outputs.audio)
    loss = adversary.loss(outputs, batch, torch.tensor(5.0))
    loss.backward()
    found = gradients(adversary.discriminator)
    same = [torch.allclose(loss, expected, rtol=1e-5)]
    same += [torch.allclose(found[name], wanted[name], rtol=1e-3, atol=1e-6) for name in wanted]
    assert found.keys() == wanted.keys() and outputs.audio_hat.grad is None
    assert all(same) if fault is None else not any(same[:1])


def test_the_models_turn_leaves_the_discriminator_alone():
    adversary, outputs, batch = make()
    real, fake = adversary.score(outputs, batch)
    (adversarial.generator_loss(fake) + adversarial.feature_matching(real, fake)).sum().backward()
    assert gradients(adversary.discriminator) == {}
    assert outputs.audio_hat.grad.abs().max() > 0
    assert all(p.requires_grad for p in adversary.discriminator.parameters())
    assert not any(h.requires_grad for judgement in real for h in judgement.features)


def test_an_update_after_a_gradient_that_is_not_finite_changes_nothing():
    adversary, outputs, batch = make()
    weights = {name: value.clone() for name, value in adversary.discriminator.state_dict().items()}
    (adversary.loss(outputs, batch, torch.tensor(3.0)) * float("nan")).backward()
    assert not torch.isfinite(adversary.reduce_gradients())
    adversary.step(1.0, torch.tensor(1.0))
    assert all(torch.equal(value, weights[name]) for name, value in adversary.discriminator.state_dict().items())
    assert gradients(adversary.discriminator) == {}
