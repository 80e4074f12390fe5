"""Data loader: step number -> Batch, with worker processes and without state that a checkpoint would need."""

import itertools
import signal
from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset

from vitslite import randomness
from vitslite.audio import AudioSettings, Features
from vitslite.datasets.audio_cache import CachedClips
from vitslite.datasets.clips import ClipReader
from vitslite.datasets.collate import collate
from vitslite.datasets.corpus import Corpus, DataSettings, Utterance
from vitslite.datasets.sampler import Sampler
from vitslite.tensors import Batch

_GRACE_SECONDS = 20  # how long a worker outlives a SIGTERM sent to the process group, so that the trainer can save


class Loader:
    """Batches of one rank. The batch of a step depends on (seed, step, rank) only; `data.n_workers` changes nothing.

    Clips come from the one file of `clips` (audio_cache.py), or else from their own. ValueError: fewer clips than a
    batch has.
    """

    def __init__(
        self,
        utterances: list[Utterance],
        data: DataSettings,
        audio: AudioSettings,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
        clips: CachedClips | None = None,
    ):
        self.utterances, self.data, self.hop_length, self.seed = utterances, data, audio.hop_length, seed
        self.sampler = Sampler([u.n_frames for u in utterances], data.batch_size, seed, rank, world_size)
        self.pin_memory = pin_memory
        self.clip = clips or ClipReader(audio.sample_rate, audio.hop_length)

    def batches(self, first_step: int, accumulate: int = 1) -> Generator[list[Batch]]:
        """Steps first_step, first_step + 1, ... without end; each is a list of `accumulate` micro-batches.

        Close the iterator (or let it go) to end the workers. ValueError: clips have become unreadable.
        """
        loader = DataLoader(
            _Steps(self, accumulate),
            batch_size=None,
            sampler=itertools.count(first_step),
            num_workers=self.data.n_workers,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # its own, so that starting a loader takes nothing from the global one
            pin_memory=self.pin_memory,
        )
        iterator = iter(loader)
        try:
            for parts in iterator:
                if isinstance(parts, ValueError | OSError):
                    raise parts
                yield [Batch(**fields) for fields in parts]
        finally:
            del iterator  # ends the workers now

    def make(self, step: int, part: int = 0, n_parts: int = 1) -> dict:
        """The fields of this rank's Batch for one part of a step."""
        chosen = [self.utterances[i] for i in self.sampler.batch(step, part, n_parts)]
        clips = [self.clip(u) for u in chosen]
        keys = [randomness.key(self.seed, step, u.id) for u in chosen]
        return collate(chosen, clips, keys, step, self.hop_length, self.data.pad_multiple)

    def singles(self, step: int, n: int) -> list[Batch]:
        """n training utterances, or all, drawn for a step whatever its batch; each alone, with its noise there."""
        key = torch.tensor([randomness.key(self.seed, "singles", step)])
        order = randomness.bits(key, "utterances", len(self.utterances))[0].argsort(stable=True)
        chosen = [self.utterances[i] for i in order[:n].tolist()]
        settings = step, self.hop_length, self.data.pad_multiple
        return [
            Batch(**collate([u], [self.clip(u)], [randomness.key(self.seed, step, u.id)], *settings)) for u in chosen
        ]


def fixed_batches(
    utterances: list[Utterance], batch_size: int, audio: AudioSettings, seed: int, clips: CachedClips | None = None
) -> list[Batch]:
    """All `utterances` once, in order of length, for validation. The step is 0.

    The key of an utterance never changes, so differences between two validations are the model's.
    """
    read = clips or ClipReader(audio.sample_rate, audio.hop_length)
    ordered = sorted(utterances, key=lambda u: (u.n_frames, u.id))
    batches = []
    for start in range(0, len(ordered), batch_size):
        part = ordered[start : start + batch_size]
        keys = [randomness.key(seed, "validation", u.id) for u in part]
        batches.append(Batch(**collate(part, [read(u) for u in part], keys, 0, audio.hop_length)))
    return batches


class _Steps(Dataset):
    """What a worker runs: step -> fields of its parts, or the error, so that the user sees one line and no trace."""

    def __init__(self, loader: Loader, accumulate: int):
        self.loader, self.accumulate = loader, accumulate

    def __getitem__(self, step: int) -> list[dict] | ValueError | OSError:
        try:
            return [self.loader.make(step, part, self.accumulate) for part in range(self.accumulate)]
        except (ValueError, OSError) as error:
            return error


def _start_worker(worker: int) -> None:
    """Ctrl-C is for the trainer to answer. After a SIGTERM to the whole group, workers serve its last step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):  # elsewhere there is no SIGTERM to a group, either
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_SECONDS))


@dataclass(frozen=True)
class Data:
    corpus: Corpus
    audio: AudioSettings
    features: Features  # on the device: 16-bit audio -> spectrograms
    loader: Loader  # step -> micro-batches
    validation: list[Batch]  # the same utterances and keys at every step
    wer_batches: list[Batch]  # some of them, for the recogniser
    samples: Batch  # a few of them, to look at and listen to
