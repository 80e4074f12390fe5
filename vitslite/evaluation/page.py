"""HTML page of an evaluation: the words heard, beside the recordings', every figure, the sentences, worst first.

It stands beside the wavs and pictures and links to them; a run's newest evaluation stands in RUN/evaluation as well.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from vitslite.evaluation.result import MODEL, Evaluation
from vitslite.evaluation.scoring import Estimate, Ratio, in_words, table_rows
from vitslite.files import write_text
from vitslite.monitoring import html, samples

PAGE, OF_ALL = "index.html", "evaluation"  # the page, and the folder of a run's evaluations
TEMPLATE = "evaluation/templates/evaluation.html"
MEASURED = ("spoken", "given")  # the kind that is judged: of a voice, of a folder of wavs
HEADLINE = (
    "mel_cepstral_distortion",
    "high_buzz",
    "alignment_error",
    "word_onset_error",
    "kl_over_paths",
    "nll_over_paths",
)


class Figure(NamedTuple):
    title: str
    value: str  # with its interval
    beside: str  # the same of the recordings; "" where that says nothing


class Sentence(NamedTuple):
    id: str
    text: str
    errors: float | None  # per cent of the words, as spoken
    heard: dict[str, str]
    sounds: dict[str, str]  # kind -> address
    pictures: dict[str, str]


def write(evaluation: Evaluation, folder: Path) -> Path:
    """index.html in the folder of the evaluation, and the same in that of all evaluations of the run."""
    write_text(folder / PAGE, page(evaluation, folder, folder))
    if folder.parent.name == OF_ALL:
        write_text(folder.parent / PAGE, page(evaluation, folder, folder.parent))
    return folder / PAGE


def page(evaluation: Evaluation, folder: Path, at: Path) -> str:
    """The page of what lies in `folder`, as it stands in `at`."""
    others = sorted(folder.parent.glob(f"*/{PAGE}")) if folder.parent.name == OF_ALL else []
    kind = judged_kind(evaluation.estimates)
    sentences = [_sentence(x, kind, folder, at) for x in evaluation.utterances]
    sentences.sort(key=lambda x: -(x.errors if x.errors is not None else -1))  # stable: else as they were drawn
    durations = folder / "durations.png"
    about = evaluation.about
    return html.render(
        TEMPLATE,
        title=f"Evaluation: {about.get('source')}",
        opening=opening(evaluation),
        figures=_figures(evaluation, kind),
        header=list(evaluation.estimates),
        rows=table_rows(evaluation.estimates, evaluation.measures),
        sentences=sentences,
        kind=kind,
        durations=_address(durations, at) if durations.is_file() else None,
        others={path.parent.name: _address(path, at) for path in others if path.parent != folder},
        notes=evaluation.notes,
        speed={name.replace("_", " "): f"{value:.3g}" for name, value in evaluation.speed.items()},
        about=about,
        marked=samples.marked,
    )


def judged_kind(estimates: Mapping[str, Any]) -> str:
    return next((kind for kind in MEASURED if kind in estimates), next(iter(estimates)))


def error_rate(measures: Mapping[str, Mapping[str, Ratio]]) -> float:
    """Of an utterance as it was spoken: words in error by words; 0 where nobody listened."""
    wrong, n = next((measures[kind].get("word_error_rate", (0, 1)) for kind in MEASURED if kind in measures), (0, 1))
    return wrong / n


def opening(evaluation: Evaluation) -> str:
    """The headline: the words that were misheard, with their interval, beside the recordings'."""
    about, estimates = evaluation.about, evaluation.estimates
    kind = judged_kind(estimates)
    n, split = about["n_utterances"], about.get("split")
    what = f"{n} {f'{split} sentences' if split else 'sentences'}"
    found = estimates[kind].get("word_error_rate")
    if found is None:
        return f"{what}, measured; nobody listened to the words."
    said = {"spoken": "this voice speaks them", "given": "they are given"}.get(kind, kind)
    sentence = f"Of the words of {what}, {about['recogniser']} misheard {_in_per_cent(found)} as {said}"
    real = estimates.get("recording", {}).get("word_error_rate")
    return f"{sentence}, and {_in_per_cent(real)} in the recordings." if real else f"{sentence}."


def _in_per_cent(x: Estimate) -> str:
    value, _, interval = in_words(x, True, x.n).partition(" ")
    return f"{value} %{f' (95 % interval {interval})' if interval else ''}"


def _figures(evaluation: Evaluation, kind: str) -> list[Figure]:
    """What one looks at next: of the voice, or of the model behind it."""
    figures = []
    judges = [name for name in evaluation.about.get("judges") or [] if name not in HEADLINE]
    for name in (*judges, *HEADLINE):
        found = next((row[name] for k in (kind, MODEL) if name in (row := evaluation.estimates.get(k, {}))), None)
        if found is None:
            continue
        label, unit = evaluation.measures[name]
        real = evaluation.estimates.get("recording", {}).get(name) if name != "mel_cepstral_distortion" else None
        value = f"{in_words(found, unit == 'fraction', found.n)} {'%' if unit == 'fraction' else unit}"
        figures.append(Figure(label, value, in_words(real, unit == "fraction", real.n) if real else ""))
    return figures


def _sentence(x: dict[str, Any], kind: str, folder: Path, at: Path) -> Sentence:
    rate = x["measures"].get(kind, {}).get("word_error_rate")
    stem = x["id"].replace("/", "_")
    wavs = {k: folder / f"{stem}_{k}.wav" for k in x["measures"] if k != MODEL}
    pictures = {path.stem.removeprefix(f"{stem}_"): path for path in sorted(folder.glob("*.png"))}
    own = {name: path for name, path in pictures.items() if path.stem == f"{stem}_{name}"}
    return Sentence(
        x["id"],
        x["text"],
        None if rate is None else 100 * rate,
        x["heard"],
        {k: _address(path, at) for k, path in wavs.items() if path.is_file()},
        {name: _address(path, at) for name, path in own.items()},
    )


def _address(path: Path, at: Path) -> str:
    return quote(Path(os.path.relpath(path, at)).as_posix())
