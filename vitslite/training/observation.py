"""Observer interface of the trainer, with what it is handed: the result of a step, and throughput."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from vitslite.model.vits import VITS
from vitslite.tensors import Batch, Outputs


class StepResult(NamedTuple):
    """One training step. Tensors are on the device, which may not have computed them yet."""

    step: int  # steps completed, this one included
    terms: dict[str, Float[Tensor, ""]]  # unweighted losses over the global batch
    grad_norm: Float[Tensor, ""]  # of the model, before clipping
    max_grad_norm: float  # 0: not clipped
    learning_rate: float


@dataclass
class Throughput:
    """Training steps since the last log; a device may still be at work on the last of them."""

    seconds: float = 0.0
    n_steps: int = 0
    frames: Float[Tensor, ""] | float = 0.0


@runtime_checkable
class Observer(Protocol):
    """Whoever logs, validates and samples (monitoring/observer.py). It never changes what is trained.

    `observe_step` and `log_step` are called on every rank, the others on the main one alone. `model` is the weights to
    look at, as trained or averaged.
    """

    probed: Int[Tensor, "B L"] | None  # part of the trainer's state
    sampled_metrics: list[str]  # keys that `sample` gives

    def rewind(self, step: int, looked: bool = True) -> None:
        """Forget what was logged after `step`; not `looked`: also what was looked at after it. Both come again."""

    def observe_step(self, batch: Batch, outputs: Outputs) -> None:
        """Look at a step that is about to be logged."""

    def log_step(self, model: VITS, result: StepResult, throughput: Throughput) -> None: ...

    def probe(self, step: int, model: VITS) -> None: ...

    def validate(self, step: int, model: VITS) -> dict[str, float]: ...

    def sample(self, step: int, model: VITS) -> dict[str, float]: ...

    def conclude(self, step: int, model: VITS) -> None:
        """The run has come to its end."""
