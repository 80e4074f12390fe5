"""Tables of a comparison, and its picture: settings, metrics, paired differences, runs. As markdown, or for page.py."""

import datetime
import math
import os
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from tabulate import tabulate

from vitslite.experiments.quantities import Difference, apart, difference, differences
from vitslite.experiments.sources import RunLog
from vitslite.experiments.variants import MISSING, Comparison, Variant, curve, logged_keys, typed
from vitslite.metrics import catalogue
from vitslite.metrics.statistics import difference_in_words, half_interval, plus_minus, significant
from vitslite.monitoring import panels

NOTHING = "–"
INTERVALS = (
    "Mean over the seeds ± half of the 95 % interval of the mean (Student's t, n - 1 degrees of freedom); of one seed "
    "the value alone."
)
PAIRS = (
    "Variant minus baseline on the same seed: the mean over the common seeds ± half of its 95 % interval. Each "
    "interval is 95 % by itself: of 20 rows about one leaves out 0 by chance. How many seeds would be needed takes "
    "the mean and the spread seen here for the true ones; with so many the odds are even."
)
CHOSEN = (
    "The best of the validations of each run (lowest loss, error and error rate; highest share within), then over the "
    "seeds. The step is chosen by the value itself: such a figure is a little too good."
)


class Bar(NamedTuple):
    """A line of a forest plot: per cent of its width, 0 at 50; better, worse, higher, lower, or open: not resolved."""

    low: float
    value: float
    high: float
    effect: str


class Cell(NamedTuple):
    """`value` is what one sorts by: a number, or else the text."""

    text: str
    value: float | str | None = None
    note: str = ""
    hint: str = ""  # of a key: what it is, and its unit
    link: str = ""
    is_code: bool = False
    variant: int | None = None  # by number, of a column or a row that is one's
    bar: Bar | None = None

    @property
    def sort_key(self) -> str | None:
        """The value as text; None where there is none, or none that is finite."""
        if isinstance(self.value, int | float):
            return f"{self.value:.10g}" if math.isfinite(self.value) else None
        return self.value


class Table(NamedTuple):
    """A row is of the variant of its cell number `of`."""

    title: str
    about: str
    header: list[Cell]
    rows: list[list[Cell]]
    of: int = 0


def tables(c: Comparison, output: Path) -> dict[str, Table]:
    """All tables by the part of the report they stand in; those without a row are left out."""
    with_best = [key for key in c.metrics if any(v.values(key, best=True) for v in c.variants)]
    found = {
        "settings": _settings(c),
        "final": _figures(c, "Final metrics", INTERVALS, c.metrics, best=False),
        "best": _figures(c, "Best metrics", f"{CHOSEN} {INTERVALS}", with_best, best=True),
        "differences": _differences(c),
        "runs": _runs(c, output),
        "failed": _failed(c),
    }
    return {name: table for name, table in found.items() if table.rows and len(table.header) > 1}


def _settings(c: Comparison) -> Table:
    header = [Cell("setting"), *(Cell(v.label, is_code=True, variant=i) for i, v in enumerate(c.variants))]
    rows = []
    for key in c.differing:
        values = (typed(v.settings.get(key, MISSING)) for v in c.variants)
        rows.append([Cell(key, key, is_code=True), *(Cell(value, value, variant=i) for i, value in enumerate(values))])
    return Table("What differs", "Settings that not all variants share.", header, rows)


