"""One training step, of several models on the same batch; the peer is VITS as published.

All go through `Trainer.step`. As published means the networks and losses of model=vits with discriminator=vits, and
what their first implementation did that costs time and changes no gradient of either player:

* The discriminators judge recording and reconstruction in two passes, each with all its gradients, in the model's
  step, too.
* AdamW goes over lists of tensors (foreach), where ours is fused.
* Weights are normalised in every convolution, in every pass.

It did more that is not imitated here: an alignment search on the host, boolean masks, a wait for the device per
gradient, periods along the columns. So the original should be slower than this, on a GPU above all.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vitslite import build
from vitslite.benchmarks.corpus import n_tokens_of, write_corpus
from vitslite.benchmarks.measuring import Effort, count_operations, count_waits, timed
from vitslite.benchmarks.result import Row, Section, ratio, times
from vitslite.benchmarks.timing import Call, once
from vitslite.config.settings import Config
from vitslite.datasets.corpus import Corpus
from vitslite.monitoring.observer import RunObserver
from vitslite.objectives import adversarial
from vitslite.tensors import Batch, DiscriminatorOutput, Outputs
from vitslite.training.adversary import Adversary
from vitslite.training.observation import StepResult
from vitslite.training.optimization import OptimizerSettings
from vitslite.training.settings import TrainerSettings
from vitslite.training.trainer import Trainer

Compose = Callable[[list[str]], Config]  # overrides -> configuration
BASE = ["experiment=ljspeech", "tracking=local", "validation.n_heard=0"]
NO_WEIGHT_NORM = [
    "model.posterior.weight_norm=false",
    "model.flow.weight_norm=false",
    "model.decoder.hifigan.weight_norm=false",
]
SPEED_ONLY = (
    "Speed says nothing about learning: a step of another model learns another amount. How soon something is learnt: "
    "scripts/benchmark.py learn; what the recipes reach: docs/recipes.md."
)


class PublishedAdversary(Adversary):
    """Two passes in its own step. In the model's step, too, every parameter gathers a gradient, to be thrown away."""

    def loss(self, outputs: Outputs, batch: Batch, n_utterances: Tensor) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)  # what the model's step has left
        real, fake = self._excerpts(outputs, batch)
        pairs = zip(self.discriminator(real), self.discriminator(fake.detach()), strict=True)
        both = [DiscriminatorOutput(torch.cat([r.score, f.score]), []) for r, f in pairs]
        return adversarial.discriminator_loss(both).sum() / n_utterances

    def score(self, outputs: Outputs, batch: Batch) -> tuple[list[DiscriminatorOutput], list[DiscriminatorOutput]]:
        real, fake = self._excerpts(outputs, batch)
        return self.discriminator(real), self.discriminator(fake)


class PublishedTrainer(Trainer):
    """The trainer with the published adversary and unfused optimisers, uncompiled. One micro-batch per step."""

    def __init__(self, settings: TrainerSettings, *parts: Any):
        super().__init__(replace(settings, compile=False), *parts)
        assert self.settings.accumulate == 1, "gradients of the discriminator are thrown away once per micro-batch"
        self.optimizer = foreach_adamw(self.model, self.settings.optimizer)
        if self.adversary is not None:
            self.adversary = PublishedAdversary(
                self.adversary.discriminator, self.settings.optimizer, self.adversary.hop_length
            )
            self.adversary.optimizer = foreach_adamw(self.adversary.discriminator, self.settings.optimizer)


class Variant(NamedTuple):
    name: str
    overrides: list[str]
    trainer: type[Trainer] = Trainer


