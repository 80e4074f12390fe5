"""Pitch of recordings against tones that are known and against probabilistic YIN; what its loss counts."""

import math

import numpy as np
import pytest
import torch

from vitslite.audio import AudioSettings
from vitslite.metrics import acoustics
from vitslite.objectives.pitch import PitchLoss

AUDIO = AudioSettings(sample_rate=16000, n_fft=1024, hop_length=320, win_length=1024)
HZ_PER_CYCLE = AUDIO.sample_rate / AUDIO.hop_length


def voice(f0, seconds=1.0, rate=16000, noise=0.02):
    """Twelve harmonics of f0 Hz, one number or one per sample."""
    f0 = np.broadcast_to(f0, round(rate * seconds))
    phase = 2 * np.pi * np.cumsum(f0) / rate
    wav = 0.1 * sum(np.cos(k * phase + k * k) / k for k in range(1, 13))
    return torch.from_numpy(wav + noise * np.random.default_rng(0).standard_normal(len(wav))).float()[None, None]


@pytest.mark.parametrize("f0", [75, 101.3, 150, 207.7, 333, 450])
def test_pitch_of_a_tone(f0):
    found = PitchLoss(AUDIO).log_pitch(voice(f0))[0, 3:-3].exp() * HZ_PER_CYCLE
    assert found.isfinite().all()
    assert (found / f0).log().abs().max() < 0.02 and (found / f0).log().mean().abs() < 0.005


@pytest.mark.parametrize("settings", [AUDIO, AudioSettings()])
def test_a_glide_is_followed_as_by_probabilistic_yin(settings):
    rate, hop = settings.sample_rate, settings.hop_length
    seconds = np.arange(rate) / rate
    wav = voice(160 * np.exp(0.3 * np.sin(2 * np.pi * 1.5 * seconds)), rate=rate)[:, :, : rate // hop * hop]
    ours = PitchLoss(settings).log_pitch(wav)[0].exp().numpy() * settings.frames_per_second
    theirs, _ = acoustics.pitch(wav[0, 0].numpy(), settings)
    inside = slice(3, -3)
    assert np.abs(np.log(ours[inside] / theirs[inside])).max() < 0.02
    # Planted fault: an octave, the usual error of a pitch tracker, would not pass.
    assert np.abs(np.log(ours[inside] / 2 / theirs[inside])).min() > 0.6


def test_noise_and_silence_are_unvoiced():
    tracker = PitchLoss(AUDIO)
    noise = 0.1 * torch.randn(1, 1, 16000, generator=torch.Generator().manual_seed(0))
    assert tracker.log_pitch(noise).isfinite().float().mean() < 0.1
    assert tracker.log_pitch(torch.zeros(1, 1, 16000)).isnan().all()
    assert tracker.log_pitch(1e-3 * voice(200)).isnan().all()  # below -50 dBFS


def test_the_loss_is_the_distance_of_voiced_frames_within_the_lengths():
    tracker = PitchLoss(AUDIO)
    wav = torch.cat([voice(200), torch.zeros(1, 1, 16000), voice(100)], 2)
    wavs = torch.cat([wav, wav])
    target = tracker.log_pitch(wavs)
    said = torch.full_like(target, math.log(150 / HZ_PER_CYCLE))
    frames = torch.tensor([150, 50])
    expected = (said - target).abs()[0].nansum() + (said - target).abs()[1, :50].nansum()
    assert tracker(said, wavs, frames) == pytest.approx(expected.item(), rel=1e-6)
    assert expected.item() == pytest.approx(2 * 50 * math.log(4 / 3) + 50 * math.log(3 / 2), rel=0.1)
    assert tracker(torch.nan_to_num(target), wavs, frames) == 0
    # An utterance's loss does not depend on its batch.
    alone = tracker(said[1:, :50], wavs[1:, :, : 50 * 320], frames[1:])
    assert tracker(said[1:], wavs[1:], frames[1:]) == pytest.approx(alone.item(), rel=0.05)  # the last window looks on


def test_gradient_reaches_what_was_said_and_no_silence():
    said = torch.zeros(1, 100, requires_grad=True)
    PitchLoss(AUDIO)(said, torch.cat([voice(200), torch.zeros(1, 1, 16000)], 2), torch.tensor([100])).backward()
    assert (said.grad[0, 3:47] == -1).all() and not said.grad[0, 55:].any()
