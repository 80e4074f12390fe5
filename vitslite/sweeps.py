"""A sweep: what `python train.py -m ...` was asked for, what became of each job, and the table at its end.

A sweep is a folder whose name comes from the command, so that the same command finds it again: sweep.json says what was
asked for, jobs/RUN.json what became of a job. Every job writes its own file, in whatever process or on whatever machine
it runs; the runs themselves lie in their own directories, as if each had been started alone.
"""

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from vitslite import build, distributed
from vitslite.files import write_text
from vitslite.runs import last_values, read_rows
from vitslite.seeds import NOT_MEASURED, three_digits

FOLDER = Path("runs/sweeps")
COLUMNS = ("val/loss/mel", "val/loss/kl", "val/kl/half_analytic", "val/mas/error_ms", "val/wer/spoken")
MAX_ROWS = 200  # of the table at the end


@dataclass
class Job:
    """What became of one job. `error` is one line."""

    name: str
    run_dir: str
    overrides: list[str]
    state: str = "running"  # then finished, stopped or failed
    error: str | None = None
    seconds: float = 0.0  # in this start of it


class Sweep:
    """The folder of a sweep. Making it changes nothing on the disk."""

    def __init__(self, folder: Path):
        self.folder = folder

    @property
    def name(self) -> str:
        return self.folder.name

    def plan(self, overrides: list[str], jobs: list[str]) -> None:
        """Note what was asked for; `jobs` are the names of the runs where they are known beforehand."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"name": self.name, "overrides": overrides, "jobs": jobs}
        write_text(self.folder / "sweep.json", json.dumps(content, indent=1) + "\n")
        for job in jobs:
            self._path(job).unlink(missing_ok=True)  # what became of it last time is no news

    @contextlib.contextmanager
    def record(self, job: Job) -> Iterator[Job]:
        """Keep the job's file up to date: running, and in the end the state that the body has given it, or failed."""
        started = time.perf_counter()
        self._write(job)
        try:
            yield job
        except BaseException as error:  # noted, and passed on: whatever ends a job, the sweep shall know
            interrupted = isinstance(error, KeyboardInterrupt)
            job.state = "stopped" if interrupted else "failed"
            kind = "" if isinstance(error, ValueError | OSError | ArithmeticError) else f"{type(error).__name__}: "
            job.error = None if interrupted else kind + " ".join(str(error).split())
            raise
        finally:
            job.seconds = round(time.perf_counter() - started, 3)
            self._write(job)

    def planned(self) -> list[str]:
        """The names of the runs that the command asks for; none where only its sweeper knows them."""
        return json.loads((self.folder / "sweep.json").read_text())["jobs"]

    def jobs(self) -> list[Job]:
        """Every job that has begun, by name."""
        return [Job(**json.loads(path.read_text())) for path in sorted((self.folder / "jobs").glob("*.json"))]

    def _write(self, job: Job) -> None:
        path = self._path(job.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(asdict(job), indent=1) + "\n")

    def _path(self, name: str) -> Path:
        return self.folder / "jobs" / f"{name.replace('/', '_')}.json"


def of_command(arguments: list[str]) -> Sweep | None:
    """The sweep that `train.py ARGUMENTS` is about to run, noted on the disk by the main rank; None for a single run.

    ValueError where two jobs would be the same run.
    """
    overrides = build.swept_overrides(arguments)
    if overrides is None:
        return None
    known = not any(o.startswith("hydra/sweeper=") for o in overrides)  # another sweeper finds its jobs as it goes on
    jobs = [build.run_name(job) for job in build.single_runs(overrides, sweep=True)] if known else []
    twice = [job for job in jobs if jobs.count(job) > 1]
    if twice and not any(o.startswith(("name=", "run_dir=")) for o in overrides):
        raise ValueError(
            f"{jobs.count(twice[0])} jobs of this sweep would be the one run {twice[0]}: they differ only in settings "
            "that may change within a run (trainer.steps, say); sweep over name=... as well"
        )
    given = [o.removeprefix("hydra.sweep.dir=") for o in overrides if o.startswith("hydra.sweep.dir=")]
    sweep = Sweep(Path(given[-1]) if given else FOLDER / name_of(overrides))
    if distributed.is_main():
        sweep.plan(overrides, jobs)
    return sweep


def name_of(overrides: list[str]) -> str:
    """A name from what is swept and a hash of the command; nothing in it means anything to a shell or to Hydra.

    Where and how the jobs run (hydra/launcher=...) does not count.
    """
    typed = sorted(o for o in overrides if not o.startswith("hydra"))
    experiment = next((o.removeprefix("experiment=") for o in typed if o.startswith("experiment=")), "demo")
    swept = [o.split("=")[0] for o in typed if re.search(r"[,(]", o)]
    words = [re.sub(r"[^A-Za-z0-9._]+", "_", word) for word in (experiment, *swept)]
    return f"{'-'.join(words)[:60]}-{hashlib.sha1(' '.join(typed).encode()).hexdigest()[:8]}"


def table(sweep: Sweep) -> str:
    """What became of the jobs, a line each, and the last validation of each; then what the failed ones said."""
    plan = sweep.planned()
    found = {job.name: job for job in sweep.jobs()}
    jobs = [found.get(name) or Job(name, f"runs/{name}", [], "not started") for name in plan or found]
    for job in jobs:
        if job.state == "running":
            job.state = "killed"  # nobody is left to run it
    counts = {state: sum(job.state == state for job in jobs) for state in dict.fromkeys(job.state for job in jobs)}
    values = {job.name: last_values(read_rows(Path(job.run_dir))) for job in jobs}
    columns = [key for key in COLUMNS if any(key in row for row in values.values())]
    lines = [["", "", *(key.removeprefix("val/") for key in columns)]]
    for job in jobs[:MAX_ROWS]:
        row = values[job.name]
        lines.append([_label(job, jobs), job.state, *(_shown(row.get(key)) for key in columns)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    head = f"sweep {sweep.name}: {', '.join(f'{n} {state}' for state, n in counts.items())}"
    failed = [f"failed: {job.name}: {job.error}" for job in jobs if job.state == "failed"]
    left_out = [f"... and {len(jobs) - MAX_ROWS} more"] if len(jobs) > MAX_ROWS else []
    return "\n".join([head, *text, *left_out, *failed])


def _label(job: Job, jobs: list[Job]) -> str:
    """The overrides that not all jobs have."""
    begun = [set(other.overrides) for other in jobs if other.overrides]
    common = set.intersection(*begun) if len(begun) > 1 else set()
    return " ".join(o for o in job.overrides if o not in common) or job.name


def _shown(value: int | float | None) -> str:
    return NOT_MEASURED if value is None else three_digits(value)
