"""Audio file input and output, linear and log-mel spectrograms.

Samples are 16-bit integers until they are on the device; `Features` makes them float and adds the spectrograms there.
Spectrograms are an fp32 island: they do not follow autocast.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from vitslite.audio_files import read_channels
from vitslite.files import replacing
from vitslite.tensors import Batch, sequence_mask

MEL_FLOOR = 1e-5  # log-mel = log(max(mel, MEL_FLOOR)); also the value of frames beyond an utterance
_CANCELLED = 0.2  # power of the channels' mean, of that of the loudest one; beside one silent channel it is 0.25
_MAGNITUDE_FLOOR = 1e-6  # added under the root, so that its gradient is finite at silence


@dataclass
class AudioSettings:
    sample_rate: int = field(default=22050, metadata={"at_least": 1})  # Hz
    n_fft: int = field(default=1024, metadata={"at_least": 1})  # samples
    hop_length: int = field(default=256, metadata={"at_least": 1})  # samples per frame
    win_length: int = field(default=1024, metadata={"at_least": 1})  # samples
    n_mels: int = field(default=80, metadata={"at_least": 1})
    f_min: float = field(default=0.0, metadata={"at_least": 0})  # Hz
    f_max: float | None = field(default=None, metadata={"above": 0})  # Hz; None: half the sample rate

    @property
    def frames_per_second(self) -> float:
        return self.sample_rate / self.hop_length


class LinearSpectrogram(nn.Module):
    """Linear magnitude spectrogram, sqrt(re^2 + im^2 + 1e-6) of a Hann-windowed Fourier transform.

    Each utterance is extended by its own reflection, (n_fft - hop_length) / 2 samples at both ends, and frames are not
    centred, so n samples give n // hop_length frames and the frames of an utterance do not depend on the padding of
    its batch. Frames beyond the utterance are zero. (Kim et al. 2021, VITS, appendix B; the published code takes no
    logarithm here.)
    """

    window: Tensor

    def __init__(self, settings: AudioSettings):
        super().__init__()
        s = settings
        self.n_fft, self.hop_length, self.win_length = s.n_fft, s.hop_length, s.win_length
        assert 0 < s.hop_length <= s.win_length <= s.n_fft and (s.n_fft - s.hop_length) % 2 == 0, s
        self.register_buffer("window", torch.hann_window(s.win_length), persistent=False)

    def forward(self, audio: Float[Tensor, "B 1 S"], lengths: Int[Tensor, " B"]) -> Float32[Tensor, "B F T"]:
        """audio in [-1, 1], lengths in samples -> magnitudes, T = S // hop_length."""
        with torch.autocast(audio.device.type, enabled=False):
            extended = _extend_by_reflection(audio[:, 0].float(), lengths, (self.n_fft - self.hop_length) // 2)
            spec = torch.stft(
                extended, self.n_fft, self.hop_length, self.win_length, self.window, center=False, return_complex=True
            )
            magnitude = torch.sqrt(spec.real.square() + spec.imag.square() + _MAGNITUDE_FLOOR)
            return magnitude * sequence_mask(lengths // self.hop_length, magnitude.shape[2])


class LogMel(nn.Module):
    """Log-mel spectrogram, log(max(filters @ linear spectrogram, 1e-5)), natural logarithm, Slaney's mel filters.

    Frames beyond the utterance are log(1e-5).
    """

    filters: Tensor

    def __init__(self, settings: AudioSettings):
        super().__init__()
        s = settings
        filters = mel_filters(s.sample_rate, s.n_fft, s.n_mels, s.f_min, s.f_max)
        self.register_buffer("filters", filters, persistent=False)
        self.linear = LinearSpectrogram(s)

    def forward(self, audio: Float[Tensor, "B 1 S"], lengths: Int[Tensor, " B"]) -> Float32[Tensor, "B M T"]:
        """audio in [-1, 1], lengths in samples -> log-mel, T = S // hop_length."""
        return self.from_linear(self.linear(audio, lengths))

    def from_linear(self, spec: Float[Tensor, "B F T"]) -> Float32[Tensor, "B M T"]:
        """The log-mel spectrogram of a linear one with the same n_fft."""
        with torch.autocast(spec.device.type, enabled=False):
            return torch.log(torch.clamp(self.filters @ spec.float(), min=MEL_FLOOR))


class Features(nn.Module):
    """Batch of 16-bit audio -> the same Batch with float audio in [-1, 1), `spec` and `mel`, on the same device."""

    def __init__(self, settings: AudioSettings):
        super().__init__()
        self.log_mel = LogMel(settings)

    @torch.no_grad()
    def forward(self, batch: Batch) -> Batch:
        audio = batch.audio if batch.audio.is_floating_point() else batch.audio.float() / 32768
        spec = self.log_mel.linear(audio, batch.frame_lengths * self.log_mel.linear.hop_length)
        return dataclasses.replace(batch, audio=audio, spec=spec, mel=self.log_mel.from_linear(spec))


def mel_filters(
    sample_rate: int, n_fft: int, n_mels: int, f_min: float = 0.0, f_max: float | None = None
) -> Float32[Tensor, "M F"]:
    """Triangular filters of unit area on Slaney's mel scale (Auditory Toolbox, 1998).

    mel(f) = 3 f / 200 below 1000 Hz, 15 + 27 log(f / 1000) / log(6.4) above.
    """
    f_max = sample_rate / 2 if f_max is None else f_max
    assert 0 <= f_min < f_max <= sample_rate / 2, (f_min, f_max, sample_rate)
    log_step = np.log(6.4) / 27
    lowest, highest = (3 * f / 200 if f < 1000 else 15 + np.log(f / 1000) / log_step for f in (f_min, f_max))
    mels = np.linspace(lowest, highest, n_mels + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * log_step))
    low, centre, high = (edges[i : i + n_mels, None] for i in range(3))
    bins = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    triangles = np.clip(np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)), 0, None)
    filters = triangles * 2 / (high - low)
    if not filters.any(axis=1).all():
        raise ValueError(f"audio: {n_mels} mel bins are too many for n_fft={n_fft} at {sample_rate} Hz: some are empty")
    return torch.from_numpy(filters).float()


