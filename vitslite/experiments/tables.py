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

from vitslite.experiments.sources import RunLog
from vitslite.experiments.variants import MISSING, Comparison, Variant, curve, differences, logged_keys, typed
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


class Cell(NamedTuple):
    """`value` is what one sorts by: a number, or else the text."""

    text: str
    value: float | str | None = None
    note: str = ""
    hint: str = ""  # of a key: what it is, and its unit
    link: str = ""
    is_code: bool = False
    variant: int | None = None  # by number, of a column or a row that is one's

    @property
    def sort_key(self) -> str | None:
        """The value as text; None where there is none, or none that is finite."""
        if isinstance(self.value, int | float):
            return f"{self.value:.10g}" if math.isfinite(self.value) else None
        return self.value


class Table(NamedTuple):
    """A row is of the variant of its first cell."""

    title: str
    about: str
    header: list[Cell]
    rows: list[list[Cell]]


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
        values = [list(v.values(key, best).values()) for key in keys]
        values += [[run.speed()[name] for run in v.runs.values() if name in run.speed()] for name in speeds]
        n = len(v.runs)
        seeds = Cell(str(n) if n > 1 else "1 seed: no interval", n)
        rows.append([_label(v, i), seeds, *(_mean(found, n) for found in values)])
    header = [Cell("variant"), Cell("seeds"), *map(_key, keys), *map(Cell, speeds)]
    return Table(title, about, header, rows if keys else [])


def _differences(c: Comparison) -> Table:
    rows = []
    for i, v in enumerate(c.variants):
        for key in c.metrics if v is not c.baseline else ():
            found = differences(v, c.baseline, key)
            words = Cell(difference_in_words(found), statistics.mean(found) if found else None)
            rows.append([_label(v, i), _key(key), Cell(str(len(found)), len(found)), words])
    note = f" ({c.baseline.note})" if c.baseline.note else ""
    about = f"Baseline: {c.baseline.label}{note}. {PAIRS}"
    header = [Cell("variant"), Cell("metric"), Cell("pairs"), Cell("variant - baseline")]
    return Table("Differences, seed by seed", about, header, rows)


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
        parts += [f"## {table.title}", table.about, as_markdown(table.header, table.rows)]
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
