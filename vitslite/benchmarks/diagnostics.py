"""What looking at a run costs: the processor time of the diagnostics beside that of the training steps."""

import contextlib
import time
from collections.abc import Iterator

from vitslite import build
from vitslite.benchmarks.result import Row, Section
from vitslite.benchmarks.step import build_trainer
from vitslite.benchmarks.timing import Settings

PARTS = {
    "observe_step": "cheap ones, every log_every_steps",
    "log_step": "norms of the gradients, metrics.jsonl",
    "probe": "gradient of each loss to each module, variances; every diagnose_every_steps",
}


def run(settings: Settings, steps: int, overrides: list[str]) -> list[Section]:
    """Train the recipe for so many steps at its own intervals. Validation and samples are not counted."""
    fixed = [f"trainer.steps={steps}", f"trainer.device={settings.device.type}", "tracking=local"]
    fixed += ["trainer.validate_every_steps=0", "trainer.sample_every_steps=0", "validation.n_heard=0"]
    config = settings.compose([*overrides, *fixed])
    trainer = build_trainer(config, build.corpus(config), settings.device, settings.folder / "run")
    spent: dict[str, float] = {}
    for owner, name in [*((trainer.observer, name) for name in PARTS), (trainer, "step")]:
        setattr(owner, name, clocked(name, spent)(getattr(owner, name)))
    trainer.fit()
    training = spent.pop("step") - spent["observe_step"]  # which is called within the step
    rows: list[Row] = [{"what": f"{steps} training steps", "cpu s": training, "% of training": 100.0}]
    for name, seconds in {**spent, "together": sum(spent.values())}.items():
        what = f"{name}: {PARTS[name]}" if name in PARTS else name
        rows.append({"what": what, "cpu s": seconds, "% of training": 100 * seconds / training})
    return [Section(f"diagnostics of {config.name}", rows)]


@contextlib.contextmanager
def clocked(name: str, spent: dict[str, float]) -> Iterator[None]:
    """Adds to spent[name] the processor time of what is done within, or of each call of a function it decorates."""
    started = time.process_time()
    yield
    spent[name] = spent.get(name, 0.0) + time.process_time() - started
