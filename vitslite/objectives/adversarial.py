"""Least-squares adversarial losses and feature matching (VITS, section 2.3; Mao et al. 2017; Larsen et al. 2016).

A discriminator returns a list of `DiscriminatorOutput`s, one per sub-discriminator. Each loss is a sum over those of a
mean over their scores, given per utterance, [B], so that it can be averaged over ranks and micro-batches.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from vitslite import randomness
from vitslite.tensors import Batch, DiscriminatorOutput, Outputs, slice_segments


def discriminator_loss(both: list[DiscriminatorOutput]) -> Float[Tensor, " B"]:
    """sum_k mean (1 - D_k(y))^2 + mean D_k(y_hat)^2. `both`: B recordings y, then B reconstructions y_hat."""
    scores = [output.score.float().chunk(2) for output in both]
    return _sum([_mean((1 - real) ** 2) + _mean(fake**2) for real, fake in scores])


def generator_loss(fake: list[DiscriminatorOutput]) -> Float[Tensor, " B"]:
    """sum_k mean (1 - D_k(y_hat))^2."""
    return _sum([_mean((1 - f.score.float()) ** 2) for f in fake])


def feature_matching(real: list[DiscriminatorOutput], fake: list[DiscriminatorOutput]) -> Float[Tensor, " B"]:
    """2 sum_k sum_l mean |h_kl(y) - h_kl(y_hat)| over the layers l; no gradient to the real side."""
    return 2 * _sum(
        [
            _mean((h_real.detach().float() - h_fake.float()).abs())
            for r, f in zip(real, fake, strict=True)
            for h_real, h_fake in zip(r.features, f.features, strict=True)
        ]
    )


def excerpts(
    outputs: Outputs, batch: Batch, segment_frames: int, hop_length: int
) -> tuple[Float[Tensor, "B 1 N"], Float[Tensor, "B 1 N"]]:
    """The same random stretch of the recording and of the reconstruction: the input of the discriminators.

    Whole when the model already decodes no more than that.
    """
    n_samples = segment_frames * hop_length
    if outputs.audio.shape[2] <= n_samples:
        return outputs.audio, outputs.audio_hat
    free = outputs.audio_frames - segment_frames + 1
    starts = (randomness.uniform(batch.keys, "excerpt") * free).long() * hop_length
    return slice_segments(outputs.audio, starts, n_samples), slice_segments(outputs.audio_hat, starts, n_samples)


def _sum(terms: list[Float[Tensor, " B"]]) -> Float[Tensor, " B"]:
    return torch.stack(terms).sum(0)


def _mean(x: Tensor) -> Float[Tensor, " B"]:
    return x.flatten(1).mean(1)
