"""Synthesis: how a voice speaks, and what `VITS.infer` returns."""

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
