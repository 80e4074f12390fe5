"""Audio file input and output, linear and log-mel spectrograms.

Samples are 16-bit integers until they are on the device; `Features` makes them float and adds the spectrograms there.
Spectrograms are an fp32 island: they do not follow autocast.
"""

import dataclasses
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from vitslite.files import replacing
from vitslite.tensors import Batch, sequence_mask

MEL_FLOOR = 1e-5  # log-mel = log(max(mel, MEL_FLOOR)); also the value of frames beyond an utterance
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


class AudioInfo(NamedTuple):
    sample_rate: int  # Hz
    n_samples: int  # per channel
    n_channels: int

    def resampled(self, sample_rate: int) -> int:
        """How many samples `read_wav` returns at this sample rate."""
        return -(-self.n_samples * sample_rate // self.sample_rate)


def duration_info(path: str | Path) -> AudioInfo:
    """Sample rate and length, from the header alone. ValueError names the file and what is wrong with it."""
    _check_start_of_file(path)
    try:
        info = soundfile.info(str(path))
    except soundfile.SoundFileError as error:
        raise ValueError(f"{path}: not an audio file that can be read ({str(error).splitlines()[-1]})") from None
    if info.frames == 0:
        raise ValueError(f"{path}: 0 samples, a header without audio")
    return AudioInfo(info.samplerate, info.frames, info.channels)


def read_wav(path: str | Path, sample_rate: int) -> np.ndarray:
    """WAV, FLAC or whatever libsndfile reads, of any sample format -> int16 [S], mono, at `sample_rate`.

    Channels are averaged, other sample rates are resampled, samples outside [-1, 1) are clipped.
    """
    info = duration_info(path)
    try:
        audio, _ = soundfile.read(str(path), dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise ValueError(f"{path}: damaged audio ({str(error).splitlines()[-1]})") from None
    if len(audio) != info.n_samples:
        raise ValueError(f"{path}: truncated: its header says {info.n_samples} samples, it has {len(audio)}")
    if not np.isfinite(audio).all():
        raise ValueError(f"{path}: contains NaN or infinite samples; mend it, or take its line out of metadata.csv")
    return to_int16(resampled(audio.mean(axis=1), info.sample_rate, sample_rate))


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
        soundfile.write(str(unfinished), samples, sample_rate, format=kind, subtype="PCM_16")


def to_int16(audio: np.ndarray) -> np.ndarray:
    """Floats in [-1, 1) -> int16, rounded, clipped. The inverse of x / 32768."""
    return np.clip(np.rint(audio * 32768.0), -32768, 32767).astype(np.int16)


def _check_start_of_file(path: str | Path) -> None:
    """Recognise the usual accidents, and a WAV file that is shorter than it says, which libsndfile reads in silence."""
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            start = file.read(64)
            announced = _wav_data_bytes(file) if start[:4] == b"RIFF" and start[8:12] == b"WAVE" else None
    except OSError as error:
        raise ValueError(f"{path}: {str(error.strerror).lower()}") from None
    if size == 0:
        raise ValueError(f"{path}: empty file")
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path}: a Git LFS pointer, not the audio; fetch it with `git lfs pull`")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError(f"{path}: a web page, not audio; download it again")
    if announced is not None and announced[0] > size - announced[1]:
        raise ValueError(
            f"{path}: truncated: its data chunk says {announced[0]} bytes, the file has {size - announced[1]}"
        )


def _wav_data_bytes(file) -> tuple[int, int] | None:
    """(announced size, start) of the data chunk; None when it is absent or of unknown size, as in a stream."""
    file.seek(12)
    while len(header := file.read(8)) == 8:
        name, size = struct.unpack("<4sI", header)
        if name == b"data":
            return None if size >= 0xFFFFF000 else (size, file.tell())
        file.seek(size + size % 2, os.SEEK_CUR)
    return None
