"""The comparison as one HTML page that needs nothing but itself: tables, curves as SVG, voices as data: addresses.

One sorts a table by its heads and hides a variant, everywhere at once, by its box. Without scripts all of it is shown.
"""

import base64
import math
import re
from html import escape
from pathlib import Path
from typing import Any

from vitslite.experiments.page_template import PAGE, TABLE
from vitslite.experiments.tables import Cell, Table, summary, tables
from vitslite.experiments.variants import MAX_POINTS, Comparison, Variant, curves
from vitslite.metrics import catalogue
from vitslite.monitoring import figures, samples_page

MOST_BYTES = 40_000_000  # of the page; above, players are left out
CURVES_ABOUT = (
    "Over the steps. Line: training, the mean over the seeds; band: from the lowest seed to the highest. Dots: "
    "validation, with a thin line from the lowest seed to the highest. Lines are dashed differently so that equal ones "
    f"are all seen. Of more than {MAX_POINTS} points every n-th is drawn."
)
VOICES_ABOUT = (
    "Validation sentences at the newest step of the first seed of each variant. Copy: the recording sent through the "
    "posterior and the decoder; spoken: from the text alone. Marked words were heard otherwise, struck ones not at all."
)
KINDS = ("spoken", "copy")

SWATCH = '<span class="swatch"></span>'
MISSING = '<span class="missing">missing</span>'

Voice = dict[str, Any]  # a row of samples_page.samples_table


def page(c: Comparison, output: Path, n_sentences: int, everything: bool) -> str:
    """index.html in the folder `output`: `n_sentences` to listen to, curves of all keys or of the usual ones."""
    found = {name: _table(table) for name, table in tables(c, output).items()}
    found["curves"] = _curves(c, everything)
    found["voices"] = _voices(c, n_sentences, sum(map(len, found.values())))
    order = ("settings", "final", "best", "differences", "curves", "voices", "runs", "failed")
    sections = "\n".join(found[name] for name in order if found.get(name))
    size = f"This page has {len(sections.encode()) / 1e6:.1f} MB."
    remarks = "".join(f"<li>{escape(line)}</li>" for line in c.remarks)
    about = escape(" ".join([*summary(c), size]))
    command = f"<details><summary>command</summary><code>{escape(c.command)}</code></details>"
    colours = figures.palette(len(c.variants))
    hiding = (
        f'.v{i}, .c{i} {{ --colour: {x}; }} .hide-v{i} .v{i}, .hide-v{i} [id^="v{i}-"] {{ display: none; }}'
        for i, x in enumerate(colours)
    )
    return PAGE.substitute(
        title=escape(c.title),
        about=f"<p>{about}</p>{command}" + (f"<ul>{remarks}</ul>" if remarks else ""),
        hiding="\n".join(hiding),
        choices="\n".join(_choice(i, variant) for i, variant in enumerate(c.variants)),
        sections=sections,
    )


def _choice(i: int, variant: Variant) -> str:
    box = f'<input type="checkbox" value="v{i}" checked autocomplete="off">'
    return f'<label class="c{i}">{box}{SWATCH}<code>{escape(variant.label)}</code></label>'


# --------------------------------------------------------------------------------------------------------- tables


def _table(table: Table) -> str:
    rows = []
    for cells, variant in zip(table.rows, table.variants, strict=True):
        swatch, whose = ("", "") if variant is None else (SWATCH, f' class="v{variant}"')
        first = f'<th scope="row"{_of(cells[0])}>{_named(cells[0], swatch)}</th>'
        rest = "".join(f"<td{_of(cell)}>{_content(cell)}</td>" for cell in cells[1:])
        rows.append(f"<tr{whose}>{first}{rest}</tr>")
    heads = "".join(map(_head, table.header))
    return TABLE.substitute(title=escape(table.title), about=escape(table.about), heads=heads, rows="\n".join(rows))


def _head(cell: Cell) -> str:
    swatch = "" if cell.variant is None else SWATCH
    return f'<th scope="col"{_of(cell)}><button type="button">{_named(cell, swatch)}</button></th>'


def _named(cell: Cell, swatch: str) -> str:
    return f'<span class="of">{swatch}<span>{_content(cell)}</span></span>' if swatch else _content(cell)


def _of(cell: Cell) -> str:
    """The attributes of a cell: whose it is, and what one sorts it by."""
    names = [f"v{cell.variant}"] * (cell.variant is not None) + ["words"] * (len(cell.text) > 30)
    value = cell.value
    known = value is not None and not (isinstance(value, float) and not math.isfinite(value))
    shown = f"{value:.10g}" if isinstance(value, int | float) else str(value)
    classes = f' class="{" ".join(names)}"' if names else ""
    hint = f' title="{escape(cell.hint)}"' if cell.hint else ""
    return classes + hint + (f' data-value="{escape(shown)}"' if known else "")


