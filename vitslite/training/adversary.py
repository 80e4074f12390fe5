"""The other player of the adversarial game: the discriminator with its optimiser."""

import torch
from jaxtyping import Float
from torch import Tensor

from vitslite import distributed
from vitslite.model.discriminators import Discriminator, Judgement
from vitslite.objectives import adversarial
from vitslite.tensors import Batch, Outputs
from vitslite.training.optimization import OptimizerSettings, adamw, clip, update


class Adversary:
    """Judges the model's audio and learns to judge better. Its losses are shares of means over the global batch."""

    def __init__(self, discriminator: Discriminator, settings: OptimizerSettings, hop_length: int):
        self.discriminator = discriminator
        self.settings = settings
        self.hop_length = hop_length
        self.optimizer = adamw(discriminator, settings)

    def joins(self, step: int) -> bool:
        """Whether it plays in `step` (from 0)."""
        return step >= self.discriminator.settings.start_step

    def loss(self, outputs: Outputs, batch: Batch, n_utterances: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Its own loss on one micro-batch, in one pass over both sides; the model gets no gradient of it."""
        real, fake = self._excerpts(outputs, batch)
        judgements = self.discriminator(torch.cat([real, fake.detach()]))
        return adversarial.discriminator_loss(judgements).sum() / n_utterances

    def gather(self) -> Float[Tensor, ""]:
        """Sum the gradients over all ranks and clip them. Gives their norm before."""
        distributed.sum_gradients(self.discriminator.parameters())
        return clip(self.discriminator, self.settings.max_grad_norm)

    def update(self, factor: float, spoiled: Float[Tensor, ""]) -> None:
        """One optimiser step, and no gradient left; nothing is learnt where `spoiled` is 1."""
        update(self.optimizer, self.settings.discriminator_learning_rate * factor, spoiled)
        self.optimizer.zero_grad(set_to_none=True)

    def judge(self, outputs: Outputs, batch: Batch) -> tuple[list[Judgement], list[Judgement]]:
        """Its judgements of recording and reconstruction, for the model's loss.

        The discriminator is frozen meanwhile: the model's gradient passes through it and leaves none there.
        """
        real, fake = self._excerpts(outputs, batch)
        self.discriminator.requires_grad_(False)
        with torch.no_grad():
            real_judgements = self.discriminator(real)
        fake_judgements = self.discriminator(fake)
        self.discriminator.requires_grad_(True)
        return real_judgements, fake_judgements

    def _excerpts(self, outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
        return adversarial.excerpts(outputs, batch, self.discriminator.settings.segment_frames, self.hop_length)
