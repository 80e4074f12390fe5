"""Checkpoints: one file with everything, written atomically, verified when read, never a pickle that can run code.

`last.pt` is where a run goes on; `best.pt` is the one with the lowest value of the chosen metric. A file appears under
its name only when it is whole and on the disk (written beside it, flushed, checked, renamed), so a kill or a full disk
leaves the previous one. Every byte is covered by a checksum, which torch writes but does not look at: we do.
"""

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitslite.files import replacing
from vitslite.runs import CHECKPOINTS, mark_finished

FORMAT = 2  # of what the weights mean. 2: the flow puts channels back in order after an odd number of couplings


class Checkpoints:
    """The checkpoints of one run. `header` (config, frontend, environment) is stored in each.

    Making it reads the last one, if there is one, into `found`.
    """

    def __init__(self, run_dir: Path, header: dict[str, Any]):
        self.run_dir = run_dir
        self.folder = run_dir / CHECKPOINTS
        self.last, self.best = self.folder / "last.pt", self.folder / "best.pt"
        self.header = header
        try:
            self.found = read(self.last) if self.last.exists() else None
        except ValueError as error:
            raise ValueError(f"{error}; put best.pt of the run in its place, or delete it to start anew") from error

    def save(self, state: dict[str, Any], is_best: bool) -> None:
        """Write `last.pt`, and `best.pt` as well if this is the best so far."""
        mark_finished(self.run_dir, None)
        write(self.last, {**self.header, **state})
        if is_best:
            write(self.best, {**self.header, **state})

    def take_last(self) -> dict[str, Any] | None:
        """The state to go on from, or None for a fresh start; once, so that its memory is free afterwards."""
        found, self.found = self.found, None
        return found

    def load_into(self, part: nn.Module | torch.optim.Optimizer, state: dict[str, Any], name: str) -> None:
        """`load_state_dict`, or one line where an older code has made the run's weights in other shapes."""
        try:
            part.load_state_dict(state)
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"{self.last}: the {name} in it has other shapes than this code makes: give the new run a name of its "
                f"own (name=...), or go on with the code that made it ({str(error).splitlines()[-1].strip()})"
            ) from error


def write(path: Path, content: dict[str, Any]) -> None:
    """Write atomically: a temporary file beside the target, flushed to disk, verified, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(path) as temporary:
            with open(temporary, "wb") as file:
                torch.save({**content, "format": FORMAT}, file)
                file.flush()
                os.fsync(file.fileno())
            _verify(temporary)
    except (OSError, RuntimeError) as error:  # torch wraps what the disk says
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        free = shutil.disk_usage(path.parent).free / 1e6
        raise OSError(
            f"{path}: not written ({str(reason).splitlines()[0]}); what was saved before is intact; {free:.0f} MB are "
            "free there: look at the disk, the quota and ulimit -f"
        ) from error
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself must survive a power cut
    finally:
        os.close(folder)


def read(path: Path) -> dict[str, Any]:
    """Load a checkpoint onto the CPU with `weights_only=True`. ValueError when it is damaged or something else."""
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint")
    _verify(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises UnpicklingError, RuntimeError or EOFError, by kind of damage
        raise ValueError(f"{path}: refused to load: {str(error).splitlines()[0]}") from error
    missing = {"config", "frontend", "model", "step"} - set(content)
    if missing:
        raise ValueError(f"{path}: not a checkpoint of vitslite, it lacks {', '.join(sorted(missing))}")
    if content.get("format", 1) != FORMAT:
        writer = f"vitslite {content['version']}, which" if "version" in content else "the version of vitslite that"
        raise ValueError(
            f"{path}: written in format {content.get('format', 1)}, this is the code of format {FORMAT}: the same "
            f"weights would mean something else; train it again, or use {writer} wrote it"
        )
    return content


def find(source: Path) -> Path:
    """The checkpoint file that `source` means. ValueError when there is none."""
    if source.is_file():
        return source
    for name in ("best.pt", "last.pt"):
        path = source / "checkpoints" / name
        if path.is_file():
            return path
    if not source.exists():
        raise ValueError(f"{source}: no such run directory or checkpoint")
    raise ValueError(f"{source}: no checkpoint in {source / 'checkpoints'}; train first: vitslite train")


def _verify(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: damaged or not a checkpoint ({error})") from error
    if damaged is not None:
        raise ValueError(f"{path}: damaged, the checksum of {damaged} is wrong")
