"""Experiment tracking: `metrics.jsonl` always, Weights & Biases (wandb_mirror.py) as its mirror."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from vitslite import runs

if TYPE_CHECKING:  # wandb takes a second of processor time: imported where a run is in it
    from vitslite.monitoring.wandb_mirror import Mirror


@dataclass
class TrackingSettings:
    # auto: online with a key, else offline
    wandb: str = field(default="auto", metadata={"choices": ("auto", "online", "offline", "disabled")})
    project: str = "vitslite"
    entity: str | None = None
    group: str | None = None  # default: the sweep, or else the run's name without the seed
    job_type: str | None = None  # default: sweep or train
    tags: list[str] = field(default_factory=list)
    init_timeout: int = 20  # seconds to wait for the server before going offline
    # Which of the run's checkpoints W&B gets, as an artifact at the end; an offline run keeps a copy of it.
    checkpoints: str = field(default="none", metadata={"choices": ("none", "best", "last", "both")})


class Tracker:
    """Logs to `run_dir/metrics.jsonl` and to W&B. On ranks other than the main one, `enabled=False` makes it silent."""

    def __init__(
        self,
        settings: TrackingSettings,
        run_dir: Path,
        name: str,
        tags: list[str],
        config: dict[str, Any],
        enabled: bool = True,
        notes: str | None = None,
    ):
        self.enabled = enabled
        self.settings = settings
        self.run_dir = run_dir
        self.metrics_path = run_dir / runs.METRICS
        self.mirror: "Mirror | None" = None  # in W&B
        if enabled:
            run_dir.mkdir(parents=True, exist_ok=True)
            mode = _chosen_mode(settings)
            if mode != "disabled":
                described = {"name": name, "group": settings.group, "job_type": settings.job_type, "notes": notes}
                tags = [*settings.tags, *tags]
                from vitslite.monitoring.wandb_mirror import Mirror

                self.mirror = Mirror(settings, run_dir, mode, **described, tags=tags, config=config)
        self.place = self.mirror.place if self.mirror else "W&B: off (tracking=wandb turns it on)"

    def rewind(self, step: int, looked: bool = True) -> None:
        if self.enabled:
            runs.rewind(self.run_dir, step, looked)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        if not self.enabled:
            return
        runs.append_row(self.run_dir, {"step": step, **metrics})
        if self.mirror:
            self.mirror.log(step, metrics)

    def media(self, step: int, files: dict[str, Path]) -> None:
        """Show pictures (.png) and sounds (.wav) that lie in the run directory already, by W&B key."""
        if self.mirror and files:
            self.mirror.media(step, files)

    def table(self, step: int, key: str, rows: Sequence[dict[str, Any]]) -> None:
        """Show dictionaries of the same keys as a table; paths in it become pictures and players."""
        if self.mirror and rows:
            self.mirror.table(step, key, rows)

    def histograms(self, step: int, values: dict[str, Float[np.ndarray, " _"]]) -> None:
        """Show how values are distributed, by W&B key."""
        if self.mirror:
            self.mirror.histograms(step, values)

    def summary(self, values: dict[str, int | float | str]) -> None:
        """What W&B shows of the run as a whole."""
        if self.mirror:
            self.mirror.summary(values)

    def alert(self, title: str, text: str, is_error: bool = False) -> None:
        """Let W&B tell the user of something, once."""
        if self.mirror:
            self.mirror.alert(title, text, is_error)

    def settings_artifacts(self, corpus: dict[str, Any], provenance: dict[str, Any]) -> None:
        """The settings of the run, and its corpus: the same one, by its digest, is one artifact that all its runs log.

        Logged and not used, as W&B has it of an input: that is what an offline run may not do.
        """
        if self.mirror:
            about = {"corpus": corpus["digest"], **provenance}
            left = [path for path in (self.run_dir / runs.CONFIG, self.run_dir / runs.SKIPPED) if path.is_file()]
            self.mirror.artifact("settings-RUN", "settings", left, about)
            self.mirror.artifact(f"corpus-{corpus['digest'][:12]}", "dataset", [], corpus)

    def checkpoint_artifacts(self, metadata: dict[str, Any]) -> None:
        """The checkpoints that the settings choose, those that there are."""
        chosen = ("best", "last") if self.settings.checkpoints == "both" else (self.settings.checkpoints,)
        for which in chosen:
            path = self.run_dir / runs.CHECKPOINTS / f"{which}.pt"
            if self.mirror and path.is_file():
                self.mirror.artifact("checkpoint-RUN", "model", [path], metadata, [which])

    def rows(self) -> list[runs.Row]:
        return runs.read_rows(self.run_dir)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: Any) -> None:
        """Close the W&B run, failed or not: the next job of a sweep must not log into it."""
        if self.mirror is not None:
            if isinstance(error, FloatingPointError):
                self.mirror.alert("not finite", str(error), is_error=True)
            self.mirror.finish(failed=kind is not None)
            self.mirror = None


def add_evaluation(
    settings: TrackingSettings, run_dir: Path, values: dict[str, int | float], path: Path, about: dict[str, Any]
) -> None:
    """Add figures to the summary of a run that has ended, and their file as an artifact; nothing of one not in W&B."""
    mode = _chosen_mode(settings) if (run_dir / "wandb_id").exists() else "disabled"
    if mode == "disabled":
        return
    from vitslite.monitoring.wandb_mirror import Mirror

    mirror = Mirror(settings, run_dir, mode)
    mirror.summary(values)
    mirror.artifact("evaluation-RUN", "evaluation", [path], about)
    mirror.finish(failed=False)


def _chosen_mode(settings: TrackingSettings) -> str:
    if settings.wandb == "disabled":
        return "disabled"
    from vitslite.monitoring.wandb_mirror import chosen_mode

    return chosen_mode(settings)
