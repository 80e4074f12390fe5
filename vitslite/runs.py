"""What a run has left in its directory: the rows of metrics.jsonl, and how far it came. Nothing is changed here."""

import json
import math
from pathlib import Path

from vitslite import build
from vitslite.config.settings import Config
from vitslite.training import checkpoint

Row = dict[str, int | float]  # of metrics.jsonl: the step, and what was logged at it


def read_rows(run_dir: Path) -> list[Row]:
    """What a run has logged so far; none if it has not begun. A last line that was cut off is left out."""
    path = run_dir / "metrics.jsonl"
    if not path.is_file():
        return []
    *lines, _unfinished = path.read_text(encoding="utf-8").split("\n")
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: damaged ({error}); delete {run_dir} and run it again") from error


def last_values(rows: list[Row]) -> Row:
    """The last value of each key."""
    return {key: value for row in rows for key, value in row.items()}


def planned_steps(run_dir: Path) -> int | None:
    """`trainer.steps` of a run; None if it has not begun, or was stopped while it wrote its settings."""
    config = build.stored_config(run_dir) or {}
    return config.get("trainer", {}).get("steps")


def is_done(run_dir: Path) -> bool:
    """Whether a run has come to the end that its settings plan: trained, validated, heard and saved."""
    planned = planned_steps(run_dir)
    return planned is not None and checkpoint.finished_step(run_dir) >= planned


def is_trained(config: Config) -> bool:
    """Whether the run of these settings has come to its end: then there is nothing to start."""
    run_dir = Path(config.run_dir)
    stored = build.stored_config(run_dir)
    changed = stored is None or checkpoint.changed_settings(stored, build.to_dict(config))
    return not changed and checkpoint.finished_step(run_dir) >= config.trainer.steps


def result(config: Config) -> float | None:
    """The lowest `trainer.best_metric` of a run that has come to its end; None of another."""
    run_dir, metric = Path(config.run_dir), config.trainer.best_metric
    if checkpoint.finished_step(run_dir) < config.trainer.steps:
        return None
    values = [row[metric] for row in read_rows(run_dir) if row["step"] > 0 and metric in row]
    return min(filter(math.isfinite, values), default=math.nan)
