"""Optimizer, learning-rate schedule, gradient clipping, EMA of the weights."""

import copy
import math
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

SCHEDULES = ("constant", "cosine", "exponential", "noam")
Model = TypeVar("Model", bound=nn.Module)


@dataclass
class OptimizerSettings:
    """AdamW with VITS' values, except that VITS has neither warm-up nor clipping."""

    learning_rate: float = field(default=2e-4, metadata={"above": 0})
    discriminator_learning_rate: float = field(default=2e-4, metadata={"above": 0})
    beta1: float = field(default=0.8, metadata={"at_least": 0, "below": 1})
    beta2: float = field(default=0.99, metadata={"at_least": 0, "below": 1})
    eps: float = field(default=1e-9, metadata={"above": 0})
    weight_decay: float = field(default=0.01, metadata={"at_least": 0})
    warmup_steps: int = field(default=0, metadata={"at_least": 0})  # linear from 0
    # constant; cosine: hold, then fall; exponential: VITS' (0.999875 per epoch); noam: 1 / sqrt(step), as in Glow-TTS
    schedule: str = field(default="cosine", metadata={"choices": SCHEDULES})
    # cosine: share of the steps at the full rate, and what is left of the rate at the last step
    hold_fraction: float = field(default=0.4, metadata={"at_least": 0, "at_most": 1})
    final_fraction: float = field(default=0.05, metadata={"at_least": 0, "at_most": 1})
    # exponential: LJSpeech at batch 256 has 49 steps an epoch
    half_life_steps: int = field(default=270_000, metadata={"above": 0})
    # noam: its d. Not read from the model, so that a wider encoder does not change the learning rate unasked.
    noam_channels: int = field(default=192, metadata={"at_least": 1})
    max_grad_norm: float = field(default=0.0, metadata={"at_least": 0})  # 0: the norm is measured, never changed
    max_grad_value: float = field(default=0.0, metadata={"at_least": 0})  # of each element, after the norm; 0: any


def adamw(module: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """One fused AdamW over the module. Its learning rate is set before every step."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.0, fused=True)
    set_options(optimizer, settings)
    return optimizer


def set_options(optimizer: torch.optim.Optimizer, settings: OptimizerSettings) -> None:
    """What AdamW keeps of the settings, and stores: a run may go on with others."""
    for group in optimizer.param_groups:
        group["betas"] = (settings.beta1, settings.beta2)
        group["eps"], group["weight_decay"] = settings.eps, settings.weight_decay


def rate_factor(settings: OptimizerSettings, step: int, n_steps: int) -> float:
    """What the learning rate is multiplied by in step `step` (from 0) of `n_steps`: a closed form, nothing to save.

    noam, with n = step + 1: d^-1/2 min(n^-1/2, n warmup_steps^-3/2), at most (d warmup_steps)^-1/2. It is its own
    warm-up. Glow-TTS has d = 192, warmup_steps = 4000 and learning_rate = 1, so the rate peaks at 0.00114.
    Source: Vaswani et al. 2017 (Attention is all you need), eq. 3.
    """
    if settings.schedule == "noam":
        n = step + 1
        return settings.noam_channels**-0.5 * min(n**-0.5, n * settings.warmup_steps**-1.5)
    warmup = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    if settings.schedule == "exponential":
        return warmup * 0.5 ** (step / settings.half_life_steps)
    if settings.schedule == "constant":
        return warmup
    held = settings.hold_fraction * n_steps
    progress = min(1.0, max(0.0, (step - held) / max(1.0, n_steps - held)))
    return warmup * (settings.final_fraction + (1 - settings.final_fraction) * 0.5 * (1 + math.cos(math.pi * progress)))


def rate_note(settings: OptimizerSettings, step: int, planned: int, n_steps: int) -> str:
    """What another number of steps does to the learning rate of a run that goes on at `step`."""
    before, now = (rate_factor(settings, step, n) for n in (planned, n_steps))
    note = f"note: trainer.steps was {planned} and is {n_steps}: the learning rate goes on"
    if before == now:
        return f"{note} as it was"
    return f"{note} at {now:.2f} of the full one, not {before:.2f}"


def clip(module: nn.Module, settings: OptimizerSettings) -> Float[Tensor, ""]:
    """Scale the gradients to a norm of at most `max_grad_norm`, then cut each element to at most `max_grad_value`.

    0 leaves them. Gives the norm before.
    """
    max_norm = settings.max_grad_norm
    norm = nn.utils.clip_grad_norm_(module.parameters(), max_norm if max_norm > 0 else math.inf)
    if settings.max_grad_value > 0:
        nn.utils.clip_grad_value_(module.parameters(), settings.max_grad_value)
    return norm


def update(optimizer: torch.optim.AdamW, rate: float, found_inf: Float[Tensor, ""]) -> None:
    """One optimiser step at learning rate `rate`; nothing changes where `found_inf` is 1, on the device, not 0.

    (`found_inf` is how torch's gradient scaler tells a fused optimiser the same.)
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.found_inf = found_inf  # type: ignore[attr-defined]  # torch sets it from outside, too
    optimizer.step()


class EMA(Generic[Model]):
    """average <- decay * average + (1 - decay) * weights, with the decay growing from 0 as (1 + n) / (10 + n).

    The warm-up lets short runs profit: after n updates the average spans about n / 10 of them, at most 1 / (1 - decay).
    """

    def __init__(self, model: Model, decay: float):
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, n_updates: int) -> None:
        """Take in the weights after update number `n_updates`."""
        decay = min(self.decay, (1 + n_updates) / (10 + n_updates))
        averages: list[Tensor] = list(self.model.parameters())
        weights: list[Tensor] = list(model.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, value in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(value)
