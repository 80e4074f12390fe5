"""What a run has left in its directory: the rows of metrics.jsonl, and how far it came. Nothing is changed here."""

import json
from pathlib import Path

from vitslite import build

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
    """Whether a run has been trained, and validated, to the last of the steps that its settings plan."""
    planned = planned_steps(run_dir)
    validated = (row["step"] for row in read_rows(run_dir) if any(key.startswith("val/") for key in row))
    return planned is not None and max(validated, default=-1) >= planned
