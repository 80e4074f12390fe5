"""How far two recordings are apart, and what is wrong with one: figures read off numpy arrays, the same every time.

Log-mel spectrograms are those of audio.LogMel, natural logarithms of magnitudes; wavs are floats in [-1, 1].
Besides the axis legend of tensors.py: C features of a frame, N points of a path, Ta and Tb frames of two recordings.
"""

import math
from typing import NamedTuple

import numpy as np
import scipy  # its parts are imported where they are used
from jaxtyping import Bool, Float, Int

from vitslite.audio import AudioSettings
from vitslite.model.pitch import F0_MAX, F0_MIN

WarpPath = tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]  # frames of the one and of the other, point by point

CLIPPED = 0.999  # magnitude from which a sample counts as clipped; 16-bit full scale is 0.99997
SILENT_DB = -50.0  # dBFS; a frame with less is silent


# ------------------------------------------------------------------------------------------------------- the spectrum


def log_mel_l1(a: Float[np.ndarray, "M Ta"], b: Float[np.ndarray, "M Tb"]) -> float:
    """Mean |a - b|, nats, frame by frame: for two recordings with the same timing."""
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"log-mels of {a.shape[1]} and {b.shape[1]} frames cannot be compared frame by frame: cut both to the same "
            "frames, or compare them along the path of warp()"
        )
    if a.size == 0:
        raise ValueError("log-mels without frames cannot be compared: the recordings are shorter than one hop")
    return float(np.abs(a.astype(np.float64) - b).mean())


def mel_cepstrum(log_mel: Float[np.ndarray, "M T"], n: int = 13) -> Float[np.ndarray, "C T"]:
    """c_1 ... c_n of log|S(w_k)| = c_0 + sum_m c_m cos(m w_k), w_k = (k + 1/2) pi / M, nats; C = n.

    c_m = 2/M sum_k log|S(w_k)| cos(m w_k) (a DCT-II). c_0, the level, is left out; n < M terms keep the envelope.
    """
    n_mels = log_mel.shape[0]
    if not 1 <= n < n_mels:
        raise ValueError(f"n={n}: {n_mels} mel bins have cepstral coefficients 1 to {n_mels - 1} beside the level")
    return scipy.fft.dct(log_mel.astype(np.float64), axis=0)[1 : n + 1] / n_mels


def mel_cepstral_distortion(a: Float[np.ndarray, "C Ta"], b: Float[np.ndarray, "C Tb"], path: WarpPath) -> float:
    """10 / ln 10 * mean over the path of sqrt(2 sum_m (c_m - c'_m)^2), dB, of two `mel_cepstrum`s (Kubichek 1993).

    The root is the rms difference, over the mel axis, of the two smoothed log spectra without their levels. The
    cepstra are of a mel filterbank, so the figure does not compare with those of WORLD's or SPTK's mel-cepstra.
    """
    i, j = path
    differences = a[:, i].astype(np.float64) - b[:, j]
    return float(10 / math.log(10) * np.sqrt(2 * (differences**2).sum(axis=0)).mean())


# ------------------------------------------------------------------------------------------------------------- timing


def warp(a: Float[np.ndarray, "C Ta"], b: Float[np.ndarray, "C Tb"]) -> WarpPath:
    """Dynamic time warping: the path from (0, 0) to (Ta - 1, Tb - 1) with the least sum of Euclidean distances.

    Steps (1, 1), (1, 0) and (0, 1), all of weight 1; of equally good ones the first (Sakoe and Chiba 1978). Time and
    memory Ta * Tb.
    """
    for name, frames in (("first", a), ("second", b)):
        if frames.size == 0:
            raise ValueError(f"the {name} recording has no frames to warp: it is shorter than one hop")
        if not np.isfinite(frames).all():
            raise ValueError(f"the {name} recording has NaN or infinite features: look at its samples")
    import librosa  # here, because it takes seconds

    _, path = librosa.sequence.dtw(b.astype(np.float64), a.astype(np.float64))  # from the end; (1, 0) before (0, 1)
    j, i = path[::-1].T
    return i, j


# -------------------------------------------------------------------------------------------------------------- pitch


