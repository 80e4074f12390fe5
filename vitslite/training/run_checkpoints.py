"""Checkpoints of one run: which are kept, and from which one it goes on.

`last.pt` is where a run goes on; `best.pt` has the best value of the chosen metric; `step_*.pt` are those that were
last before. Where `last.pt` is missing or damaged the newest good one of the others takes its place, not a fresh start.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from torch import nn, optim

from vitslite import distributed
from vitslite.files import replacing
from vitslite.runs import CHECKPOINTS, has_checkpoints, mark_finished, read_rows, stored_config
from vitslite.training import checkpoint
from vitslite.training.checkpoint import DamagedError


class Checkpoints:
    """The checkpoints of one run, `kept` of them and the best. `header` (config, frontend, ...) is stored in each.

    Making it reads the one to go on from, if there is one, into `found`. ValueError where there was one and is none.
    """

    def __init__(self, run_dir: Path, header: dict[str, Any], kept: int = 2):
        self.run_dir = run_dir
        self.folder = run_dir / CHECKPOINTS
        self.last, self.best = self.folder / "last.pt", self.folder / "best.pt"
        self.header = header
        self.kept = kept
        self.source = self.last  # of what is found
        self.found: dict[str, Any] | None = None
        self._last_step: int | None = None  # of last.pt
        if has_checkpoints(run_dir):
            self._find()
        elif distributed.is_main():
            _refuse_what_was_saved(run_dir)

    def save(self, state: dict[str, Any], is_best: bool) -> None:
        """Write `last.pt`, and `best.pt` as well if this is the best so far; the one that was last keeps its step."""
        mark_finished(self.run_dir, None)
        self._prune()
        if self._last_step not in (None, state["step"]) and self.kept > 1 and self.last.is_file():
            with replacing(self.folder / f"step_{self._last_step:06d}.pt") as another_name:
                _link(self.last, another_name)
        checkpoint.write(self.last, {**self.header, **state})
        self._last_step = state["step"]
        if is_best:
            checkpoint.write(self.best, {**self.header, **state})
        self._prune()

    def take_last(self) -> dict[str, Any] | None:
        """The state to go on from, or None for a fresh start; once, so that its memory is free afterwards."""
        found, self.found = self.found, None
        return found

    def load_into(self, part: nn.Module | optim.Optimizer, state: dict[str, Any], name: str) -> None:
        """`load_state_dict`, or one line where an older code has made the run's weights in other shapes."""
        try:
            part.load_state_dict(state)
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"{self.source}: the {name} in it has other shapes than this code makes: give the new run a name of "
                f"its own (name=...), or go on with the code that made it ({str(error).splitlines()[-1].strip()})"
            ) from error

    def _prune(self) -> None:
        for path in self._earlier()[self.kept - 1 :]:
            path.unlink()

    def _earlier(self) -> list[Path]:
        """Those that were last before, the newest first; not what a run that was set back has left of its future."""
        steps = {int(path.stem[5:]): path for path in self.folder.glob("step_*.pt") if path.stem[5:].isdigit()}
        return [steps[n] for n in sorted(steps, reverse=True) if self._last_step is None or n < self._last_step]

    def _find(self) -> None:
        """`last.pt`, or else the newest good one; what is damaged is put aside, and the user told."""
        try:
            self.found = checkpoint.read(self.last)
            self._last_step = self.found["step"]
            return
        except DamagedError as error:
            reasons = {self.last: str(error)}
        for path in [*self._earlier(), self.best]:
            if not path.is_symlink() and not path.exists():
                continue  # no best yet
            try:
                found = checkpoint.read(path)
            except DamagedError as error:
                reasons[path] = str(error)
                continue
            if self.found is None or found["step"] > self.found["step"]:
                self.source, self.found = path, found
        why = "; ".join(reasons.values())
        if self.found is None:
            raise ValueError(
                f"{why}; there is no other checkpoint to go on from: put a good one there as last.pt, choose another "
                f"name=..., or delete {self.run_dir} to train it anew"
            )
        if distributed.is_main():
            for path in filter(os.path.lexists, reasons):
                os.replace(path, path.with_name(f"{path.name}.damaged"))
            print(f"note: {why}; going on from {self.source}, of step {self.found['step']}", flush=True)


def _link(path: Path, another_name: Path) -> None:
    """The same file under a second name, or a copy where the file system has one name for each."""
    try:
        os.link(path, another_name)
    except OSError:
        shutil.copyfile(path, another_name)


def _refuse_what_was_saved(run_dir: Path) -> None:
    """ValueError for a run that has lost its checkpoints: a start from step 0 would write over what it has logged."""
    trainer = (stored_config(run_dir) or {}).get("trainer", {})
    logged = max((row["step"] for row in read_rows(run_dir)), default=0)
    if logged > trainer.get("checkpoint_every_steps", logged):
        raise ValueError(
            f"{run_dir} was trained to step {logged} and its checkpoints are gone: put them back into "
            f"{run_dir / CHECKPOINTS}, or choose another name=..., or delete {run_dir} to train it anew"
        )
    if logged:
        print(
            f"note: {run_dir} had come to step {logged} when it ended, before it was saved: it begins anew", flush=True
        )
