"""Recorded audio files: what a header says, whether the file bears it out, and the samples as they are."""

import os
import stat
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from jaxtyping import Float32

_SAMPLES_PER_BYTE = 20_000  # more than any codec packs, FLAC of silence included: a header that says more lies


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
    if info.frames > _SAMPLES_PER_BYTE * os.path.getsize(path):  # else they would be asked of the memory
        raise ValueError(f"{path}: its header says {info.frames} samples, more than a file of its size can hold")
    return AudioInfo(info.samplerate, info.frames, info.channels)


def read_channels(path: str | Path) -> tuple[Float32[np.ndarray, "S C"], int]:
    """All channels of a file as they are, and its sample rate. ValueError: damaged, truncated, or not finite."""
    info = duration_info(path)
    try:
        audio, _ = soundfile.read(str(path), dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise ValueError(f"{path}: damaged audio ({str(error).splitlines()[-1]})") from None
    if len(audio) != info.n_samples:
        raise ValueError(f"{path}: truncated: its header says {info.n_samples} samples, it has {len(audio)}")
    if not np.isfinite(audio).all():
        raise ValueError(f"{path}: contains NaN or infinite samples; mend it, or take its line out of metadata.csv")
    return audio, info.sample_rate


def _check_start_of_file(path: str | Path) -> None:
    """Recognise the usual accidents, and a WAV file that is shorter than it says, which libsndfile reads in silence."""
    try:
        if stat.S_ISFIFO(mode := os.stat(path).st_mode) or stat.S_ISCHR(mode):  # reading would wait for ever
            raise ValueError(f"{path}: a pipe or a device, not a file")
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
