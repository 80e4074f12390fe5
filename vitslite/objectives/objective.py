"""Training objective: named loss terms, their units, their weights, their total.

    total = w_kl KL + w_mel mel + w_duration duration + w_adversarial adversarial + w_feature_matching feature matching
            + w_prior_mel prior_mel + w_pitch pitch + w_diffusion diffusion + w_flow_matching flow_matching

and of a decoder that is random w_mel energy in the place of w_mel mel.

    kl                nats per frame            sum over D, mean over the valid frames of the global batch
                      (or nats per element, or mean over utterances: objective.reduction)
    prior             as kl, in its place where z is the recording itself: -log p(log-mel | text), Glow-TTS's likelihood
                      and Grad-TTS's prior loss
    mel               log-mel L1                mean over valid frames and bins
    duration          nats (stochastic) or squared log ratio (deterministic) per token
    adversarial, feature_matching               mean over utterances
    prior_mel         nats per element          Grad-TTS's prior loss, where the model has a mel head
    energy            spectral energy distance  as mel, where the decoder is random
    pitch             nats per frame            log-pitch L1, 0 in unvoiced frames, where the decoder has pulses
    diffusion, flow_matching                    mean over valid elements, where there is a refiner

Every mean divides by the count over the *global* batch, over all ranks and micro-batches: the mean of per-rank means is
another objective when lengths differ (docs/identities.md, T10). So each rank's term is a share, the shares add up to
the term, and gradients are summed over ranks, not averaged.

Half precision stops here: everything below is fp32, whatever autocast says outside.
"""

import functools
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitslite.audio import AudioSettings
from vitslite.objectives import adversarial
from vitslite.objectives.kl import ESTIMATORS, Estimator, k_sample, without_log_det
from vitslite.objectives.proposed import DISTANCES, PROPOSED
from vitslite.objectives.reconstruction import MelReconstruction, prior_mel
from vitslite.objectives.regularisers import RegulariserSettings, prior_side, regularised, weight_factor
from vitslite.tensors import Batch, DiscriminatorOutput, Latents, Outputs

REDUCTIONS = ("per_frame", "per_element", "per_utterance")
NO_LOSS = "its variance is infinite, so it is no loss; every run logs it as kl/k3"


@dataclass
class LossWeights:
    kl: float = field(default=1.0, metadata={"at_least": 0})
    mel: float = field(default=45.0, metadata={"at_least": 0})
    duration: float = field(default=1.0, metadata={"at_least": 0})
    adversarial: float = field(default=1.0, metadata={"at_least": 0})
    feature_matching: float = field(default=1.0, metadata={"at_least": 0})
    prior_mel: float = field(default=0.0, metadata={"at_least": 0})
    pitch: float = field(default=10.0, metadata={"at_least": 0})  # of decoders that have pulses
    prior: float = field(default=1.0, metadata={"at_least": 0})  # of model.posterior.kind=recording, in the place of kl
    diffusion: float = field(default=1.0, metadata={"at_least": 0})  # of model.refiner.kind=diffusion
    flow_matching: float = field(default=1.0, metadata={"at_least": 0})  # of model.refiner.kind=flow_matching


@dataclass
class ObjectiveSettings:
    # An estimator of objectives/kl.py, or one of objectives/proposed.py; l1 and l2 of model.posterior.kind=recording.
    kl: str = field(
        default="half_analytic", metadata={"choices": (*ESTIMATORS, *PROPOSED, *DISTANCES), "refused": {"k3": NO_LOSS}}
    )
    kl_samples: int = field(default=4, metadata={"at_least": 1})  # of kl=k_sample
    # drop: leave it out, as VITS' code does, which is wrong for an affine flow
    log_det: str = field(default="include", metadata={"choices": ("include", "drop")})
    detach_posterior: bool = False  # the KL trains text encoder and flow, and leaves the posterior alone
    # Of the KL; per_element: also divided by D; per_utterance: mean of utterances' means.
    reduction: str = field(default="per_frame", metadata={"choices": REDUCTIONS})
    regulariser: RegulariserSettings = field(default_factory=RegulariserSettings)
    energy: bool = True  # of a decoder that is random weigh the spectral energy distance, and not the log-mel L1
    # What the log-mel of a decoded segment is compared with; segment: that of the same segment of the recording;
    # utterance: that of the whole recording, cut there, as in VITS' code (see MelReconstruction)
    mel_target: str = field(default="segment", metadata={"choices": ("segment", "utterance")})
    # Rows of [n_fft, hop_length, n_mels].
    extra_resolutions: list[list[int]] = field(default_factory=list, metadata={"at_least": 1})
    weights: LossWeights = field(default_factory=LossWeights)


class Counts(NamedTuple):
    """Denominators of the means. Known from the lengths alone, before anything is computed."""

    frames: Float[Tensor, ""]
    tokens: Float[Tensor, ""]
    utterances: Float[Tensor, ""]
    refined: Float[Tensor, ""]  # frames that a refiner looks at
    mels: list[Float[Tensor, ""]]

    def flat(self) -> Float[Tensor, " N"]:
        return torch.stack([self.frames, self.tokens, self.utterances, self.refined, *self.mels])

    @classmethod
    def from_flat(cls, values: Float[Tensor, " N"]) -> "Counts":
        frames, tokens, utterances, refined, *mels = values.unbind()
        return cls(frames, tokens, utterances, refined, mels)