def _content(cell: Cell) -> str:
    text = escape(cell.text)
    if cell.is_code:  # a long name may be broken at its seams
        seams = re.sub("([/=_])", r"\1<wbr>", text)
        text = f"<code>{seams}</code>"
    if cell.link:
        text = f'<a href="{escape(cell.link)}">{text}</a>'
    return f"{text}<small>{escape(cell.note)}</small>" if cell.note else text


# --------------------------------------------------------------------------------------------------------- curves


def _curves(c: Comparison, everything: bool) -> str:
    """A panel per key, in groups by the first part of their names."""
    groups: dict[str, list[str]] = {}
    for i, (name, (training, validation)) in enumerate(curves(c.variants, everything).items()):
        svg = figures.panel_svg(f"p{i}", training, validation, len(c.variants))
        caption = f"<figcaption>{escape(catalogue.axis_label(name))} <code>{escape(name)}</code></figcaption>"
        groups.setdefault(name.split("/")[0], []).append(f"<figure>{caption}{svg}</figure>")
    shown = (
        f"<details{' open' if name in catalogue.OPEN_GROUPS else ''}><summary>{escape(name)} ({len(panels)})</summary>"
        f'<div class="panels">{"".join(panels)}</div></details>'
        for name, panels in groups.items()
    )
    return _section("Curves", CURVES_ABOUT, "\n".join(shown)) if groups else ""


# --------------------------------------------------------------------------------------------------------- voices


def _voices(c: Comparison, n_sentences: int, n_bytes: int) -> str:
    """The sentences, each by all variants; `n_bytes` are what the rest of the page has."""
    spoken, damaged = {}, []
    for i, variant in enumerate(c.variants):
        try:
            spoken[i] = _newest(variant)[:n_sentences]
        except ValueError as error:
            damaged.append(str(error))
    texts = dict.fromkeys(voice["text"] for voices in spoken.values() for voice in voices)
    playing = _within(spoken, n_bytes)
    shown = []
    for text in texts:
        voices = {i: voice for i, of in spoken.items() for voice in of if voice["text"] == text}
        recordings = [player for player in (_player(voice["recording"]) for voice in voices.values()) if player]
        cards = (_card(i, c.variants[i], voice, i in playing) for i, voice in voices.items())
        recording = f'<div class="recording">recording{recordings[0]}</div>' if recordings and playing else ""
        shown.append(f'<h3>{escape(text)}</h3>{recording}<div class="voices">{"".join(cards)}</div>')
    silent = len(spoken) - len(playing)
    left_out = f" Players of {silent} variants are left out: the page would have more than {MOST_BYTES / 1e6:.0f} MB."
    about = " ".join([VOICES_ABOUT, *damaged]) + (left_out if silent else "")
    return _section("Alignments and voices", about, "\n".join(shown)) if shown else ""


def _newest(variant: Variant) -> list[Voice]:
    """The sentences of the newest step of the first seed that has any. ValueError for a damaged samples.json."""
    for run in variant.runs.values():
        rows = samples_page.samples_table(run.folder) if run.folder else []
        if rows:
            return [row for row in rows if row["step"] == max(other["step"] for other in rows)]
    return []


def _within(spoken: dict[int, list[Voice]], n_bytes: int) -> set[int]:
    """The variants whose players find room, after all pictures; an address takes four bytes for three."""
    sizes = {i: [_size(voice[kind]) for voice in voices for kind in KINDS] for i, voices in spoken.items()}
    total = n_bytes + sum(_size(voice["alignment"]) for voices in spoken.values() for voice in voices)
    playing = set()
    for i, of in sizes.items():
        total += sum(of)
        if total > MOST_BYTES:
            break
        playing.add(i)
    return playing


def _size(path: Path | None) -> int:
    return path.stat().st_size * 4 // 3 if path else 0


def _card(i: int, variant: Variant, voice: Voice, playing: bool) -> str:
    """One sentence by one variant."""
    parts = [f'<div class="of">{SWATCH}<div><code>{escape(variant.label)}</code>, step {voice["step"]}</div></div>']
    for kind in KINDS:
        heard = voice[f"heard in {kind}"]
        words = f": {samples_page.marked(heard, voice['text'])}" if heard.strip() else ""
        parts.append(f"<p>{kind}{words}</p>" + (_player(voice[kind]) or MISSING if playing else ""))
    if voice["alignment"]:
        parts.append(f'<img loading="lazy" alt="alignment" src="{_data(voice["alignment"], "image/png")}">')
    return f'<div class="v{i}">{"".join(parts)}</div>'


def _player(path: Path | None) -> str:
    return f'<audio controls preload="none" src="{_data(path, "audio/wav")}"></audio>' if path else ""


def _data(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _section(title: str, about: str, content: str) -> str:
    return f'<section>\n<h2>{escape(title)}</h2>\n<p class="about">{escape(about)}</p>\n{content}\n</section>'
