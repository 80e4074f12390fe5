"""HTML page of a comparison that needs nothing but itself: findings, rate-distortion plane, curves, voices, tables.

One sorts a table by its heads and hides a variant, everywhere at once, by its box. Without scripts stand the findings,
the plane, a picture of the curves, the voices and the tables.
"""

from pathlib import Path
from typing import Any, NamedTuple

from vitslite.experiments import findings, plane
from vitslite.experiments.tables import summary, tables
from vitslite.experiments.variants import MAX_POINTS, Comparison, Variant, curves
from vitslite.monitoring import curves as drawn
from vitslite.monitoring import html, panels, samples

MOST_BYTES = 40_000_000  # of the page; above, players are left out
TEMPLATE = "experiments/templates/comparison.html"
OFF_CURVE = ("abs", "clamp")  # in objective.kl: what the caption of the plane has to say something of

Voice = dict[str, Any]  # a row of samples.samples_table, and "seed"
Spoken = dict[tuple[int, str], list[Voice]]  # by number of the variant and seed


class Sentence(NamedTuple):
    """`voices`: how the variants say it, by number, each by its seeds."""

    text: str
    recording: Path | None
    voices: dict[int, list[Voice]]


def page(c: Comparison, output: Path, n_sentences: int, everything: bool, picture: Path | None = None) -> str:
    """index.html in the folder `output`: `n_sentences` to listen to, curves of all keys or of the usual ones.

    `picture` of the curves is shown where scripts are off.
    """
    spoken, remarks = _voices(c.variants, n_sentences)
    names, colours = [v.label for v in c.variants], panels.palette(len(c.variants))
    found = plane.plane(c.variants, c.baseline)
    values = {
        "title": c.title,
        "about": summary(c),
        "opening": findings.opening(c),
        "question": findings.question(c.runs),
        "findings": findings.findings(c),
        "comparison": c,
        "colours": colours,
        "tables": tables(c, output),
        "plane": found,
        "plane_svg": plane.as_svg(found, len(names)) if found else "",
        "off_curve": [n for n, v in zip(names, c.variants, strict=True) if _is_off(v)],
        "curves": drawn.block(curves(c.variants, everything), names, colours, picture),
        "max_points": MAX_POINTS,
        "marked": samples.marked,
    }
    silent = html.render(TEMPLATE, sentences=[], script="", **values)
    script = drawn.script()
    playing = _within(spoken, len(silent) + len(script))
    n_silent = len({i for i, _ in spoken}) - len({i for i, _ in playing})
    if len(playing) < len(spoken):
        which = f"{n_silent} variants" if n_silent else "some seeds"
        remarks.append(f"Players of {which} are left out: the page would have more than {MOST_BYTES / 1e6:.0f} MB.")
    sentences = _sentences(spoken, playing)
    return html.render(TEMPLATE, sentences=sentences, playing=playing, voices_remarks=remarks, script=script, **values)


def _is_off(variant: Variant) -> bool:
    return any(word in str(variant.settings.get("objective.kl", "")) for word in OFF_CURVE)


def _voices(variants: list[Variant], n_sentences: int) -> tuple[Spoken, list[str]]:
    """The sentences of the newest step of each run, first seeds first, and what is damaged."""
    spoken: Spoken = {}
    damaged = []
    runs = [(n, i, run) for i, variant in enumerate(variants) for n, run in enumerate(variant.runs.values())]
    for _, i, run in sorted(runs, key=lambda found: found[:2]):
        try:
            rows: list[Voice] = [*samples.samples_table(run.folder)] if run.folder else []
        except ValueError as error:
            damaged.append(str(error))
            continue
        newest = max((row["step"] for row in rows), default=None)
        voices = [row | {"seed": run.seed} for row in rows if row["step"] == newest][:n_sentences]
        if voices:
            spoken[i, run.seed] = voices
    return spoken, damaged


def _sentences(spoken: Spoken, playing: set[tuple[int, str]]) -> list[Sentence]:
    """The sentences, each by all variants and seeds, with the recording where any player has room."""
    sentences = []
    for text in dict.fromkeys(voice["text"] for voices in spoken.values() for voice in voices):
        voices: dict[int, list[Voice]] = {}
        for i, seed in sorted(spoken, key=lambda key: key[0]):
            voices.setdefault(i, []).extend(voice for voice in spoken[i, seed] if voice["text"] == text)
        all_of = [voice for own in voices.values() for voice in own]
        recordings = [voice["recording"] for voice in all_of if voice["recording"] and playing]
        sentences.append(Sentence(text, next(iter(recordings), None), {i: own for i, own in voices.items() if own}))
    return sentences


def _within(spoken: Spoken, n_bytes: int) -> set[tuple[int, str]]:
    """The runs whose players find room beside `n_bytes` and all pictures; an address takes four bytes for three."""
    first = dict(reversed(spoken))
    total = n_bytes + sum(_size(voice["alignment"]) for i, seed in first.items() for voice in spoken[i, seed])
    playing = set()
    for (i, seed), voices in spoken.items():
        kinds = ("spoken", "copy") if first[i] == seed else ("spoken",)
        total += sum(_size(voice[kind]) for voice in voices for kind in kinds)
        if total > MOST_BYTES:
            break
        playing.add((i, seed))
    return playing


def _size(path: Path | None) -> int:
    return path.stat().st_size * 4 // 3 if path else 0
