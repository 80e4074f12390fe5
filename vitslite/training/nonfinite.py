"""Guard against gradients that are not finite, and the record of a step that had one.

RUN/nonfinite/step_000123.pt is a checkpoint (checkpoint.py) of the weights that the step began with, without the
optimisers, and has its `batches`, `terms`, `norm` and `utterances`: what reproduces it.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vitslite import distributed
from vitslite.tensors import DivergedError
from vitslite.training import checkpoint
from vitslite.training.run_checkpoints import Checkpoints


class NotFiniteError(FloatingPointError):
    """The first step whose gradient is not finite. `step` from 1; `terms` of this rank; `ids` of its utterances."""

    def __init__(self, seen: "Watched", reason: str | None = None):
        self.step, self.ids, self.norm = seen.step, seen.ids, float(seen.norm)
        self.terms = {name: float(value) for name, value in seen.terms.items()}
        bad = [name for name, value in seen.terms.items() if not torch.isfinite(value)] or ["the gradient alone"]
        super().__init__(
            f"step {self.step}: not finite: {reason or ', '.join(bad)}, in a batch of {', '.join(self.ids[:4])}...; "
            f"the weights are those of step {self.step - 1}"
        )


class Watched(NamedTuple):
    step: int  # from 1
    norm: Float[Tensor, ""]
    terms: dict[str, Tensor]
    ids: list[str]


class Guard:
    """From the first gradient that is not finite on, no optimiser changes anything (`optimization.update`).

    The flag that holds them back stays on the device. So a run may go on for some steps without effect until the host
    looks (`check`), and still end with the weights of the last good step.
    """

    def __init__(self, device: torch.device):
        self.found_inf = torch.zeros((), device=device)  # 1 from the first bad gradient on
        self.checks_at_once = device.type == "cpu"  # where looking costs nothing
        self.watched: list[Watched] = []  # since the host last looked

    def begin_step(self, step: int, ids: list[str]) -> None:
        """What is watched from now on is of this step (from 1) and these utterances."""
        self.step, self.ids = step, ids

    def watch(self, norm: Float[Tensor, ""], terms: dict[str, Tensor]) -> None:
        """Take note of a gradient's norm and of the loss terms that it is of, for the message."""
        self.found_inf = torch.maximum(self.found_inf, 1.0 - torch.isfinite(norm).float())
        self.watched.append(Watched(self.step, norm.detach(), dict(terms), self.ids))
        if self.checks_at_once:
            self.check()

    def diverged(self, error: DivergedError) -> NotFiniteError:
        """The step that has not come as far as a gradient."""
        return NotFiniteError(Watched(self.step, torch.tensor(torch.nan), {}, self.ids), str(error))

    def check(self) -> None:
        """NotFiniteError, of the first bad step, if there was one. Waits for the device."""
        if not self.found_inf:
            self.watched.clear()
            return
        raise NotFiniteError(next(seen for seen in self.watched if not torch.isfinite(seen.norm)))


def leave_record(error: NotFiniteError, checkpoints: Checkpoints, state: dict[str, Any], batches: list[dict]) -> str:
    """Save the step before, where it was a good one, and the record of this one, with `batches`: the fields of its
    micro-batches. Gives a line that says where all is, and how to go on.
    """
    rank = f"_rank{distributed.rank()}" if distributed.rank() else ""
    path = checkpoints.run_dir / "nonfinite" / f"step_{error.step:06d}{rank}.pt"
    found = {"terms": error.terms, "norm": error.norm, "utterances": error.ids, "batches": batches}
    weights = {name: state[name] for name in ("model", "ema", "discriminator")}
    good, place = error.step - 1, ""
    try:
        checkpoint.write(path, {**checkpoints.header, **weights, **found, "step": good})
        if good > 0 and error.terms:  # else nothing was learnt yet, or too much
            place = f" and saved in {checkpoints.last}"
            if distributed.is_main():
                checkpoints.save({**state, "step": good, "looked": True}, is_best=False)
    except OSError as failed:
        return f"{error}; there is no record of it: {failed}"
    return f"{error}{place}; {path} reproduces it; {_way_on(checkpoints.header['config'])}"


def _way_on(config: dict[str, Any]) -> str:
    """What to type to go on with the run of these settings, more carefully."""
    name, run_dir = config["name"], config["run_dir"]
    run = f"name={name}" if run_dir == f"runs/{name}" else f"run_dir={run_dir}"
    rate = config["trainer"]["optimizer"]["learning_rate"] / 2
    return f"go on with {run} trainer.optimizer.learning_rate={rate:g}, or a trainer.optimizer.max_grad_norm"