class Losses(NamedTuple):
    terms: dict[str, Float[Tensor, ""]]  # unweighted; this rank's and micro-batch's share
    total: Float[Tensor, ""]


class Objective(nn.Module):
    """Outputs -> named losses.

    Of the model: `segment_frames`, what length of audio it decodes (None: all), whether its decoder `is_random`, and
    `refined_frames`, what length its refiner looks at.
    """

    def __init__(
        self,
        settings: ObjectiveSettings,
        audio: AudioSettings,
        segment_frames: int | None,
        is_random: bool = False,
        refined_frames: int | None = None,
    ):
        super().__init__()
        self.settings = settings
        self.estimator = build_estimator(settings)
        self.weights = vars(settings.weights)
        if is_random and settings.energy:
            self.weights = self.weights | {"energy": self.weights["mel"], "mel": 0.0}
        self.segment_frames, self.refined_frames = segment_frames, refined_frames
        self.reconstruction = MelReconstruction(audio, settings.extra_resolutions)

    def counts(self, batch: Batch) -> Counts:
        """The counts of one micro-batch; add them over micro-batches and ranks before calling `forward`."""
        lengths = batch.frame_lengths
        audio_frames = lengths if self.segment_frames is None else torch.full_like(lengths, self.segment_frames)
        return Counts(
            frames=lengths.sum().float(),
            tokens=batch.token_lengths.sum().float(),
            utterances=torch.full((), float(len(batch.ids)), device=lengths.device),
            refined=(lengths if self.refined_frames is None else lengths.clamp(max=self.refined_frames)).sum().float(),
            mels=self.reconstruction.counts(audio_frames),
        )

    def forward(
        self,
        outputs: Outputs,
        counts: Counts,
        real: list[DiscriminatorOutput] | None = None,
        fake: list[DiscriminatorOutput] | None = None,
        step: int | None = None,
    ) -> Losses:
        """All terms of one micro-batch. `real` and `fake` are the discriminators' outputs, where there are any.

        The weight of the KL follows its schedule where a `step` is given.
        """
        with torch.autocast(outputs.audio.device.type, enabled=False):  # fp32 island: exp(-2 log_std) overflows in half
            heard = (outputs.audio_hat.float(), outputs.audio, outputs.audio_frames)
            target = outputs.audio_mel if self.settings.mel_target == "utterance" else None
            assert target is not None or self.settings.mel_target == "segment", "the batch had no features"
            mel, energy = self.reconstruction(*heard, counts.mels, outputs.audio_again, target)
            terms = {
                "prior" if outputs.latents.posterior is None else "kl": self._kl(outputs.latents, counts, step),
                "mel": mel,
                "duration": outputs.duration_loss.sum() / counts.tokens,
            }
            if real is not None and fake is not None:
                terms["adversarial"] = adversarial.generator_loss(fake).sum() / counts.utterances
                terms["feature_matching"] = adversarial.feature_matching(real, fake).sum() / counts.utterances
            if outputs.mel_prior is not None:
                assert outputs.mel is not None
                nats = prior_mel(outputs.mel, outputs.mel_prior) * outputs.latents.mask
                terms["prior_mel"] = nats.sum() / (counts.frames * nats.shape[1])
            if energy is not None:
                terms["energy"] = energy
            if outputs.pitch_loss is not None:
                n_frames = counts.mels[0] / self.reconstruction.resolutions[0].n_mels
                terms["pitch"] = outputs.pitch_loss.sum() / n_frames
            if outputs.refined is not None:
                term, loss, mask = outputs.refined
                terms[term] = (loss.float() * mask).sum() / (counts.refined * loss.shape[1])
            weights = self.weights_at(step)
            total = sum(weights.get(name, 0.0) * value for name, value in terms.items())
        return Losses(terms, total)

    def weights_at(self, step: int | None) -> dict[str, float]:
        """The weight of every term in a step; without one, as they are in the end."""
        return self.weights | {"kl": self._kl_factor(step) * self.weights["kl"]}

    def _kl_factor(self, step: int | None) -> float:
        return 1.0 if step is None else weight_factor(self.settings.regulariser, step)

    def _kl(self, latents: Latents, counts: Counts, step: int | None) -> Float[Tensor, ""]:
        """This micro-batch's share of the KL, reduced. The one place where its elements are masked and summed."""
        if self.settings.detach_posterior:
            latents = prior_side(latents)
        factor = self._kl_factor(step)
        elements = regularised(self.estimator, latents, self.settings.regulariser, factor) * latents.mask
        if self.settings.reduction == "per_utterance":
            return (elements.sum((1, 2)) / latents.mask.sum((1, 2))).sum() / counts.utterances
        n_channels = elements.shape[1] if self.settings.reduction == "per_element" else 1
        return elements.sum() / (n_channels * counts.frames)


def build_estimator(settings: ObjectiveSettings) -> Estimator:
    """The estimator of that name: Latents -> nats per element [B, D, T]."""
    estimator = (ESTIMATORS | PROPOSED | DISTANCES)[settings.kl]
    if settings.kl == "k_sample":
        estimator = functools.partial(k_sample, k=settings.kl_samples)
    if settings.log_det == "drop":
        return lambda x: estimator(without_log_det(x))
    return estimator
