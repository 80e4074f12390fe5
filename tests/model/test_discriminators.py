"""Discriminators: published sizes, independence of the batch, and what each of them is able to hear."""

import math

import pytest
import torch
import torch.nn.functional as F
from common import defaults_with

from vitslite.model.discriminators import (
    DiscriminatorSettings,
    PeriodDiscriminator,
    ResolutionDiscriminator,
    ScaleDiscriminator,
    build_discriminator,
)

ALL = ["mpd", "mrd", "mpd_mrd", "vits"]


def small(kind, **changes):
    torch.manual_seed(0)
    sizes = {"periods": [2, 3], "period_channels": [4, 8, 8], "resolutions": [64, 128], "resolution_channels": 4}
    return build_discriminator(DiscriminatorSettings(**{"kind": kind, **sizes, **changes}))


def n_parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_published_parameter_counts():
    with torch.device("meta"):
        vits = build_discriminator(DiscriminatorSettings(kind="vits"))
    assert n_parameters(vits) == 46_747_132
    assert [n_parameters(judge) for judge in vits.judges] == [5_641_362] + 5 * [8_221_154]


def test_which_judges_sit():
    assert build_discriminator(DiscriminatorSettings()) is None
    classes = {kind: [type(judge) for judge in small(kind).judges] for kind in ALL}
    assert classes == {
        "mpd": [PeriodDiscriminator] * 2,
        "mrd": [ResolutionDiscriminator] * 2,
        "mpd_mrd": [PeriodDiscriminator] * 2 + [ResolutionDiscriminator] * 2,
        "vits": [ScaleDiscriminator] + [PeriodDiscriminator] * 2,
    }


@pytest.mark.parametrize("kind", ["mpd_mrd", "vits"])
@pytest.mark.parametrize("n_samples", [1024, 997, 61])
def test_items_do_not_see_each_other(kind, n_samples):
    discriminator = small(kind)
    audio = 0.1 * torch.randn(3, 1, n_samples)
    with torch.no_grad():
        together = discriminator(audio)
        for b in range(3):
            for judgement, alone in zip(together, discriminator(audio[b : b + 1]), strict=True):
                torch.testing.assert_close(judgement.score[b : b + 1], alone.score, atol=1e-5, rtol=1e-5)
                for feature, feature_alone in zip(judgement.features, alone.features, strict=True):
                    torch.testing.assert_close(feature[b : b + 1], feature_alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ALL)
def test_gradients_reach_the_audio_and_every_weight(kind):
    """Also from silence, where the magnitude of a spectrum has no gradient of its own."""
    discriminator = small(kind)
    audio = 0.1 * torch.randn(2, 1, 997)
    audio[1] = 0.0
    audio.requires_grad_()
    judgements = discriminator(audio)
    sum((1 - j.score).square().mean() + sum(f.abs().mean() for f in j.features) for j in judgements).backward()
    assert torch.isfinite(audio.grad).all() and (audio.grad[0] != 0).float().mean() > 0.99
    for name, p in discriminator.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().max() > 0, name


def test_features_end_with_the_score():
    for judgement in small("mpd_mrd")(torch.randn(2, 1, 500)):
        assert torch.equal(judgement.features[-1].flatten(1), judgement.score)
        assert all(f.shape[0] == 2 for f in judgement.features) and len(judgement.features) in (4, 6)


def test_a_period_discriminator_is_the_published_one_with_rows_and_columns_exchanged():
    """There: [S / period, period], a kernel of (5, 1) and a stride of (3, 1)."""
    torch.manual_seed(0)
    judge = PeriodDiscriminator(3, [4, 8])
    audio = torch.randn(2, 1, 200)
    x = F.pad(audio, (0, 1), "reflect").view(2, 1, 67, 3)
    for conv, stride in zip(judge.convs, (3, 1), strict=True):
        weight = conv.weight.transpose(2, 3)
        assert weight.shape[2:] == (5, 1)
        x = F.leaky_relu(F.conv2d(x, weight, conv.bias, (stride, 1), padding=(2, 0)), 0.1)
    score = F.conv2d(x, judge.conv_post.weight.transpose(2, 3), judge.conv_post.bias, padding=(1, 0))
    torch.testing.assert_close(judge(audio).features[-1].transpose(2, 3), score)


def test_a_period_discriminator_never_mixes_its_columns():
    torch.manual_seed(0)
    judge = PeriodDiscriminator(5, [4, 8])
    audio = torch.randn(1, 1, 200)
    changed = audio.clone()
    changed[0, 0, 3::5] += 1.0
    with torch.no_grad():
        for before, after in zip(judge(audio).features, judge(changed).features, strict=True):
            differs = (before != after).any(1).any(2)[0]
            assert differs.tolist() == [False, False, False, True, False]


def test_magnitude_of_a_sine():
    """A sine of amplitude a has a * sum(window) / 2 / sqrt(n_fft) in its bin."""
    judge = ResolutionDiscriminator(64, 4)
    sine = 0.5 * torch.sin(2 * math.pi * 8 / 64 * torch.arange(640))
    magnitude = judge.magnitude(sine[None, None])
    assert magnitude.shape == (1, 41, 33)
    assert magnitude[0, 20, 8].item() == pytest.approx(0.5 * 32 / 2 / 8, rel=1e-3)
    assert magnitude[0, 20, 12:].max() < 1e-3


def test_weight_norm_can_be_left_out():
    """The same function at the start, with fewer parameters."""
    audio = torch.randn(1, 1, 300)
    plain, normed = small("mpd", weight_norm=False), small("mpd")
    assert n_parameters(plain) < n_parameters(normed)
    for a, b in zip(plain(audio), normed(audio), strict=True):
        torch.testing.assert_close(a.score, b.score)


@pytest.mark.parametrize(
    "kind, override, message",
    [
        ("msd", "weight_norm=true", "discriminator.kind=msd is unknown: choose one of none, mpd, mrd, mpd_mrd, vits"),
        ("mpd", "periods=[]", "discriminator.periods"),
        ("mpd", "periods=[2,0]", r"discriminator.periods\[1\]=0: must be at least 1"),
        ("mpd", "period_channels=[]", "discriminator.period_channels"),
        ("mrd", "resolutions=[512,1023]", "discriminator.resolutions=.512, 1023."),
        ("mrd", "resolutions=[512,4]", r"discriminator.resolutions\[1\]=4: must be at least 8"),
        ("mpd", "start_step=-1", "discriminator.start_step=-1: must be at least 0"),
        ("mpd", "segment_frames=0", "discriminator.segment_frames=0: must be at least 1"),
    ],
)
def test_settings_that_cannot_work_say_so(kind, override, message):
    with pytest.raises(ValueError, match=message):
        defaults_with(f"discriminator.kind={kind}", f"discriminator.{override}")
