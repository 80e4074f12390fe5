"""Buzz, harmonics-to-noise and modulation against what was planted, in closed form, and in order."""

import math

import numpy as np
import pytest
import scipy.signal

from vitslite.metrics.sound import BUZZ_BANDS, Sound, harmonics_to_noise, hop_correlation, modulation, sound

RATE, HOP = 16000, 320


def noise(n=2 * RATE, seed=0):
    return np.random.default_rng(seed).standard_normal(n)


def repeated(n=2 * RATE, hop=HOP, seed=1):
    """The same hop of noise over and over: phases locked to the frames."""
    return np.tile(noise(hop, seed), n // hop + 1)[:n]


def voice(f0=125.0, n=2 * RATE, rate=RATE):
    """A gliding tone with harmonics: no period is a whole number of samples, or of hops."""
    phase = 2 * np.pi * np.cumsum(f0 * (1 + 0.1 * np.sin(2 * np.pi * np.arange(n) / rate))) / rate
    return sum(np.cos(k * phase) / k for k in range(1, 25))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("band", BUZZ_BANDS)
def test_buzz_is_the_share_of_the_power_that_repeats(share, band):
    parts = math.sqrt(share) * repeated(), math.sqrt(1 - share) * noise()
    power = [np.square(np.abs(np.fft.rfft(x))[np.fft.rfftfreq(len(x), 1 / RATE) >= band[0]]).sum() for x in parts]
    expected = power[0] / sum(power)
    assert hop_correlation(0.1 * sum(parts), RATE, HOP, *band) == pytest.approx(expected, abs=0.05)


def test_buzz_at_another_lag_is_not_the_decoder_s():
    assert hop_correlation(repeated(hop=300), RATE, HOP, *BUZZ_BANDS[1]) < 0.1
    assert hop_correlation(repeated(hop=HOP // 4), RATE, HOP, *BUZZ_BANDS[1]) > 0.95  # shorter frames of one hop
    # What repeats in a lower band is not heard in this one.
    low = scipy.signal.sosfiltfilt(scipy.signal.butter(8, 2000, fs=RATE, output="sos"), repeated())
    assert hop_correlation(low + 0.01 * noise(), RATE, HOP, *BUZZ_BANDS[1]) < 0.1


def test_pauses_do_not_count_as_buzz():
    wav = noise()
    wav[:RATE] = 1e-6 * repeated(RATE)
    assert abs(hop_correlation(wav, RATE, HOP, *BUZZ_BANDS[1])) < 0.05


@pytest.mark.parametrize("decibels", [0, 5, 10, 15])
def test_harmonicity_is_the_ratio_of_harmonics_to_noise(decibels):
    clean = voice()
    wav = clean + noise() * clean.std() * 10 ** (-decibels / 20)
    assert harmonics_to_noise(0.05 * wav, RATE) == pytest.approx(decibels, abs=0.8)


def test_harmonicity_falls_when_phases_are_broken_up():
    clean = voice()
    broken = np.concatenate([np.roll(piece, 37 * i) for i, piece in enumerate(np.split(clean, 2 * RATE // HOP))])
    assert harmonics_to_noise(0.05 * broken, RATE) < harmonics_to_noise(0.05 * clean, RATE) - 5


@pytest.mark.parametrize(("frequency", "band"), [(10, 0), (16, 0), (35, 1)])
def test_modulation_of_a_known_depth(frequency, band):
    depth = 6.0  # dB
    seconds = np.arange(2 * RATE) / RATE
    carrier = np.tile(np.r_[1.0, np.zeros(31)], RATE // 16)  # pulses at 500 Hz: no envelope of its own
    wav = 0.1 * carrier * 10 ** (depth / 20 * np.sin(2 * np.pi * frequency * seconds))
    found = modulation(wav, RATE)
    assert found[band] == pytest.approx(10 * math.log10(depth**2 / 2), abs=0.5 if band == 0 else 2.0)  # 16 ms smooth it
    assert found[1 - band] < found[band] - 10


def test_planted_faults_are_ordered():
    """Each fault is seen by its own measure, and by it alone where it should be."""
    clean = voice() * (1 + 0.8 * np.sin(2 * np.pi * 12 * np.arange(2 * RATE) / RATE)) + 0.2 * noise()
    buzzing, hoarse = clean + 0.3 * repeated(), clean + 0.7 * noise()
    heard = {name: sound(0.05 * x, RATE, HOP) for name, x in [("clean", clean), ("buzz", buzzing), ("hoarse", hoarse)]}
    assert heard["buzz"].high_buzz > heard["clean"].high_buzz + 0.3 > heard["hoarse"].high_buzz
    assert heard["hoarse"].harmonicity < heard["buzz"].harmonicity < heard["clean"].harmonicity
    assert heard["hoarse"].slow_modulation < heard["clean"].slow_modulation - 3  # steady noise fills the gaps


def test_what_cannot_be_measured_is_nan():
    assert all(math.isnan(x) for x in sound(np.zeros(RATE), RATE, HOP))
    assert all(math.isnan(x) for x in sound(0.1 * noise(100), RATE, HOP))
    telephone = sound(0.1 * noise(8000), 8000, 160)
    assert math.isnan(telephone.high_buzz) and math.isfinite(telephone.mid_buzz)
    assert math.isnan(Sound(*sound(0.1 * np.sign(noise()), RATE, HOP)).harmonicity)  # noise is never voiced
    with pytest.raises(ValueError, match="NaN or infinite samples"):
        sound(np.full(RATE, np.nan), RATE, HOP)


def test_gain_and_offset_do_not_matter():
    wav = voice() + 0.3 * noise()
    np.testing.assert_allclose(sound(0.02 * wav, RATE, HOP), sound(0.1 * wav + 0.2, RATE, HOP), rtol=1e-6)
