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
from vitslite.benchmarks.result import Section, ratio, times
from vitslite.benchmarks.timing import Call, Settings, count_operations, timed, waits
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
        self.optimizer = ForeachAdamW(self.model, self.settings.optimizer)
        if self.adversary is not None:
            self.adversary = PublishedAdversary(
                self.adversary.discriminator, self.settings.optimizer, self.adversary.hop_length
            )
            self.adversary.optimizer = ForeachAdamW(self.adversary.discriminator, self.settings.optimizer)


class Variant(NamedTuple):
    name: str
    overrides: list[str]
    trainer: type[Trainer] = Trainer


def variants(published: str, models: list[str]) -> list[Variant]:
    """`published` as published, as it is here, and without weight norm; `models` with discriminators and without."""
    vits = [f"model={published}", "discriminator=vits"]
    ours = [[f"model={model}", f"discriminator={kind}"] for model in models for kind in ("mpd_mrd", "none")]
    return [
        Variant(f"model={published}, as published", [*vits, "trainer.ema_decay=0"], PublishedTrainer),
        Variant(" ".join(vits), vits),
        Variant(f"{' '.join(vits)}, no weight norm", [*vits, *NO_WEIGHT_NORM, "discriminator.weight_norm=false"]),
        *(Variant(" ".join(overrides), overrides) for overrides in ours),
    ]


def run(
    settings: Settings, batch: int, frames: int, published: str, models: list[str], overrides: list[str]
) -> list[Section]:
    """A batch of whole utterances of so many frames through all variants. `overrides` are for all of them."""
    compared = variants(published, models)
    base = [*on_noise(settings), f"data.batch_size={batch}"]
    configs = [settings.compose([*base, *variant.overrides, *overrides]) for variant in compared]
    corpus = write_corpus(settings.folder, [frames] * batch, configs[0].audio)
    trainers = {
        variant.name: build_trainer(config, corpus, settings.device, settings.folder / str(i), variant.trainer)
        for i, (variant, config) in enumerate(zip(compared, configs, strict=True))
    }
    steps = {name: step_of(trainer) for name, trainer in trainers.items()}
    timings = timed({name: Call(step) for name, step in steps.items()}, settings)
    rows = times(timings)
    for row, trainer, step in zip(rows, trainers.values(), steps.values(), strict=True):
        n_operations, n_views = count_operations(step)
        row |= {"aten operations": n_operations, "without views": n_operations - n_views}
        row["waits for the GPU"] = len(waits(step)) if settings.device.type == "cuda" else None
        decoded = trainer.model.settings.segment_frames or frames  # made, and compared with the recording
        row["s of audio decoded"] = decoded / trainer.data.audio.frames_per_second
    first, *others = steps
    title = f"training step, {batch} x {frames} frames, {n_tokens_of(frames)} tokens each"
    return [Section(title, rows, [ratio(timings, name, first) for name in others], [SPEED_ONLY])]


def on_noise(settings: Settings) -> list[str]:
    """Overrides for a training step on a corpus that is made in the benchmark's folder."""
    where = [f"data.cache={settings.folder}", f"trainer.device={settings.device.type}"]
    return [*BASE, *where, "trainer.precision=fp32"]


def build_trainer(
    config: Config, corpus: Corpus, device: torch.device, run_dir: Path, kind: type[Trainer] = Trainer
) -> Trainer:
    """As train.py makes it, without a recogniser."""
    config.run_dir = str(run_dir)
    objective, data = build.objective(config), build.data(config, corpus)
    observer = RunObserver(data, objective, None, config.synthesis, build.tracker(config, run_dir, []), device)
    model = build.model(config, corpus.frontend.n_symbols)
    checkpoints = build.checkpoints(config, corpus, device)
    return kind(config.trainer, model, build.discriminator(config), objective, data, observer, checkpoints, device)


def step_of(trainer: Trainer) -> Callable[[], StepResult]:
    """A function that takes the next training step, always on the first batch, which is on the device already."""
    batch = Batch(**trainer.data.loader.make(0)).to(trainer.device)
    return lambda: trainer.step([replace(batch, step=trainer.completed_steps)])


class ForeachAdamW(torch.optim.AdamW):
    """`optimization.adamw`, but not fused, so it knows nothing of gradients that are not finite."""

    found_inf: Tensor  # from `optimization.update`

    def __init__(self, module: nn.Module, settings: OptimizerSettings):
        betas, decay = (settings.beta1, settings.beta2), settings.weight_decay
        super().__init__(module.parameters(), 0.0, betas, settings.eps, decay, foreach=True)

    def step(self, closure=None):
        del self.found_inf
        super().step(closure)
