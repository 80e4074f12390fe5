"""Measure how fast the parts are, beside what else there is, on this machine.

    python scripts/benchmark.py mas                     alignment search, beside the package of PyPI
    python scripts/benchmark.py mas --shapes 64,200,1000 --growth
    python scripts/benchmark.py step                    a training step, beside VITS as published
    python scripts/benchmark.py step trainer.precision=bf16 --models small
    python scripts/benchmark.py learn                   how soon a model has learnt something, beside VITS as published
    python scripts/benchmark.py infer                   synthesis with either decoder
    python scripts/benchmark.py data                    padding, host time per batch, waiting for data
    python scripts/benchmark.py diagnostics             what looking costs
    python scripts/benchmark.py gpu -o OUT              what a GPU can show of it, in one go

What is compared runs in turn, in one process, on one thread; ratios are medians over rounds, with quartiles. Believe
the processor time (cpu), or on a GPU that of the device; the wall clock counts what else the machine does, too.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import hydra
import torch
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from vitslite import build
from vitslite.benchmarks import data, diagnostics, infer, learn, mas, result, step
from vitslite.benchmarks.mas import Shape
from vitslite.benchmarks.result import Section
from vitslite.benchmarks.timing import Settings
from vitslite.commands import console
from vitslite.config.settings import Config
from vitslite.files import shipped, write_text

COMMON = ("run", "device", "rounds", "threads", "json", "markdown", "profile", "output")  # the others go to `run`
GPU_STEPS = {  # settings of training steps that are compared on a GPU, by whether they are traced
    ("trainer.precision=fp32",): False,
    ("trainer.precision=bf16",): True,
    ("trainer.precision=bf16", "trainer.compile=true"): False,
}

build.register_schema()


def main(arguments: argparse.Namespace) -> None:
    a = arguments
    if a.device == "cuda" and not torch.cuda.is_available():
        mend = "gpu needs a GPU; mas, step, infer and data run on a CPU" if a.run is gpu else "use --device cpu"
        raise ValueError(f"torch sees no GPU here: {mend}")
    torch.set_num_threads(a.threads)
    about = result.machine()  # before we make load ourselves
    with tempfile.TemporaryDirectory(prefix="vitslite-benchmark-") as folder:
        settings = Settings(compose, torch.device(a.device), a.rounds, Path(folder), a.output, a.profile)
        sections = a.run(settings, **{name: value for name, value in vars(a).items() if name not in COMMON})
    if a.json:
        write_text(a.json, result.as_json(about, sections))
    if a.run is gpu:
        write_text(a.output / "benchmark.json", result.as_json(about, sections))
        write_text(a.output / "benchmark.md", result.as_text(about, sections, markdown=True) + "\n")
    print(result.as_text(about, sections, a.markdown))


def gpu(settings: Settings, batch: int, budget: int) -> list[Section]:
    """Everything that needs one, at sizes that fill it; also left as benchmark.json and benchmark.md."""
    untraced = replace(settings, trace=None)
    sections = mas.run(untraced, mas.DEFAULT_SHAPES, growth=False)
    sections.append(mas.growing(Shape(32, 200, 1000), untraced))
    for overrides, traced in GPU_STEPS.items():
        own = replace(settings if traced else untraced, folder=settings.folder / "".join(overrides))
        (found,) = step.run(own, batch, 500, "vits", ["small"], list(overrides))
        found.title += f", {' '.join(overrides)}"
        sections.append(found)
        torch.cuda.empty_cache()
    sections += learn.run(replace(untraced, folder=settings.folder / "learn"), budget, ["data.batch_size=16"])
    sections += infer.run(untraced, 566, "vits", [])
    sections += data.run(replace(untraced, folder=settings.folder / "data"), 64, 4, "small", 64)
    return sections


def compose(overrides: list[str]) -> Config:
    """The configuration that train.py makes of these overrides. ValueError for those that it refuses."""
    try:
        with hydra.initialize_config_dir(str(shipped("configs")), version_base="1.3"):
            return build.parse(hydra.compose("train", overrides=overrides), overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(console.explain(error)) from error


def shape(text: str) -> Shape:
    """An argparse type: B,L,T."""
    numbers = text.split(",")
    if len(numbers) != 3 or not all(number.isdigit() for number in numbers):
        raise argparse.ArgumentTypeError(f"{text}: give B,L,T such as 64,200,1000")
    return Shape(*map(int, numbers))


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = p.add_subparsers(required=True, metavar="COMMAND")
    positive = console.positive

    def command(
        run: Callable[..., list[Section]], rounds: int, help: str, overrides: str = ""
    ) -> Callable[..., object]:
        """A subcommand with what all have. Gives a function that adds an option of its own."""
        name = run.__name__ if run is gpu else run.__module__.rpartition(".")[2]
        c = commands.add_parser(name, help=help, description=run.__doc__)
        c.set_defaults(run=run, device="cuda")
        c.add_argument("--rounds", type=positive, default=rounds, help=f"how often each is run ({rounds})")
        c.add_argument("--threads", type=positive, default=1, help="CPU threads (1)")
        c.add_argument("--json", type=Path, metavar="FILE", help="leave the figures there")
        c.add_argument("--markdown", action="store_true", help="print markdown")
        c.add_argument("--profile", type=Path, metavar="FILE", help="leave a Chrome trace of one run of each")
        c.add_argument("-o", "--output", type=Path, metavar="DIR", default=Path("runs/benchmark"), help="for pictures")
        if run is not gpu:
            c.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
        if overrides:
            c.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=overrides)
        return c.add_argument

    option = command(mas.run, 20, "alignment search")
    option("--shapes", type=shape, nargs="+", metavar="B,L,T", default=mas.DEFAULT_SHAPES)
    option("--growth", action="store_true", help="also the cost against B, L and T around the first shape")

    option = command(step.run, 5, "a training step", "for all of them, as of train.py")
    option("--batch", type=positive, default=2, help="utterances (2)")
    option("--frames", type=positive, default=500, help="of each (500)")
    option("--published", default="vits", metavar="MODEL", help="what stands for the published one (vits)")
    option("--models", nargs="*", default=["small", "tiny"], metavar="MODEL", help="of ours (small tiny)")

    option = command(learn.run, 1, "how soon a model has learnt something", "for all of them, as of train.py")
    option("--budget", type=positive, default=240, metavar="SECONDS", help="for each model (240)")

    option = command(infer.run, 5, "synthesis", "for both decoders, as of train.py")
    option("--frames", type=positive, default=566, help="of the sentence (566)")
    option("--model", default="vits")

    option = command(data.run, 8, "batches")
    option("--batch", type=positive, default=64, help="utterances (64)")
    option("--batches", type=positive, default=4, help="different ones that are made, of temporary files (4)")
    option("--model", default="tiny", help="whose steps wait for data (tiny)")
    option("--step-batch", type=positive, default=8, help="utterances of those steps (8)")

    option = command(diagnostics.run, 1, "what looking at a run costs", "the run; default: the demo")
    option("--steps", type=positive, default=400)

    option = command(gpu, 10, "what a GPU can show of it; also left as benchmark.json and benchmark.md")
    option("--batch", type=positive, default=64, help="utterances of a training step (64)")
    option("--budget", type=positive, default=40, metavar="SECONDS", help="for each model that learns (40)")
    return p


if __name__ == "__main__":
    sys.exit(console.run_script(main, parser()))
