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
import json
import sys
import tempfile
from pathlib import Path

import hydra
import torch
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from vitslite import build
from vitslite.benchmarks import data, diagnostics, infer, learn, mas, plots, result, step
from vitslite.benchmarks.corpus import device_of
from vitslite.benchmarks.mas import Shape
from vitslite.benchmarks.measuring import Effort
from vitslite.benchmarks.result import Section
from vitslite.commands import console
from vitslite.config.settings import Config
from vitslite.files import shipped, write_text

GPU_STEPS = {  # settings of training steps that are compared on a GPU, by whether they are traced
    ("trainer.precision=fp32",): False,
    ("trainer.precision=bf16",): True,
    ("trainer.precision=bf16", "trainer.compile=true"): False,
}

build.register_schema()


def main(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    about = result.machine()  # before we make load ourselves
    with tempfile.TemporaryDirectory(prefix="vitslite-benchmark-") as folder:
        sections = arguments.measure(arguments, Path(folder))
    if arguments.json:
        leave(arguments.json, json.dumps(result.as_dict(about, sections), indent=1) + "\n")
    print(result.as_text(about, sections, arguments.markdown))


def measure_mas(arguments: argparse.Namespace, folder: Path) -> list[Section]:
    effort = effort_of(arguments)
    sections = mas.run(arguments.shapes, effort)
    if arguments.growth:
        sections.append(mas.growth(arguments.shapes[0], effort))
        picture = plots.growth(arguments.output / "mas.png", sections[-1].rows)
        sections[-1].notes.append(f"Drawn in {picture}")
    return sections


def measure_step(arguments: argparse.Namespace, folder: Path) -> list[Section]:
    a = arguments
    return [
        step.run(compose, effort_of(a), folder, a.batch, a.frames, a.published, a.models, a.overrides),
    ]


def measure_learn(arguments: argparse.Namespace, folder: Path) -> list[Section]:
    return [learn.run(compose, effort_of(arguments), folder, arguments.budget, arguments.overrides)]


def measure_infer(arguments: argparse.Namespace, folder: Path) -> list[Section]:
    return [infer.run(compose, effort_of(arguments), arguments.frames, arguments.model, arguments.overrides)]


def measure_data(arguments: argparse.Namespace, folder: Path) -> list[Section]:
    a = arguments
    return data.run(compose, effort_of(a), folder, a.batch, a.batches, a.model, a.step_batch)


def measure_diagnostics(arguments: argparse.Namespace, folder: Path) -> list[Section]:
    return [diagnostics.run(compose, effort_of(arguments), folder, arguments.steps, arguments.overrides)]


def measure_gpu(arguments: argparse.Namespace, folder: Path) -> list[Section]:
    """Everything that needs one, at sizes that fill it; also left as benchmark.json and benchmark.md."""
    if not torch.cuda.is_available():
        raise ValueError("gpu needs a GPU, and torch sees none here: mas, step, infer and data run on a CPU")
    a, about, sections = arguments, result.machine(), []
    effort = Effort(a.rounds, torch.device("cuda"), a.profile)
    untraced = Effort(a.rounds, torch.device("cuda"))
    sections += mas.run(mas.DEFAULT_SHAPES, untraced)
    sections.append(mas.growth(Shape(32, 200, 1000), untraced))
    plots.growth(a.output / "mas.png", sections[-1].rows)
    for settings, traced in GPU_STEPS.items():
        own, chosen = folder / "".join(settings), effort if traced else untraced
        found = step.run(compose, chosen, own, a.batch, 500, "vits", ["small"], list(settings))
        found.title += f", {' '.join(settings)}"
        sections.append(found)
        torch.cuda.empty_cache()
    sections.append(learn.run(compose, untraced, folder / "learn", a.budget, ["data.batch_size=16"]))
    sections.append(infer.run(compose, untraced, 566, "vits", []))
    sections += data.run(compose, untraced, folder / "data", 64, 4, "small", 64)
    leave(a.output / "benchmark.json", json.dumps(result.as_dict(about, sections), indent=1) + "\n")
    leave(a.output / "benchmark.md", result.as_text(about, sections, markdown=True) + "\n")
    return sections


def effort_of(arguments: argparse.Namespace) -> Effort:
    return Effort(arguments.rounds, device_of(arguments.device), arguments.profile)


def compose(overrides: list[str]) -> Config:
    """The configuration that train.py makes of these overrides. ValueError for those that it refuses."""
    try:
        with hydra.initialize_config_dir(str(shipped("configs")), version_base="1.3"):
            return build.parse(hydra.compose("train", overrides=overrides), overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(console.explain(error)) from error


def leave(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


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

    def command(name: str, measure, rounds: int, help: str) -> argparse.ArgumentParser:
        c = commands.add_parser(name, help=help, description=measure.__doc__ or help)
        c.set_defaults(measure=measure)
        c.add_argument("--rounds", type=positive, default=rounds, help=f"how often each is run ({rounds})")
        c.add_argument("--threads", type=positive, default=1, help="CPU threads (1)")
        c.add_argument("--json", type=Path, metavar="FILE", help="leave the figures there")
        c.add_argument("--markdown", action="store_true", help="print markdown")
        c.add_argument("--profile", type=Path, metavar="FILE", help="leave a Chrome trace of one run of each")
        c.add_argument("-o", "--output", type=Path, metavar="DIR", default=Path("runs/benchmark"), help="for pictures")
        if name != "gpu":
            c.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
        return c

    c = command("mas", measure_mas, 20, "alignment search")
    c.add_argument("--shapes", type=shape, nargs="+", metavar="B,L,T", default=mas.DEFAULT_SHAPES)
    c.add_argument("--growth", action="store_true", help="also the cost against B, L and T around the first shape")

    c = command("step", measure_step, 5, "a training step")
    c.add_argument("--batch", type=positive, default=2, help="utterances (2)")
    c.add_argument("--frames", type=positive, default=500, help="of each (500)")
    c.add_argument("--published", default="vits", metavar="MODEL", help="what stands for the published one (vits)")
    c.add_argument("--models", nargs="*", default=["small", "tiny"], metavar="MODEL", help="of ours (small tiny)")
    c.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for all of them, as of train.py")

    c = command("learn", measure_learn, 1, "how soon a model has learnt something")
    c.add_argument("--budget", type=positive, default=240, metavar="SECONDS", help="for each model (240)")
    c.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for all of them, as of train.py")

    c = command("infer", measure_infer, 5, "synthesis")
    c.add_argument("--frames", type=positive, default=566, help="of the sentence (566)")
    c.add_argument("--model", default="vits")
    c.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for both decoders, as of train.py")

    c = command("data", measure_data, 8, "batches")
    c.add_argument("--batch", type=positive, default=64, help="utterances (64)")
    c.add_argument("--batches", type=positive, default=4, help="different ones that are made, of temporary files (4)")
    c.add_argument("--model", default="tiny", help="whose steps wait for data (tiny)")
    c.add_argument("--step-batch", type=positive, default=8, help="utterances of those steps (8)")

    c = command("diagnostics", measure_diagnostics, 1, "what looking at a run costs")
    c.add_argument("--steps", type=positive, default=400)
    c.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="the run; default: the demo")

    c = command("gpu", measure_gpu, 10, "what a GPU can show of it; also left as benchmark.json and benchmark.md")
    c.add_argument("--batch", type=positive, default=64, help="utterances of a training step (64)")
    c.add_argument("--budget", type=positive, default=40, metavar="SECONDS", help="for each model that learns (40)")
    return p


if __name__ == "__main__":
    sys.exit(console.run_script(main, parser()))
