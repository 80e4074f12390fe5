"""HTML page of a comparison that needs nothing but itself: tables, curves as SVG, voices as data: addresses.

One sorts a table by its heads and hides a variant, everywhere at once, by its box. Without scripts all of it is shown.
"""

from pathlib import Path
from typing import Any, NamedTuple

from vitslite.experiments.tables import summary, tables
from vitslite.experiments.variants import MAX_POINTS, Comparison, Variant, curves
from vitslite.metrics import catalogue
from vitslite.monitoring import html, panels, samples

MOST_BYTES = 40_000_000  # of the page; above, players are left out
TEMPLATE = "experiments/templates/comparison.html"
KINDS = ("spoken", "copy")

Voice = dict[str, Any]  # a row of samples.samples_table


class Sentence(NamedTuple):
    """`voices`: how the variants say it, by number."""

    text: str
    recording: Path | None
    voices: dict[int, Voice]


def page(c: Comparison, output: Path, n_sentences: int, everything: bool) -> str:
    """index.html in the folder `output`: `n_sentences` to listen to, curves of all keys or of the usual ones."""
    spoken, remarks = _voices(c.variants, n_sentences)
    values = {
        "title": c.title,
        "about": summary(c),
        "comparison": c,
        "colours": panels.palette(len(c.variants)),
        "tables": tables(c, output),
        "curves": _curves(c, everything),
        "open_groups": catalogue.OPEN_GROUPS,
        "axis_label": catalogue.axis_label,
        "max_points": MAX_POINTS,
        "kinds": KINDS,
        "marked": samples.marked,
    }
    silent = html.render(TEMPLATE, sentences=[], **values)
    playing = _within(spoken, len(silent))
    n_silent = len(spoken) - len(playing)
    if n_silent:
        size = f"{MOST_BYTES / 1e6:.0f} MB"
        remarks.append(f"Players of {n_silent} variants are left out: the page would have more than {size}.")
    sentences = _sentences(spoken, playing)
    return html.render(TEMPLATE, sentences=sentences, playing=playing, voices_remarks=remarks, **values)


def _curves(c: Comparison, everything: bool) -> dict[str, dict[str, str]]:
    """Key -> its panel as SVG, in groups by the first part of the keys."""
    groups: dict[str, dict[str, str]] = {}
    for i, (key, (training, validation)) in enumerate(curves(c.variants, everything).items()):
        svg = panels.panel_svg(f"p{i}", training, validation, len(c.variants))
        groups.setdefault(key.split("/")[0], {})[key] = svg
    return groups


def _voices(variants: list[Variant], n_sentences: int) -> tuple[dict[int, list[Voice]], list[str]]:
    """The sentences of each variant, by number, and what is damaged."""
    spoken, damaged = {}, []
    for i, variant in enumerate(variants):
        try:
            spoken[i] = _newest(variant)[:n_sentences]
        except ValueError as error:
            damaged.append(str(error))
    return spoken, damaged


def _newest(variant: Variant) -> list[Voice]:
    """The sentences of the newest step of the first seed that has any. ValueError for a damaged samples.json."""
    for run in variant.runs.values():
        rows: list[Voice] = [*samples.samples_table(run.folder)] if run.folder else []
        if rows:
            return [row for row in rows if row["step"] == max(other["step"] for other in rows)]
    return []


def _sentences(spoken: dict[int, list[Voice]], playing: set[int]) -> list[Sentence]:
    """The sentences, each by all variants, with the recording where any player has room."""
    sentences = []
    for text in dict.fromkeys(voice["text"] for voices in spoken.values() for voice in voices):
        voices = {i: voice for i, found in spoken.items() for voice in found if voice["text"] == text}
        recordings = [voice["recording"] for voice in voices.values() if voice["recording"] and playing]
        sentences.append(Sentence(text, next(iter(recordings), None), voices))
    return sentences


def _within(spoken: dict[int, list[Voice]], n_bytes: int) -> set[int]:
    """The variants whose players find room beside `n_bytes` and all pictures; an address takes four bytes for three."""
    total = n_bytes + sum(_size(voice["alignment"]) for voices in spoken.values() for voice in voices)
    playing = set()
    for i, voices in spoken.items():
        total += sum(_size(voice[kind]) for voice in voices for kind in KINDS)
        if total > MOST_BYTES:
            break
        playing.add(i)
    return playing


def _size(path: Path | None) -> int:
    return path.stat().st_size * 4 // 3 if path else 0
