"""Synthesis: how a voice speaks, and what `VITS.infer` returns."""

import math
from dataclasses import dataclass, field

from jaxtyping import Float, Int
from torch import Tensor


@dataclass
class SynthesisSettings:
    """How much of its own randomness a voice speaks with, where nobody asks for another; training does not read it.

    Scales of the standard deviation (temperatures); the defaults are those of VITS' published code.
    """

    noise_scale: float = field(default=0.667, metadata={"at_least": 0})  # of the prior; 0 speaks its mean
    duration_noise_scale: float = field(default=0.8, metadata={"at_least": 0})  # of stochastic durations
    n_steps: int = field(default=10, metadata={"at_least": 1})  # of the refiner (model/refiner.py), where there is one


@dataclass(frozen=True)
class Synthesis:
    """What `VITS.infer` returns. Everything is zero beyond the end of each utterance."""

    audio: Float[Tensor, "B 1 S"]
    audio_lengths: Int[Tensor, " B"]  # samples
    durations: Int[Tensor, "B L"]  # frames per token
    z: Float[Tensor, "B D T"]


def check(speed: float, noise_scale: float, duration_noise_scale: float, n_steps: int) -> None:
    """ValueError for a speed that is not positive, a negative scale, no step."""
    if not 0 < speed < math.inf:
        raise ValueError(f"speed={speed}: give a positive number; 1.0 is the speed of the training data")
    for name, scale in (("noise_scale", noise_scale), ("duration_noise_scale", duration_noise_scale)):
        if not 0 <= scale < math.inf:
            raise ValueError(f"{name}={scale}: give 0 or a positive number; VITS has 0.667 and 0.8")
    if n_steps < 1:
        raise ValueError(f"n_steps={n_steps}: a refiner takes at least 1 step, say 10")
