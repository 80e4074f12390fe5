"""Curves over the steps, a panel per metric, as PNG; the rate-distortion plane, as PNG or as SVG for a page."""

import io
import itertools
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.colors import to_hex
from PIL import Image

from vitslite.metrics.catalogue import find
from vitslite.monitoring.figures import drawing, metric_title, save, subplots
from vitslite.runs import Points, Row, last_values, points

DASH_PERIOD = 12.0  # line widths, of variant_curves
LEGEND_WIDTH = 150  # characters that fit below the panels
INK = "#010203"  # of what becomes CSS's currentColor in an SVG: no line has this colour

# Of Okabe and Ito, which the colour-blind tell apart; black is the ink of the page.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")

MARKERS = "os^Dv"
HOLLOW = "hollow: wrong on purpose"
PlaneRun = tuple[list[tuple[float, float]], bool]  # where a run went on the plane; whether its loss is wrong on purpose

SVG_METADATA = ("Date", "Creator", "Format", "Type")  # none of it: a date would change with every drawing
SVG_UNWANTED = r'<defs>\s*<style.*?</defs>|<!--.*?-->|\s(width|height)="[\d.]+pt"'  # it is as wide as its place


def run_curves(path: Path, rows: list[Row], keys: list[str], title: str) -> Path:
    """Each of `keys` over the steps, in training and in validation ("val/" + key); in that of words the recording's."""
    lines = {key: {"training": points(rows, key), "validation": points(rows, f"val/{key}")} for key in keys}
    last = last_values(rows)
    for key in {"wer/spoken", "cer/spoken"} & lines.keys():
        recording = last.get(f"val/{key.replace('spoken', 'recording')}")
        if recording is not None:
            lines[key]["recording"] = [(0, float(recording)), (int(last["step"]), float(recording))]
    panels = {key: {name: [line] for name, line in panel.items() if line} for key, panel in lines.items()}
    return variant_curves(path, panels, title)


