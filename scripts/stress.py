"""Break a run on purpose, many times, and count what is lost: checkpoints, whole trainings, ranks, memory.

    python scripts/stress.py kill --n 1000        SIGKILL while it saves: unreadable, lost, left half written
    python scripts/stress.py damage --n 357       flips, zeroed pages, cuts, nothing, no file, a link to nowhere
    python scripts/stress.py train --n 20         SIGKILL of a training with discriminators, averages, accumulation
    python scripts/stress.py rank                 SIGKILL of one of two ranks
    python scripts/stress.py soak --n 2000        memory, open files and threads over so many steps, samples every 50

All on a CPU, in a folder that is removed afterwards; POSIX only. Exit status 2: something was lost.
"""

import argparse
import collections
import contextlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from compare_commits import differences
from hydra import compose, initialize_config_dir

from vitslite import build
from vitslite.commands import console
from vitslite.commands.train import train
from vitslite.files import shipped, tidy
from vitslite.monitoring.observer import RunObserver
from vitslite.runs import read_rows
from vitslite.training.run_checkpoints import Checkpoints

HEADER = {"config": {"trainer": {"steps": 10**9}}, "frontend": {}, "environment": {}}
NANO = ["experiment=smoke", "threads=1", "data.n_sentences=60", "validation.recogniser=none", "tracking=local"]
TRAINED = [*NANO, "discriminator=mpd_mrd", "discriminator.period_channels=[4,4,4,4,4]", "trainer.ema_decay=0.9"]
TRAINED += ["discriminator.resolution_channels=4", "discriminator.start_step=2", "model.text_encoder.dropout=0.1"]
TRAINED += ["trainer.accumulate=2", "trainer.steps=120", "trainer.log_every_steps=1", "trainer.sample_every_steps=40"]
TRAINED += ["trainer.checkpoint_every_steps=5", "trainer.validate_every_steps=15", "trainer.diagnose_every_steps=20"]
Counts = collections.Counter


def kill(n: int, folder: Path, n_numbers: int = 200_000) -> Counts:
    """Kill a process that saves without end, at a random moment, `n` times."""
    found: Counts = Counts()
    started = time.perf_counter()
    Checkpoints(folder, HEADER).save(content(1, n_numbers), is_best=False)
    seconds, step = time.perf_counter() - started, 1
    for _ in range(n):
        reader, writer = os.pipe()
        with _forked(partial(_save_for_ever, folder, n_numbers, writer)) as process:
            os.close(writer)
            os.read(reader, 1)
            time.sleep(seconds * random.uniform(0.2, 4))
            os.kill(process, signal.SIGKILL)
        with open(reader, "rb") as acknowledged:
            step += len(acknowledged.read())
        found["strays"] += len(list(folder.rglob("*.tmp.*")))
        tidy(folder / "checkpoints")  # as the next start does (build.run_directory)
        found["strays after the next start"] += len(list(folder.rglob("*.tmp.*")))
        found["too many files"] += (
            len(list((folder / "checkpoints").iterdir())) > 4
        )  # last, best, an earlier one and the next
        try:
            state = Checkpoints(folder, HEADER).take_last()
        except ValueError:
            state = None
        if state is None or not torch.equal(state["model"]["w"], content(state["step"], n_numbers)["model"]["w"]):
            found["unreadable"] += 1
        elif state["step"] < step:
            found["lost"] += 1
        else:
            step = state["step"]
    return found


def damage(n: int, folder: Path) -> Counts:
    """Damage last.pt in `n` ways: half of the flips in the directory at its end, and what has no checksum by itself."""
    found: Counts = Counts()
    good = folder / "good"
    for step in (1, 2, 3):
        Checkpoints(good, HEADER).save(content(step, 20_000), is_best=step == 1)
    whole = (good / "checkpoints" / "last.pt").read_bytes()
    directory = whole.rindex(b"PK\6\6") - 500  # from some entries of the directory on
    kinds = ["empty", "missing", "link", *["cut"] * 6, *["page"] * 48]
    kinds += ["flip", "flip in the directory"] * n
    for kind in kinds[:n]:
        copy = Path(shutil.copytree(good, folder / "copy"))
        last = copy / "checkpoints" / "last.pt"
        damaged = bytearray(whole)
        at = random.randrange(directory if kind == "flip in the directory" else 0, len(whole))
        if kind.startswith("flip"):
            damaged[at] ^= 1 << random.randrange(8)
        elif kind == "page":
            damaged[at : at + 4096] = bytes(len(damaged[at : at + 4096]))
        last.write_bytes(damaged[:at] if kind == "cut" else b"" if kind == "empty" else damaged)
        if kind in ("missing", "link"):
            last.unlink()
            damaged.clear()
        if kind == "link":
            last.symlink_to(folder / "nowhere")
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            checkpoints = Checkpoints(copy, HEADER)
        state = checkpoints.take_last()
        if "last.pt" not in said.getvalue() and damaged != whole:
            found["unnoticed"] += 1
        elif state is None or state["step"] != 2:
            found["not fallen back"] += 1
        shutil.rmtree(copy)
    return found


