"""Adversarial training: the discriminator with its optimiser, and its scores for the model's loss."""

import torch
from jaxtyping import Float
from torch import Tensor

from vitslite import distributed
from vitslite.model.discriminators import Discriminator
from vitslite.objectives import adversarial
from vitslite.tensors import Batch, DiscriminatorOutput, Outputs
from vitslite.training.optimization import OptimizerSettings, adamw, clip, update


class Adversary:
    """Trains the discriminator and scores the model's audio. Its losses are shares of means over the global batch."""

    def __init__(self, discriminator: Discriminator, settings: OptimizerSettings, hop_length: int):
        self.discriminator = discriminator
        self.settings = settings
        self.hop_length = hop_length
        self.optimizer = adamw(discriminator, settings)

    def is_active(self, step: int) -> bool:
        """Whether it takes part in `step` (from 0)."""
        return step >= self.discriminator.settings.start_step

    def loss(self, outputs: Outputs, batch: Batch, n_utterances: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Its own loss on one micro-batch, in one pass over both sides; the model gets no gradient of it."""
        real, fake = self._excerpts(outputs, batch)
        both = self.discriminator(torch.cat([real, fake.detach()]))
        return adversarial.discriminator_loss(both).sum() / n_utterances

    def reduce_gradients(self) -> Float[Tensor, ""]:
        """Sum the gradients over all ranks and clip them. Gives their norm before."""
        distributed.sum_gradients(self.discriminator.parameters())
        return clip(self.discriminator, self.settings)

    def step(self, factor: float, found_inf: Float[Tensor, ""]) -> None:
        """One optimiser step, and no gradient left; nothing is learnt where `found_inf` is 1."""
        update(self.optimizer, self.settings.discriminator_learning_rate * factor, found_inf)
        self.optimizer.zero_grad(set_to_none=True)

    def score(self, outputs: Outputs, batch: Batch) -> tuple[list[DiscriminatorOutput], list[DiscriminatorOutput]]:
        """Its outputs for recording and reconstruction, for the model's loss.

        The discriminator is frozen meanwhile: the model's gradient passes through it and leaves none there.
        """
        real, fake = self._excerpts(outputs, batch)
        self.discriminator.requires_grad_(False)
        with torch.no_grad():
            real_outputs = self.discriminator(real)
        fake_outputs = self.discriminator(fake)
        self.discriminator.requires_grad_(True)
        return real_outputs, fake_outputs

    def _excerpts(self, outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
        return adversarial.excerpts(outputs, batch, self.discriminator.settings.segment_frames, self.hop_length)