def _extend_by_reflection(
    audio: Float[Tensor, "B S"], lengths: Int[Tensor, " B"], pad: int
) -> Float[Tensor, "B S_extended"]:
    """Put `pad` reflected samples before and after each utterance; the one after stands at its own end, not at S."""
    offsets = torch.arange(pad, device=audio.device)[None, :]
    before = audio.gather(1, _reflect((offsets - pad).expand(len(lengths), -1), lengths))
    after = audio.gather(1, _reflect(offsets + lengths[:, None], lengths))
    extended = torch.cat([before, audio, torch.zeros_like(after)], 1)
    return extended.scatter(1, offsets + lengths[:, None] + pad, after)


def _reflect(index: Int[Tensor, "B N"], lengths: Int[Tensor, " B"]) -> Int[Tensor, "B N"]:
    """Fold any index into [0, length), mirrored at the first and the last sample: a triangle wave."""
    last = (lengths[:, None] - 1).clamp(min=0)
    folded = index.remainder((2 * last).clamp(min=1))
    return torch.minimum(folded, 2 * last - folded).clamp(min=0)


# ---------------------------------------------------------------------------------------------------------- files


def read_wav(path: str | Path, sample_rate: int) -> np.ndarray:
    """WAV, FLAC or whatever libsndfile reads, of any sample format -> int16 [S], mono, at `sample_rate`.

    Channels are averaged (`mono`), other sample rates are resampled, samples outside [-1, 1) are clipped.
    """
    audio, own_rate = read_channels(path)
    return to_int16(resampled(mono(audio), own_rate, sample_rate))


def mono(audio: Float[np.ndarray, "S C"]) -> Float[np.ndarray, " S"]:
    """The mean of the channels, or the loudest of them where they cancel in the mean, as of opposite signs."""
    mean = audio.mean(axis=1)
    if audio.shape[1] == 1:
        return mean
    powers = np.square(audio, dtype=np.float64).sum(axis=0)
    cancel = np.square(mean, dtype=np.float64).sum() < _CANCELLED * powers.max()
    return audio[:, powers.argmax()] if cancel else mean


def resampled(
    audio: Float[np.ndarray, " S"], old_rate: int, new_rate: int, zero_crossings: int = 6
) -> Float[np.ndarray, " S_new"]:
    """The same sound at another sample rate: sinc interpolation, windowed to so many zero crossings on each side."""
    if old_rate == new_rate:
        return audio
    from torchaudio.functional import resample  # here, because most corpora never need it

    return resample(torch.from_numpy(audio), old_rate, new_rate, zero_crossings).numpy()


def write_wav(path: str | Path, audio: np.ndarray, sample_rate: int) -> None:
    """Write mono audio [S], int16 or float in [-1, 1], as 16-bit WAV, or FLAC where the name ends in .flac.

    The file appears whole or not at all.
    """
    assert audio.ndim == 1, audio.shape
    path = Path(path)
    kind = "FLAC" if path.suffix.lower() == ".flac" else "WAV"
    samples = audio if audio.dtype == np.int16 else to_int16(audio)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is a folder or a device: give the name of a file")  # a rename would replace it
    with replacing(path) as unfinished:
        try:
            soundfile.write(str(unfinished), samples, sample_rate, format=kind, subtype="PCM_16")
        except soundfile.LibsndfileError as error:
            raise OSError(f"{path}: not written ({error} Is the disk full?)") from error


def to_int16(audio: np.ndarray) -> np.ndarray:
    """Floats in [-1, 1) -> int16, rounded, clipped. The inverse of x / 32768."""
    return np.clip(np.rint(audio * 32768.0), -32768, 32767).astype(np.int16)