def variants(published: str, models: list[str]) -> list[Variant]:
    """`published` as published, as it is here, and without weight norm; `models` with discriminators and without."""
    vits = [f"model={published}", "discriminator=vits"]
    bare = [*vits, *NO_WEIGHT_NORM, "discriminator.weight_norm=false"]
    found = [
        Variant(f"model={published}, as published", [*vits, "trainer.ema_decay=0"], PublishedTrainer),
        Variant(" ".join(vits), vits),
        Variant(f"{' '.join(vits)}, no weight norm", bare),
    ]
    for model in models:
        for discriminator in ("mpd_mrd", "none"):
            overrides = [f"model={model}", f"discriminator={discriminator}"]
            found.append(Variant(" ".join(overrides), overrides))
    return found


def run(
    compose: Compose,
    effort: Effort,
    folder: Path,
    n_items: int,
    n_frames: int,
    published: str,
    models: list[str],
    overrides: list[str],
) -> Section:
    """A batch of whole utterances through all variants. `overrides` are for all of them; `folder` holds the clips."""
    compared = variants(published, models)
    base = [*BASE, f"data.batch_size={n_items}", f"data.cache={folder}", f"trainer.device={effort.device.type}"]
    base += ["trainer.precision=fp32"]
    configs = [compose([*base, *variant.overrides, *overrides]) for variant in compared]
    corpus = write_corpus(folder, [n_frames] * n_items, configs[0].audio)
    trainers = {
        variant.name: build_trainer(config, corpus, effort.device, folder / str(i), variant.trainer)
        for i, (variant, config) in enumerate(zip(compared, configs, strict=True))
    }
    calls = {name: Call(step_of(trainer)) for name, trainer in trainers.items()}
    timings = timed(calls, effort)
    rows = [
        row | counted(calls[name], effort.device) | {"s of audio decoded": decoded_seconds(trainers[name], n_frames)}
        for name, row in zip(calls, times(timings), strict=True)
    ]
    first, *others = calls
    return Section(
        f"training step, {n_items} x {n_frames} frames, {n_tokens_of(n_frames)} tokens each",
        rows,
        [ratio(timings, name, first) for name in others],
        [SPEED_ONLY],
    )


def build_trainer(
    config: Config, corpus: Corpus, device: torch.device, run_dir: Path, kind: type[Trainer] = Trainer
) -> Trainer:
    """As train.py makes it, without a recogniser."""
    config.run_dir = str(run_dir)
    objective, data = build.objective(config), build.data(config, corpus)
    observer = RunObserver(data, objective, None, build.tracker(config, run_dir, []), device)
    model = build.model(config, corpus.frontend.n_symbols)
    checkpoints = build.checkpoints(config, corpus, device)
    return kind(config.trainer, model, build.discriminator(config), objective, data, observer, checkpoints, device)


def step_of(trainer: Trainer) -> Callable[[], StepResult]:
    """A function that takes the next training step, always on the first batch, which is on the device already."""
    batch = Batch(**trainer.data.loader.make(0)).to(trainer.device)
    return lambda: trainer.step([replace(batch, step=trainer.completed_steps)])


class ForeachAdamW(torch.optim.AdamW):
    """Not fused, so it knows nothing of gradients that are not finite."""

    def step(self, closure: None = None) -> None:
        del self.found_inf
        super().step(closure)


def foreach_adamw(module: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """`optimization.adamw`, but not fused."""
    betas = (settings.beta1, settings.beta2)
    return ForeachAdamW(
        module.parameters(), lr=0.0, betas=betas, eps=settings.eps, weight_decay=settings.weight_decay, foreach=True
    )


def counted(call: Call, device: torch.device) -> Row:
    """Operations of a step and, on a GPU, how often it waits."""
    waits = count_waits(lambda: once(call)) if device.type == "cuda" else None
    n_operations, n_views = count_operations(lambda: once(call))
    return {"aten operations": n_operations, "without views": n_operations - n_views, "waits for the GPU": waits}


def decoded_seconds(trainer: Trainer, n_frames: int) -> float:
    """How much audio a step makes and compares with the recording, per utterance."""
    return (trainer.model.settings.segment_frames or n_frames) / trainer.data.audio.frames_per_second