def _figures(c: Comparison, title: str, about: str, keys: list[str], best: bool) -> Table:
    """A row per variant: each metric, and in the table of the final ones what the training took."""
    speeds = [] if best else _speeds(c)
    rows = []
    for i, v in enumerate(c.variants):
        n = len(v.runs)
        figures = [_mean(list(v.values(key, best).values()), n) for key in keys]
        for j, key in enumerate(keys):
            first = next((w for w in (c.baseline, *c.variants) if w.values(key)), v)
            if figures[j].value is not None and apart(key, v.settings, first.settings):
                figures[j] = figures[j]._replace(value=None, note="another quantity")  # so it has no rank
        rates = [[run.speed()[name] for run in v.runs.values() if name in run.speed()] for name in speeds]
        seeds = Cell(str(n) if n > 1 else "1 seed: no interval", n)
        rows.append([_label(v, i), seeds, *figures, *(_mean(found, n) for found in rates)])
    header = [Cell("variant"), Cell("seeds"), *map(_key, keys), *map(Cell, speeds)]
    return Table(title, about, header, rows if keys else [])


def _differences(c: Comparison) -> Table:
    """Rows in groups by metric, with what a forest plot draws: estimate, interval, which way is better."""
    rows = []
    others = [(i, v) for i, v in enumerate(c.variants) if v is not c.baseline]
    for key in c.metrics:
        found = {i: difference(v, c.baseline, key) for i, v in others}
        ends = [abs(d.mean) + (d.half if math.isfinite(d.half) else 0.0) for d in found.values() if d]
        widest = max((end for end in ends if math.isfinite(end)), default=0.0) or 1.0
        for i, v in others:
            d, pairs = found[i], differences(v, c.baseline, key)
            settings = apart(key, v.settings, c.baseline.settings)
            words = f"another quantity: {', '.join(settings[:2])} differs" if settings else difference_in_words(pairs)
            effect = d.effect(key) if d else ""
            note = effect if effect in ("better", "worse") else ""
            cells = [
                _metric(key),
                _label(v, i),
                Cell("", d.mean if d else None, bar=_bar(d, widest, effect) if d else None),
            ]
            rows.append([*cells, Cell(words, d.mean if d else None, note=note), Cell(str(len(pairs)), len(pairs))])
    note = f" ({c.baseline.note})" if c.baseline.note else ""
    about = f"Baseline: {c.baseline.label}{note}. {PAIRS}"
    header = [Cell("metric"), Cell("variant"), Cell("interval"), Cell("variant - baseline"), Cell("pairs")]
    return Table("Differences, seed by seed", about, header, rows, of=1)


def _bar(d: Difference, widest: float, effect: str) -> Bar | None:
    if not math.isfinite(d.mean):
        return None
    half = d.half if math.isfinite(d.half) else 0.0
    low, middle, high = (50 + 48 * x / widest for x in (d.mean - half, d.mean, d.mean + half))
    return Bar(low, middle, high, effect or "open")


def _runs(c: Comparison, output: Path) -> Table:
    speeds = _speeds(c)
    rows = []
    for i, v in enumerate(c.variants):
        for run in (*v.runs.values(), *v.left_out):
            step, speed = int(run.rows[-1]["step"]), run.speed()
            state = f"unfinished ({run.unfinished})" if run.unfinished else "finished"
            cells = [
                Cell(run.name, run.name, link=_link(run, output), variant=i),
                Cell(v.label, v.label, is_code=True),
                Cell(run.seed, run.seed),
                Cell(state, state),
                Cell(str(step), step),
            ]
            rows.append(cells + [_mean([speed[name]] if name in speed else [], 1) for name in speeds])
    header = [Cell(name) for name in ("run", "variant", "seed", "state", "steps", *speeds)]
    about = "Training time: from the speed of the logged steps, summed over the intervals; without validation."
    return Table("Runs", about, header, rows)


def _failed(c: Comparison) -> Table:
    rows = [[Cell(name, name), Cell(error, error)] for name, error in c.failed.items()]
    header = [Cell("run"), Cell("what it said")]
    return Table("Failed", "Jobs of the sweep that ended with an error.", header, rows)


def _speeds(c: Comparison) -> list[str]:
    return list(dict.fromkeys(name for run in c.runs for name in run.speed()))


def _key(key: str) -> Cell:
    return Cell(key, key, hint=catalogue.axis_label(key), is_code=True)


