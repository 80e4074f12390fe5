"""Doubts about recordings beside each other: levels, duplicates, lengths beside those of the texts, texts that slipped.

A doubt is said and counted; the clip is used. Limits are such that two public corpora and the demo raise none.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vitslite.datasets.audio_facts import Facts
from vitslite.datasets.metadata import Notes, Row

FEWEST = 20  # clips, below which nothing can be said of what is usual
LEVEL_DB = 12.0  # from the median of the corpus; the corpora above stay within 6
RATE = 1.8  # times the usual length: 2 of the 13,100 clips of LJSpeech go beyond; cut in half, or doubled, is 2
RATE_SECONDS = 0.7  # of difference at least, for one word may be said in half the time
SLIP_GAIN = 0.5  # share of the misfit that one slip explains; of texts in their places it explains nothing


class Looked(NamedTuple):
    row: Row
    facts: Facts
    n_tokens: int


def doubt_clips(looked: Sequence[Looked], sample_rate: int, notes: Notes) -> None:
    """Add to `notes` what the recordings say for themselves, and what they say beside each other."""
    for row, facts, _ in looked:
        for kind, detail in facts.doubts(sample_rate):
            notes.add(kind, row, detail)
    _duplicates(looked, notes)
    if len(looked) >= FEWEST:
        _levels(looked, notes)
        if not _slip(looked, notes):  # else every clip would be of the wrong length
            _lengths(looked, notes)


def _duplicates(looked: Sequence[Looked], notes: Notes) -> None:
    first: dict[str, Row] = {}
    for row, facts, _ in looked:
        other = first.setdefault(facts.digest, row)
        if other is not row:
            notes.add("same recording", row, f"the samples of {other.where}, with another text")


def _levels(looked: Sequence[Looked], notes: Notes) -> None:
    median = float(np.median([facts.level for _, facts, _ in looked]))
    for row, facts, _ in looked:
        if abs(facts.level - median) > LEVEL_DB:
            notes.add(
                "level", row, f"{facts.level:.0f} dBFS, the median is {median:.0f}; data.peak=0.9 levels the peaks"
            )


def _lengths(looked: Sequence[Looked], notes: Notes) -> None:
    seconds = np.array([facts.active_seconds for _, facts, _ in looked])
    n = np.array([n_tokens for _, _, n_tokens in looked], float)
    offset, slope = line(n, seconds)
    if slope <= 0:  # no longer texts in longer clips: nothing to expect
        return
    for (row, _, n_tokens), had, expected in zip(looked, seconds, np.maximum(offset + slope * n, slope), strict=True):
        if max(had / expected, expected / had) > RATE and abs(had - expected) > RATE_SECONDS:
            kind = "too long for its text" if had > expected else "too short for its text"
            notes.add(kind, row, f"{had:.1f} s of sound; {n_tokens} tokens usually take {expected:.1f}")


def _slip(looked: Sequence[Looked], notes: Notes) -> bool:
    """Whether from some row on the texts fit the clips before or after their own far better."""
    seconds = np.log([max(facts.active_seconds, 0.05) for _, facts, _ in looked])
    n = np.log([max(n_tokens, 1) for _, _, n_tokens in looked])
    misfit = np.square(seconds - n - np.median(seconds - n))
    for by in (1, -1):
        shifted = np.full_like(misfit, np.inf)
        pairs = (slice(None, -1), slice(1, None)) if by == 1 else (slice(1, None), slice(None, -1))
        difference = seconds[pairs[0]] - n[pairs[1]]
        shifted[pairs[0]] = np.square(difference - np.median(seconds - n))
        shifted[~np.isfinite(shifted)] = misfit.mean()
        rest = np.cumsum((misfit - shifted)[::-1])[::-1]  # gained where the texts slip from here on
        start = int(rest.argmax())
        n_rest = len(looked) - start
        if n_rest >= FEWEST // 2 and rest[start] > SLIP_GAIN * misfit[start:].sum() and misfit[start:].mean() > 0.05:
            whose = "next" if by == 1 else "previous"
            detail = f"the {n_rest} clips from here on fit the text of the {whose} row far better than their own"
            notes.add("texts out of step", looked[start].row, detail)
            return True
    return False


def line(x: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"]) -> tuple[float, float]:
    """Offset and slope by medians (Siegel, 1982, of pairs half the range apart): outliers do not bend it."""
    order = np.argsort(x, kind="stable")
    half = len(x) // 2
    low, high = order[: len(x) - half], order[half:]
    steps = x[high] - x[low]
    slope = float(np.median((y[high] - y[low])[steps > 0] / steps[steps > 0])) if (steps > 0).any() else 0.0
    return float(np.median(y - slope * x)), slope
