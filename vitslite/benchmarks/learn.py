"""How soon a model has learnt something: the time of its training steps until validation says so.

A step of one model is not worth a step of another, so no speed says which of them is ahead. Here they train on the
demo corpus, whose true alignment is known, until the spectrograms and the alignment are good enough, or time is up.
"""

from vitslite import build
from vitslite.benchmarks.result import Row, Section
from vitslite.benchmarks.step import PublishedTrainer, Variant, build_trainer
from vitslite.benchmarks.timing import Settings, on_gpu, on_host
from vitslite.training.trainer import Trainer

TARGETS = {"val/loss/mel": 0.5, "val/mas/error_ms": 50.0}  # log-mel L1; distance from the true onsets
N_LOOKS = 24  # validations at most; they are not part of the time

DEMO = ["experiment=demo", "tracking=local", "validation.n_heard=0", "trainer.optimizer.schedule=constant"]
HIFIGAN = [  # for the demo's 320 samples per frame
    "model.decoder.kind=hifigan",
    "model.decoder.hifigan.upsample_rates=[8,5,4,2]",
    "model.decoder.hifigan.upsample_kernels=[16,11,8,4]",
    "model.segment_frames=32",
]
PUBLISHED = [  # its networks, losses and optimiser, but for the second resolution of the demo's mel loss
    *["model=vits", "discriminator=vits", "objective.weights.kl=1", *HIFIGAN],
    *["trainer.optimizer.learning_rate=2e-4", "trainer.optimizer.warmup_steps=0", "trainer.optimizer.eps=1e-9"],
    *["trainer.optimizer.max_grad_norm=0", "trainer.ema_decay=0"],
]
VARIANTS = [
    Variant("model=tiny (the demo)", []),
    Variant("model=tiny model.decoder.kind=hifigan, segments", HIFIGAN),
    Variant("model=tiny discriminator=mpd_mrd", ["discriminator=mpd_mrd"]),
    Variant("model=small", ["model=small"]),
    Variant("model=vits, as published", PUBLISHED, PublishedTrainer),
]


def run(settings: Settings, budget: int, overrides: list[str]) -> list[Section]:
    """Each for `budget` seconds of training steps at most. `overrides` are for all of them."""
    rows: list[Row] = []
    for i, variant in enumerate(VARIANTS):
        device = f"trainer.device={settings.device.type}"
        config = settings.compose([*DEMO, device, *variant.overrides, *overrides])
        folder = settings.folder / str(i)
        trainer = build_trainer(config, build.corpus(config), settings.device, folder, variant.trainer)
        rows.append({"what": variant.name, **learn(trainer, budget)})
    return [Section(f"learning the demo corpus, {budget} s at most", rows)]


def learn(trainer: Trainer, budget: int) -> Row:
    """Train until all targets are reached or the time is up; when each was reached, and where things stand.

    In processor time; on a GPU in the time until it has done its work.
    """
    stopwatch, clock = (on_gpu, "wall") if trainer.device.type == "cuda" else (on_host, "cpu")
    spent, looks, reached = 0.0, 0, dict.fromkeys(TARGETS)
    batches = trainer.data.loader.batches(0)
    while spent < budget and None in reached.values():
        spent += stopwatch(lambda: trainer.step(next(batches)))[clock]
        if spent < (looks + 1) * budget / N_LOOKS:
            continue
        looks += 1
        found = trainer.looks.look("validate", trainer.completed_steps)
        reached = {key: reached[key] or (spent if found[key] <= TARGETS[key] else None) for key in TARGETS}
    batches.close()
    row: Row = {"steps": trainer.completed_steps, "s": spent}
    row |= {f"s to {key.removeprefix('val/')} {TARGETS[key]:g}": value for key, value in reached.items()}
    return row | {f"last {key.removeprefix('val/')}": found[key] for key in TARGETS}
