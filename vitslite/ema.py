"""An exponential moving average of the weights: what is validated, sampled and used for synthesis."""

import copy

import torch
from torch import nn


class EMA:
    """average <- decay * average + (1 - decay) * weights, with the decay growing from 0 as (1 + n) / (10 + n).

    The warm-up lets short runs profit: after n updates the average spans about n / 10 of them, at most 1 / (1 - decay).
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, n_updates: int) -> None:
        """Take in the weights after update number `n_updates`."""
        decay = min(self.decay, (1 + n_updates) / (10 + n_updates))
        averages, weights = list(self.model.parameters()), list(model.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, value in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(value)