def pitch(wav: Float[np.ndarray, " S"], audio: AudioSettings) -> tuple[Float[np.ndarray, " T"], Bool[np.ndarray, " T"]]:
    """Fundamental frequency, Hz, NaN where unvoiced, and voicing, by probabilistic YIN (Mauch and Dixon 2014).

    Frames are those of audio.LinearSpectrogram, T = S // hop_length with the same centres, and as long as
    n_fft or, where that is more, as two periods of F0_MIN. Frames below SILENT_DB, offset aside, are unvoiced. The
    values are F0_MIN times powers of 0.1 semitones, so half such a step, 0.3 %, is lost to rounding. Of
    white noise, about a tenth of the frames pass for voiced.
    """
    require_samples(wav)
    n_frames = len(wav) // audio.hop_length
    if n_frames == 0 or np.ptp(wav) == 0:
        return np.full(n_frames, np.nan), np.zeros(n_frames, dtype=bool)
    import librosa  # here, because it takes seconds

    length = max(audio.n_fft, 2 * math.ceil(audio.sample_rate / F0_MIN) + 2)
    length += (length - audio.hop_length) % 2  # the extension is the same at both ends
    centred = wav.astype(np.float64) - wav.mean(dtype=np.float64)  # an offset blurs the periods
    extended = np.pad(centred, (length - audio.hop_length) // 2, mode="reflect")
    f0, voiced, _ = librosa.pyin(
        extended,
        fmin=F0_MIN,
        fmax=F0_MAX,
        sr=audio.sample_rate,
        frame_length=length,
        hop_length=audio.hop_length,
        center=False,
    )
    frames = np.lib.stride_tricks.sliding_window_view(extended, length)[:: audio.hop_length]
    voiced &= frames.var(axis=1) >= 10 ** (SILENT_DB / 10)  # pyin takes a constant for a period of any length
    return np.where(voiced, f0, np.nan), voiced


class PitchErrors(NamedTuple):
    log_f0_rmse: float  # nats, 0.058 is a semitone; NaN if no point is voiced in both
    voicing: float  # share of points that are voiced in one only


def pitch_errors(f0_a: Float[np.ndarray, " Ta"], f0_b: Float[np.ndarray, " Tb"], path: WarpPath) -> PitchErrors:
    """Rms of ln f0_a - ln f0_b where both are voiced, and how often only one is; f0 in Hz, NaN where unvoiced."""
    a, b = f0_a[path[0]], f0_b[path[1]]
    voiced_a, voiced_b = ~np.isnan(a), ~np.isnan(b)
    both = voiced_a & voiced_b
    differences = np.log(a[both]) - np.log(b[both])
    rmse = float(np.sqrt((differences**2).mean())) if both.any() else math.nan
    return PitchErrors(rmse, float((voiced_a != voiced_b).mean()))


# -------------------------------------------------------------------------------------------------------------- level


class Level(NamedTuple):
    peak: float  # largest magnitude of a sample
    clipped: float  # share of samples with a magnitude of CLIPPED or more
    silent: float  # share of frames with less than SILENT_DB
    rms_db: float  # dBFS: 0 is a rms of 1, a sine of amplitude 1 has -3; -inf for digital silence


def level(wav: Float[np.ndarray, " S"], frame: int) -> Level:
    """Level, clipping and silence. Frames of `frame` samples do not overlap; an incomplete last one is left out."""
    require_samples(wav)
    if len(wav) < frame:
        raise ValueError(f"a recording of {len(wav)} samples has no level: it is shorter than a frame of {frame}")
    samples = wav.astype(np.float64)
    magnitudes = np.abs(samples)
    n_frames = len(wav) // frame
    powers = (samples[: n_frames * frame].reshape(n_frames, frame) ** 2).mean(axis=1)
    power = (samples**2).mean()
    return Level(
        peak=float(magnitudes.max()),
        clipped=float((magnitudes >= CLIPPED).mean()),
        silent=float((powers < 10 ** (SILENT_DB / 10)).mean()),
        rms_db=10 * math.log10(power) if power > 0 else -math.inf,
    )


def require_samples(wav: Float[np.ndarray, " S"]) -> None:
    """ValueError for NaN or infinite samples."""
    assert wav.ndim == 1 and np.issubdtype(wav.dtype, np.floating), (wav.shape, wav.dtype)
    if not np.isfinite(wav).all():
        raise ValueError("the recording has NaN or infinite samples: the model that made it has diverged")
