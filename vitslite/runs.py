"""Format of a run's directory: settings, logged metrics, the mark of a finished run. Reading it imports no model.

config.yaml               the settings, resolved
metrics.jsonl             a row per log: the step and its numbers; training/trainer.py and monitoring/ write it
data.tsv                  what was read, clip by clip; skipped.tsv, doubtful.tsv: what was wrong with it
validation.json           the newest validation in parts: `Validation`
checkpoints/last.pt       where the run is resumed; best.pt: the best validation; step_*.pt: what was last before
checkpoints/finished      the number of steps, once nothing is left to do
"""

import errno
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from vitslite.files import tidy, write_text

Row = dict[str, int | float]  # of metrics.jsonl: the step, and what was logged at it
Points = list[tuple[int, float]]  # of one key: step, value
CONFIG, METRICS, CHECKPOINTS = "config.yaml", "metrics.jsonl", "checkpoints"
VALIDATION, PAGE, SKIPPED = "validation.json", "index.html", "skipped.tsv"
_FINISHED = "finished"


@dataclass
class Validation:
    """The newest validation by utterance and phoneme (metrics/breakdown.py), and the verdict on its KL."""

    step: int
    verdict: str | None = None  # None: nothing to say
    utterances: list[dict[str, Any]] = field(default_factory=list)
    phonemes: list[dict[str, Any]] = field(default_factory=list)
    ratio: dict[str, list[float]] = field(
        default_factory=dict
    )  # step -> r = std_q / std_p by channel; of older ones, too


def write_validation(run_dir: Path, new: Validation) -> Validation:
    """Replace what an earlier step left, but for its ratios; what a later one left, before a resume, is forgotten."""
    old = read_validation(run_dir)
    kept = {step: ratio for step, ratio in old.ratio.items() if int(step) < new.step} if old else {}
    new.ratio = kept | new.ratio
    write_text(run_dir / VALIDATION, json.dumps(asdict(new), ensure_ascii=False))
    return new


def read_validation(run_dir: Path) -> Validation | None:
    """None where there is none. ValueError for a damaged file."""
    path = run_dir / VALIDATION
    if not path.is_file():
        return None
    try:
        return Validation(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: damaged ({error}); delete it, the next validation writes it again") from error


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
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}:{number}: damaged ({error.msg}): take out the line, or delete {run_dir} to train it anew"
            ) from error
    if not all(isinstance(row, dict) and isinstance(row.get("step"), int) for row in rows):
        raise ValueError(f"{path}: damaged (a row without a step)")
    return rows


def append_row(run_dir: Path, row: Row) -> None:
    """A row more, or, where the disk is full, the rows that there were and an OSError."""
    path = run_dir / METRICS
    with open(path, "ab", buffering=0) as file:
        size, line = file.tell(), f"{json.dumps(row)}\n".encode()
        try:
            is_whole = file.write(line) == len(line)
        except OSError as error:
            raise OSError(error.errno, f"not written, {error.strerror}", str(path)) from error
        if not is_whole:
            file.truncate(size)
            raise OSError(errno.ENOSPC, "not written, no space left", str(path))


def rewind(run_dir: Path, step: int, looked: bool = True) -> None:
    """Forget the rows after `step`: a resumed run logs them again; not `looked`: also what was looked at after it."""
    path, kept = run_dir / METRICS, []
    for row in read_rows(run_dir):
        if row["step"] < step or (row["step"] == step and (looked or "loss/total" in row)):
            kept.append(f"{json.dumps(row)}\n")
    if path.exists():
        write_text(path, "".join(kept))


def points(rows: list[Row], key: str) -> Points:
    """Of a step that was logged twice, by a run that was resumed, the last value."""
    return list({int(row["step"]): float(row[key]) for row in rows if key in row}.items())


def last_values(rows: list[Row]) -> Row:
    """The last value of each key."""
    return {key: value for row in rows for key, value in row.items()}


def tidy_up(run_dir: Path) -> None:
    """Remove what killed starts of the run have left half written, and say so."""
    folders = [run_dir, run_dir / CHECKPOINTS, run_dir / "nonfinite", *(run_dir / "samples").glob("step_*")]
    counts, sizes = zip(*map(tidy, folders), strict=True)
    if any(counts):
        print(f"note: removed {sum(counts)} files that a killed start left half written, {sum(sizes) / 1e6:.1f} MB")


def has_checkpoints(run_dir: Path) -> bool:
    """Whether a run has ever been saved, and not all of it is gone: damaged files and dangling links count."""
    return any((run_dir / CHECKPOINTS).glob("*.pt"))


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