def killed_training(n: int, folder: Path, overrides: list[str]) -> Counts:
    """Kill a training `n` times, let it end, and compare it with one that was left alone."""
    found: Counts = Counts()
    with _forked(lambda: _train(folder / "whole", folder / "cache", overrides)):
        pass
    for _ in range(n):
        with _forked(lambda: _train(folder / "killed", folder / "cache", overrides)) as process:
            time.sleep(random.uniform(1, 6))
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        rows = read_rows(folder / "killed")
        print(f"killed after step {rows[-1]['step'] if rows else 0}", flush=True)
    with _forked(lambda: _train(folder / "killed", folder / "cache", overrides)):
        pass
    found["differences"] = len(differences(folder / "whole", folder / "killed"))
    return found


def killed_rank(folder: Path, overrides: list[str]) -> Counts:
    """Kill one of two ranks; how long the other takes to end, and whether the run goes on as if nothing had been."""
    found: Counts = Counts()
    _launch(folder / "whole", folder / "cache", overrides).wait()
    process = _launch(folder / "killed", folder / "cache", overrides)
    while not any(row["step"] >= 12 for row in read_rows(folder / "killed")):
        time.sleep(0.1)
    ranks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(ranks[-1]), signal.SIGKILL)
    started = time.monotonic()
    found["exit status 0"] = process.wait() == 0
    found["seconds until all had ended"] = round(time.monotonic() - started, 1)  # type: ignore[assignment]
    _launch(folder / "killed", folder / "cache", overrides).wait()
    found["differences"] = len(differences(folder / "whole", folder / "killed"))
    return found


def soak(n: int, folder: Path) -> Counts:
    """Train `n` steps with samples every 50, and print what the process holds after each tenth of them."""
    sample, held = RunObserver.sample, []

    def counted(self, step, model):
        measured = sample(self, step, model)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        files, threads = (len(os.listdir(f"/proc/self/{kind}")) for kind in ("fd", "task"))
        held.append((step, pages * os.sysconf("SC_PAGESIZE") / 1e6, files, threads))
        return measured

    RunObserver.sample = counted  # type: ignore[method-assign]
    often = [f"trainer.{kind}_every_steps=50" for kind in ("diagnose", "validate", "sample", "checkpoint")]
    _train(folder / "run", folder / "cache", [*NANO, f"trainer.steps={n}", *often, "data.n_workers=2"])
    for step, megabytes, files, threads in held[:: max(1, len(held) // 10)]:
        print(f"step {step:5}  {megabytes:7.1f} MB  {files} open files  {threads} threads")
    return Counts()


def content(step: int, n_numbers: int) -> dict:
    """A state that tells of each of its parts to which step it belongs."""
    weights = torch.arange(n_numbers, dtype=torch.float32).add_(step).sin_()
    return {"step": step, "best": step, "model": {"w": weights}}


def _save_for_ever(folder: Path, n_numbers: int, acknowledge: int) -> None:
    checkpoints = Checkpoints(folder, HEADER)
    step = (checkpoints.take_last() or {"step": 0})["step"]
    os.write(acknowledge, b".")  # ready; counts as the step that there was
    while True:
        step += 1
        checkpoints.save(content(step, n_numbers), is_best=step % 3 == 0)
        os.write(acknowledge, b".")


def _train(run_dir: Path, cache: Path, overrides: list[str]) -> None:
    with initialize_config_dir(str(shipped("configs")), version_base="1.3"):
        cfg = compose("train", overrides=[*overrides, f"run_dir={run_dir}", f"data.cache={cache}"])
    train(build.parse(cfg, overrides), overrides)


def _launch(run_dir: Path, cache: Path, overrides: list[str]) -> subprocess.Popen:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--no-python"]
    command = [sys.executable, "-m", "vitslite.commands.main", "train", *overrides]
    return subprocess.Popen(
        [*launcher, *command, f"run_dir={run_dir}", f"data.cache={cache}"], stdout=subprocess.DEVNULL
    )


@contextlib.contextmanager
def _forked(body: Callable[[], None]) -> Iterator[int]:
    """A process that runs `body`, in silence; its id. To start one anew would take longer than what it does."""
    process = os.fork()
    if process == 0:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        try:
            body()
        finally:
            os._exit(0)
    yield process
    os.waitpid(process, 0)


def main(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    build.register_schema()
    random.seed(arguments.seed)
    n = arguments.n or {"kill": 1000, "damage": 357, "train": 20, "rank": 1, "soak": 2000}[arguments.what]
    with tempfile.TemporaryDirectory(prefix="vitslite-stress-") as name:
        folder, started = Path(name), time.monotonic()
        tests = {"kill": kill, "damage": damage, "soak": soak}
        if arguments.what == "train":
            found = killed_training(n, folder, TRAINED)
        elif arguments.what == "rank":
            found = killed_rank(folder, TRAINED)
        else:
            found = tests[arguments.what](n, folder)
    print(f"{arguments.what}, {n} times, {time.monotonic() - started:.0f} s:")
    for what, count in found.items():
        print(f"  {count} {what}")
    bad = (
        "unreadable",
        "lost",
        "strays after the next start",
        "too many files",
        "unnoticed",
        "not fallen back",
        "differences",
    )
    if any(found[what] for what in bad):
        raise ValueError("something was lost")


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("kill", "damage", "train", "rank", "soak"))
    p.add_argument("--n", type=console.positive, help="how often, or how many steps")
    p.add_argument("--seed", type=int, default=0)
    return p


if __name__ == "__main__":
    sys.exit(console.run_script(main, parser()))