@drawing
def variant_curves(path: Path, panels: dict[str, dict[str, list[Points]]], title: str | None = None) -> Path:
    """A panel per metric: key -> variant -> for each seed its points (step, value).

    A variant has one colour in all panels. Its line is the mean over the seeds, its band reaches from the lowest to
    the highest; where a seed has ended early both are of the others. Dashes get shorter from line to line, so that
    equal ones are all seen. What is positive and spans a factor of more than 30 is on a logarithmic axis. 1000 pixels
    wide; 64 colours, a quarter of the size of all of them.
    """
    from matplotlib.lines import Line2D

    variants = list(dict.fromkeys(variant for panel in panels.values() for variant in panel))
    assert variants, "no curves to show"
    colours = dict(zip(variants, palette(len(variants)), strict=True))
    inks = dict(zip(variants, np.linspace(1.0, 0.5, len(variants)), strict=True))
    n_columns = min(3, len(panels))
    n_rows = -(-len(panels) // n_columns)
    names = {variant: textwrap.shorten(variant, LEGEND_WIDTH, placeholder=" ...") for variant in variants}
    n_legend = max(1, min(4, LEGEND_WIDTH // (max(map(len, names.values())) + 8)))  # columns that fit below the panels
    height = 0.2 + 2.7 * n_rows + 0.17 * -(-len(variants) // n_legend)
    figure, grid = subplots(n_rows, n_columns, 10, height)
    for axes, (key, panel) in zip(grid.flat, panels.items(), strict=False):
        for variant, seeds in panel.items():
            _mean_and_range(axes, seeds, colours[variant], inks[variant])
        _choose_scale(axes, itertools.chain(*panel.values()), key)
        _describe(axes, key)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    lines = [Line2D([], [], linewidth=3, color=colour, label=names[variant]) for variant, colour in colours.items()]
    figure.legend(handles=lines, loc="outside lower center", ncols=n_legend, fontsize=8, frameon=False)
    if title:
        figure.suptitle(title)
    save(figure, path, dpi=100)
    with Image.open(path) as image:
        few = image.quantize(64, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    return path


def plane_png(path: Path, runs: Mapping[str, Sequence[PlaneRun]], x_label: str, y_label: str) -> Path:
    """The plane of `_draw_plane` with a legend; after seven names the colours begin anew with another marker."""
    from matplotlib.lines import Line2D

    figure, ((axes,),) = subplots(1, 1, 9, 5.5)
    looks = [(OKABE_ITO[i % len(OKABE_ITO)], MARKERS[i // len(OKABE_ITO) % len(MARKERS)]) for i in range(len(runs))]
    for (colour, marker), own in zip(looks, runs.values(), strict=True):
        _draw_plane(axes, own, colour, marker)
    _name_plane(axes, x_label, y_label)
    axes.grid(alpha=0.3)
    handles = [
        Line2D([], [], color=colour, marker=marker, linewidth=1, label=textwrap.shorten(name, 60, placeholder=" ..."))
        for name, (colour, marker) in zip(runs, looks, strict=True)
    ]
    handles.append(Line2D([], [], color="grey", marker="o", markerfacecolor="none", linewidth=0, label=HOLLOW))
    figure.legend(handles=handles, loc="outside right upper", fontsize=8, frameon=False)
    return save(figure, path, dpi=100)


def plane_svg(runs: Mapping[int, Sequence[PlaneRun]], n: int, x_label: str, y_label: str) -> str:
    """The same for a page, by numbers of `n` variants: what is of variant i has ids that begin with "v{i}-plane".

    Text and axes have the colour of the page's text. The same runs give the same text.
    """
    from matplotlib.figure import Figure

    colours = palette(n)
    look = {f"{part}.color": INK for part in ("text", "xtick", "ytick")} | {"axes.edgecolor": INK, "grid.color": INK}
    fixed = {"svg.fonttype": "none", "svg.hashsalt": "plane", "font.size": 10.5, "axes.linewidth": 0.6}
    with matplotlib.rc_context(fixed | look | {"axes.labelcolor": INK}):  # type: ignore[arg-type]  # a literal each
        figure = Figure(figsize=(6.2, 4), layout="constrained")
        axes = figure.subplots()
        for i, own in runs.items():
            _draw_plane(axes, own, colours[i], "o", gid=f"v{i}-plane")
        _name_plane(axes, x_label, y_label)
        axes.grid(alpha=0.15, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(SVG_METADATA))
    svg = re.sub(SVG_UNWANTED, "", file.getvalue(), flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)(?!v\d+-)', r"\g<1>plane-", svg[svg.index("<svg") :])
    # Coordinates, not the text between tags, to 0.01 of 446 units in width: finer than any screen.
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), svg)
    return re.sub(r"\n\s*", "\n", svg.replace(INK, "currentColor")).strip()


def _draw_plane(
    axes: "matplotlib.axes.Axes", runs: Sequence[PlaneRun], colour: str, marker: str, gid: str | None = None
) -> None:
    """Of each run a thin line where it went and a point where it is: hollow where its loss is wrong on purpose."""
    for n, (trajectory, is_wrong) in enumerate(runs):
        x, y = zip(*trajectory, strict=True)
        name = gid and f"{gid}-{n}"
        axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.6, gid=name and f"{name}-line")
        face = "none" if is_wrong else colour
        end = axes.plot(x[-1:], y[-1:], marker, color=colour, gid=name and f"{name}-end", markerfacecolor=face)[0]
        end.set(markersize=9 if is_wrong else 7, markeredgewidth=1.8 if is_wrong else 0)


def _name_plane(axes: "matplotlib.axes.Axes", x_label: str, y_label: str) -> None:
    """Names of the axes; rates that span a factor of more than 8 stand on a logarithmic one."""
    axes.set(xlabel=x_label, ylabel=y_label)
    rates = [float(x) for line in axes.lines for x in np.asarray(line.get_xdata())]
    if min(rates) > 0 and max(rates) > 8 * min(rates):
        _logarithmic(axes, "x")


def _logarithmic(axes: "matplotlib.axes.Axes", which: Literal["x", "y"]) -> None:
    """With 0.2 and 5 on it, not powers, where it spans no more than two decades or three."""
    from matplotlib.ticker import LogLocator

    axes.set(**{f"{which}scale": "log"})
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 500 * low else (1,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def palette(n: int) -> list[str]:
    """Colours of n variants, as #rrggbb; after twenty they begin anew."""
    if n <= len(OKABE_ITO):
        return [colour.lower() for colour in OKABE_ITO[:n]]
    colours = matplotlib.colormaps["tab10" if n <= 10 else "tab20"]
    return [to_hex(colours(i % colours.N)) for i in range(n)]


def _choose_scale(axes: "matplotlib.axes.Axes", lines: Iterable[Points], key: str = "") -> None:
    """A logarithmic axis for what is positive and spans a factor of more than 30, or 3 where the catalogue says so."""
    values = [value for line in lines for _, value in line]
    factor = 3 if "log" in find(key).shown.split() else 30
    if values and min(values) > 0 and max(values) > factor * min(values):
        _logarithmic(axes, "y")


def _over_seeds(seeds: list[Points]) -> tuple[list[int], list[float], list[float], list[float]]:
    """Steps, and at each the lowest, the mean and the highest of the seeds that have it."""
    by_step: dict[int, list[float]] = {}
    for step, value in itertools.chain(*seeds):
        by_step.setdefault(step, []).append(value)
    steps = sorted(by_step)
    low, mean, high = ([float(f(by_step[step])) for step in steps] for f in (np.min, np.mean, np.max))
    return steps, low, mean, high


def _mean_and_range(axes: "matplotlib.axes.Axes", seeds: list[Points], colour: str, ink: float) -> None:
    """One variant in one panel; `ink` is the part of its line that is drawn."""
    steps, low, mean, high = _over_seeds(seeds)
    dashes = (0, (DASH_PERIOD * ink, DASH_PERIOD * (1 - ink))) if ink < 1 else "-"
    marker = "." if len(steps) < 20 else None
    axes.plot(steps, mean, color=colour, linewidth=1.3, linestyle=dashes, marker=marker)
    axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)


def _describe(axes: "matplotlib.axes.Axes", key: str) -> None:
    """Above the panel the metric and its key, beside it the unit."""
    unit = find(key).unit
    axes.set(xlabel="step", ylabel="%" if unit == "share" else unit)
    if unit == "share":
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}")
    axes.set_title(metric_title(key))
    axes.grid(alpha=0.3)
