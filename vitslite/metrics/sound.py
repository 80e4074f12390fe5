"""How a voice sounds, without listening: buzz, hoarseness and dullness of one recording, read off its samples.

Word error rates, mel distortions and losses are blind to all three. Each figure belongs beside that of a real recording
of the same voice, as none has a value that is right for every speaker. Wavs are floats in [-1, 1]; besides the axis
legend of tensors.py: N samples of a frame.
"""

import math
from typing import NamedTuple

import numpy as np
import scipy  # its parts are imported where they are used: scipy.signal takes seconds
from jaxtyping import Float

from vitslite.audio import mel_filters
from vitslite.metrics.acoustics import SILENT_DB, require_samples
from vitslite.model.pitch import F0_MAX, F0_MIN

BUZZ_BANDS = ((1500.0, 4500.0), (4500.0, math.inf))  # Hz
MODULATION_BANDS = ((8.0, 25.0), (25.0, 50.0))  # Hz: syllables and faster; within a phoneme
_LOUD_SHARE = 0.6  # of the samples: the rest is pauses, in which nothing buzzes
_VOICED = 0.45  # correlation at one period from which a frame counts as voiced: Praat's threshold
_ENVELOPE_SECONDS, _ENVELOPES_PER_SECOND = 0.016, 200  # windows of the modulation spectrum
_ENVELOPE_CHANNELS, _ENVELOPE_F_MAX = 20, 8000.0  # Hz
_DYNAMIC_RANGE = 50.0  # dB below the loudest point, where envelopes end


class Sound(NamedTuple):
    """NaN where there is nothing to measure: silence, no voiced frame, no such band, a clip too short."""

    mid_buzz: float  # correlation at one hop, 1.5 to 4.5 kHz
    high_buzz: float  # the same above 4.5 kHz
    harmonicity: float  # harmonics-to-noise ratio, dB
    slow_modulation: float  # 8 to 25 Hz, dB
    fast_modulation: float  # 25 to 50 Hz, dB


def sound(wav: Float[np.ndarray, " S"], sample_rate: int, hop_length: int) -> Sound:
    """All of them. ValueError for NaN or infinite samples."""
    require_samples(wav)
    wav = wav.astype(np.float64) - wav.mean(dtype=np.float64)
    mid, high = (hop_correlation(wav, sample_rate, hop_length, *band) for band in BUZZ_BANDS)
    slow, fast = modulation(wav, sample_rate)
    return Sound(mid, high, harmonics_to_noise(wav, sample_rate), slow, fast)


def hop_correlation(wav: Float[np.ndarray, " S"], sample_rate: int, hop_length: int, low: float, high: float) -> float:
    """Buzz at the frame rate: how much the signal between `low` and `high` Hz repeats itself one hop later, -1 to 1.

        r = max_i sum_s x_s x_{s + hop + i} / sqrt(sum_s x_s^2  sum_s x_{s + hop + i}^2),   i = -1, 0, 1

    over the loudest samples, with x the band of the wav. A recording has no reason to repeat itself at just this lag:
    its r is about 0.04 above 4.5 kHz. A decoder that makes each frame with the same phases has 0.4 to 0.8, and is
    heard as metallic. Random phases have 0 and are no better for it: never train or choose by this figure alone.
    """
    if high >= sample_rate / 2:
        high = math.inf
    if low >= 0.9 * sample_rate / 2 or len(wav) < 4 * hop_length:
        return math.nan
    edges, kind = ((low, high), "bandpass") if high < math.inf else (low, "highpass")
    x = scipy.signal.sosfiltfilt(scipy.signal.butter(8, edges, kind, fs=sample_rate, output="sos"), wav)
    n = len(x) - hop_length - 1
    energy = scipy.ndimage.uniform_filter1d(x**2, 2 * hop_length)[1:n]
    loud = energy >= max(np.quantile(energy, 1 - _LOUD_SHARE), 1e-14)
    here = x[1:n][loud]
    if not loud.any():
        return math.nan
    there = [x[1 + lag : n + lag][loud] for lag in range(hop_length - 1, hop_length + 2)]
    return max(float(here @ y / math.sqrt((here @ here) * (y @ y))) for y in there)


