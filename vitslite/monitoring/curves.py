"""Interactive curves of a page, by BokehJS: values under the pointer, zoom, reset. The one owner of bokeh.

A page takes `block` where its curves stand and `script` once. Nothing is loaded: the script is the library that the
installed package has, 1.4 MB, inline. Panels are drawn when they come into sight; without scripts stands a picture.
"""

import functools
import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from vitslite.metrics import catalogue
from vitslite.monitoring import html
from vitslite.runs import Points

TEMPLATE = "monitoring/templates/curves.html"
# Without widgets, tables, WebGL and MathJax, which are 2.4 MB more.
COMPONENTS: list[Literal["bokeh", "bokeh-api"]] = ["bokeh", "bokeh-api"]

FIRST = "what to look at first"

BySeed = Mapping[int, list[Points]]  # of a line by its number: the points (step, value) of each seed
Panel = tuple[BySeed, BySeed]  # training: lines; validation: dots


def block(
    panels: Mapping[str, Panel], names: Sequence[str], colours: Sequence[str], picture: Path | None = None
) -> str:
    """HTML: a panel per key, first those of the catalogue's headline, then folded by the first part of the keys.

    What never changes is named in a line. Line i is called names[i]; of several seeds it is the mean, with a band from
    the lowest to the highest. On a page with a class "hide-v{i}" at its body line i is hidden, once the page says so by
    an event "variants". `picture` stands there where scripts are off.
    """
    first = set(catalogue.chosen("headline", panels)) or set(panels)
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    constant = {}
    for key, panel in sorted(panels.items(), key=lambda item: item[0] not in first):
        data = data_of(key, panel)
        values = {value for line in (*data["lines"], *data["dots"]) for value in (*line["y"], *line.get("high", ()))}
        if len(values) == 1 and sum(len(line["x"]) for line in (*data["lines"], *data["dots"])) > 1:
            constant[key] = values.pop()
        else:
            groups.setdefault(FIRST if key in first else key.split("/")[0], {})[key] = data
    return html.render(
        TEMPLATE,
        groups=groups,
        names=list(names),
        colours=list(colours),
        axis_label=catalogue.axis_label,
        first=FIRST,
        constant=constant,
        picture=picture,
    )


@functools.cache
def script() -> str:
    """The text of BokehJS."""
    from bokeh.resources import Resources  # here: a tenth of a second

    return "\n".join(Resources(mode="inline", components=[*COMPONENTS]).js_raw)


def data_of(key: str, panel: Panel) -> dict[str, Any]:
    """What a panel draws: columns over the steps, the unit, and whether the axis is logarithmic.

    It is where all is positive and spans a factor of more than 30, or 3 where the catalogue says so.
    """
    values = [value for by_seed in panel for points in itertools.chain(*by_seed.values()) for _, value in points]
    finite = [value for value in values if math.isfinite(value)]
    factor = 3 if "log" in catalogue.find(key).shown.split() else 30
    is_log = bool(finite) and min(finite) > 0 and max(finite) > factor * min(finite)
    lines, dots = ([_columns(i, seeds) for i, seeds in by_seed.items()] for by_seed in panel)
    return {"unit": catalogue.find(key).unit, "log": is_log, "lines": lines, "dots": dots}


def _columns(number: int, seeds: list[Points]) -> dict[str, Any]:
    """Steps, and at each the mean, the lowest and the highest of the seeds that have it; None where not finite."""
    by_step: dict[int, list[float]] = {}
    for step, value in itertools.chain(*seeds):
        by_step.setdefault(step, []).append(value)
    found = [by_step[step] for step in sorted(by_step)]
    columns = {"i": number, "x": sorted(by_step), "y": _rounded(map(statistics.fmean, found))}
    is_several = any(len(values) > 1 for values in found)
    return columns | ({"low": _rounded(map(min, found)), "high": _rounded(map(max, found))} if is_several else {})


def _rounded(values: Iterable[float]) -> list[float | None]:
    """Five digits: finer than a panel, and half the bytes."""
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values]
