"""Format of a run's directory: settings, logged metrics, the mark of a finished run. Reading it imports no model.

config.yaml               the settings, resolved
metrics.jsonl             a row per log: the step and its numbers; training/trainer.py and monitoring/ write it
data.tsv                  what was read, clip by clip; skipped.tsv, doubtful.tsv: what was wrong with it
checkpoints/last.pt       where the run is resumed; best.pt: the best validation
checkpoints/finished      the number of steps, once nothing is left to do
"""

import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from vitslite.files import write_text

Row = dict[str, int | float]  # of metrics.jsonl: the step, and what was logged at it
Points = list[tuple[int, float]]  # of one key: step, value
CONFIG, METRICS, CHECKPOINTS = "config.yaml", "metrics.jsonl", "checkpoints"
_FINISHED = "finished"


def write_config(run_dir: Path, config: dict[str, Any]) -> None:
    write_text(run_dir / CONFIG, OmegaConf.to_yaml(OmegaConf.create(config)))


def stored_config(run_dir: Path) -> dict[str, Any] | None:
    """The settings that a run left, as plain dictionaries; None where there are none. ValueError for a damaged file."""
    path = run_dir / CONFIG
    if not path.is_file():
        return None
    try:
        stored: Any = OmegaConf.to_container(OmegaConf.load(path))
    except (OmegaConfBaseException, YAMLError, OSError, ValueError) as error:  # OSError: of a bare string
        raise ValueError(f"{path}: damaged ({' '.join(str(error).split())})") from error
    if not isinstance(stored, dict):
        raise ValueError(f"{path}: no settings in it")
    return stored or None


def read_rows(run_dir: Path) -> list[Row]:
    """What a run has logged so far; none if it has not begun. A last line that was cut off is left out."""
    path = run_dir / METRICS
    if not path.is_file():
        return []
    *lines, _unfinished = path.read_text(encoding="utf-8").split("\n")
    try:
        rows = [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: damaged ({error}); delete {run_dir} and run it again") from error
    if not all(isinstance(row, dict) and isinstance(row.get("step"), int) for row in rows):
        raise ValueError(f"{path}: damaged (a row without a step)")
    return rows


def append_row(run_dir: Path, row: Row) -> None:
    with open(run_dir / METRICS, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def rewind(run_dir: Path, step: int) -> None:
    """Forget the rows after `step`: a resumed run logs them again."""
    path = run_dir / METRICS
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        write_text(path, "".join(kept))


def points(rows: list[Row], key: str) -> Points:
    """Of a step that was logged twice, by a run that was resumed, the last value."""
    return list({int(row["step"]): float(row[key]) for row in rows if key in row}.items())


def last_values(rows: list[Row]) -> Row:
    """The last value of each key."""
    return {key: value for row in rows for key, value in row.items()}


def mark_finished(run_dir: Path, step: int | None) -> None:
    """Note that the last step is trained, validated, sampled and saved; with None that it is not."""
    note = run_dir / CHECKPOINTS / _FINISHED
    if step is None:
        note.unlink(missing_ok=True)
    else:
        write_text(note, f"{step}\n")


def finished_step(run_dir: Path) -> int:
    """The step at which a run came to its end, with all that belongs to it; -1 of a run that has not."""
    folder = run_dir / CHECKPOINTS
    is_marked = (folder / _FINISHED).is_file() and (folder / "last.pt").is_file()
    return int((folder / _FINISHED).read_text()) if is_marked else -1


def planned_steps(run_dir: Path) -> int | None:
    """`trainer.steps` of a run; None if it has not begun, or was stopped while it wrote its settings."""
    return (stored_config(run_dir) or {}).get("trainer", {}).get("steps")


def is_done(run_dir: Path) -> bool:
    """Whether a run has come to the end that its settings plan."""
    planned = planned_steps(run_dir)
    return planned is not None and finished_step(run_dir) >= planned
