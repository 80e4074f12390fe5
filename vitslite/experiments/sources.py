"""Sources of a comparison: run directories, sweeps, W&B projects. Each run's settings, rows, and how far it came."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vitslite import runs
from vitslite.config.identity import flatten, is_free, unflatten
from vitslite.experiments import wandb_runs
from vitslite.metrics.catalogue import best_values
from vitslite.runs import Points, Row, last_values, points, read_rows

GROUPS = ("text", "data", "audio", "model", "synthesis", "objective", "discriminator", "trainer", "validation")
NAMES = ("seed", "name", "run_dir", "variant", "tracking", "version", "commit")  # these tell runs apart, not variants
# Free to change within a run, and yet other figures come of it.
MATTERS = (
    "trainer.steps",
    "data.root",
    "validation.n_heard",
    "validation.recogniser",
    "synthesis.noise_scale",
    "synthesis.duration_noise_scale",
)
WHAT_TO_TYPE = (
    "give run directories, a folder of runs (runs/), a sweep (runs/sweeps/NAME) or wandb:ENTITY/PROJECT; a run has a "
    "config.yaml in its directory"
)


@dataclass(frozen=True, eq=False)
class RunLog:
    """What a run has left, wherever it is."""

    name: str
    config: dict[str, Any]  # flat: dotted keys
    rows: list[Row]
    modified: float  # of its newest row, in seconds since 1970
    folder: Path | None = None  # None: it is in W&B
    url: str | None = None

    @property
    def seed(self) -> str:
        return str(self.config.get("seed", "?"))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Those that make it the variant that it is."""
        return {k: v for k, v in self.config.items() if k in MATTERS or k.split(".")[0] not in NAMES and not is_free(k)}

    @cached_property
    def wrong(self) -> list[str] | None:
        """Why its loss is wrong on purpose (config/remarks.py), [] where it is sound; None of unreadable settings."""
        from vitslite import build  # here: they import the models
        from vitslite.config import remarks

        nested = unflatten({key: value for key, value in self.config.items() if key.split(".")[0] in GROUPS})
        try:
            return remarks.wrong_on_purpose(build.parse(nested, []))
        except ValueError:
            return None

    @property
    def unfinished(self) -> str | None:
        """How far it has come, if it was not trained and validated to the last step of its settings."""
        planned = self.config.get("trainer.steps")
        validated = max((row["step"] for row in self.rows if any(k.startswith("val/") for k in row)), default=-1)
        return None if planned is not None and validated >= planned else f"{self.rows[-1]['step']} of {planned}"

    @cached_property
    def last(self) -> Row:
        """The last value of each key."""
        return last_values(self.rows)

    @cached_property
    def best(self) -> Row:
        """The lowest, or highest, over the validations of the run, of each key of which one is best."""
        return best_values(self.rows)

    def points(self, key: str) -> Points:
        return points(self.rows, key)

    def speed(self) -> dict[str, float]:
        """Training time in seconds (steps / rate, summed over the intervals of the log), and the rates over it.

        An estimate: the log has the rate of the last step of each interval.
        """
        steps, seconds, audio = 0, 0.0, 0.0
        audio_rates = dict(self.points("time/audio_seconds_per_second"))
        for step, rate in self.points("time/steps_per_second"):
            interval = (step - steps) / rate
            seconds += interval
            audio += interval * audio_rates.get(step, 0.0)
            steps = step
        totals = {"steps/s": steps, "audio s/s": audio}
        rates = {name: total / seconds for name, total in totals.items() if total}
        return {"training time, s": seconds} | rates if seconds else {}


@dataclass
class Found:
    """What the sources hold."""

    runs: list[RunLog] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)  # what was left out, and why
    failed: dict[str, str] = field(default_factory=dict)  # jobs of sweeps: name -> error


