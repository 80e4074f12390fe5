"""Curves over the steps, of one run and of many: panels with a line per variant, as PNG or as SVG for a page."""

import io
import itertools
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import to_hex
from PIL import Image

from vitslite.metrics.catalogue import find
from vitslite.monitoring.figures import drawing, metric_title, save, subplots
from vitslite.runs import Points, Row, last_values, points

DASH_PERIOD = 12.0  # line widths, of variant_curves and panel_svg
LEGEND_WIDTH = 150  # characters that fit below the panels
INK = "#010203"  # of what becomes CSS's currentColor in an SVG: no line has this colour

# Of Okabe and Ito, which the colour-blind tell apart; black is the ink of the page.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")

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


def panel_svg(name: str, training: dict[int, list[Points]], validation: dict[int, list[Points]], n: int) -> str:
    """One panel for a page: of each of `n` variants, by number, the points of its seeds.

    Training is a line and a band as in `variant_curves`; validation dots, the mean, and a thin line from the lowest
    seed to the highest. What is of variant i has ids that begin with "v{i}-", other ids begin with `name`, which must
    be its own on the page. Text and axes have the colour of the page's text. The same points give the same text.
    """
    from matplotlib.figure import Figure

    colours, inks = palette(n), np.linspace(1.0, 0.5, n)
    look = {f"{part}.color": INK for part in ("text", "xtick", "ytick")} | {"axes.edgecolor": INK, "grid.color": INK}
    fixed = {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 8, "axes.linewidth": 0.6}
    with matplotlib.rc_context(fixed | look):  # type: ignore[arg-type]  # its stub wants a literal for each key
        figure = Figure(figsize=(3.6, 2.1))
        axes = figure.add_axes((0.14, 0.12, 0.84, 0.78))
        for i, seeds in training.items():
            _mean_and_range(axes, seeds, colours[i], inks[i], gid=f"v{i}-{name}-line")
        for i, seeds in validation.items():
            steps, low, mean, high = _over_seeds(seeds)
            axes.plot(steps, mean, "o", color=colours[i], markersize=3, gid=f"v{i}-{name}-dots")
            axes.vlines(steps, low, high, color=colours[i], linewidth=0.8, gid=f"v{i}-{name}-range")
        _choose_scale(axes, itertools.chain(*training.values(), *validation.values()))
        axes.grid(alpha=0.15, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(SVG_METADATA))
    svg = re.sub(SVG_UNWANTED, "", file.getvalue(), flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)(?!v\d+-)', rf"\g<1>{name}-", svg[svg.index("<svg") :])
    # Coordinates, not the text between tags, to 0.01 of 259 units in width: finer than any screen.
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), svg)
    return re.sub(r"\n\s*", "\n", svg.replace(INK, "currentColor")).strip()


def palette(n: int) -> list[str]:
    """Colours of n variants, as #rrggbb; after twenty they begin anew."""
    if n <= len(OKABE_ITO):
        return [colour.lower() for colour in OKABE_ITO[:n]]
    colours = matplotlib.colormaps["tab10" if n <= 10 else "tab20"]
    return [to_hex(colours(i % colours.N)) for i in range(n)]


def _choose_scale(axes: "matplotlib.axes.Axes", lines: Iterable[Points], key: str = "") -> None:
    """A logarithmic axis for what is positive and spans a factor of more than 30, or 3 where the catalogue says so."""
    from matplotlib.ticker import LogLocator

    values = [value for line in lines for _, value in line]
    factor = 3 if "log" in find(key).shown.split() else 30
    if values and min(values) > 0 and max(values) > factor * min(values):
        axes.set_yscale("log")
        bottom, top = axes.get_ylim()  # 0.2 and 5, not powers: a panel spans a decade or two
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if top < 500 * bottom else (1,)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")


def _over_seeds(seeds: list[Points]) -> tuple[list[int], list[float], list[float], list[float]]:
    """Steps, and at each the lowest, the mean and the highest of the seeds that have it."""
    by_step: dict[int, list[float]] = {}
    for step, value in itertools.chain(*seeds):
        by_step.setdefault(step, []).append(value)
    steps = sorted(by_step)
    low, mean, high = ([float(f(by_step[step])) for step in steps] for f in (np.min, np.mean, np.max))
    return steps, low, mean, high


def _mean_and_range(
    axes: "matplotlib.axes.Axes", seeds: list[Points], colour: str, ink: float, gid: str | None = None
) -> None:
    """One variant in one panel; `ink` is the part of its line that is drawn, `gid` its id in an SVG."""
    steps, low, mean, high = _over_seeds(seeds)
    dashes = (0, (DASH_PERIOD * ink, DASH_PERIOD * (1 - ink))) if ink < 1 else "-"
    marker = "." if len(steps) < 20 else None
    axes.plot(steps, mean, color=colour, linewidth=1.3, linestyle=dashes, marker=marker, gid=gid)
    axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0, gid=gid and f"{gid}-band")


def _describe(axes: "matplotlib.axes.Axes", key: str) -> None:
    """Above the panel the metric and its key, beside it the unit."""
    unit = find(key).unit
    axes.set(xlabel="step", ylabel="%" if unit == "share" else unit)
    if unit == "share":
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}")
    axes.set_title(metric_title(key))
    axes.grid(alpha=0.3)
