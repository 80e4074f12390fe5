"""What looking at a run costs: the processor time of the diagnostics beside that of the training steps."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitslite import build
from vitslite.benchmarks.measuring import Effort
from vitslite.benchmarks.result import Section
from vitslite.benchmarks.step import Compose, build_trainer

PARTS = {
    "observe_step": "cheap ones, every log_every_steps",
    "log_step": "norms of the gradients, metrics.jsonl",
    "probe": "gradient of each loss to each module, variances; every diagnose_every_steps",
}


def run(compose: Compose, effort: Effort, folder: Path, n_steps: int, overrides: list[str]) -> Section:
    """Train the recipe for `n_steps` at its own intervals. Validation and samples are not counted."""
    settings = [f"trainer.steps={n_steps}", f"trainer.device={effort.device.type}", "tracking=local"]
    quiet = ["trainer.validate_every_steps=0", "trainer.sample_every_steps=0", "validation.n_heard=0"]
    config = compose([*overrides, *settings, *quiet])
    trainer = build_trainer(config, build.corpus(config), effort.device, folder / "run")
    spent: dict[str, float] = {}
    for name in PARTS:
        setattr(trainer.observer, name, clocked(getattr(trainer.observer, name), name, spent))
    trainer.step = clocked(trainer.step, "step", spent)
    trainer.fit()
    training = spent.pop("step") - spent["observe_step"]  # which is called within the step
    rows = [{"what": f"{n_steps} training steps", "cpu s": training, "% of training": 100.0}]
    for name, seconds in {**spent, "together": sum(spent.values())}.items():
        what = f"{name}: {PARTS[name]}" if name in PARTS else name
        rows.append({"what": what, "cpu s": seconds, "% of training": 100 * seconds / training})
    return Section(f"diagnostics of {config.name}", rows)


def clocked(function: Callable[..., Any], name: str, spent: dict[str, float]) -> Callable[..., Any]:
    """`function`, its processor time added up in spent[name]."""

    def run(*args: Any, **kwargs: Any) -> Any:
        started = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name] = spent.get(name, 0.0) + time.process_time() - started

    return run
