"""Batches: how much of them is padding, what they cost the host, and whether a step has to wait for them.

The peer is the loader as published: linear spectrograms computed once and kept in files, read and padded for every
batch beside the audio, all in 32-bit floats. Ours moves 16-bit audio, and makes spectrograms on the device.
"""

import itertools
import time
import wave
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitslite.audio import AudioSettings, Features, LinearSpectrogram, read_wav
from vitslite.benchmarks.corpus import N_CLIPS, speech_frames, write_corpus
from vitslite.benchmarks.result import Row, Section, ratio, times
from vitslite.benchmarks.step import build_trainer, on_noise
from vitslite.benchmarks.timing import Call, Settings, timed
from vitslite.datasets.audio_cache import cached_clips
from vitslite.datasets.clips import ClipReader
from vitslite.datasets.corpus import Corpus, DataSettings, Utterance
from vitslite.datasets.loader import Loader
from vitslite.datasets.sampler import Sampler
from vitslite.tensors import Batch
from vitslite.training.trainer import Trainer

CACHED, DISK = "vitslite: clips in the cache file", "vitslite: clips in their own files"
FEATURES = "vitslite: in the cache file, and spectrograms"
PUBLISHED = "as published: cached spectrograms"
WAITING_STEPS = 3  # that are timed, after one that is not


def run(settings: Settings, batch: int, batches: int, model: str, step_batch: int) -> list[Section]:
    """All three questions, of `batches` x `batch` clips; steps of `model` take `step_batch` of them."""
    own = [f"model={model}", "discriminator=none"]
    config = settings.compose([*on_noise(settings), *own, f"data.batch_size={step_batch}"])
    corpus = write_corpus(settings.folder, speech_frames(batch * batches, config.audio), config.audio)
    trainer = build_trainer(config, corpus, settings.device, settings.folder / "run")
    return [
        padding(config.audio, batch),
        host_time(corpus, config.audio, settings, batch, batches),
        waiting(trainer, " ".join(own), step_batch),
    ]


def padding(settings: AudioSettings, n_items: int) -> Section:
    """Valid frames over all frames, padding included, in an epoch of LJSpeech's size."""
    lengths = speech_frames(N_CLIPS, settings)
    sampler = Sampler(lengths, n_items, seed=0)
    order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(0)).tolist()
    n_steps = sampler.steps_per_epoch
    epochs = {
        "vitslite: sampler": [sampler.batch(step) for step in range(n_steps)],
        "batches at random": [order[i : i + n_items] for i in range(0, n_items * n_steps, n_items)],
    }
    rows: list[Row] = [
        {"what": name, "valid / padded frames": valid_share(lengths, batches)} for name, batches in epochs.items()
    ]
    mean = float(np.mean(lengths)) / settings.frames_per_second
    return Section(f"padding in batches of {n_items}, {N_CLIPS} simulated clips, mean {mean:.2f} s", rows)


def valid_share(lengths: list[int], batches: list[list[int]]) -> float:
    """sum of lengths / sum over batches of (size x longest)."""
    valid = sum(lengths[i] for batch in batches for i in batch)
    return valid / sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)


def host_time(corpus: Corpus, audio: AudioSettings, settings: Settings, n_items: int, n_batches: int) -> Section:
    """Making the same batches of the same clips, in turn, in one process; files come from the system's cache."""
    read = ClipReader(audio.sample_rate, audio.hop_length)
    cached, disk = (
        Loader(corpus.train, DataSettings(batch_size=n_items), audio, seed=0, clips=clips)
        for clips in (cached_clips(corpus.train, read, corpus.root), None)
    )
    published, features = PublishedLoader(corpus.train, audio), Features(audio)
    making = {
        CACHED: cached.make,
        DISK: disk.make,
        FEATURES: lambda step: vars(features(Batch(**cached.make(step)))),
        PUBLISHED: lambda step: published.make(disk.sampler.batch(step)),
    }
    for step in range(n_batches):
        cached.make(step)  # maps every clip once, as the first epoch does
    calls = {
        name: Call(make, zip(itertools.cycle(range(n_batches))).__next__)  # of (0,), (1,), ...
        for name, make in making.items()
    }
    timings = timed(calls, replace(settings, device=torch.device("cpu")))  # the host's clocks, whatever the device
    rows = times(timings)
    for make, row in zip(making.values(), rows, strict=True):
        row["MB"] = megabytes(make(0))
    ratios = [ratio(timings, name, PUBLISHED) for name in (CACHED, DISK, FEATURES)]
    note = "With spectrograms: where they are made on the CPU. On a GPU the device makes them."
    return Section(f"host time per batch of {n_items}", rows, ratios, [note])


class PublishedLoader:
    """Files of audio and of spectrograms -> batches in floats, as in VITS' data_utils: sorted by length, padded.

    Spectrograms lie beside the audio, as tensors [F, T] of 32-bit floats; making them is not part of the time.
    """

    def __init__(self, utterances: list[Utterance], settings: AudioSettings):
        self.utterances, self.hop_length = utterances, settings.hop_length
        linear = LinearSpectrogram(settings)
        for u in utterances:
            audio = torch.from_numpy(read_wav(u.path, settings.sample_rate)).float()[None, None] / 32768
            torch.save(linear(audio, torch.tensor([audio.shape[2]]))[0], u.path.with_suffix(".spec.pt"))

    def make(self, indices: list[int]) -> tuple[Tensor, ...]:
        """tokens, their lengths, spectrograms, theirs, audio, its own."""
        items = [self.item(self.utterances[i]) for i in indices]
        items.sort(key=lambda item: item[1].shape[1], reverse=True)
        columns = zip(*items, strict=True)
        return tuple(part for column in columns for part in padded(list(column)))

    def item(self, u: Utterance) -> tuple[Int[Tensor, " L"], Float[Tensor, "F T"], Float[Tensor, "1 S"]]:
        with wave.open(str(u.path), "rb") as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
        audio = torch.from_numpy(samples.astype(np.float32)) / 32768
        return torch.tensor(u.tokens), torch.load(u.path.with_suffix(".spec.pt")), audio[None]


def padded(tensors: list[Tensor]) -> tuple[Tensor, Int[Tensor, " B"]]:
    """One tensor, zero behind the end of each along the last axis, and the lengths."""
    lengths = torch.tensor([t.shape[-1] for t in tensors])
    together = torch.zeros(len(tensors), *tensors[0].shape[:-1], int(lengths.max()), dtype=tensors[0].dtype)
    for row, t in zip(together, tensors, strict=True):
        row[..., : t.shape[-1]] = t
    return together, lengths


def megabytes(batch: dict | tuple) -> float:
    """Of all tensors of a batch."""
    values = batch.values() if isinstance(batch, dict) else batch
    return sum(value.nbytes for value in values if isinstance(value, Tensor)) / 1e6


def waiting(trainer: Trainer, name: str, n_items: int) -> Section:
    """How long `Trainer.fit` waits for each batch, as a share of the step with it."""
    batches = trainer.data.loader.batches(0)
    waits, totals = [], []
    for _ in range(1 + WAITING_STEPS):
        begin = time.perf_counter()
        parts = next(batches)
        waits.append(time.perf_counter() - begin)
        trainer.step(parts)
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        totals.append(time.perf_counter() - begin)
    batches.close()
    wait, total = sum(waits[1:]), sum(totals[1:])
    row: Row = {
        "what": f"{name}, batches of {n_items}",
        "wall ms per step": 1000 * total / WAITING_STEPS,
        "of it waiting": 1000 * wait / WAITING_STEPS,
        "share": wait / total,
    }
    return Section("waiting for data, with no worker process", [row])
