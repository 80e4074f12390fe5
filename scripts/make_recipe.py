"""Train a recipe in a given time, evaluate its voice, and write what came of it into a document.

    python scripts/make_recipe.py --minutes 60 experiment=ljspeech data.root=/path/to/LJSpeech-1.1
    python scripts/make_recipe.py --minutes 10 experiment=demo_grad_tts --evaluate "--limit 60"

A trial of 60 steps says how many steps fit; the schedule of the learning rate stretches with them. Then that many are
trained and the run is evaluated, with the options after --evaluate. The figures, the commands, the machine and the time
go between the markers of the recipe in docs/recipes.md; not a byte outside changes. The same command again goes on
where it stopped: a run that has its number of steps keeps it.
"""

import argparse
import datetime
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import torch

from vitslite.benchmarks import result
from vitslite.commands import console
from vitslite.evaluation.scoring import Estimate, table
from vitslite.experiments import atlas
from vitslite.files import commit
from vitslite.runs import planned_steps, read_rows

ROOT = Path(__file__).parents[1]
TRIAL_STEPS = 60
SHARE = 0.85  # of the time, for training steps; the rest validates, makes samples and evaluates


def main(arguments: argparse.Namespace) -> None:
    named = [o.removeprefix("experiment=") for o in arguments.overrides if o.startswith("experiment=")]
    arguments.name = arguments.name or f"recipe-{named[0] if named else 'demo'}"
    started, run_dir = time.monotonic(), arguments.runs / arguments.name
    steps = planned_steps(run_dir) or fitting_steps(arguments)
    overrides = [*arguments.overrides, f"trainer.steps={steps}", f"name={arguments.name}", f"run_dir='{run_dir}'"]
    call("train.py", *overrides)
    trained = time.monotonic() - started
    call("scripts/evaluate.py", str(run_dir), *shlex.split(arguments.evaluate))
    (found,) = sorted((run_dir / "evaluation").glob("*/evaluation.json"), key=lambda p: p.stat().st_mtime)[-1:]
    section = markdown(arguments, steps, trained, time.monotonic() - started, json.loads(found.read_text()))
    atlas.put(
        arguments.document, f"recipe {arguments.name}", section, f"## {arguments.name}: {arguments.minutes:g} minutes\n"
    )
    print(f"{arguments.name}: {steps} steps, {found}, {arguments.document}")


def fitting_steps(arguments: argparse.Namespace) -> int:
    """How many steps there is time for, by a trial in a directory of its own; a multiple of 100 where it can be."""
    trial = arguments.runs / f"{arguments.name}-trial"
    off = [f"trainer.{name}_every_steps=0" for name in ("validate", "sample", "diagnose")]
    short = [f"trainer.steps={TRIAL_STEPS}", "trainer.log_every_steps=10", "validation.n_heard=0", "tracking=local"]
    call("train.py", *arguments.overrides, *off, *short, f"name={trial.name}", f"run_dir='{trial}'")
    speeds = [row["time/steps_per_second"] for row in read_rows(trial) if "time/steps_per_second" in row]
    steps = int(60 * SHARE * arguments.minutes * sorted(speeds)[len(speeds) // 2])
    return max(1, steps - steps % 100 if steps > 100 else steps)


def call(script: str, *words: str) -> None:
    """One of the project's commands, seen by the user; ValueError where it fails."""
    print(f"python {script} {' '.join(words)}", flush=True)
    if subprocess.run([sys.executable, str(ROOT / script), *words], check=False).returncode:
        raise ValueError(f"{script} failed: mend what it says, and type the same command again")


def markdown(arguments: argparse.Namespace, steps: int, trained: float, whole: float, found: dict) -> str:
    """The command, a table of the measures, and where and when."""
    columns = {
        kind: {name: Estimate(x["value"], x["low"], x["high"], x["n"]) for name, x in row.items()}
        for kind, row in found["estimates"].items()
    }
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else result.processor()
    threads, when = torch.get_num_threads(), datetime.date.today().isoformat()
    about = (
        f"{steps:,} steps in {trained / 60:.1f} minutes, with evaluation {whole / 60:.1f}; {found['n_utterances']} "
        f"sentences, recogniser {found.get('recogniser', 'none')}; {where}, {threads} threads; {when}, commit "
        f"{(commit() or 'unknown')[:7]}."
    )
    options = ["--minutes", f"{arguments.minutes:g}", "--name", arguments.name]
    options += ["--evaluate", arguments.evaluate] if arguments.evaluate else []
    command = shlex.join(["python", "scripts/make_recipe.py", *options, *arguments.overrides])
    return "\n".join(["```sh", command, "```", "", table(columns, style="github"), "", about])


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("overrides", metavar="OVERRIDE", nargs="+", help="as train.py takes them, experiment=... among them")
    p.add_argument("--minutes", type=float, default=60.0, help="for training and evaluation together (60)")
    p.add_argument("--name", help="of the run and of the section; default: the experiment's")
    p.add_argument("--evaluate", default="", metavar="OPTIONS", help="of scripts/evaluate.py, as one word")
    p.add_argument("--runs", type=Path, default=Path("runs"), help="where the runs are (runs)")
    p.add_argument("--document", type=Path, default=ROOT / "docs" / "recipes.md")
    return p


if __name__ == "__main__":
    sys.exit(console.run_script(main, parser()))
