"""Segments: in training the decoder makes a random stretch of each utterance, as long for all (VITS, section 2.3)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitslite import randomness
from vitslite.tensors import Batch, sequence_mask, slice_segments


def segments(
    batch: Batch, z: Float[Tensor, "B D T"], n: int | None, hop_length: int
) -> tuple[Float[Tensor, "B 1 S"], Float[Tensor, "B D N"], Int[Tensor, " B"], Float[Tensor, "B M N"] | None]:
    """What is decoded: audio and z of `n` frames of each utterance, or (None) of all of it; its valid frames, and the
    utterance's log-mel there. ValueError for an utterance that is shorter, on a CPU.
    """
    if n is None:
        audio_mask = sequence_mask(batch.frame_lengths * hop_length, batch.audio.shape[2])
        return batch.audio * audio_mask, z, batch.frame_lengths, batch.mel
    _check_lengths(batch, n)
    starts = segment_starts(batch.keys, batch.frame_lengths, n)
    audio = slice_segments(batch.audio, starts * hop_length, n * hop_length)
    mel = None if batch.mel is None else slice_segments(batch.mel, starts, n)
    return audio, slice_segments(z, starts, n), torch.full_like(batch.frame_lengths, n), mel


def segment_starts(keys: Int[Tensor, " B"], frame_lengths: Int[Tensor, " B"], n: int) -> Int[Tensor, " B"]:
    """The first frame of a segment of n frames, uniform over all that fit."""
    u = randomness.uniform(keys, "segment", 1)[:, 0]
    return torch.floor(u * (frame_lengths - n + 1)).long()


def _check_lengths(batch: Batch, n: int) -> None:
    """The data layer leaves out what is shorter than a segment. A guard behind it, where it costs no waiting."""
    if batch.frame_lengths.device.type != "cpu":
        return
    for name, length in zip(batch.ids, batch.frame_lengths.tolist(), strict=True):
        if length < n:
            raise ValueError(
                f"utterance {name} has {length} frames, fewer than model.segment_frames={n}: "
                f"leave it out of the batch, or type model.segment_frames=null to decode all of it"
            )
