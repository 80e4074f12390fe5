"""Collation: utterances -> one padded Batch."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from vitslite.datasets.corpus import Utterance
from vitslite.datasets.onsets import durations_from_onsets


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
