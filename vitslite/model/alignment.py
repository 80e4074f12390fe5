"""Monotonic alignment search (MAS): which token does each frame belong to?

The prior has one Gaussian per token, the posterior sample one vector per frame. The alignment is the monotonic path
without gaps that makes the frames most likely under the tokens (Kim et al. 2020, "Glow-TTS", Algorithm 1 and
equation 7; VITS, Kim et al. 2021, equations 5 and 6):

    A* = argmax_A  sum_t log N(z_p[:, t]; mean[:, A(t)], std[:, A(t)]^2),
    A(0) = 0,  A(T - 1) = L - 1,  A(t + 1) - A(t) in {0, 1}

It travels as `durations` [B, L], frames per token, never as a dense path: the path is mostly zeros, and writing it
costs more than the search. No gradient passes through the search.

Two things are checked here, where other implementations read past their arrays or return a silent path: an utterance
needs at least as many frames as tokens, and a score that is not finite has no best path.

The other alignments: `uniform` durations, those given by the corpus, and all paths at once (forward_sum.py).
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitslite import randomness
from vitslite.kernels import available
from vitslite.tensors import LOG_2PI, DivergedError, Gaussian, sequence_mask, wide

SEARCHES = ("mas", "forward_sum")  # where the path depends on what is aligned
KINDS = (*SEARCHES, "uniform", "given")
SCORES = ("latent", "mel")
_SMALL_SCORE = 2**18  # cells of a batch: 1 MB, which stays in a core's own cache


@dataclass
class AlignmentSettings:
    """Defaults: the search of VITS. The penalty and the noise are aids for early training, and fade."""

    # mas: the best path; forward_sum: all paths; uniform: even; given: as the corpus knows them
    kind: str = field(default="mas", metadata={"choices": KINDS})
    # What mas and forward_sum look at; latent: z_p under the text prior; mel: the frame under a mel head.
    score: str = field(default="latent", metadata={"choices": SCORES})
    # Training steps over which a penalty of our own fades, see `penalised`; 0 = never any.
    diagonal_steps: int = field(default=0, metadata={"at_least": 0})
    # Nats per channel at the far corner, in the first step.
    diagonal_weight: float = field(default=8.0, metadata={"at_least": 0})
    # Times the standard deviation of the score over valid cells; VITS2 has 0.01.
    noise: float = field(default=0.0, metadata={"at_least": 0})
    noise_steps: int = field(default=5000, metadata={"at_least": 0})  # training steps over which the noise fades


class Items(NamedTuple):
    """What the search is told of the utterances of a batch, beside their score."""

    ids: list[str]
    token_lengths: Int[Tensor, " B"]
    frame_lengths: Int[Tensor, " B"]
    keys: Int[Tensor, " B"]  # for the noise

    def only(self, i: int) -> "Items":
        one = slice(i, i + 1)
        return Items(self.ids[one], self.token_lengths[one], self.frame_lengths[one], self.keys[one])


def search(
    log_lik: Float[Tensor, "B L T"], items: Items, settings: AlignmentSettings, step: int | None, n_channels: int
) -> Int[Tensor, "B L"]:
    """Durations of the best alignment under the score `log_lik`, a sum over `n_channels`. Without gradient.

    `step` is the training step, by which the diagonal penalty and the noise fade; None leaves both out, as is right
    wherever the alignment is judged. Raises ValueError as `monotonic_alignment` does.
    """
    with torch.no_grad():
        if step is not None:
            log_lik = penalised(log_lik, items, settings, step, n_channels)
            log_lik = perturbed(log_lik, items, settings, step)
        return monotonic_alignment(log_lik, items.token_lengths, items.frame_lengths, items.ids)


def scored_search(
    z_p: Float[Tensor, "B D T"], p_text: Gaussian, items: Items, settings: AlignmentSettings, step: int | None
) -> Int[Tensor, "B L"]:
    """`search` of `log_likelihood(z_p, p_text)`. Without gradient; p_text is B D L.

    On a CPU one utterance after the other, unless the batch is small: what is then multiplied and searched has no
    padding, and is still in a cache when the search comes. On a GPU all at once.
    """
    n_items, n_channels, n_frames = z_p.shape
    n_tokens = p_text.mean.shape[2]
    with torch.no_grad():
        if z_p.device.type != "cpu" or n_items * n_frames * n_tokens <= _SMALL_SCORE:
            return search(log_likelihood(z_p, p_text), items, settings, step, n_channels)
        durations = torch.zeros(n_items, n_tokens, dtype=torch.int64)
        for i, (n, t) in enumerate(zip(items.token_lengths.tolist(), items.frame_lengths.tolist(), strict=True)):
            log_lik = log_likelihood(z_p[i : i + 1, :, :t], Gaussian(*(x[i : i + 1, :, :n] for x in p_text)))
            durations[i : i + 1, :n] = search(log_lik, items.only(i), settings, step, n_channels)
        return durations


def log_likelihood(z_p: Float[Tensor, "B D T"], p_text: Gaussian) -> Float[Tensor, "B L T"]:
    """log N(z_p[:, t]; mean[:, l], std[:, l]^2), summed over channels, for every token l and frame t; in nats.

    With the square expanded it is one matrix product over 2 D channels, r = 1 / std^2:

        [z^2; z]^T [-r/2; m r] + sum_d (-log_std - 1/2 log 2 pi - m^2 r / 2)

    In fp32 even where the surroundings run in half precision: exp(-2 log_std) overflows fp16 below log_std = -5.5, and
    the expanded square cancels. The result is a transposed view of [B, T, L], the order in which the search reads it.
    """
    z = z_p.float()
    mean, log_std = p_text.float()
    with torch.autocast(z.device.type, enabled=False), _full_precision_products():
        precision = torch.exp(-2 * log_std)
        weighted_mean = mean * precision
        per_token = (-log_std - 0.5 * LOG_2PI - 0.5 * mean * weighted_mean).sum(1, keepdim=True)
        frames = torch.cat([z * z, z], 1).transpose(1, 2)
        tokens = torch.cat([-0.5 * precision, weighted_mean], 1)
        return torch.baddbmm(per_token, frames, tokens).transpose(1, 2)


def diagonal_distance(items: Items, n_tokens: int, n_frames: int) -> Float[Tensor, "B L T"]:
    """((t + 1/2) / T_b - (l + 1/2) / L_b)^2: how far a cell lies from the straight line of constant tempo.

    Subtracting a multiple of it from the score keeps the first alignments, which are made by an untrained prior, near
    that line. In our sketches it bought some tens of steps at the start; it fades to nothing.
    """
    device = items.keys.device
    t = (torch.arange(n_frames, device=device) + 0.5) / items.frame_lengths[:, None]
    i = (torch.arange(n_tokens, device=device) + 0.5) / items.token_lengths[:, None]
    return ((t[:, :, None] - i[:, None, :]) ** 2).transpose(1, 2)


def penalised(
    log_lik: Float[Tensor, "B L T"], items: Items, settings: AlignmentSettings, step: int, n_channels: int
) -> Float[Tensor, "B L T"]:
    """The score minus (1 - step / diagonal_steps) * n_channels * diagonal_weight * `diagonal_distance`."""
    if step >= settings.diagonal_steps:
        return log_lik
    weight = (1 - step / settings.diagonal_steps) * n_channels * settings.diagonal_weight
    return log_lik - weight * diagonal_distance(items, *log_lik.shape[1:])


def perturbed(
    log_lik: Float[Tensor, "B L T"], items: Items, settings: AlignmentSettings, step: int
) -> Float[Tensor, "B L T"]:
    """The score plus (1 - step / noise_steps) * noise * std * N(0, 1), so that early alignments explore.

    Source: Kong et al. 2023 (VITS2), section 2.2. `std` is that of the utterance's own valid cells, and 0 of one cell.
    VITS2's public code (vits2_pytorch) takes it over the whole padded batch: the path of an utterance, and with it the
    loss, then depends on its company and on padding.
    """
    if settings.noise == 0 or step >= settings.noise_steps:
        return log_lik
    n_tokens, n_frames = log_lik.shape[1:]
    valid = sequence_mask(items.token_lengths, n_tokens).transpose(1, 2) & sequence_mask(items.frame_lengths, n_frames)
    n_cells = (items.token_lengths * items.frame_lengths)[:, None, None]
    # In float64: sums of other padding differ in their last digits, which must not reach the fp32 score.
    mean = wide(log_lik).masked_fill(~valid, 0).sum((1, 2), keepdim=True) / n_cells
    squares = ((log_lik - mean) ** 2).masked_fill(~valid, 0)
    std = (squares.sum((1, 2), keepdim=True) / n_cells).sqrt().to(log_lik.dtype)
    scale = settings.noise * (1 - step / settings.noise_steps)
    return log_lik + scale * std * randomness.normal(items.keys, "alignment", n_tokens, n_frames)


def uniform(token_lengths: Int[Tensor, " B"], frame_lengths: Int[Tensor, " B"], n_tokens: int) -> Int[Tensor, "B L"]:
    """Durations as even as they can be: token l of L starts at frame floor(l T / L). 0 on padding.

    They differ by one frame at most and sum to T; each is at least 1 if there are as many frames as tokens.
    """
    edges = torch.arange(n_tokens + 1, device=token_lengths.device).minimum(token_lengths[:, None])
    return (edges * frame_lengths[:, None] // token_lengths[:, None]).diff(dim=1)


def monotonic_alignment(
    log_lik: Float[Tensor, "B L T"], token_lengths: Int[Tensor, " B"], frame_lengths: Int[Tensor, " B"], ids: list[str]
) -> Int[Tensor, "B L"]:
    """Frames per token on the path of greatest summed `log_lik`: int64, at least 1 per token, 0 on padding.

    Equal scores stay in the token, so slack goes to the last one: zeros for 6 frames and 3 tokens give [1, 1, 4].
    What lies beyond the lengths is never read. On a GPU the search runs there, and nothing waits for it
    (kernels/alignment_triton.py); everywhere else on the CPU (kernels/alignment_cpu.py), to which the score is copied.

    Raises ValueError naming the utterance: no tokens, fewer frames than tokens, or NaN or infinity in the score. Not on
    a GPU, where one would have to wait to learn of it: such an utterance gets even durations there. Lengths that do not
    fit are left out when the data is read. What made the score NaN is in the KL as well, since even durations use
    every token and every frame, and nothing is learnt from a gradient that is not finite (`optimization.Guard`).
    """
    score = log_lik.detach().transpose(1, 2).to(torch.float32)
    if on_gpu := available.on_gpu("alignment_triton", log_lik.device):
        durations, finite = on_gpu.durations(score, token_lengths, frame_lengths)
        even = uniform(token_lengths.clamp(1, score.shape[2]), frame_lengths, score.shape[2])
        return torch.where(finite[:, None], durations, even)

    from vitslite.kernels import alignment_cpu  # here, so that reading or importing a model does not load the compiler

    lengths = torch.stack([token_lengths, frame_lengths]).cpu()
    _check_lengths(ids, *lengths.tolist())
    assert lengths[0].max() <= log_lik.shape[1] and lengths[1].max() <= log_lik.shape[2], "lengths exceed the score"
    durations, finite = alignment_cpu.durations(
        score.cpu().contiguous().numpy(), *lengths.to(torch.int64).numpy(), n_threads=torch.get_num_threads()
    )
    if not finite.all():
        bad = [name for name, ok in zip(ids, finite, strict=True) if not ok]
        others = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise DivergedError(
            f"utterance {bad[0]}{others}: the alignment score holds NaN or infinity, so the text encoder, posterior or "
            "flow has diverged"
        )
    return torch.from_numpy(durations).to(log_lik.device)


def frame_to_token(durations: Int[Tensor, "B L"], n_frames: int) -> Int[Tensor, "B T"]:
    """The token of each frame. Frames past the end get token L - 1; mask what you make of them."""
    ends = durations.cumsum(1)
    frames = torch.arange(n_frames, device=durations.device).expand(len(durations), -1).contiguous()
    return torch.searchsorted(ends, frames, right=True).clamp(max=durations.shape[1] - 1)


def expand(x: Float[Tensor, "B D L"], durations: Int[Tensor, "B L"], n_frames: int) -> Float[Tensor, "B D T"]:
    """Repeat each token's vector for its number of frames: the product of x with the dense path, without the path.

    As an embedding look-up, because its gradient is summed in the same order in every run, also on a GPU; that of
    `gather` is not.
    """
    n_items, n_tokens = durations.shape
    rows = frame_to_token(durations, n_frames) + n_tokens * torch.arange(n_items, device=x.device)[:, None]
    return F.embedding(rows, x.transpose(1, 2).flatten(0, 1)).transpose(1, 2)


def dense(durations: Int[Tensor, "B L"], n_frames: int) -> Bool[Tensor, "B L T"]:
    """The path as a matrix, True where frame t belongs to token l: for plots and tests only."""
    ends = durations.cumsum(1)[:, :, None]
    frames = torch.arange(n_frames, device=durations.device)
    return (frames >= ends - durations[:, :, None]) & (frames < ends)


def _check_lengths(ids: list[str], token_lengths: list[int], frame_lengths: list[int]) -> None:
    for name, n_tokens, n_frames in zip(ids, token_lengths, frame_lengths, strict=True):
        if n_tokens < 1:
            raise ValueError(f"utterance {name}: no tokens to align with {n_frames} frames; give it a text or drop it")
        if n_frames < n_tokens:
            raise ValueError(
                f"utterance {name}: {n_tokens} tokens need at least {n_tokens} frames, it has {n_frames}; "
                "drop it or set text.blanks=false"
            )


@contextlib.contextmanager
def _full_precision_products() -> Iterator[None]:
    """Matrix products in true fp32, also where the trainer allows TF32: its 10 bits lose nats to the cancellation."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
