"""Tensor containers that travel between the parts, and masks. Everything else builds on these.

The axis legend, used in every signature of the project:

    B  utterances            S  audio samples, S = T * hop_length
    L  text tokens           D  latent channels
    T  spectrogram frames    H  hidden channels
    F  linear bins           M  mel bins

Names: `log_x` is the natural logarithm of x, `_hat` is predicted, `_text` is per token, `_lengths` are integers,
`_mask` is boolean, counts are `n_*`. Standard deviations travel as `log_std`, never as a log-variance.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)
_WITHOUT_FLOAT64 = ("mps",)


class DivergedError(ValueError):
    """Weights that make nothing finite any more, found on the way to a loss."""


class Gaussian(NamedTuple):
    """A diagonal Gaussian N(mean, exp(log_std)^2), elementwise. Densities are in nats per element."""

    mean: Float[Tensor, "*shape"]
    log_std: Float[Tensor, "*shape"]

    def log_prob(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """log N(x; mean, std) = -log_std - 1/2 log 2 pi - 1/2 ((x - mean) / std)^2."""
        return -self.log_std - 0.5 * LOG_2PI - 0.5 * ((x - self.mean) * torch.exp(-self.log_std)) ** 2

    def neg_entropy(self) -> Float[Tensor, "*shape"]:
        """E[log N(x)] = -log_std - 1/2 - 1/2 log 2 pi, the exact expectation of `log_prob` under itself."""
        return -self.log_std - 0.5 - 0.5 * LOG_2PI

    def sample(self, noise: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """mean + std * noise: the reparameterised sample for a standard normal `noise`."""
        return self.mean + torch.exp(self.log_std) * noise

    def map(self, function: Callable[[Tensor], Tensor]) -> "Gaussian":
        """`function` of every parameter: Tensor.detach, Tensor.double, ..."""
        return Gaussian(function(self.mean), function(self.log_std))

    def float(self) -> "Gaussian":
        """The same distribution in fp32, for the islands where half precision is not enough."""
        return self.map(Tensor.float)


class SoftGaussian(NamedTuple):
    """The prior of a frame that belongs to several tokens, each with its share: a weighted mean of log-densities.

        log_prob(x)[:, t] = sum_l weight[l, t] log N(x[:, t]; mean[:, l], std[:, l]^2)

    Its gradient, with weights held fixed at the posterior of the alignment, is that of log sum_A p(x, A) over all
    monotonic alignments A (the E step of EM; model/forward_sum.py), so it takes the place of the one best alignment.
    """

    tokens: Gaussian  # B D L
    weight: Float[Tensor, "B L T"]  # sums to 1 over L on valid frames, 0 on padding; without gradient

    def map(self, function: Callable[[Tensor], Tensor]) -> "SoftGaussian":
        return SoftGaussian(self.tokens.map(function), function(self.weight))

    @property
    def mean(self) -> Float[Tensor, "B D T"]:
        """The mean over tokens, for statistics: not that of a Gaussian with this log_prob."""
        return self.tokens.mean @ self.weight

    @property
    def log_std(self) -> Float[Tensor, "B D T"]:
        return self.tokens.log_std @ self.weight

    def log_prob(self, x: Float[Tensor, "B D T"]) -> Float[Tensor, "B D T"]:
        mean, log_std = self.tokens
        precision = torch.exp(-2 * log_std)
        constant = -log_std - 0.5 * LOG_2PI - 0.5 * mean**2 * precision
        return constant @ self.weight + x * ((mean * precision) @ self.weight) - 0.5 * x**2 * (precision @ self.weight)


Prior = Gaussian | SoftGaussian  # per frame
FlowLike = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # z, mask -> f(z), log |df/dz| spread over elements


class Latents(NamedTuple):
    """All that a KL estimator may look at (objectives/kl.py)."""

    posterior: Gaussian | None  # B D T  q(z | spectrogram); None where z is the recording itself, which has no density
    p: Prior  # B D T  prior N(f(z); ...) of the text, expanded to frames by the alignment
    z: Float[Tensor, "B D T"]  # the sample z ~ q
    z_p: Float[Tensor, "B D T"]  # f(z), where the prior is Gaussian
    log_det: Float[Tensor, "B D T"]  # log |df/dz|, spread over elements; only its sum over D has a meaning
    mask: Bool[Tensor, "B 1 T"]
    flow: FlowLike | None = None  # f itself, for estimators that look at other points than z
    keys: Int[Tensor, " B"] | None = None  # random keys, for estimators that draw more samples

    @property
    def q(self) -> Gaussian:
        assert self.posterior is not None, "config/rules.py: what needs the density of q is refused where there is none"
        return self.posterior

    @property
    def noise(self) -> Float[Tensor, "B D T"]:
        """The standard normal noise that z was made of. Free of gradient: it is no function of the parameters."""
        return ((self.z - self.q.mean) * torch.exp(-self.q.log_std)).detach()

    def at(self, z: Float[Tensor, "B D T"]) -> "Latents":
        """The same distributions, looked at in another point. The alignment stays."""
        assert self.flow is not None
        z_p, log_det = self.flow(z * self.mask, self.mask)
        return self._replace(z=z * self.mask, z_p=z_p, log_det=log_det)


@dataclass(frozen=True)
class Batch:
    """Utterances of one step, padded to a common length.

    The loader fills the fields down to `frame_lengths`, with 16-bit audio. `audio.Features` then makes `audio` float
    and adds `spec` and `mel`, on the device.
    """

    step: int  # the training step this batch belongs to; schedules inside the model read it
    ids: list[str]  # utterance names, for messages
    keys: Int[Tensor, " B"]  # random keys, one per (seed, step, utterance): see randomness.py
    tokens: Int[Tensor, "B L"]
    token_lengths: Int[Tensor, " B"]
    audio: Int[Tensor, "B 1 S"] | Float[Tensor, "B 1 S"]
    frame_lengths: Int[Tensor, " B"]
    spec: Float[Tensor, "B F T"] | None = None
    mel: Float[Tensor, "B M T"] | None = None
    durations: Int[Tensor, "B L"] | None = None  # frames per token, where the corpus knows them
    speakers: Int[Tensor, " B"] | None = None  # who speaks, by the corpus' list, where it has one

    def to(self, device: torch.device) -> "Batch":
        """Copy every tensor to `device`, without waiting where the memory is pinned."""
        fields: dict[str, Any] = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        moved: dict[str, Any] = {k: v.to(device, non_blocking=True) for k, v in fields.items() if isinstance(v, Tensor)}
        return dataclasses.replace(self, **moved)

    @property
    def token_mask(self) -> Bool[Tensor, "B 1 L"]:
        return sequence_mask(self.token_lengths, self.tokens.shape[1])


class Refined(NamedTuple):
    """The loss of the refiner (model/refiner.py), unreduced, on the frames that it looked at."""

    term: str  # its name among the losses
    loss: Float[Tensor, "B M N"]
    mask: Bool[Tensor, "B 1 N"]


@dataclass(frozen=True)
class Outputs:
    """What `VITS.forward` returns: the inputs of every loss term, unreduced."""

    latents: Latents
    p_text: Gaussian  # B D L  prior per token, before the expansion
    durations: Int[Tensor, "B L"]  # frames per token, found by monotonic alignment search
    duration_loss: Float[Tensor, "B L"]  # per token: nats (stochastic) or squared log ratio (deterministic)
    audio_hat: Float[Tensor, "B 1 S"]  # reconstruction from the posterior sample
    audio: Float[Tensor, "B 1 S"]  # the recording at the same place
    audio_frames: Int[Tensor, " B"]  # valid frames in `audio` and `audio_hat`
    mel: Float[Tensor, "B M T"] | None = None  # what `mel_prior` speaks of
    mel_prior: Float[Tensor, "B M T"] | None = None  # mean log-mel of each frame's token, where there is a mel head
    audio_again: Float[Tensor, "B 1 S"] | None = None  # another draw of a random decoder, from the same sample
    pitch_loss: Float[Tensor, "B N"] | None = None  # per decoded frame: |log-pitch error|, nats, 0 where unvoiced
    audio_mel: Float[Tensor, "B M N"] | None = None  # log-mel of the whole recording, at the frames of `audio`
    refined: Refined | None = None  # where there is a refiner


class DiscriminatorOutput(NamedTuple):
    """What one sub-discriminator returns for each utterance."""

    score: Float[Tensor, " B *places"]  # 1 for a recording, 0 for a generated one, at each place it looks at
    features: list[Tensor]  # [B, ...] each: the layers' outputs, the last of them the score, for feature matching


def wide(x: Shaped[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """In float64, for long sums and small differences; in float32 on a device that has no other."""
    return x.to(torch.float32 if x.device.type in _WITHOUT_FLOAT64 else torch.float64)


def sequence_mask(lengths: Int[Tensor, " B"], max_length: int) -> Bool[Tensor, "B 1 N"]:
    """True where position < length."""
    return torch.arange(max_length, device=lengths.device)[None, None, :] < lengths[:, None, None]


def slice_segments(
    x: Float[Tensor, "B C N"] | Int[Tensor, "B C N"], starts: Int[Tensor, " B"], length: int
) -> Float[Tensor, "B C length"] | Int[Tensor, "B C length"]:
    """x[b, :, starts[b] : starts[b] + length] for every b, in one gather."""
    index = starts[:, None, None] + torch.arange(length, device=x.device)[None, None, :]
    return x.gather(2, index.expand(-1, x.shape[1], -1))
