"""Prove that two commits train alike: every logged number and every weight of five short runs, bit for bit.

    python scripts/compare_commits.py c176c1d             that commit and the working tree
    python scripts/compare_commits.py c176c1d HEAD --only smoke laboratory

Commits are unpacked beside each other (git archive) and trained by the Python that runs this. Times are not
compared. The last run begins at the first commit and is resumed at the second. Exit status 1: something differs.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
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
    # Of this one the second start is also made at the other commit.
    "resumed": [[*DISCRIMINATORS, "trainer.stop_after_step=5"], DISCRIMINATORS],
}
STATE = ("step", "best", "probed", "model", "ema", "optimizer", "discriminator", "optimizer_d")


def main(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="vitslite-commits-") as name:
        folder = Path(name)
        old, new = checked_out(arguments.old, folder / "old-tree"), checked_out(arguments.new, folder / "new-tree")
        pairs = train_all(old, new, arguments.only, folder)
        found = [f"{run}: {line}" for run, (a, b) in pairs.items() for line in differences(a, b)]
        counts = ", ".join(f"{run} {sum(map(len, logged(a)))}" for run, (a, _) in pairs.items())
    if found:
        print("\n".join(found[:20]))
        raise ValueError(f"{arguments.old} and {arguments.new or 'the working tree'} differ in {len(found)} places")
    print(f"equal, bit for bit: logged numbers ({counts}) and all weights")


def checked_out(commit: str | None, folder: Path) -> Path:
    """The files of a commit, unpacked in `folder`; the working tree for None."""
    if commit is None:
        return ROOT
    packed = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=False)
    if packed.returncode:
        raise ValueError(f"{commit}: cannot be checked out ({packed.stderr.decode().strip().splitlines()[-1]})")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def train_all(old: Path, new: Path, names: list[str], folder: Path) -> dict[str, tuple[Path, Path]]:
    """Train both sides at once. Gives the run directories to be compared, by name."""
    train_once(old, ["experiment=smoke", "trainer.steps=1"], folder, folder / "corpus")  # made once, read by all
    sides = {"old": (old, old), "new": (new, new), "across": (old, new)}  # where a run is begun, and where resumed

    def train_side(side: str) -> None:
        for name in names if side != "across" else {"resumed"} & set(names):
            for tree, overrides in zip(sides[side], RUNS[name], strict=False):
                train_once(tree, overrides, folder, folder / side / name)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(train_side, sides))
    pairs = {name: (folder / "old" / name, folder / "new" / name) for name in names}
    if "resumed" in names:
        pairs["resumed at the other commit"] = (folder / "old" / "resumed", folder / "across" / "resumed")
    return pairs


def train_once(tree: Path, overrides: list[str], folder: Path, run_dir: Path) -> None:
    places = [f"data.cache={folder / 'cache'}", f"run_dir={run_dir}"]
    command = [sys.executable, str(tree / "train.py"), *overrides, *COMMON, *places]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tree, env=environment, check=False)
    if done.returncode:
        raise ValueError(f"{' '.join(command)} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")


def differences(a: Path, b: Path) -> list[str]:
    """A line for each logged number and each tensor that two run directories do not share."""
    rows_a, rows_b = logged(a), logged(b)
    if len(rows_a) != len(rows_b):
        return [f"{len(rows_a)} rows logged and {len(rows_b)}"]
    found = [
        f"step {row_a['step']}: {key} = {row_a.get(key)} and {row_b.get(key)}"
        for row_a, row_b in zip(rows_a, rows_b, strict=True)
        for key in row_a | row_b
        if repr(row_a.get(key)) != repr(row_b.get(key))
    ]
    state_a, state_b = state(a), state(b)
    return found + [f"weights: {p}" for p in state_a | state_b if not is_same(state_a.get(p), state_b.get(p))]


def logged(run_dir: Path) -> list[dict[str, float]]:
    """Everything in metrics.jsonl but times."""
    rows = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]


def state(run_dir: Path) -> dict[str, Any]:
    """What the last checkpoint holds beside settings and versions: place -> tensor, number or string."""
    stored = torch.load(run_dir / "checkpoints" / "last.pt", weights_only=True)
    return dict(leaves({name: stored[name] for name in STATE}))


def leaves(content: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """All in a nest of containers that is not a container, with its place."""
    if isinstance(content, list | tuple):
        content = dict(enumerate(content))
    if not isinstance(content, dict):
        yield place, content
        return
    for key, value in content.items():
        yield from leaves(value, f"{place}/{key}")


def is_same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return repr(a) == repr(b)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("old", metavar="OLD", help="a commit")
    p.add_argument("new", metavar="NEW", nargs="?", help="another; default: the working tree")
    p.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), metavar="RUN", help=f"of {', '.join(RUNS)}")
    return p


if __name__ == "__main__":
    sys.exit(console.run_script(main, parser()))
