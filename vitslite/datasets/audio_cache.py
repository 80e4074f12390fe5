"""Audio cache: the clips of a corpus in one file, decoded, resampled and scaled once, memory-mapped by every process.

`audio-<digest>.npy` holds the int16 samples of all clips, one after another, as `ClipReader` gives them. The digest
covers all that they depend on, so other clips or settings have a file of their own. It appears whole or not at all.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import threading
import tokenize
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int16
from tqdm import tqdm

from vitslite import distributed
from vitslite.datasets.clips import Clip, ClipReader
from vitslite.files import in_turn, replacing

_VERSION = 2  # of the recipe: raise it when the same clips and settings give other samples
QUIET_SECONDS = 2  # a bar appears only where it takes longer


class CachedClips:
    """Clip -> its int16 samples [n_frames * hop_length], read-only, from the file. Pickles as the file's path."""

    def __init__(self, path: Path, utterances: Sequence[Clip], hop_length: int):
        self.path = path
        ends = np.cumsum([u.n_frames * hop_length for u in utterances]).tolist()
        self.ranges = {u.id: bounds for u, bounds in zip(utterances, pairwise([0, *ends]), strict=True)}
        self.n_samples = ends[-1]
        self._samples: np.ndarray | None = None

    def __call__(self, clip: Clip) -> Int16[np.ndarray, " S"]:
        if self._samples is None:
            self._samples = map_samples(self.path, self.n_samples)
        if self._samples is None:
            raise ValueError(f"{self.path}: removed or damaged since the start: start again, and it is made again")
        start, end = self.ranges[clip.id]
        return self._samples[start:end]

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_samples": None}  # a mapping would travel as all the samples


def cached_clips(utterances: Sequence[Clip], read: ClipReader, folder: Path) -> CachedClips:
    """The file of these clips in `folder`, made if it is not there or damaged; a file that is there is only read.

    Of several processes that want the same file, one makes it and the others wait. ValueError: a clip cannot be read,
    or the file not be written.
    """
    path = folder.expanduser().absolute() / f"audio-{digest(utterances, read)}.npy"
    clips = CachedClips(path, utterances, read.hop_length)
    if map_samples(path, clips.n_samples) is not None:
        return clips
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        waiting = f"waiting for another process, which is making {path}" if distributed.is_main() else None
        with in_turn(path.with_suffix(".lock"), waiting):
            if map_samples(path, clips.n_samples) is None:
                _make(path, utterances, read, clips.n_samples)
    except OSError as error:
        raise ValueError(_not_written(path, str(error.strerror or error))) from error
    return clips


def digest(utterances: Sequence[Clip], read: ClipReader) -> str:
    """A hash of all that the samples depend on: the recipe, the settings, and which clips, by path, size and time."""
    parts: list[Any] = [_VERSION, read.sample_rate, read.hop_length]
    for u in utterances:
        try:
            found = u.path.stat()
        except OSError as error:
            raise ValueError(f"{u.path}: {str(error.strerror).lower()}") from None
        parts.append([os.path.abspath(u.path), found.st_size, found.st_mtime_ns, u.n_frames, u.peak])
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=12).hexdigest()


def map_samples(path: Path, n_samples: int) -> Int16[np.ndarray, " S"] | None:
    """The samples, not in memory until they are read; None where there is no intact file of that many."""
    try:
        samples = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, tokenize.TokenError):  # absent; damaged, or shorter than its header says
        return None
    return samples if samples.dtype == np.int16 and samples.shape == (n_samples,) else None


def _make(path: Path, utterances: Sequence[Clip], read: ClipReader, n_samples: int) -> None:
    """Write beside the target and rename; whatever happens in between leaves nothing."""
    for leftover in path.parent.glob(f"{path.name}.tmp.*"):  # of a process that was killed
        leftover.unlink()
    n_bytes, free = 2 * n_samples, shutil.disk_usage(path.parent).free
    if n_bytes >= free:
        raise ValueError(_not_written(path, f"it needs {n_bytes / 1e6:.0f} MB, {free / 1e6:.0f} MB are free there"))
    print(f"decoding {len(utterances)} clips once, into {path} ({n_bytes / 1e6:.0f} MB)", file=sys.stderr, flush=True)
    header = {"descr": "<i2", "fortran_order": False, "shape": (n_samples,)}
    # Written, not mapped: where the disk is full, a write is an error and a mapping the end of the process.
    with _exit_on_sigterm(), replacing(path) as unfinished, open(unfinished, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for u in tqdm(utterances, desc="decoding", unit="clips", delay=QUIET_SECONDS, disable=None):
            file.write(read(u).tobytes())
        file.flush()
        os.fsync(file.fileno())


def _not_written(path: Path, reason: str) -> str:
    return (
        f"{path}: the decoded clips cannot be kept there ({reason}): data.cache=... puts them elsewhere, "
        "data.cache_audio=false does without"
    )


@contextlib.contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """A SIGTERM ends the process as Ctrl-C does, by way of its `finally` clauses. Only a main thread can do that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
