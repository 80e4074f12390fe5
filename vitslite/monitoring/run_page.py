"""Page of a run, `index.html` in its directory: verdict, figures, voices, where the KL is, curves, settings.

Made of what lies in the directory alone, and again at every validation and sampling; it loads itself anew until the run
has ended. It needs no network and no server: wavs and pictures are linked by relative paths.
"""

import functools
import math
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from vitslite import runs
from vitslite.files import write_text
from vitslite.metrics import catalogue
from vitslite.monitoring import html
from vitslite.monitoring.samples import Sample, marked, read_samples, read_words
from vitslite.runs import Row, Validation

MOST_ROWS = 200  # utterances in the table
COLUMNS = {  # of the table of utterances: what breakdown.utterance_rows has -> its head
    "frames": "frames",
    "kl": "KL, nats/frame",
    "kl_over_paths": "KL over paths, nats/frame",
    "hindsight": "hindsight, nats/frame",
    "nll": "-log p, nats/frame",
    "nll_over_paths": "-log p over paths, nats/frame",
    "mel_l1": "log-mel L1",
    "alignment_error_ms": "alignment error, ms",
    "heard": "WER spoken (recording), %",
}
PICTURES = ("nats", "spectrograms")  # below the newest samples
FILES = (runs.CONFIG, runs.METRICS, runs.VALIDATION, runs.SKIPPED)


class Figure(NamedTuple):
    title: str
    value: str
    note: str  # its standard error, or that of the recordings


def run_page(run_dir: Path, is_live: bool) -> Path:
    """Write `run_dir/index.html`, whole or not at all. ValueError names a damaged file.

    `is_live`: the run goes on, and the page loads itself anew.
    """
    rows, config = runs.read_rows(run_dir), runs.stored_config(run_dir) or {}
    validation = runs.read_validation(run_dir) or Validation(step=-1)
    step, planned = max((row["step"] for row in rows), default=0), runs.planned_steps(run_dir)
    by_sentence: dict[tuple[str, str], list[Sample]] = {}  # newest step first
    for sample in reversed(read_samples(run_dir)):
        by_sentence.setdefault((sample.id, sample.text), []).append(sample)
    last_heard = max((s.step for samples in by_sentence.values() for s in samples), default=-1)
    utterances = _utterances(run_dir, validation, last_heard)
    evaluations = sorted(path.parent for path in run_dir.glob("evaluation/*/evaluation.json"))
    page = html.render(
        "monitoring/templates/run.html",
        title=run_dir.name,
        state="training" if is_live else "finished" if planned is not None and step >= planned else "stopped",
        is_live=is_live,
        progress=f"step {step} of {planned}" if planned else f"step {step}",
        validation=validation,
        figures=headline(rows),
        sentences=sorted(by_sentence.values(), key=lambda samples: samples[0].id),
        columns={key: name for key, name in COLUMNS.items() if any(key in row for row in utterances)},
        utterances=utterances[:MOST_ROWS],
        most_rows=MOST_ROWS,
        most_nats=max((row["nats_per_frame"] or 0 for row in validation.phonemes), default=0) or 1,
        has_posterior=config.get("model", {}).get("posterior", {}).get("kind") != "recording",
        config=_text(run_dir / runs.CONFIG),
        evaluations=[path / "index.html" if (path / "index.html").is_file() else path for path in evaluations],
        files=[run_dir / name for name in FILES if (run_dir / name).is_file()],
        pictures=PICTURES,
        picture=html.picture,
        link=functools.partial(_link, run_dir),
        marked=marked,
        curves=run_dir / "curves.png",
        wide=[run_dir / name for name in ("gradients.png", "ratios.png") if (run_dir / name).is_file()],
    )
    path = run_dir / runs.PAGE
    write_text(path, page)
    return path


def headline(rows: list[Row]) -> list[Figure]:
    """The figures of the newest validation that one looks at first, in the order of the catalogue."""
    last = {key: float(value) for key, value in runs.last_values(rows).items() if key.startswith("val/")}
    figures = []
    for key in catalogue.chosen("headline", last):
        group, name = key.removeprefix("val/").split("/", 1)
        error, recording = last.get(f"val/{group}/error_{name}"), last.get(f"val/{group}/recording")
        note = f"\u00b1 {error:.2g}" if error is not None else ""
        note = f"recording {in_words('', recording, 'share')}" if recording is not None else note
        metric = catalogue.find(key)
        figures.append(Figure(metric.title, in_words("", last[key], metric.unit), note))
    return figures


def in_words(name: str, value: float, unit: str) -> str:
    number = f"{100 * value:.3g} %" if unit == "share" else f"{value:.4g} {unit}"
    return f"{name} {number}".strip()


def _utterances(run_dir: Path, validation: Validation, heard_at: int) -> list[dict[str, Any]]:
    """Rows of the table, the highest KL first; what was heard and spoken at the last sampling."""
    words, rows = read_words(run_dir, heard_at), []
    for row in validation.utterances:
        heard = {kind: 100 * wrong / n for kind, (wrong, n) in words.get(row["id"], {}).items() if n}
        rows.append(
            row | ({"heard": heard["spoken"], "recording": heard.get("recording")} if "spoken" in heard else {})
        )
    worst = max((key for key in ("kl_over_paths", "nll_over_paths") if any(key in row for row in rows)), default=None)
    rows.sort(key=lambda row: -(row[worst] if worst and math.isfinite(row[worst]) else -math.inf))
    return rows


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _link(run_dir: Path, path: Path) -> str | None:
    """`path` as an address relative to the run directory; None if there is no such file or folder."""
    return quote(path.relative_to(run_dir).as_posix()) + "/" * path.is_dir() if path.exists() else None