def harmonics_to_noise(wav: Float[np.ndarray, " S"], sample_rate: int) -> float:
    """Mean over the voiced frames of 10 log10(r / (1 - r)), dB; r: the autocorrelation at one period.

    r is the highest peak between 1 / F0_MAX and 1 / F0_MIN seconds of the windowed autocorrelation, divided by that
    of the window and by r(0). Hann windows of three longest periods, every 10 ms. A voice has 5 to 20 dB; noise or
    jitter of the phases lowers it. Source: Boersma 1993, equations 4, 8 and 9.
    """
    n, step = 2 * round(1.5 * sample_rate / F0_MIN), round(0.01 * sample_rate)
    if len(wav) < n:
        return math.nan
    frames = np.lib.stride_tricks.sliding_window_view(wav, n)[::step]
    loud = frames.var(axis=1) >= 10 ** (SILENT_DB / 10)
    window = scipy.signal.windows.hann(n, sym=False)
    lags = np.arange(math.floor(sample_rate / F0_MAX), math.ceil(sample_rate / F0_MIN) + 1)
    own = _autocorrelation(window[None])[0]
    frames = frames[loud] - frames[loud].mean(axis=1, keepdims=True)
    r = _autocorrelation(frames * window)[:, lags] / own[lags]
    if r.shape[0] == 0:
        return math.nan
    best = r[:, 1:-1].argmax(axis=1) + 1
    row = np.arange(len(r))
    before, peak, after = r[row, best - 1], r[row, best], r[row, best + 1]
    curvature = before - 2 * peak + after  # a parabola through three points: the period is no whole number of samples
    peak = peak - np.where(curvature < 0, (after - before) ** 2 / (8 * np.minimum(curvature, -1e-12)), 0)
    voiced = (peak > _VOICED) & (before <= r[row, best]) & (after <= r[row, best])
    if not voiced.any():
        return math.nan
    peak = np.minimum(peak[voiced], 1 - 1e-6)
    return float((10 * np.log10(peak / (1 - peak))).mean())


def modulation(wav: Float[np.ndarray, " S"], sample_rate: int) -> list[float]:
    """How much the loudness of each band moves, in each of MODULATION_BANDS: 10 log10 of its mean square in dB^2.

    Envelopes are log-powers, dB, of 20 bands up to 8 kHz, evenly spaced on the mel scale, in Hann windows of 16 ms,
    200 a second, cut off 50 dB below the loudest. Over-smooth speech moves less than a recording: bursts, creak and the
    grain of noise are gone. (Of over-smoothing, on cepstra: Takamichi et al. 2016, the modulation spectrum.)
    """
    n, step = round(_ENVELOPE_SECONDS * sample_rate), round(sample_rate / _ENVELOPES_PER_SECOND)
    n_frames = (len(wav) - n) // step + 1
    if n_frames < _ENVELOPES_PER_SECOND / MODULATION_BANDS[0][0] or not wav.any():
        return [math.nan] * len(MODULATION_BANDS)
    filters = mel_filters(sample_rate, n, _ENVELOPE_CHANNELS, f_max=min(_ENVELOPE_F_MAX, sample_rate / 2)).numpy()
    frames = np.lib.stride_tricks.sliding_window_view(wav, n)[::step] * scipy.signal.windows.hann(n, sym=False)
    power = np.abs(scipy.fft.rfft(frames, axis=1)) ** 2 @ filters.T
    decibels = 10 * np.log10(np.maximum(power, power.max() * 10 ** (-_DYNAMIC_RANGE / 10)))
    spectrum = np.abs(scipy.fft.rfft(decibels - decibels.mean(axis=0), axis=0)) ** 2
    frequencies = scipy.fft.rfftfreq(n_frames, step / sample_rate)
    found = []
    for low, high in MODULATION_BANDS:
        inside = (frequencies >= low) & (frequencies < high)
        mean_square = 2 * spectrum[inside].sum() / (n_frames**2 * decibels.shape[1])  # Parseval
        found.append(10 * math.log10(mean_square) if mean_square > 0 else math.nan)
    return found


def _autocorrelation(frames: Float[np.ndarray, "T N"]) -> Float[np.ndarray, "T N"]:
    """Divided by its value at lag 0; rows of zeros stay zero."""
    n = frames.shape[1]
    power = np.abs(scipy.fft.rfft(frames, scipy.fft.next_fast_len(2 * n, real=True), axis=1)) ** 2
    r = scipy.fft.irfft(power, axis=1)[:, :n]
    return r / np.maximum(r[:, :1], 1e-300)
