"""Pitch of recordings against tones that are known and against probabilistic YIN, and what decoders make of it."""

import numpy as np
import pytest
import torch

from vitslite.audio import AudioSettings
from vitslite.metrics import acoustics
from vitslite.model.istft import ISTFTDecoder, ISTFTSettings
from vitslite.model.pitch import PitchTracker
from vitslite.tensors import sequence_mask

AUDIO = AudioSettings(sample_rate=16000, n_fft=1024, hop_length=320, win_length=1024)
HZ_PER_CYCLE = AUDIO.frames_per_second
TRACKER = PitchTracker(AUDIO.sample_rate, AUDIO.hop_length)


def voice(f0, seconds=1.0, rate=16000, noise=0.02):
    """Twelve harmonics of f0 Hz, one number or one per sample."""
    f0 = np.broadcast_to(f0, round(rate * seconds))
    phase = 2 * np.pi * np.cumsum(f0) / rate
    wav = 0.1 * sum(np.cos(k * phase + k * k) / k for k in range(1, 13))
    return torch.from_numpy(wav + noise * np.random.default_rng(0).standard_normal(len(wav))).float()[None, None]


@pytest.mark.parametrize("f0", [75, 101.3, 150, 207.7, 333, 450])
def test_pitch_of_a_tone(f0):
    found = TRACKER(voice(f0))[0, 3:-3].exp() * HZ_PER_CYCLE
    assert found.isfinite().all()
    assert (found / f0).log().abs().max() < 0.02 and (found / f0).log().mean().abs() < 0.005


@pytest.mark.parametrize("settings", [AUDIO, AudioSettings()])
def test_a_glide_is_followed_as_by_probabilistic_yin(settings):
    rate, hop = settings.sample_rate, settings.hop_length
    seconds = np.arange(rate) / rate
    wav = voice(160 * np.exp(0.3 * np.sin(2 * np.pi * 1.5 * seconds)), rate=rate)[:, :, : rate // hop * hop]
    ours = PitchTracker(rate, hop)(wav)[0].exp().numpy() * settings.frames_per_second
    theirs, _ = acoustics.pitch(wav[0, 0].numpy(), settings)
    inside = slice(3, -3)
    assert np.abs(np.log(ours[inside] / theirs[inside])).max() < 0.02
    # Planted fault: an octave, the usual error of a pitch tracker, would not pass.
    assert np.abs(np.log(ours[inside] / 2 / theirs[inside])).min() > 0.6


def test_noise_and_silence_are_unvoiced():
    noise = 0.1 * torch.randn(1, 1, 16000, generator=torch.Generator().manual_seed(0))
    assert TRACKER(noise).isfinite().float().mean() < 0.1
    assert TRACKER(torch.zeros(1, 1, 16000)).isnan().all()
    assert TRACKER(1e-3 * voice(200)).isnan().all()  # below -50 dBFS


def test_a_decoder_is_judged_and_trained_by_the_voiced_frames_alone():
    torch.manual_seed(0)
    decoder = ISTFTDecoder(ISTFTSettings(channels=8, n_layers=1, harmonics=True), 4, 320, 16000)
    wav = torch.cat([voice(200), torch.zeros(1, 1, 16000), voice(100)], 2)
    wavs = torch.cat([wav, wav])
    pitch = TRACKER(wavs)
    z = torch.randn(2, 4, 150, requires_grad=True)
    mask = sequence_mask(torch.tensor([150, 50]), 150)
    decoded = decoder(z, mask, recording=wavs)
    said = decoder.pitch(z, mask).detach()
    assert decoded.pitch_loss[0].sum().item() == pytest.approx((said - pitch)[0].abs().nansum().item(), rel=1e-5)
    assert decoded.pitch_loss[1].sum().item() == pytest.approx((said - pitch)[1, :50].abs().nansum().item(), rel=1e-5)
    assert not decoded.pitch_loss[0, 55:95].any()  # silence
    decoded.pitch_loss.sum().backward()
    assert z.grad.isfinite().all() and not z.grad[0, :, 65:85].any() and not z.grad[1, :, 50:].any()
    assert z.grad[0, :, 10:40].abs().min() > 0


def test_pulses_have_the_pitch_of_the_recording_that_is_given():
    torch.manual_seed(0)
    decoder = ISTFTDecoder(ISTFTSettings(channels=8, n_layers=1, subframes=2, harmonics=True), 4, 320, 16000)
    z, hertz = torch.randn(1, 4, 100), 123.0
    with torch.no_grad():
        decoder.out.weight *= 0.01  # nearly the same filter in all frames
        given = decoder(z, None, recording=voice(hertz, 2.0)).audio
        own = decoder(z, None).audio
    assert (TRACKER(given)[0, 5:-5].exp() * HZ_PER_CYCLE / hertz).log().abs().max() < 0.02
    assert (TRACKER(own)[0, 5:-5].exp() * HZ_PER_CYCLE / hertz).log().abs().nanmedian() > 0.1
