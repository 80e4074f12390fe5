"""Page of a corpus, `index.html`: its figures and pictures, what is skipped and what is doubtful, row by row."""

import collections
import statistics
from pathlib import Path

import numpy as np

from vitslite.datasets.corpus import Corpus, Utterance
from vitslite.datasets.text_doubts import read_words
from vitslite.files import write_text
from vitslite.monitoring import data_figures, html
from vitslite.text.frontend import BLANK

N_LISTED = 200  # rows of one kind on the page; the files beside it have all
RARE = 5  # occurrences below which a symbol is hardly learnt


def write(folder: Path, corpus: Corpus) -> Path:
    """The page and its picture `corpus.png`, in `folder`."""
    clips = utterances(corpus)
    seconds, characters, rates, levels = (
        np.array(column, float)
        for column in zip(
            *(
                (facts.seconds, len(u.text), _rate(u, corpus), facts.level)
                for u in clips
                for facts in (corpus.facts[u.id],)
            ),
            strict=True,
        )
    )
    counts = symbol_counts(corpus)
    picture = data_figures.corpus(folder / "corpus.png", seconds, characters, rates, levels, counts)
    path = folder / "index.html"
    kinds = [("skipped", corpus.skipped.by_kind()), ("doubtful, and used", corpus.notes.by_kind())]
    values = {"figures": figures_of(corpus), "kinds": kinds, "limit": N_LISTED, "picture": picture}
    write_text(path, html.render("monitoring/templates/data.html", title=f"Corpus {corpus.root.name}", **values))
    return path


def figures_of(corpus: Corpus) -> list[tuple[str, str]]:
    """What is worth knowing of all usable clips: name, value in words."""
    clips = utterances(corpus)
    facts = [corpus.facts[u.id] for u in clips]
    rates = collections.Counter(f.sample_rate for f in facts)
    words = collections.Counter(word for u in clips for word in u.text.lower().split())
    rare = [symbol for symbol, n in symbol_counts(corpus) if n < RARE]
    read = read_words((u.text for u in clips), corpus.frontend)
    equal = "; ".join(" = ".join(group[:4]) for group in read.equal[:3])
    return [
        ("clips", f"{len(clips)} used, {len(corpus.skipped.entries)} rows skipped"),
        ("hours", f"{sum(f.seconds for f in facts) / 3600:.2f}"),
        ("seconds per clip", _spread([f.seconds for f in facts], ".1f")),
        ("characters per second", _spread([_rate(u, corpus) for u in clips], ".1f")),
        ("silence at both ends, s", _spread([f.seconds - f.active_seconds for f in facts], ".2f")),
        ("level, dBFS", _spread([f.level for f in facts], ".0f")),
        ("sample rates, Hz", ", ".join(f"{rate}: {n}" for rate, n in rates.most_common())),
        ("bandwidth, kHz", _spread([f.band / 1000 for f in facts], ".1f")),
        ("distinct words", f"{len(words)}, of {sum(words.values())}"),
        ("symbols", f"{corpus.frontend.n_symbols}; fewer than {RARE} times: {' '.join(rare) or 'none'}"),
        ("words with equal tokens", f"{sum(map(len, read.equal))} of {read.n_tried}{f' ({equal})' if equal else ''}"),
    ]


def utterances(corpus: Corpus) -> list[Utterance]:
    return [*corpus.train, *corpus.validation, *corpus.test]


def symbol_counts(corpus: Corpus) -> list[tuple[str, int]]:
    """Symbol, how often it occurs; the most frequent first, those that never do last."""
    counts = collections.Counter(token for u in utterances(corpus) for token in u.tokens)
    named = [(name, counts[i]) for i, name in enumerate(corpus.frontend.vocabulary) if name != BLANK]
    return sorted(named, key=lambda item: -item[1])


def _rate(utterance: Utterance, corpus: Corpus) -> float:
    """Characters per second of sound."""
    return len(utterance.text) / max(corpus.facts[utterance.id].active_seconds, 0.02)


def _spread(values: list[float], form: str) -> str:
    """Median, and the range."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"
