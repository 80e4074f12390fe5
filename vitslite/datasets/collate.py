"""Collation: utterances -> one padded Batch."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

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
    audio = np.zeros((len(utterances), 1, n_frames * hop_length), np.int16)
    for row, clip in zip(audio, clips, strict=True):
        row[0, : len(clip)] = clip
    fields = {
        "step": step,
        "ids": [u.id for u in utterances],
        "keys": torch.tensor(keys),
        "tokens": _padded([u.tokens for u in utterances], n_tokens),
        "token_lengths": torch.tensor([len(u.tokens) for u in utterances]),
        "audio": torch.from_numpy(audio),
        "frame_lengths": torch.tensor([u.n_frames for u in utterances]),
    }
    known = [(u, u.onsets) for u in utterances if u.onsets is not None]
    if len(known) == len(utterances):
        durations = [durations_from_onsets(onsets, len(u.tokens), u.n_frames, hop_length) for u, onsets in known]
        fields["durations"] = _padded(durations, n_tokens)
    return fields


def _padded(rows: list[list[int]], length: int) -> Int[Tensor, "B L"]:
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
