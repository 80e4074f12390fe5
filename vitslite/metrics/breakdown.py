"""Breakdown: the same figures by utterance, by phoneme and by frame, as plain data for tables and histograms.

A mean over the validation set hides which sentence, sound or frame it comes from. Of each batch:

    rows = utterance_rows(batch.ids, utterance_sums(outputs, batch.token_lengths), texts, mel_l1=..., ...)
    sums = phoneme_sums(outputs, names)             then phoneme_rows([sums of every batch])
    values = distributions(outputs)                 then joined([values of every batch])

Nats per frame are those of `frame_nats`: of the path that the alignment found, by the quietest estimator. Over all
frames their mean is kl/half_analytic but for the noise that the latter has.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitslite.metrics.latents import in_float64
from vitslite.metrics.over_paths import Sums, quiet
from vitslite.model.alignment import frame_to_token
from vitslite.objectives import kl
from vitslite.objectives.reconstruction import MelReconstruction
from vitslite.tensors import Outputs, wide

Row = dict[str, str | int | float | None]
N_DRAWS = 8  # of frame_noise
MOST_VALUES = 100_000  # of one histogram; more are thinned evenly
COLUMNS = {  # of a table of utterances: name -> its sum, nats per frame
    "kl": "half_analytic",
    "kl_monte_carlo": "monte_carlo",
    "kl_over_paths": "over_paths",
    "hindsight": "hindsight",
    "nll": "nll",
    "nll_over_paths": "nll_over_paths",
}


def utterance_rows(
    ids: Sequence[str], sums: Sums, texts: Mapping[str, str], **columns: Sequence[int | float | None]
) -> list[Row]:
    """A row for each utterance: id, text, frames, `COLUMNS` in nats per frame, and what else is given in its order.

    `sums` are those of over_paths.utterance_sums; `columns` for instance mel_l1 and alignment_error_ms, None where a
    figure is not known. What is absent of a recording's or of a latent's sums has no column.
    """
    known = {name: (sums[key] / sums["frames"]).tolist() for name, key in COLUMNS.items() if key in sums}
    frames = sums["frames"].tolist()
    return [
        {"id": name, "text": texts[name], "frames": frames[i]}
        | {column: values[i] for column, values in known.items()}
        | {column: values[i] for column, values in columns.items()}
        for i, name in enumerate(ids)
    ]


@torch.no_grad()
def mel_l1(reconstruction: MelReconstruction, outputs: Outputs) -> list[float]:
    """loss/mel of each utterance: of the stretch that was decoded, against the same of the recording."""
    values = []
    with torch.autocast(outputs.audio.device.type, enabled=False):
        for i in range(len(outputs.audio)):
            one = slice(i, i + 1)
            heard = outputs.audio_hat[one].float(), outputs.audio[one], outputs.audio_frames[one]
            values.append(reconstruction(*heard, reconstruction.counts(heard[2]))[0].item())
    return values


@torch.no_grad()
def element_nats(outputs: Outputs) -> Float[Tensor, "B D T"]:
    """What `frame_nats` sums over channels: the contribution of each channel and frame."""
    x = in_float64(outputs.latents)
    elements = kl.likelihood(x) if x.posterior is None else quiet(x)
    return elements.masked_fill(~x.mask, 0)


def frame_nats(outputs: Outputs) -> Float[Tensor, "B T"]:
    """KL of each frame on its path, of recordings -log p(log-mel | text): summed over channels, 0 on padding, float64.

    By the control variate of over_paths.quiet. Behind couplings a channel's or a frame's part is a contribution to the
    KL, no KL of its own, so it may be negative without any noise.
    """
    return element_nats(outputs).sum(1)


@torch.no_grad()
def frame_noise(outputs: Outputs) -> Float[Tensor, "B T"] | None:
    """Standard deviation of `frame_nats` over N_DRAWS other samples of q, the path as it is; None without a q."""
    if outputs.latents.posterior is None:
        return None
    draws = (in_float64(kl.redrawn(outputs.latents, k)) for k in range(1, N_DRAWS + 1))
    return torch.stack([quiet(x).masked_fill(~x.mask, 0).sum(1) for x in draws]).std(0)


class PhonemeSum(NamedTuple):
    nats: float
    frames: float
    tokens: int

    def __add__(self, other: "PhonemeSum") -> "PhonemeSum":  # type: ignore[override]  # a sum, not one tuple after another
        return PhonemeSum(self.nats + other.nats, self.frames + other.frames, self.tokens + other.tokens)


def phoneme_sums(outputs: Outputs, names: Sequence[Sequence[str]]) -> dict[str, PhonemeSum]:
    """Nats, frames and tokens of each phoneme. `names`: of the tokens of each utterance (text.Frontend.names)."""
    nats = frame_nats(outputs)
    token = frame_to_token(outputs.durations, nats.shape[1])
    frames = wide(outputs.latents.mask[:, 0])
    zeros = torch.zeros(outputs.durations.shape, dtype=frames.dtype, device=nats.device)
    nats_of, frames_of = (zeros.scatter_add(1, token, value).cpu() for value in (nats, frames))
    found: dict[str, PhonemeSum] = {}
    for i, utterance in enumerate(names):
        for j, name in enumerate(utterance):
            here = PhonemeSum(nats_of[i, j].item(), frames_of[i, j].item(), 1)
            found[name] = found[name] + here if name in found else here
    return found


def phoneme_rows(batches: Iterable[Mapping[str, PhonemeSum]]) -> list[Row]:
    """phoneme, tokens, frames, nats_per_frame, nats_per_token; by nats per frame, the greatest first.

    A phoneme that no frame belongs to has no nats per frame: None, and last.
    """
    merged: dict[str, PhonemeSum] = {}
    for batch in batches:
        for name, value in batch.items():
            merged[name] = merged[name] + value if name in merged else value
    rows: list[Row] = []
    order = sorted(
        merged.items(), key=lambda item: (not item[1].frames, -item[1].nats / (item[1].frames or 1), item[0])
    )
    for name, (nats, frames, tokens) in order:
        per_frame = nats / frames if frames else None
        rows.append(
            {
                "phoneme": name,
                "tokens": tokens,
                "frames": frames,
                "nats_per_frame": per_frame,
                "nats_per_token": nats / tokens,
            }
        )
    return rows


@torch.no_grad()
def distributions(outputs: Outputs, every: int = 1) -> dict[str, Float[np.ndarray, " _"]]:
    """Values for histograms, of valid elements (each `every`-th), frames and tokens alone, fp32.

    ratio                   r = std_q / std_p by element; behind a flow that scales it compares two spaces
    posterior_log_std       by element
    frame_nats              by frame
    durations               frames of each token

    Of recordings the last two alone.
    """
    x, per_frame = outputs.latents, frame_nats(outputs)
    token_frames = outputs.durations
    values = {"frame_nats": per_frame[x.mask[:, 0]], "durations": token_frames[token_frames > 0]}
    if x.posterior is not None:
        valid = x.mask.expand_as(x.z)
        values["ratio"] = torch.exp(x.q.log_std - x.p.log_std)[valid][::every]
        values["posterior_log_std"] = x.q.log_std[valid][::every]
    return {name: value.float().cpu().numpy() for name, value in values.items()}


def joined(batches: Sequence[Mapping[str, Float[np.ndarray, " _"]]]) -> dict[str, Float[np.ndarray, " _"]]:
    """The values of all batches; of more than MOST_VALUES every k-th, so that what is kept stays spread over them."""
    found = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    return {name: values[:: -(-len(values) // MOST_VALUES) or 1] for name, values in found.items()}
