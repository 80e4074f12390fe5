"""Views of an utterance: what a model's outputs say frame by frame, as arrays for pictures (timelines.py)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from vitslite.metrics import breakdown
from vitslite.model.alignment import log_likelihood
from vitslite.tensors import Batch, Outputs

Onsets = list[tuple[int, float]]  # token, frame


class Alignment(NamedTuple):
    """The search's scores and path, the names of the tokens, and onsets where they are known."""

    log_lik: Float[np.ndarray, "L T"]
    durations: Int[np.ndarray, " L"]
    symbols: list[str]
    onsets: Onsets
    onsets_label: str = "true onsets"


class Nats(NamedTuple):
    """Contributions to the KL, of recordings to -log p(log-mel | text): metrics/breakdown.py."""

    elements: Float[np.ndarray, "D T"]
    frames: Float[np.ndarray, " T"]  # their sums over channels
    noise: Float[np.ndarray, " T"] | None  # standard deviation over samples of q; None where there is no q


class View(NamedTuple):
    spec: Float[np.ndarray, "F T"]  # of the recording, linear magnitudes
    nats: Nats
    alignment: Alignment


@torch.no_grad()
def views(
    outputs: Outputs,
    batch: Batch,
    symbols: Sequence[list[str]],
    onsets: Sequence[Onsets],
    onsets_label: str = "true onsets",
) -> list[View]:
    """One for each utterance of the batch, without its padding. `batch` has its features."""
    assert batch.spec is not None
    with torch.autocast(outputs.audio.device.type, enabled=False):
        elements, noise = breakdown.element_nats(outputs), breakdown.frame_noise(outputs)
    log_lik = log_likelihood(outputs.latents.z_p, outputs.p_text)
    found = []
    for i, (n_tokens, n_frames) in enumerate(
        zip(batch.token_lengths.tolist(), batch.frame_lengths.tolist(), strict=True)
    ):
        frames = None if noise is None else _array(noise[i, :n_frames])
        path = _array(log_lik[i, :n_tokens, :n_frames]), outputs.durations[i, :n_tokens].cpu().numpy()
        found.append(
            View(
                _array(batch.spec[i, :, :n_frames]),
                Nats(_array(elements[i, :, :n_frames]), _array(elements[i, :, :n_frames].sum(0)), frames),
                Alignment(*path, symbols[i], onsets[i], onsets_label),
            )
        )
    return found


def _array(value: torch.Tensor) -> np.ndarray:
    return value.float().cpu().numpy()
