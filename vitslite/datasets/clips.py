"""Recorded clips of a corpus: the file that an id names, and its samples at the rate and length that are trained on."""

import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int16

from vitslite.audio import mono, resampled, to_int16
from vitslite.audio_files import read_channels

SUFFIXES = (".wav", ".flac")
_OTHER_SUFFIXES = (".mp3", ".ogg", ".opus", ".m4a", ".aac", ".wma", ".aiff", ".raw", ".pcm", ".sph")


@runtime_checkable
class Clip(Protocol):
    """What is read: the first n_frames * hop_length samples of a file, its loudest sample at `peak`, if that is set."""

    @property
    def id(self) -> str: ...
    @property
    def path(self) -> Path: ...
    @property
    def n_frames(self) -> int: ...
    @property
    def peak(self) -> float | None: ...


class ClipReader:
    """Clip -> its int16 samples [n_frames * hop_length] at its level, from the clip's own file each time."""

    def __init__(self, sample_rate: int, hop_length: int):
        self.sample_rate, self.hop_length = sample_rate, hop_length

    def __call__(self, clip: Clip) -> Int16[np.ndarray, " S"]:
        return self.fit(clip, *read_channels(clip.path))

    def fit(self, clip: Clip, audio: Float32[np.ndarray, "S_file C"], sample_rate: int) -> Int16[np.ndarray, " S"]:
        """What is trained on, of all samples of the clip's file."""
        n_samples = clip.n_frames * self.hop_length
        samples = to_int16(resampled(mono(audio), sample_rate, self.sample_rate))[:n_samples]
        if len(samples) < n_samples:
            raise ValueError(f"{clip.path}: changed since the start: {len(samples)} samples, {n_samples} expected")
        loudest = np.abs(samples.astype(np.int32)).max()
        if clip.peak is None or loudest == 0:
            return samples
        return to_int16(samples * (clip.peak / loudest))


@dataclass(frozen=True)
class Found:
    path: Path
    remark: str | None  # how the id differs from the file's name, where it does


class Folder:
    """The files of `wavs/`, found by the id of a row. Listed once: a corpus has thousands of them."""

    def __init__(self, root: Path, name: str = "wavs"):
        self.folder = root / name
        self._inside = os.path.realpath(root) + os.sep
        self._names: dict[Path, dict[str, str]] = {}  # of a folder: plain name -> name; what is ambiguous is left out

    def find(self, id: str) -> Found | None:
        """ID.wav or ID.flac; else a file whose name differs from that in Unicode's form, case, suffix or folder."""
        for suffix in SUFFIXES:
            if (path := self.folder / f"{id}{suffix}").exists():
                return Found(path, self._link(path))
        bare = id
        for suffix in SUFFIXES:
            bare = bare.removesuffix(suffix)
        for candidate in dict.fromkeys((id, bare, bare.removeprefix("./").removeprefix(f"{self.folder.name}/"))):
            path = self.folder / candidate
            listed = self._listed(path.parent)
            for suffix in SUFFIXES:
                if (name := listed.get(_plain(path.name + suffix))) and path.with_name(name).exists():
                    return Found(path.with_name(name), f"id {id!r} is the file {name!r}: {_difference(id, name)}")
        return None

    def hint(self, id: str) -> str:
        """What lies there in place of ID.wav."""
        path = self.folder / id
        listed = self._listed(path.parent)
        other = next((listed[n] for s in _OTHER_SUFFIXES if (n := _plain(path.name + s)) in listed), None)
        return f" (there is {other}: convert it to wav or flac)" if other else ""

    def _listed(self, folder: Path) -> dict[str, str]:
        if folder not in self._names:
            try:
                names = sorted(os.listdir(folder))
            except OSError:  # not there: then no file is
                names = []
            plain = [_plain(name) for name in names]
            twice = {p for p, q in zip(sorted(plain), sorted(plain)[1:], strict=False) if p == q}
            self._names[folder] = {p: name for p, name in zip(plain, names, strict=True) if p not in twice}
        return self._names[folder]

    def _link(self, path: Path) -> str | None:
        """Where a link leads that leaves the corpus: nothing then keeps the file with it."""
        if not path.is_symlink() or (target := os.path.realpath(path)).startswith(self._inside):
            return None
        return f"{path.name} is a link out of the corpus, to {target}"


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _difference(id: str, name: str) -> str:
    if unicodedata.normalize("NFC", id) != unicodedata.normalize("NFC", Path(name).stem):
        return "another case, a suffix or a folder in the id"
    return "another normal form of Unicode (NFC, NFD)"
