"""Looks at a run once in a while: probe, validation, samples, by an observer that changes nothing of what is trained.

Nothing trained hangs on a look. The trainer saves first; a look that fails is a line and is counted; one that is
interrupted is taken again by the next start; one that has ended the whole process a few times (for want of memory, say)
is left out, or the run would never get past it.
"""

import contextlib
import math
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from vitslite import distributed
from vitslite.files import write_text
from vitslite.metrics import catalogue
from vitslite.model.vits import VITS
from vitslite.training.interrupt import AbandonedError, StopRequest
from vitslite.training.observation import Observer
from vitslite.training.settings import TrainerSettings

KINDS = ("diagnose", "validate", "sample")  # as in `trainer.<kind>_every_steps`, in this order
Result = TypeVar("Result")
MAX_ENDS = 3  # starts that may have ended within the looks of one step


def shows_trace() -> bool:
    return os.environ.get("VITSLITE_TRACE", "0") not in ("", "0")


class Looks:
    """`weights` are those to validate and to speak with, averaged or not; `within`, the context of a forward pass."""

    def __init__(
        self,
        settings: TrainerSettings,
        observer: Observer,
        model: VITS,
        weights: VITS,
        within: Callable[[], contextlib.AbstractContextManager],
        run_dir: Path,
        stop_request: StopRequest,
    ):
        self.settings = settings
        self.observer = observer
        self.model, self.weights = model, weights
        self.within = within
        self.note = run_dir / "looking"
        self.stop_request = stop_request
        self.best = catalogue.find(settings.best_metric).worst
        self.is_done = True  # with all looks of the last step: part of the trainer's state
        self.failures: list[str] = []

    def due(self, step: int) -> list[str]:
        """The kinds of looks after `step` steps: before the first one the baseline, after the last one the result."""
        if step == 0:
            return [kind for kind in ("diagnose", "validate") if getattr(self.settings, f"{kind}_every_steps") > 0]
        is_last = step == self.settings.steps
        return [kind for kind in KINDS if self.settings.is_due(kind, step) or (is_last and kind != "diagnose")]

    def take(self, step: int) -> bool:
        """All that are due after `step`. Whether `best_metric` is better than ever before; the same on all ranks.

        ValueError without that metric: at the baseline, and not after an hour.
        """
        is_best, is_abandoned = False, False
        if distributed.is_main():
            measured: dict[str, float] = {}
            kinds = self.due(step) if self._may_begin(step) else []
            try:
                with self.stop_request.abandoning():
                    for kind in kinds:
                        measured |= self.attempt(kind, step, partial(self.look, kind, step)) or {}
                is_best = step > 0 and self._is_best(measured)
            except AbandonedError:
                is_abandoned = True
            self.note.unlink(missing_ok=True)
            if kinds and not is_abandoned:
                self._check_best_metric(measured)
        self.is_done = not distributed.any_rank(is_abandoned)
        return distributed.any_rank(is_best)

    def attempt(self, what: str, step: int, action: Callable[[], Result]) -> Result | None:
        """What it gives; None, a line and one failure more where it raises."""
        try:
            return action()
        except Exception as error:  # of whatever a library, a disk or a network comes up with: training goes on
            if shows_trace():
                traceback.print_exc()
            self._fail(what, step, " ".join(str(error).split()) or type(error).__name__)
        return None

    def look(self, kind: str, step: int) -> dict[str, float]:
        """What is measured on the main rank by a look of this kind."""
        if kind == "diagnose":
            with self.within():
                self.observer.probe(step, self.model)
            return {}
        self.weights.eval()
        with self.within():
            measured = (self.observer.validate if kind == "validate" else self.observer.sample)(step, self.weights)
        self.model.train()
        return measured

    def _is_best(self, measured: dict[str, float]) -> bool:
        value = measured.get(self.settings.best_metric, math.nan)
        is_best = catalogue.find(self.settings.best_metric).is_better(value, than=self.best)
        self.best = value if is_best else self.best
        return is_best

    def _check_best_metric(self, measured: dict[str, float]) -> None:
        name, known = self.settings.best_metric, [*measured, *self.observer.sampled_metrics]
        if measured and name not in known and not self.failures:
            raise ValueError(f"trainer.best_metric={name} is not measured; choose one of {', '.join(known)}")

    def _may_begin(self, step: int) -> bool:
        """Note that the looks of a step are begun; False, and a failure, where that has ended a process too often."""
        n_ends = 0
        with contextlib.suppress(OSError, ValueError):  # no note, or of another kind
            noted, n = map(int, self.note.read_text().split())
            n_ends = n if noted == step else 0
        if n_ends >= MAX_ENDS:
            self._fail("all", step, f"they have ended the process {n_ends} times, and are left out")
            return False
        with contextlib.suppress(OSError):  # a full disk: the looks themselves will say so
            write_text(self.note, f"{step} {n_ends + 1}\n")
        return True

    def _fail(self, what: str, step: int, reason: str) -> None:
        is_news = not any(f"{what}: {reason}" in failure for failure in self.failures)
        self.failures.append(f"step {step}, {what}: {reason}")
        if is_news:
            print(f"vitslite: warning: {self.failures[-1]}; training goes on", file=sys.stderr, flush=True)
