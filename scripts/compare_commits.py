"""Prove that two commits train alike: every logged number and every weight of five short runs, bit for bit.

    python scripts/compare_commits.py c176c1d             that commit and the working tree
    python scripts/compare_commits.py c176c1d HEAD --only smoke laboratory

Commits are checked out beside each other (git worktree) and trained by the Python that runs this. Times are not
compared. The last run begins at the first commit and is resumed at the second. Exit status 1: something differs.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from vitslite.commands import console

ROOT = Path(__file__).parents[1]
COMMON = ["tracking=local", "threads=1", "data.n_sentences=60", "trainer.log_every_steps=1"]
LABORATORY = ["experiment=laboratory", "trainer.steps=12", "trainer.diagnose_every_steps=5"]
LABORATORY += ["trainer.validate_every_steps=6", "trainer.sample_every_steps=12"]
DISCRIMINATORS = ["experiment=smoke", "discriminator=mpd_mrd", "discriminator.start_step=3", "trainer.ema_decay=0.9"]
DISCRIMINATORS += ["discriminator.period_channels=[4,4,4,4,4]", "discriminator.resolution_channels=4"]
DISCRIMINATORS += ["trainer.steps=8", "trainer.accumulate=2", "model.text_encoder.dropout=0.1"]
RUNS = {  # name -> the overrides of its starts, one after the other
    "smoke": [["experiment=smoke"]],
    "laboratory": [LABORATORY],
    "discriminators": [DISCRIMINATORS],
    "resumed": [[*DISCRIMINATORS, "trainer.stop_after_step=5"], DISCRIMINATORS],
}
ACROSS = "resumed"  # of this one the second start is also made at the other commit
STATE = ("step", "best", "probed", "model", "ema", "optimizer", "discriminator", "optimizer_d")


def main(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="vitslite-commits-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        old, new = (
            stack.enter_context(checked_out(commit, folder / side))
            for side, commit in (("old", arguments.old), ("new", arguments.new))
        )
        pairs = train_all(old, new, arguments.only, folder)
        found = [f"{run}: {line}" for run, (a, b) in pairs.items() for line in differences(a, b)]
        for line in found[:20]:
            print(line)
        numbers = {run: sum(len(row) for row in logged(a)) for run, (a, _) in pairs.items()}
    if found:
        raise ValueError(f"{arguments.old} and {arguments.new or 'the working tree'} differ in {len(found)} places")
    counts = ", ".join(f"{run} {n}" for run, n in numbers.items())
    print(f"equal, bit for bit: logged numbers ({counts}) and all weights")


@contextlib.contextmanager
def checked_out(commit: str | None, folder: Path) -> Iterator[Path]:
    """The files of a commit, while entered; the working tree for None."""
    if commit is None:
        yield ROOT
        return
    git = ["git", "-C", str(ROOT), "worktree"]
    added = subprocess.run([*git, "add", "--detach", str(folder), commit], capture_output=True, text=True, check=False)
    if added.returncode:
        raise ValueError(f"{commit}: cannot be checked out ({added.stderr.strip().splitlines()[-1]})")
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], capture_output=True, check=False)


def train_all(old: Path, new: Path, names: list[str], folder: Path) -> dict[str, tuple[Path, Path]]:
    """Train both sides at once. Gives the run directories to be compared, by name."""
    train_once(old, ["experiment=smoke", "trainer.steps=1"], folder, folder / "corpus")  # made once, read by all
    pairs = {name: (folder / "runs-old" / name, folder / "runs-new" / name) for name in names}

    def train_side(side: int) -> None:
        for name in names:
            for overrides in RUNS[name]:
                train_once((old, new)[side], overrides, folder, pairs[name][side])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(train_side, (0, 1)))
    if ACROSS in names:
        across = folder / "runs-new" / "across"
        for tree, overrides in zip((old, new), RUNS[ACROSS], strict=True):
            train_once(tree, overrides, folder, across)
        pairs["resumed at the other commit"] = (pairs[ACROSS][0], across)
    return pairs


def train_once(tree: Path, overrides: list[str], folder: Path, run_dir: Path) -> None:
    command = [sys.executable, str(tree / "train.py"), *overrides, *COMMON]
    command += [f"data.cache={folder / 'cache'}", f"run_dir={run_dir}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tree, env=environment, check=False)
    if done.returncode:
        raise ValueError(f"{' '.join(command)} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")


def differences(a: Path, b: Path) -> list[str]:
    """A line for each logged number and each tensor that two run directories do not share."""
    rows_a, rows_b = logged(a), logged(b)
    if len(rows_a) != len(rows_b):
        return [f"{len(rows_a)} rows logged and {len(rows_b)}"]
    found = []
    for row_a, row_b in zip(rows_a, rows_b, strict=True):
        for key in row_a | row_b:
            if repr(row_a.get(key)) != repr(row_b.get(key)):
                found.append(f"step {row_a['step']}: {key} = {row_a.get(key)} and {row_b.get(key)}")
    return found + [f"weights: {place}" for place in differing_places(state(a), state(b))]


def logged(run_dir: Path) -> list[dict[str, float]]:
    """Everything in metrics.jsonl but times."""
    rows = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]


def state(run_dir: Path) -> dict[str, Any]:
    """What the last checkpoint holds beside settings and versions."""
    stored = torch.load(run_dir / "checkpoints" / "last.pt", weights_only=True)
    return {name: stored[name] for name in STATE}


def differing_places(a: Any, b: Any, place: str = "") -> list[str]:
    """Where two nests of containers, tensors and numbers differ."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [place]
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [found for key in a for found in differing_places(a[key], b[key], f"{place}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [
            found for i, pair in enumerate(zip(a, b, strict=True)) for found in differing_places(*pair, f"{place}/{i}")
        ]
    return [] if type(a) is type(b) and repr(a) == repr(b) else [place]


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("old", metavar="OLD", help="a commit")
    p.add_argument("new", metavar="NEW", nargs="?", help="another; default: the working tree")
    p.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), metavar="RUN", help=f"of {', '.join(RUNS)}")
    return p


if __name__ == "__main__":
    sys.exit(console.run_script(main, parser()))
