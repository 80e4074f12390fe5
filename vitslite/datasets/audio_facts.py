"""Facts of one recording: level, clipping, offset, bandwidth, sound at all; what of them is a fault, and why there.

The limits were chosen so that 607 clips of two public corpora and the demo corpus, all of them sound, stay well inside;
what those reach is beside each.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from vitslite.audio import mono

FRAME_SECONDS = 0.02
SOUND_SECONDS, SILENT_DB = 0.1, -60.0  # less than that above this level is silence; theirs reach -29 to -7 dBFS
SCALED_PEAK = 2.0  # beyond full scale by 6 dB: integers written as floats, not a clipped recording; theirs reach 1.0
QUIET_DB = -50.0  # of the sounding frames: 16 bits leave 46 dB of it; theirs have -33 to -17
CLIPPED_SHARE, CLIPPED_NEAR = 2e-3, 0.995  # samples at the peak; theirs have at most 0.5e-3
OFFSET_SHARE = 0.2  # of the mean to the standard deviation; theirs have at most 0.07
BAND_POWER, BAND_SHARE = 1e-6, 0.8  # power above the band; the band to half the rate: theirs have 0.95, 16 kHz has 0.73
ACTIVE_DB = 30.0  # below the loudest frame: what is quieter is a pause
_N_FFT = 1024
_TINY = 1e-12


@dataclass(frozen=True)
class Facts:
    """Of a decoded file. Levels in dB of full scale, of the mono sound without its mean."""

    error: str | None = None  # why it cannot be decoded; the rest is then nothing
    seconds: float = 0.0
    active_seconds: float = 0.0  # from the first to the last sounding frame
    sample_rate: int = 0
    n_channels: int = 0
    peak: float = 0.0  # of full scale, all channels
    level: float = -120.0  # dB, of the sounding frames
    sound: float = -120.0  # dB that 0.1 s reach
    clipped: float = 0.0  # share of samples at the peak
    offset: float = 0.0  # mean over standard deviation
    band: float = 0.0  # Hz, below which all but a millionth of the power lies
    cancels: bool = False  # its channels do in their mean
    digest: str = ""  # of the samples that are trained on

    def skip(self) -> tuple[str, str] | None:
        """The reason to leave the clip out, and its detail; None for one that can be used."""
        if self.error is not None:
            return "corrupt audio", self.error
        if self.peak > SCALED_PEAK:
            return "badly scaled", f"samples reach {self.peak:.3g} times full scale: write it within [-1, 1)"
        if self.sound < SILENT_DB:
            return "silent", f"less than {SOUND_SECONDS} s above {SILENT_DB:.0f} dBFS"
        return None

    def doubts(self, sample_rate: int) -> list[tuple[str, str]]:
        """What is said of a clip that is used at this sample rate: kind, detail."""
        found = []
        if self.cancels:
            found.append(("channels that cancel", f"their mean is silent: the loudest of {self.n_channels} is taken"))
        if self.clipped > CLIPPED_SHARE:
            found.append(("clipped", f"{100 * self.clipped:.1f} % of the samples are at its peak, {self.peak:.2f}"))
        if abs(self.offset) > OFFSET_SHARE:
            found.append(("offset", f"its mean is {self.offset:.2f} times its standard deviation"))
        if self.level < QUIET_DB:
            found.append(("very quiet", f"{self.level:.0f} dBFS"))
        if self.band < BAND_SHARE * sample_rate / 2:
            told = f"nothing above {self.band / 1000:.1f} kHz, half of {sample_rate} Hz is {sample_rate / 2000:.1f}"
            found.append(("band-limited", told))
        return found


def measure(audio: Float32[np.ndarray, "S C"], sample_rate: int, digest: str) -> Facts:
    """The facts of a file's samples at its own rate."""
    sound, peak = mono(audio), float(np.abs(audio).max())
    mean = float(sound.mean(dtype=np.float64))
    centred = sound - np.float32(mean)
    std = float(np.sqrt(np.square(centred, dtype=np.float64).mean()))
    power, n = _frames(centred, sample_rate)
    decibels = 10 * np.log10(power + _TINY)
    active = np.flatnonzero(decibels > decibels.max() - ACTIVE_DB)
    loudest = float(np.abs(sound).max())
    at_peak = np.abs(sound) >= CLIPPED_NEAR * loudest
    n_sounding = min(round(SOUND_SECONDS / FRAME_SECONDS), len(decibels))
    return Facts(
        seconds=len(sound) / sample_rate,
        active_seconds=float(active[-1] - active[0] + 1) * n / sample_rate,
        sample_rate=sample_rate,
        n_channels=audio.shape[1],
        peak=peak,
        level=float(10 * np.log10(power[active].mean() + _TINY)),
        sound=float(np.sort(decibels)[-n_sounding]),
        clipped=float(at_peak.mean()) if loudest > 0.05 else 0.0,  # of few levels, many are the highest
        offset=mean / max(std, 1e-6),
        band=_band(centred, sample_rate),
        cancels=audio.shape[1] > 1 and not np.array_equal(sound, audio.mean(axis=1)),
        digest=digest,
    )


def _frames(sound: Float[np.ndarray, " S"], sample_rate: int) -> tuple[Float[np.ndarray, " N"], int]:
    """The power of each frame, and how many samples one has."""
    n = max(min(round(FRAME_SECONDS * sample_rate), len(sound)), 1)
    whole = sound[: len(sound) // n * n].reshape(-1, n)
    return np.square(whole, dtype=np.float64).mean(1), n


def _band(sound: Float[np.ndarray, " S"], sample_rate: int) -> float:
    """The frequency, Hz, above which only BAND_POWER of the power lies."""
    n = _N_FFT if len(sound) >= _N_FFT else len(sound)
    frames = sound[: len(sound) // n * n].reshape(-1, n) * np.hanning(n).astype(np.float32)
    power = np.square(np.abs(np.fft.rfft(frames, axis=1))).mean(0)
    above = np.cumsum(power[::-1])[::-1]
    return float((above > BAND_POWER * above[0]).sum() * sample_rate / n)
