"""Evaluation results: measures per utterance and of the whole set."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from vitslite.evaluation.scoring import MEASURES, Estimate, Measure, Ratio, Scorer, estimate_median, summarise
from vitslite.monitoring.views import View

MODEL = "model"  # the column of what is measured on the model and not on a recording


@dataclass
class Scored:
    """One utterance: its recordings by kind, what was heard in each, its measures by kind and of the model."""

    id: str
    text: str
    wavs: dict[str, Float[np.ndarray, " _"]]
    heard: dict[str, str]
    measures: dict[str, dict[str, Ratio]]
    pooled: dict[str, Float[np.ndarray, " _"]] = field(default_factory=dict)  # of the model: for medians over the set
    predicted: Int[np.ndarray, " L"] | None = None  # frames per token when spoken
    view: View | None = None  # of the recording: its spectrogram, where its KL is, the alignment


@dataclass
class Evaluation:
    """The whole set. `about` says of what, `estimates` are by kind and measure, `notes` tell what has no figure.

    `speed` alone is not reproducible.
    """

    about: dict
    estimates: dict[str, dict[str, Estimate]]
    utterances: list[dict]
    measures: Mapping[str, Measure] = field(default_factory=lambda: MEASURES)
    notes: list[str] = field(default_factory=list)
    speed: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict:
        estimates = {
            kind: {name: {"unit": self.measures[name].unit, **x._asdict()} for name, x in measures.items()}
            for kind, measures in self.estimates.items()
        }
        rest = {"notes": self.notes, "speed": self.speed, "utterances": self.utterances}
        return {**self.about, "estimates": estimates, **rest}

    def headline(self) -> dict[str, float]:
        """`kind/measure` -> value, for the summary of a W&B run."""
        values = {f"{kind}/{name}": x.value for kind, row in self.estimates.items() for name, x in row.items()}
        return values | {f"speed/{name}": value for name, value in self.speed.items()}


def collect(scored: Iterable[Scored], about: dict, scorer: Scorer | None = None) -> Evaluation:
    """Sum up. Only what was heard and measured is kept, not the sound. `scorer` has further measures, and notes."""
    measures: dict[str, list[dict[str, Ratio]]] = {}
    pooled: dict[str, list[np.ndarray]] = {}
    utterances = []
    for x in scored:
        for kind, row in x.measures.items():
            measures.setdefault(kind, []).append(row)
        for name, errors in x.pooled.items():
            pooled.setdefault(name, []).append(errors)
        values = {kind: {name: n / d for name, (n, d) in row.items() if d} for kind, row in x.measures.items()}
        utterances.append({"id": x.id, "text": x.text, "heard": x.heard, "measures": values})
    if not utterances:
        raise ValueError("nothing to evaluate: no utterances")
    known, notes = (MEASURES, []) if scorer is None else (scorer.measures, scorer.notes)
    estimates = {kind: summarise(rows, known) for kind, rows in measures.items()}
    if pooled:
        estimates[MODEL] |= {name: estimate_median(values) for name, values in pooled.items()}
    return Evaluation({**about, "n_utterances": len(utterances)}, estimates, utterances, known, notes)
