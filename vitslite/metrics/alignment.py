"""Alignment statistics: coverage of the text, certainty, what the search leaves out, onset errors."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitslite.model import forward_sum
from vitslite.model.alignment import frame_to_token
from vitslite.tensors import sequence_mask, wide


@torch.no_grad()
def path_statistics(
    durations: Int[Tensor, "B L"], token_lengths: Int[Tensor, " B"], frame_lengths: Int[Tensor, " B"]
) -> dict[str, float]:
    """What the durations alone show. Cheap.

    mas/zero_tokens             number of valid tokens without a frame; the search leaves none
    mas/max_duration            frames
    mas/log_paths_per_frame     sum_b ln C(T_b - 1, L_b - 1) / sum_b T_b, nats: by so much, at most, can the KL stay
                                below zero because the search picks the best path (model/forward_sum.py)
    mas/diagonality             mean over frames of |t / T - l / L|: 0 is near the line of constant tempo, 1 far off
    """
    n_frames = int(frame_lengths.max())
    token_mask, frame_mask = _masks(durations, token_lengths, frame_lengths, n_frames)
    t = torch.arange(n_frames, device=durations.device) / wide(frame_lengths[:, None])
    token = frame_to_token(durations * token_mask, n_frames) / wide(token_lengths[:, None])
    total = frame_lengths.sum().item()
    return {
        "mas/zero_tokens": float(((durations == 0) & token_mask).sum()),
        "mas/max_duration": float((durations * token_mask).max()),
        "mas/log_paths_per_frame": forward_sum.log_n_paths(token_lengths, frame_lengths).sum().item() / total,
        "mas/diagonality": ((t - token).abs() * frame_mask).sum().item() / total,
    }


@torch.no_grad()
def score_statistics(
    log_lik: Float[Tensor, "B L T"],
    durations: Int[Tensor, "B L"],
    token_lengths: Int[Tensor, " B"],
    frame_lengths: Int[Tensor, " B"],
    previous: Int[Tensor, "B L"] | None = None,
) -> dict[str, float]:
    """What the score says about the path in `durations`. Expensive: a sweep over the frames.

    mas/gap_per_frame       (log_sum over all paths - score of this path) / T, nats: what one path leaves out. Between 0
                            and mas/log_paths_per_frame for the best path; more for a path that is not
    mas/path_mass           mean posterior P(frame belongs to its token | z): 1 is sure
    mas/entropy             of that posterior over tokens, nats per frame
    mas/changed_frames      share of frames that belong to another token than in `previous`; only where it is given
    """
    n_frames = log_lik.shape[2]
    token_mask, frame_mask = _masks(durations, token_lengths, frame_lengths, n_frames)
    token = frame_to_token(durations * token_mask, n_frames)
    total = frame_lengths.sum().item()
    log_lik = wide(log_lik)
    posterior = forward_sum.posterior(log_lik, token_lengths, frame_lengths)
    on_path = log_lik.gather(1, token[:, None])[:, 0].masked_fill(~frame_mask, 0).sum(1)
    gap = forward_sum.log_sum(log_lik, token_lengths, frame_lengths) - on_path
    mass = posterior.gather(1, token[:, None])[:, 0] * frame_mask
    statistics = {
        "mas/gap_per_frame": gap.sum().item() / total,
        "mas/path_mass": mass.sum().item() / total,
        "mas/entropy": -torch.xlogy(posterior, posterior).sum().item() / total,
    }
    if previous is not None:
        changed = (token != frame_to_token(previous * token_mask, n_frames)) & frame_mask
        statistics["mas/changed_frames"] = changed.sum().item() / total
    return statistics


def onset_errors(
    durations: Int[Tensor, " L"], onsets: list[tuple[int, int]], hop_length: int, sample_rate: int, blanks: bool
) -> Float[np.ndarray, " N"]:
    """|found - true| onset of each token in `onsets` (token index, sample), milliseconds.

    Frame t begins at sample t * hop_length, so a token's onset is the sum of the durations before it. With blanks
    between tokens the boundary is put in the middle of the blank, which belongs to neither.
    """
    starts = np.concatenate([[0], durations.cpu().numpy().cumsum()])[:-1].astype(float)
    tokens = np.array([token for token, _ in onsets], dtype=int)
    found = starts[tokens]
    if blanks:
        found = (found + starts[np.maximum(tokens - 1, 0)]) / 2
    true = np.array([sample for _, sample in onsets], dtype=float)
    return np.abs(found * hop_length - true) * 1000 / sample_rate


def _masks(
    durations: Int[Tensor, "B L"], token_lengths: Int[Tensor, " B"], frame_lengths: Int[Tensor, " B"], n_frames: int
) -> tuple[Tensor, Tensor]:
    """Valid tokens [B, L] and valid frames [B, T]."""
    return sequence_mask(token_lengths, durations.shape[1])[:, 0], sequence_mask(frame_lengths, n_frames)[:, 0]
