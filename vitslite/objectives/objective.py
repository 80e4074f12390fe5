"""The objective: named terms, their units, their weights, their total.

    total = w_kl KL + w_mel mel + w_duration duration + w_adversarial adversarial + w_feature_matching feature matching

    kl                nats per frame            sum over D, mean over the valid frames of the global batch
    mel               log-mel L1                mean over valid frames and bins
    duration          nats (stochastic) or squared log ratio (deterministic) per token
    adversarial, feature_matching               mean over utterances

Every mean divides by the count over the *global* batch, over all ranks and micro-batches: the mean of per-rank means is
another objective when lengths differ (docs/identities.md, T10). So each rank's term is a share, the shares add up to
the term, and gradients are summed over ranks, not averaged.

Half precision stops here: everything below is fp32, whatever autocast says outside.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitslite.audio import AudioSettings
from vitslite.discriminators import Judgement
from vitslite.objectives import adversarial, kl
from vitslite.objectives.reconstruction import MelReconstruction
from vitslite.tensors import Batch, Outputs


@dataclass
class LossWeights:
    kl: float = 1.0
    mel: float = 45.0
    duration: float = 1.0
    adversarial: float = 1.0
    feature_matching: float = 1.0


@dataclass
class ObjectiveSettings:
    kl: str = "half_analytic"  # an estimator of objectives/kl.py
    extra_resolutions: list[list[int]] = field(default_factory=list)  # rows of [n_fft, hop_length, n_mels]
    weights: LossWeights = field(default_factory=LossWeights)

    def check(self) -> None:
        """ValueError for what cannot be computed, naming the key."""
        if self.kl not in kl.ESTIMATORS:
            raise ValueError(f"objective.kl={self.kl}: unknown, choose one of {', '.join(kl.ESTIMATORS)}")
        for name, weight in vars(self.weights).items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"objective.weights.{name}={weight}: must be 0 or more")
        for row in self.extra_resolutions:
            if len(row) != 3 or min(row) < 1 or row[1] > row[0] or (row[0] - row[1]) % 2:
                raise ValueError(
                    f"objective.extra_resolutions: {row} is not [n_fft,hop_length,n_mels] with n_fft - hop_length even "
                    "and not negative"
                )


class Counts(NamedTuple):
    """Denominators of the means. Known from the lengths alone, before anything is computed."""

    frames: Float[Tensor, ""]
    tokens: Float[Tensor, ""]
    utterances: Float[Tensor, ""]
    mels: list[Float[Tensor, ""]]

    def flat(self) -> Float[Tensor, " N"]:
        return torch.stack([self.frames, self.tokens, self.utterances, *self.mels])

    @classmethod
    def from_flat(cls, values: Float[Tensor, " N"]) -> "Counts":
        frames, tokens, utterances, *mels = values.unbind()
        return cls(frames, tokens, utterances, mels)


class Losses(NamedTuple):
    terms: dict[str, Float[Tensor, ""]]  # unweighted; this rank's and micro-batch's share
    total: Float[Tensor, ""]


class Objective(nn.Module):
    """Outputs -> named losses. `segment_frames` is the model's: what length of audio it decodes (None: all)."""

    def __init__(self, settings: ObjectiveSettings, audio: AudioSettings, segment_frames: int | None):
        super().__init__()
        settings.check()
        self.estimator = kl.ESTIMATORS[settings.kl]
        self.weights = settings.weights
        self.segment_frames = segment_frames
        self.reconstruction = MelReconstruction(audio, settings.extra_resolutions)

    def counts(self, batch: Batch) -> Counts:
        """The counts of one micro-batch; add them over micro-batches and ranks before calling `forward`."""
        lengths = batch.frame_lengths
        audio_frames = lengths if self.segment_frames is None else torch.full_like(lengths, self.segment_frames)
        return Counts(
            frames=lengths.sum().float(),
            tokens=batch.token_lengths.sum().float(),
            utterances=torch.tensor(float(len(batch.ids)), device=lengths.device),
            mels=self.reconstruction.counts(audio_frames),
        )

    def forward(
        self,
        outputs: Outputs,
        counts: Counts,
        real: list[Judgement] | None = None,
        fake: list[Judgement] | None = None,
    ) -> Losses:
        """All terms of one micro-batch. `real` and `fake` are what the discriminators said, where there are any."""
        with torch.autocast(outputs.audio.device.type, enabled=False):  # fp32 island: exp(-2 log_std) overflows in half
            kl_elements = self.estimator(outputs.latents)
            terms = {
                "kl": (kl_elements * outputs.latents.mask).sum() / counts.frames,
                "mel": self.reconstruction(outputs.audio_hat.float(), outputs.audio, outputs.audio_frames, counts.mels),
                "duration": outputs.duration_loss.sum() / counts.tokens,
            }
            if real is not None and fake is not None:
                terms["adversarial"] = adversarial.generator_loss(fake).sum() / counts.utterances
                terms["feature_matching"] = adversarial.feature_matching(real, fake).sum() / counts.utterances
            total = sum(getattr(self.weights, name) * value for name, value in terms.items())
        return Losses(terms, total)
