"""Collation: utterances -> one padded Batch."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from vitslite import randomness
from vitslite.audio import read_wav, to_int16
from vitslite.datasets.corpus import Utterance
from vitslite.datasets.onsets import durations_from_onsets


class ClipReader:
    """Utterance -> its int16 samples [n_frames * hop_length] at its level, from the clip's own file each time."""

    def __init__(self, sample_rate: int, hop_length: int):
        self.sample_rate, self.hop_length = sample_rate, hop_length

    def __call__(self, utterance: Utterance) -> np.ndarray:
        n_samples = utterance.n_frames * self.hop_length
        clip = read_wav(utterance.path, self.sample_rate)[:n_samples]
        if len(clip) < n_samples:
            raise ValueError(f"{utterance.path}: changed since the start: {len(clip)} samples, {n_samples} expected")
        loudest = np.abs(clip.astype(np.int32)).max()
        if utterance.peak is None or loudest == 0:
            return clip
        return to_int16(clip * (utterance.peak / loudest))


def collate(
    utterances: list[Utterance],
    clips: list[np.ndarray],
    keys: list[int],
    step: int,
    hop_length: int,
    pad_multiple: int = 1,
) -> dict:
    """The fields of a Batch (tensors.py), tokens padded with 0 and int16 audio with silence.

    Token and frame counts are rounded up to `pad_multiple`: fewer distinct shapes for compilers. A dict, because
    that is what the loader's worker processes and its pinning know how to move. It has "durations" where the onsets
    of every utterance are known.
    """
    n_tokens = _round_up(max(len(u.tokens) for u in utterances), pad_multiple)
    n_frames = _round_up(max(u.n_frames for u in utterances), pad_multiple)
    tokens = torch.zeros(len(utterances), n_tokens, dtype=torch.long)
    audio = torch.zeros(len(utterances), 1, n_frames * hop_length, dtype=torch.int16)
    for i, (utterance, clip) in enumerate(zip(utterances, clips, strict=True)):
        tokens[i, : len(utterance.tokens)] = torch.tensor(utterance.tokens)
        audio[i, 0, : len(clip)].numpy()[:] = clip  # by way of NumPy: torch warns of read-only arrays
    fields = {
        "step": step,
        "ids": [u.id for u in utterances],
        "keys": torch.tensor(keys),
        "tokens": tokens,
        "token_lengths": torch.tensor([len(u.tokens) for u in utterances]),
        "audio": audio,
        "frame_lengths": torch.tensor([u.n_frames for u in utterances]),
    }
    if all(u.onsets is not None for u in utterances):
        fields["durations"] = _durations(utterances, n_tokens, hop_length)
    return fields


def _durations(utterances: list[Utterance], n_tokens: int, hop_length: int) -> Int[Tensor, "B L"]:
    """Frames per token, 0 on padding."""
    durations = torch.zeros(len(utterances), n_tokens, dtype=torch.long)
    for i, u in enumerate(utterances):
        true = durations_from_onsets(u.onsets, len(u.tokens), u.n_frames, hop_length)
        durations[i, : len(true)] = torch.tensor(true)
    return durations


def training_keys(utterances: list[Utterance], seed: int, step: int) -> list[int]:
    """One random key per (seed, step, utterance)."""
    return [randomness.key(seed, step, u.id) for u in utterances]


def fixed_keys(utterances: list[Utterance], seed: int) -> list[int]:
    """The same key whenever an utterance is validated: differences between two validations are the model's."""
    return [randomness.key(seed, "validation", u.id) for u in utterances]


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