def _metric(key: str) -> Cell:
    """Of a key, in words: title, unit, which way is better."""
    better = catalogue.find(key).better
    note = f"{catalogue.axis_label(key)}{f'; {better} is better' if better else ''}"
    return Cell(key, key, note=note, is_code=True)


def _label(v: Variant, number: int) -> Cell:
    return Cell(v.label, v.label, note=v.note, is_code=True, variant=number)


def _mean(values: list[float], n_seeds: int) -> Cell:
    """The mean and half of its interval; how many they are of, where not all seeds have a value."""
    if not values:
        return Cell(NOTHING)
    mean = statistics.mean(values)
    is_alone = len(values) == 1 or not math.isfinite(mean)
    text = significant(mean) if is_alone else plus_minus(mean, half_interval(values))
    return Cell(text, mean, note=f"n = {len(values)}" if len(values) < n_seeds else "")


def _link(run: RunLog, output: Path) -> str:
    """Relative from the page to the run's directory, or its page in W&B."""
    if run.folder is None:
        return run.url or ""
    return quote(Path(os.path.relpath(run.folder, output.resolve())).as_posix()) + "/"


def markdown(c: Comparison, output: Path, picture: str | None) -> str:
    """comparison.md: the tables, and the picture before those of the single runs."""
    parts = [f"# {c.title}", summary(c), f"    {c.command}", "\n".join(f"- {line}" for line in c.remarks)]
    for name, table in tables(c, output).items():
        if name == "runs" and picture:
            parts += ["## Curves", f"![curves]({picture})"]
        drawn = {j for j, _ in enumerate(table.header) if any(row[j].bar for row in table.rows)}  # not as text
        header, *rows = [[x for j, x in enumerate(row) if j not in drawn] for row in (table.header, *table.rows)]
        parts += [f"## {table.title}", table.about, as_markdown(header, rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def summary(c: Comparison) -> str:
    """What is compared, in two sentences."""
    seeds = sorted({run.seed for run in c.runs}, key=lambda seed: (len(seed), seed))
    newest = datetime.datetime.fromtimestamp(max(run.modified for run in c.runs), datetime.UTC)
    numbers = {"run": len(c.runs), "variant": len(c.variants), "seed": len(seeds)}
    counts = ", ".join(f"{n} {name}{'' if n == 1 else 's'}" for name, n in numbers.items())
    return f"{counts} ({', '.join(seeds)}). Newest row: {newest:%Y-%m-%d %H:%M} UTC."


def as_markdown(header: list[Cell], rows: list[list[Cell]]) -> str:
    head, *body = [list(map(_markdown_cell, cells)) for cells in (header, *rows)]
    return tabulate(body, head, tablefmt="github", stralign=None, disable_numparse=True)


def _markdown_cell(cell: Cell) -> str:
    text = cell.text.replace("|", "\\|")
    text = f"`{text}`" if cell.is_code else f"[{text}]({cell.link})" if cell.link else text
    return f"{text} ({cell.note})" if cell.note else text


def draw(path: Path, c: Comparison) -> Path | None:
    """curves.png: the catalogue's picture, or else the first keys. None, and no file, where nothing was logged."""
    logged = logged_keys(c.variants)
    training, validation = ([key for key in logged if key.startswith("val/") == part] for part in (False, True))
    keys = catalogue.chosen("picture", training) + catalogue.chosen("val/picture", validation)
    return draw_curves(path, c.variants, keys or catalogue.in_order(logged)[:6])


def draw_curves(path: Path, variants: list[Variant], keys: Iterable[str]) -> Path | None:
    """A panel per key. None, and no file, where nothing of them was logged."""
    shown = {key: {variants[i].label: seeds for i, seeds in curve(variants, key).items()} for key in keys}
    return panels.variant_curves(path, shown) if any(shown.values()) else None
