"""Run every experiment of the laboratory and write what it measured into docs/atlas.md.

    python scripts/make_atlas.py                        all of configs/experiment/*.yaml that ask a `Question:`
    python scripts/make_atlas.py beta free_bits         these two
    python scripts/make_atlas.py --no-train             only write, from the runs there are
    python scripts/make_atlas.py --jobs 8               so many runs at a time, each on one CPU thread (2)

Runs that are trained already are not trained again, and are those of the commands themselves: the same command in a
shell goes on in the same directory. A run that fails is named, the others go on. Text outside the markers stays.
"""

import argparse
import datetime
import difflib
import functools
import os
import subprocess
import sys
from pathlib import Path

import torch
from tqdm import tqdm
from tqdm.contrib.concurrent import thread_map

from vitslite.benchmarks import result
from vitslite.commands import console
from vitslite.experiments import atlas
from vitslite.experiments.atlas import Experiment, Run
from vitslite.experiments.tables import draw_curves
from vitslite.runs import is_done

ROOT = Path(__file__).parents[1]
PLANE = "## All runs on the rate-distortion plane"  # where docs/atlas.md has no place for it yet


def main(arguments: argparse.Namespace) -> None:
    experiments = choose(arguments.names)
    runs = {run.name: run for experiment in experiments for run in atlas.runs_of(experiment)}  # each once
    failed = [] if arguments.no_train else train(list(runs.values()), arguments.runs, arguments.jobs)
    for experiment in experiments:
        write(experiment, arguments.runs)
    if not arguments.names:
        front(experiments, arguments.runs)
    if failed:
        raise ValueError(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}; see their logs")


def choose(names: list[str]) -> list[Experiment]:
    """The experiments of these names, or all."""
    found = {experiment.name: experiment for experiment in atlas.find(ROOT / "configs" / "experiment")}
    for name in names:
        if name not in found:
            near = difflib.get_close_matches(name, found, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose among {', '.join(found)}"
            raise ValueError(f"{name}: no experiment with a `Question:` in configs/experiment/; {hint}")
    return [found[name] for name in dict.fromkeys(names or found)]


def train(runs: list[Run], runs_dir: Path, jobs: int) -> list[str]:
    """Train what is not done yet, `jobs` at a time. Gives the names of the runs that failed."""
    todo = [run for run in runs if not is_done(runs_dir / run.name)]
    runs_dir.mkdir(parents=True, exist_ok=True)
    progress = {"unit": "run", "total": len(runs), "initial": len(runs) - len(todo)}
    trained = thread_map(functools.partial(train_one, runs_dir=runs_dir), todo, max_workers=jobs, **progress)
    return [run.name for run, is_trained in zip(todo, trained, strict=True) if not is_trained]


def train_one(run: Run, runs_dir: Path) -> bool:
    """One run in a process of its own, its output in NAME.log; if it fails, the last line of that is shown.

    The one thread comes from the environment, not from threads=1: that would be another run than the command's own.
    """
    place = str(runs_dir / run.name).replace("'", "\\'")
    command = [sys.executable, str(ROOT / "train.py"), *run.overrides, "tracking=local", f"run_dir='{place}'"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    log = runs_dir / f"{run.name}.log"
    with open(log, "w") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False)
    if done.returncode:
        lines = log.read_text(errors="replace").strip().splitlines() or [f"exit code {done.returncode}, {log} is empty"]
        tqdm.write(f"{run.name}: {lines[-1].strip()}", file=sys.stderr)
    return done.returncode == 0


def write(experiment: Experiment, runs_dir: Path) -> None:
    """The experiment's section of docs/atlas.md and its picture; nothing changes where no run has begun."""
    variants = atlas.variants_of(experiment, runs_dir)
    runs = [run for variant in variants for run in variant.runs.values()]
    if not any(run.rows for run in runs):
        print(f"{experiment.name}: no runs in {runs_dir}/, nothing written")
        return
    document = ROOT / "docs" / "atlas.md"
    picture = draw_curves(document.parent / "atlas" / f"{experiment.name}.png", variants, experiment.curves)
    link = picture.relative_to(document.parent).as_posix() if picture else None
    devices = {run.config.get("trainer.device", "cpu") for run in runs}
    content = atlas.block(experiment, variants, link, datetime.date.today(), machine(devices))
    atlas.write_section(document, experiment, content)
    print(f"{experiment.name}: {document}")


def front(experiments: list[Experiment], runs_dir: Path) -> None:
    """docs/atlas/plane.png and its place at the front of docs/atlas.md, where all questions are written."""
    document = ROOT / "docs" / "atlas.md"
    picture = atlas.front(document.parent / "atlas" / "plane.png", experiments, runs_dir)
    if picture:
        link = picture.relative_to(document.parent).as_posix()
        atlas.put(document, "plane", f"![bits per second against log-mel L1, a point a run]({link})", PLANE)


def machine(devices: set[str]) -> str:
    """The name of what runs with these values of trainer.device are trained on here: the GPU, or else the CPU."""
    has_gpu = torch.cuda.is_available() and devices != {"cpu"}
    return torch.cuda.get_device_name() if has_gpu else result.processor()


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("names", metavar="NAME", nargs="*", help="experiments; default: all")
    p.add_argument("--jobs", type=console.positive, default=2, help="runs at a time (2)")
    p.add_argument("--no-train", action="store_true", help="write from the runs there are")
    p.add_argument("--runs", type=Path, default=Path("runs"), help="where the runs are (runs)")
    return p


if __name__ == "__main__":
    sys.exit(console.run_script(main, parser()))
