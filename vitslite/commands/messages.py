"""Messages at the start and the end of a run: what is trained on what, what came of it, where everything is."""

import sys

import torch
from torch import nn

from vitslite import build, distributed
from vitslite.commands import console
from vitslite.config import remarks
from vitslite.datasets.corpus import Corpus
from vitslite.metrics import catalogue
from vitslite.monitoring.observer import RunObserver
from vitslite.runs import PAGE, Row, finished_step, read_rows
from vitslite.training.trainer import Trainer


def announce(
    config: build.Config,
    device: torch.device,
    corpus: Corpus,
    model: nn.Module,
    discriminator: nn.Module | None,
    taken: str | None,
) -> None:
    """What is about to be trained on what, begun from what, and where the recipe departs from the theory."""
    if not distributed.is_main():
        return
    ranks = f", {distributed.world_size()} ranks" if distributed.world_size() > 1 else ""
    print(f"run {config.name} on {device.type}{ranks}, {torch.get_num_threads()} CPU threads, in {config.run_dir}/")
    print(corpus.summary())
    parts = "  ".join(f"{name} {millions(part)}" for name, part in model.named_children())
    judge = f", discriminator {millions(discriminator)}" if discriminator else ""
    print(f"model {millions(model)} ({parts}){judge}; {corpus.frontend.n_symbols} symbols")
    if taken is not None:
        print(taken)
    for remark in remarks.wrong_on_purpose(config):
        print(f"wrong on purpose: {remark}")
    for remark in [*remarks.departures(config), *remarks.without_effect(config)]:
        print(f"note: {remark}")
    sys.stdout.flush()


def millions(module: nn.Module) -> str:
    return f"{sum(p.numel() for p in module.parameters()) / 1e6:.2f} M"


def conclude(config: build.Config, trainer: Trainer, observer: RunObserver) -> None:
    """Where everything is, or how to go on."""
    tracker, run_dir, done = observer.tracker, observer.tracker.run_dir, trainer.completed_steps
    if trainer.interrupted:
        console.exit_codes.append(console.EXIT_TERMINATED if trainer.terminated else console.EXIT_INTERRUPTED)
    if not distributed.is_main():
        return
    if done < config.trainer.steps:
        print(f"stopped after step {done} of {config.trainer.steps}; the same command goes on from there")
    failures = trainer.looks.failures
    if failures:
        print(f"{len(failures)} looks failed, nothing of what was trained is missing; the first: {failures[0]}")
    say_headline(tracker.rows())
    words = observer.verdict(config.model)
    if words is not None:
        print(f"verdict:      {words}")
    samples = max((run_dir / "samples").glob("step_*"), default=None)
    curves = run_dir / "curves.png"
    print(f"checkpoints:  {trainer.checkpoints.folder}/")
    print(
        f"wavs, plots:  {f'{samples}/' if samples else 'none yet'}   {f'curves: {curves}' if curves.exists() else ''}"
    )
    if (run_dir / PAGE).exists():
        observer.show(is_live=False)
        print(f"page:         {run_dir / PAGE} (verdict, voices, curves)")
    print(f"metrics:      {tracker.metrics_path}   settings: {run_dir / 'config.yaml'}")
    print(tracker.place, flush=True)


def say_trained(config: build.Config) -> None:
    """That there is nothing to do, and what came of the run."""
    if distributed.is_main():
        done = finished_step(config.directory)
        print(
            f"run {config.name} is trained already, {done} steps, in {config.run_dir}/; another begins with name=..., "
            "seed=... or other settings"
        )
        say_headline(read_rows(config.directory))


def say_headline(rows: list[Row]) -> None:
    """The last validation: losses, alignment errors, word error rates."""
    validated = [row for row in rows if any(key.startswith("val/") for key in row)]
    if validated:
        last = {key: value for row in validated if row["step"] == validated[-1]["step"] for key, value in row.items()}
        keys = catalogue.chosen("line", (key for key in last if key.startswith("val/")))
        figures = (f"{key.removeprefix('val/')} {last[key]:.3g}" for key in keys)
        print(f"validation at step {last['step']}: {'  '.join(figures)}", flush=True)