def read(sources: list[str]) -> Found:
    """All runs of all sources, each once. ValueError where there is none."""
    found = Found()
    folders: dict[Path, None] = {}
    for source in sources:
        project = remote_project(source)
        if project:
            remote = wandb_runs.fetch_runs(project)
            found.runs += [RunLog(run.name, _flat(run.config), run.rows, run.modified, url=run.url) for run in remote]
        elif Path(source).is_file():  # runs/beta-* takes logs along
            found.remarks.append(f"{source}: left out: a file, not the directory of a run")
        else:
            folders |= dict.fromkeys(folder.resolve() for folder in _folders(Path(source), found))
    for folder in folders:
        try:
            found.runs.append(read_run(folder))
        except (ValueError, OSError) as error:
            found.remarks.append(f"{folder.name}: left out: {' '.join(str(error).split())}")
    for run in list(found.runs):
        if not run.rows or (run.folder and not run.config):
            found.runs.remove(run)
            found.remarks.append(f"{run.name}: left out: {'no settings' if run.rows else 'nothing logged yet'}")
    if not found.runs:
        reasons = found.remarks + [f"{name} failed: {error}" for name, error in found.failed.items()]
        raise ValueError("; ".join([f"no runs in {', '.join(sources)}", *reasons[:3], WHAT_TO_TYPE]))
    return found


def remote_project(source: str) -> str | None:
    """ENTITY/PROJECT of wandb:ENTITY/PROJECT or of an address; None of a folder."""
    if not source.startswith(("wandb:", "http://", "https://")):
        return None
    path = source.removeprefix("wandb:") if source.startswith("wandb:") else urlsplit(source).path
    parts = [part for part in path.split("/") if part]
    if len(parts) < 2:
        raise ValueError(f"{source}: {WHAT_TO_TYPE}")
    return "/".join(parts[:2])


def _folders(source: Path, found: Found) -> list[Path]:
    """The run directories of a source."""
    if not source.is_dir():
        raise ValueError(f"{source}: no such folder; {WHAT_TO_TYPE}")
    if (source / "config.yaml").is_file():
        return [source]
    if (source / "sweep.json").is_file():
        return _of_sweep(source, found)
    return sorted(path.parent for path in source.glob("*/config.yaml"))


def _of_sweep(sweep: Path, found: Found) -> list[Path]:
    """The run directories of the jobs of a sweep; failed ones are noted, and compared as far as they came."""
    try:
        folders = dict(json.loads((sweep / "sweep.json").read_text(encoding="utf-8"))["jobs"])
    except (ValueError, KeyError, TypeError) as error:
        folders = {}
        found.remarks.append(f"{sweep / 'sweep.json'}: damaged ({error!r}); only the jobs that have begun are compared")
    for path in sorted((sweep / "jobs").glob("*.json")):
        try:
            job = json.loads(path.read_text(encoding="utf-8"))
            folders[job["name"]] = job["run_dir"]
        except (ValueError, KeyError, TypeError) as error:
            found.remarks.append(f"{path}: left out: damaged ({error!r})")
            continue
        if job.get("state") == "failed":
            found.failed[job["name"]] = job.get("error") or "no reason noted"
    located = []
    roots = (Path(), sweep.resolve().parents[2])  # where one is; where it was started, above runs/sweeps/NAME
    for name, folder in folders.items():
        place = next((root / folder for root in roots if (root / folder / "config.yaml").is_file()), None)
        if place is not None:
            located.append(place)
        elif name not in found.failed:
            found.remarks.append(f"{name}: left out: {folder} has no config.yaml")
    return located


def read_run(folder: Path) -> RunLog:
    """Without settings or rows where there are none. ValueError for damaged ones."""
    log = folder / runs.METRICS
    modified = log.stat().st_mtime if log.exists() else 0.0
    return RunLog(folder.name, _flat(runs.stored_config(folder) or {}), read_rows(folder), modified, folder=folder)


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys; whole numbers are ints, as W&B gives them back."""
    return {key: _plain(value) for key, value in flatten(config).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
