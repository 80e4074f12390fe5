"""Sweep: the jobs that `vitslite train -m ...` asks for, what became of each, and the table at the end.

A sweep is a folder whose name comes from the command, so that the same command finds it again: sweep.json says what was
asked for, jobs/RUN.json what became of a job. Every job writes its own file, in whatever process or on whatever machine
it runs; the runs themselves lie in their own directories, as if each had been started alone.
"""

import collections
import contextlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tabulate import tabulate

from vitslite import distributed
from vitslite.config import naming
from vitslite.files import slug, sole_use, with_hash, write_text
from vitslite.metrics import catalogue
from vitslite.metrics.statistics import cell
from vitslite.runs import Row, is_done, last_values, read_rows

FOLDER = Path("runs/sweeps")
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

    def plan(self, overrides: list[str], jobs: dict[str, str]) -> None:
        """Note what was asked for; `jobs` are names and directories of the runs where they are known beforehand."""
        content = {"name": self.name, "overrides": overrides, "jobs": jobs}
        write_text(self.folder / "sweep.json", json.dumps(content, indent=1) + "\n")
        for path in (self.folder / "jobs").glob("*.json"):
            path.unlink()  # what became of a job last time is no news

    @contextlib.contextmanager
    def record(self, job: Job) -> Iterator[Job]:
        """Keep the job's file up to date: running, and in the end the state that the body has given it, or failed."""
        started = time.perf_counter()
        self._write(job)
        try:
            yield job
        except BaseException as error:  # noted, and passed on: whatever ends a job, the sweep must know
            interrupted = isinstance(error, KeyboardInterrupt)
            job.state = "stopped" if interrupted else "failed"
            kind = "" if isinstance(error, ValueError | OSError | ArithmeticError) else f"{type(error).__name__}: "
            job.error = None if interrupted else kind + " ".join(str(error).split())
            raise
        finally:
            job.seconds = round(time.perf_counter() - started, 3)
            self._write(job)

    def planned(self) -> dict[str, str]:
        """Name -> directory of the runs that the command asks for; none where only its sweeper knows them."""
        return json.loads((self.folder / "sweep.json").read_text())["jobs"]

    def begun(self) -> list[Job]:
        """Every job that has begun, by name. A note that was cut off is left out."""
        jobs = []
        for path in sorted((self.folder / "jobs").glob("*.json")):
            with contextlib.suppress(ValueError, TypeError):
                jobs.append(Job(**json.loads(path.read_text())))
        return jobs

    def jobs(self) -> list[Job]:
        """Every job, as it stands once no process works on the sweep any more."""
        found = {job.name: job for job in self.begun()}
        missing = {n: Job(n, run_dir, [], "not started") for n, run_dir in self.planned().items() if n not in found}
        jobs = [(found | missing)[name] for name in self.planned() or found]
        for job in jobs:
            if job.state in ("running", "not started") and is_done(Path(job.run_dir)):  # by another start
                job.state = "finished"
            elif job.state == "running":
                job.state = "not ended"  # lost with its process, or a launcher still runs it
        return jobs

    def _write(self, job: Job) -> None:
        path = self.folder / "jobs" / f"{job.name.replace('/', '_')}.json"
        write_text(path, json.dumps(asdict(job), indent=1) + "\n")


@contextlib.contextmanager
def of_command(arguments: list[str]) -> Iterator[Sweep | None]:
    """The sweep that `vitslite train ARGUMENTS` is about to run, planned, held by the main rank; None for a single run.

    ValueError where two jobs would be the same run, or another process runs the sweep; OSError where nothing can be
    noted.
    """
    overrides = naming.swept_overrides(arguments)
    if overrides is None:
        yield None
        return
    jobs = naming.planned_runs(overrides)
    for words in zip(*jobs, strict=True):  # all names, all directories
        twice = [word for word in words if words.count(word) > 1]
        if twice:
            raise ValueError(
                f"{words.count(twice[0])} jobs of this sweep would be one run, {twice[0]}: name them by what differs, "
                "such as 'name=try-${trainer.steps}' (settings that may change within a run, like that, are in no name)"
            )
    given = [o.removeprefix("hydra.sweep.dir=") for o in overrides if o.startswith("hydra.sweep.dir=")]
    sweep = Sweep(Path(given[-1]) if given else FOLDER / name_of(overrides))
    if not distributed.is_main():
        yield sweep
        return
    sweep.folder.mkdir(parents=True, exist_ok=True)  # before it can be held
    with sole_use(sweep.folder):
        sweep.plan(overrides, dict(jobs))
        yield sweep


def name_of(overrides: list[str]) -> str:
    """A name from what is swept and a hash of the command; nothing in it means anything to a shell or to Hydra.

    Where the jobs run (hydra/launcher=...) does not count.
    """
    typed = sorted(o for o in overrides if not re.match(r"hydra[/.](launcher|sweep)[=./]", o.lstrip("+")))
    experiment = next((o.removeprefix("experiment=") for o in typed if o.startswith("experiment=")), "demo")
    swept = [o.split("=")[0] for o in typed if re.search(r"[,(]", o)]
    words = [slug(word, marks="._") for word in (experiment, *swept)]
    return with_hash("-".join(words), 60, " ".join(typed))


def table(sweep: Sweep) -> str:
    """What became of the jobs, a line each, and the last validation of each; then what the failed ones said."""
    jobs = sweep.jobs()
    counts = collections.Counter(job.state for job in jobs)
    values: dict[str, Row] = {}
    for job in jobs:
        try:
            values[job.name] = last_values(read_rows(Path(job.run_dir)))
        except ValueError as error:  # a damaged log must not take the table with it
            values[job.name], job.error = {}, str(error)
    logged = (key for row in values.values() for key in row if key.startswith("val/"))
    columns = catalogue.chosen("headline", logged)
    lines = [["", "", *(key.removeprefix("val/") for key in columns)]]
    for job in jobs[:MAX_ROWS]:
        row = values[job.name]
        lines.append([_label(job, jobs), job.state, *(cell([row[key]] if key in row else []) for key in columns)])
    text = tabulate(lines, tablefmt="plain", disable_numparse=True)
    head = f"sweep {sweep.name}: {', '.join(f'{n} {state}' for state, n in counts.items())}"
    failed = [f"{job.state}: {job.name}: {job.error}" for job in jobs if job.error]
    left_out = [f"... and {len(jobs) - MAX_ROWS} more"] if len(jobs) > MAX_ROWS else []
    return "\n".join([head, text, *left_out, *failed])


def _label(job: Job, jobs: list[Job]) -> str:
    """The overrides that not all jobs have."""
    begun = [set(other.overrides) for other in jobs if other.overrides]
    common = set.intersection(*begun) if len(begun) > 1 else set()
    return " ".join(o for o in job.overrides if o not in common) or job.name
