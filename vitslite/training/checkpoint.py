"""Checkpoints: one file with everything, written atomically, checked when read, never a pickle that can run code.

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

from vitslite import distributed
from vitslite.files import write_text

FORMAT = 2  # of what the weights mean. 2: the flow puts channels back in order after an odd number of couplings
# What may change between two starts of one run: how long, by what means, how often one looks, where things lie.
FREE_SETTINGS = (
    "trainer.steps",
    "trainer.stop_after_step",
    "trainer.log_every_steps",
    "trainer.diagnose_every_steps",
    "trainer.validate_every_steps",
    "trainer.sample_every_steps",
    "trainer.checkpoint_every_steps",
    "trainer.device",
    "trainer.compile",
    "tracking",
    "validation",
    "data.n_workers",
    "data.root",
    "data.cache",
    "data.cache_audio",
    "run_dir",
    "name",
)

FINISHED = "finished"  # a file beside the checkpoints, with the number of steps
ADVICE = "delete it to start anew, or put another checkpoint of the run (best.pt) in its place"


class Checkpoints:
    """The checkpoints of one run. `header` (config, frontend, environment) is stored in each.

    Making it reads the last one, if there is one, and refuses to go on from other settings: before anything is written.
    """

    def __init__(self, run_dir: Path, header: dict[str, Any]):
        self.folder = run_dir / "checkpoints"
        self.header = header
        self._found = self._load_last()

    @property
    def last(self) -> Path:
        return self.folder / "last.pt"

    @property
    def best(self) -> Path:
        return self.folder / "best.pt"

    def save(self, state: dict[str, Any], is_best: bool) -> None:
        """Write `last.pt`, and `best.pt` as well if this is the best so far."""
        (self.folder / FINISHED).unlink(missing_ok=True)
        write(self.last, {**self.header, **state})
        if is_best:
            write(self.best, {**self.header, **state})

    def conclude(self, step: int) -> None:
        """Note that the run has come to its end: the last step is trained, validated, heard and saved."""
        write_text(self.folder / FINISHED, f"{step}\n")

    def take_last(self) -> dict[str, Any] | None:
        """The state to go on from, or None for a fresh start; once, so that its memory is free afterwards."""
        found, self._found = self._found, None
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

    def _load_last(self) -> dict[str, Any] | None:
        if not self.last.exists():
            return None
        try:
            stored = read(self.last)
        except ValueError as error:
            raise ValueError(f"{error}; put best.pt of the run in its place, or delete it to start anew") from error
        changed = changed_settings(stored["config"], self.header["config"])
        if changed:
            raise ValueError(
                f"{self.last} was trained with other settings: {'; '.join(changed[:3])}"
                f"{f' and {len(changed) - 3} more' if len(changed) > 3 else ''}. "
                "Give the new run a name of its own (name=...), or restore the settings to go on"
            )
        for part in ("frontend", "corpus"):
            if stored.get(part) != self.header.get(part):
                raise ValueError(
                    f"{self.last} was trained on other data (the {part} differs): give the new run a name of its own "
                    "(name=...), or restore the data to go on"
                )
        changed = changed_settings(stored.get("environment", {}), self.header["environment"])
        if changed and distributed.is_main():
            print(f"note: going on in another environment, so not bit for bit: {'; '.join(changed)}", flush=True)
        return stored


def finished_step(run_dir: Path) -> int:
    """The step at which a run came to its end, with all that belongs to it; -1 of a run that has not."""
    note = run_dir / "checkpoints" / FINISHED
    return int(note.read_text()) if note.is_file() and (note.parent / "last.pt").is_file() else -1


def write(path: Path, content: dict[str, Any]) -> None:
    """Write atomically: a temporary file beside the target, flushed to disk, verified, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            torch.save({**content, "format": FORMAT}, file)
            file.flush()
            os.fsync(file.fileno())
        _verify(temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch wraps what the disk says
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        free = shutil.disk_usage(path.parent).free / 1e6
        raise OSError(
            f"{path}: not written ({str(reason).splitlines()[0]}); what was saved before is intact; {free:.0f} MB are "
            "free there: look at the disk, the quota and ulimit -f"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
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


def changed_settings(stored: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """'key=old (now new)' for every setting that differs and is not free to."""
    old, new = flatten(stored), flatten(now)
    keys = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)]
    return [f"{k}={old.get(k)} (now {new.get(k)})" for k in keys if not is_free(k)]


def is_free(setting: str) -> bool:
    """Whether a setting may change without making another run of it."""
    return any(setting == free or setting.startswith(free + ".") for free in FREE_SETTINGS)


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}."""
    flat = {}
    for name, value in config.items():
        flat.update(flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat


def _verify(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: damaged or not a checkpoint ({error})") from error
    if damaged is not None:
        raise ValueError(f"{path}: damaged, the checksum of {damaged} is wrong")
