"""Griffin-Lim: the spectrogram that it is given comes back, in place; tones are tones."""

import math

import pytest
import torch

from vitslite.audio import AudioSettings, LogMel
from vitslite.evaluation.griffin_lim import GriffinLim
from vitslite.metrics.sound import sound


def speechlike(rate, seconds=1.0):
    """A gliding voice that comes and goes, and noise in its gaps."""
    t = torch.arange(round(rate * seconds), dtype=torch.float64) / rate
    phase = 2 * math.pi * (140 * t + 20 * t**2)
    loud = 0.5 + 0.5 * torch.sin(2 * math.pi * 4 * t)
    voice = sum(torch.cos(k * phase) / k for k in range(1, 20))
    noise = torch.randn(len(t), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (0.1 * (loud * voice + 0.2 * (1 - loud) * noise)).float()[None, None]


@pytest.mark.parametrize("settings", [AudioSettings(16000, 1024, 320, 1024), AudioSettings()])
def test_the_spectrogram_comes_back_frame_for_frame(settings):
    wav = speechlike(settings.sample_rate)
    wav = wav[:, :, : wav.shape[2] // settings.hop_length * settings.hop_length]
    mel, lengths = LogMel(settings), torch.tensor([wav.shape[2]])
    wanted = mel(wav, lengths)
    again = torch.from_numpy(GriffinLim(settings)(wav[0, 0].numpy()))[None, None]
    assert again.shape == wav.shape
    found = mel(again, lengths)
    error = (found - wanted).abs().mean()
    assert error < 0.25
    # Planted fault: a frame earlier or later it fits less.
    for shift in (-1, 1):
        assert (found.roll(shift, 2) - wanted).abs().mean() > 1.5 * error


def test_it_is_the_same_every_time_and_leaves_the_random_state_alone():
    settings = AudioSettings(16000, 1024, 320, 1024)
    wav = speechlike(16000)[0, 0].numpy()
    torch.manual_seed(3)
    first, expected = GriffinLim(settings)(wav), torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(expected, torch.rand(1))
    torch.manual_seed(4)
    assert (first == GriffinLim(settings)(wav)).all()


def test_it_is_hoarse_and_does_not_buzz():
    """What the evaluation's column shows: phases that nearly fit cost harmonics and do not repeat."""
    settings = AudioSettings(16000, 1024, 320, 1024)
    wav = speechlike(16000, 2.0)[0, 0].numpy()
    before, after = (sound(x, 16000, 320) for x in (wav, GriffinLim(settings)(wav)))
    assert after.harmonicity < before.harmonicity - 2
    assert after.high_buzz < 0.15
