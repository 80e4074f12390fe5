"""What keeps NaN out of the weights, without waiting for the device in every step."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Watched(NamedTuple):
    step: int  # from 1
    norm: Float[Tensor, ""]
    terms: dict[str, Tensor]
    ids: list[str]


class Guard:
    """From the first gradient that is not finite on, no optimiser changes anything (`optimization.update`).

    The flag that holds them back stays on the device. So a run may go on for some steps, in vain, until the host looks
    (`check`), and still end with the weights of the last good step.
    """

    def __init__(self, device: torch.device):
        self.spoiled = torch.zeros((), device=device)  # 1 from the first bad gradient on
        self.watched: list[Watched] = []  # since the host last looked

    def watch(self, step: int, norm: Float[Tensor, ""], terms: dict[str, Tensor], ids: list[str]) -> None:
        """Take note of a gradient's norm, of the loss terms that it is of and of the utterances, for the message."""
        self.spoiled = torch.maximum(self.spoiled, 1.0 - torch.isfinite(norm).float())
        self.watched.append(Watched(step, norm.detach(), dict(terms), ids))

    def check(self) -> None:
        """FloatingPointError, naming the first bad step, if there was one. Waits for the device."""
        if not self.spoiled:
            self.watched.clear()
            return
        first = next(seen for seen in self.watched if not torch.isfinite(seen.norm))
        bad = [name for name, value in first.terms.items() if not torch.isfinite(value)] or ["the gradient alone"]
        raise FloatingPointError(
            f"step {first.step}: not finite: {', '.join(bad)}, in a batch of {', '.join(first.ids[:4])}...; the "
            f"model's weights are those of step {first.step - 1}. Lower trainer.optimizer.learning_rate or set "
            "trainer.optimizer.max_grad_norm"
        )
