"""Pictures of a run and of many: alignment, spectrograms, durations, curves, gradients. The one owner of matplotlib.

Each function writes a PNG, but for `panel_svg`, which gives the text of an SVG. It takes arrays, not tensors, and
imports the drawing part of matplotlib with the first picture: reading runs needs neither.
"""

import io
import itertools
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.colors import LogNorm, to_hex
from PIL import Image

from vitslite.metrics.catalogue import axis_label, find
from vitslite.runs import Points, Row, points

TITLE_WIDTH = 90  # characters; longer sentences are cut
DASH_PERIOD = 12.0  # line widths, of variant_curves and panel_svg
INK = "#010203"  # of what becomes CSS's currentColor in an SVG: no line has this colour

SVG_METADATA = ("Date", "Creator", "Format", "Type")  # none of it: a date would change with every drawing
SVG_UNWANTED = r'<defs>\s*<style.*?</defs>|<!--.*?-->|\s(width|height)="[\d.]+pt"'  # it is as wide as its place


def alignment(
    path: Path,
    log_lik: Float[np.ndarray, "L T"],
    durations: Int[np.ndarray, " L"],
    symbols: list[str],
    onsets: list[tuple[int, float]] | None,
    title: str,
    onsets_label: str = "true onsets",
) -> Path:
    """The token-frame log-likelihood, the path that the search found, and onsets (token, frame) where known."""
    scores = log_lik - log_lik.max(0, keepdims=True)  # every frame relative to its best token: constant along a path
    boundaries = np.concatenate([[0], durations.cumsum()])
    figure, ((axes,),) = _subplots(1, 1, 10, 5)
    low = max(float(np.percentile(scores, 10)), -400.0)
    image = axes.imshow(scores, origin="lower", aspect="auto", interpolation="nearest", vmin=low, vmax=0, cmap="magma")
    axes.stairs(np.arange(len(durations)), boundaries - 0.5, baseline=None, color="cyan", label="alignment found")
    if onsets:
        tokens, frames = zip(*onsets, strict=True)
        axes.plot(np.array(frames) - 0.5, tokens, "w+", markersize=6, label=onsets_label)
    axes.set_yticks(range(len(symbols)), symbols, fontsize=6, parse_math=False)
    axes.set(xlabel="spectrogram frame", ylabel="token")
    axes.set_title(textwrap.shorten(title, TITLE_WIDTH), parse_math=False)  # "$" is a dollar here
    axes.legend(loc="lower right", fontsize=8)
    figure.colorbar(image, label="log-likelihood below the frame's best, nats")
    return _save(figure, path)


def spectrograms(path: Path, mels: dict[str, Float[np.ndarray, "M _"]], title: str) -> Path:
    """Log-mel spectrograms below each other on one colour scale."""
    figure, rows = _subplots(len(mels), 1, 10, 2.2 * len(mels))
    width = max(mel.shape[1] for mel in mels.values())
    for axes, (name, mel) in zip(rows[:, 0], mels.items(), strict=True):
        image = axes.imshow(mel, origin="lower", aspect="auto", vmin=-10, vmax=2, cmap="viridis")
        axes.set(xlim=(0, width), ylabel="mel bin")
        axes.set_title(textwrap.shorten(name, TITLE_WIDTH), parse_math=False)
    rows[-1, 0].set_xlabel("spectrogram frame")
    figure.suptitle(textwrap.shorten(title, TITLE_WIDTH), parse_math=False)
    figure.colorbar(image, ax=rows[:, 0].tolist(), label="log mel")
    return _save(figure, path)


def durations(path: Path, found: Int[np.ndarray, " N"], predicted: Int[np.ndarray, " N"], frame_ms: float) -> Path:
    """How often a token that lasts so long in the recording is spoken so long. Diagonal: as in the recording.

    The axes end at the 99.5th percentile.
    """
    longest = max(int(np.percentile(np.concatenate([found, predicted]), 99.5)), 2)
    edges = (np.arange(longest + 2) - 0.5) * frame_ms
    figure, ((axes,),) = _subplots(1, 1, 6, 5)
    *_, image = axes.hist2d(found * frame_ms, predicted * frame_ms, bins=[edges, edges], norm="log", cmap="viridis")
    axes.plot(edges[[0, -1]], edges[[0, -1]], "--", color="grey", linewidth=1)
    axes.set(xlabel="found in the recording, ms", ylabel="spoken, ms", title="durations of tokens")
    figure.colorbar(image, label="tokens")
    return _save(figure, path)


def gradient_matrix(path: Path, values: Row) -> Path:
    """The gradient norm that each loss term (rows) sends to each module (columns), of keys "grad/<term>/<module>".

    Other keys are left out, so a whole logged row may be given. What is exactly zero is blank but for its "0".
    """
    parts = {key: tuple(key.split("/")) for key in values}
    cells = {parts[key][1:]: v for key, v in values.items() if parts[key][0] == "grad" and len(parts[key]) == 3}
    assert cells, "no gradient norms to show"
    terms, modules = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
    norms = np.array([[cells.get((term, module), 0.0) for module in modules] for term in terms])
    coloured = np.isfinite(norms) & (norms > 0)
    low, high = (norms[coloured].min(), norms[coloured].max()) if coloured.any() else (1.0, 1.0)
    figure, ((axes,),) = _subplots(1, 1, 3.5 + 1.3 * len(modules), 1.5 + 0.5 * len(terms))
    scale = LogNorm(low, max(high, 10 * low))  # a range of its own also where all norms are equal
    image = axes.imshow(np.ma.masked_where(~coloured, norms), aspect="auto", norm=scale, cmap="viridis")
    for (i, j), norm in np.ndenumerate(norms):
        dark = coloured[i, j] and scale(norm) < 0.5
        axes.text(j, i, f"{norm:.2g}", ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axes.set_xticks(range(len(modules)), modules, fontsize=8, rotation=20, ha="right")
    axes.set_yticks(range(len(terms)), [_title(f"loss/{term}") for term in terms], fontsize=8)
    axes.set(xlabel="module", ylabel="loss term, unweighted", title="what each loss sends to each module")
    figure.colorbar(image, label=axis_label("grad/norm"))
    return _save(figure, path)


def run_curves(path: Path, rows: list[Row], keys: list[str], title: str) -> Path:
    """Each of `keys` over the steps, in training and in validation ("val/" + key)."""
    lines = {key: {"training": points(rows, key), "validation": points(rows, f"val/{key}")} for key in keys}
    panels = {key: {name: [line] for name, line in panel.items() if line} for key, panel in lines.items()}
    return variant_curves(path, panels, title)


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
    n_legend = max(1, min(4, 150 // (max(map(len, variants)) + 8)))  # as many columns as fit below the panels
    height = 0.2 + 2.7 * n_rows + 0.17 * -(-len(variants) // n_legend)
    figure, grid = _subplots(n_rows, n_columns, 10, height)
    for axes, (key, panel) in zip(grid.flat, panels.items(), strict=False):
        for variant, seeds in panel.items():
            _mean_and_range(axes, seeds, colours[variant], inks[variant])
        _choose_scale(axes, itertools.chain(*panel.values()))
        _describe(axes, key)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    lines = [Line2D([], [], linewidth=3, color=colour, label=variant) for variant, colour in colours.items()]
    figure.legend(handles=lines, loc="outside lower center", ncols=n_legend, fontsize=8, frameon=False)
    if title:
        figure.suptitle(title)
    _save(figure, path, dpi=100)
    with Image.open(path) as image:
        few = image.convert("RGB").quantize(64, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    return path


def panel_svg(name: str, training: dict[int, list[Points]], validation: dict[int, list[Points]], n: int) -> str:
    """One panel for a page: of each of `n` variants, by number, the points of its seeds.

    Training is a line and a band as in `variant_curves`; validation dots, the mean, and a thin line from the lowest
    seed to the highest. What is of variant i has ids that begin with "v{i}-", other ids begin with `name`, which must
    be its own on the page. Text and axes have the colour of the page's text. The same points give the same text.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

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
        if axes.get_yscale() == "log":  # 0.2 and 5, not powers: a panel spans a decade or two
            bottom, top = axes.get_ylim()
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if top < 500 * bottom else (1,)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
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
    colours = matplotlib.colormaps["tab10" if n <= 10 else "tab20"]
    return [to_hex(colours(i % colours.N)) for i in range(n)]


def _choose_scale(axes: "matplotlib.axes.Axes", lines: Iterable[Points]) -> None:
    """A logarithmic axis for what is positive and spans a factor of more than 30."""
    values = [value for line in lines for _, value in line]
    if values and min(values) > 0 and max(values) > 30 * min(values):
        axes.set_yscale("log")


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
    axes.set(xlabel="step", ylabel=find(key).unit)
    axes.set_title(_title(key), fontsize=9)
    axes.grid(alpha=0.3)


def _title(key: str) -> str:
    """The metric in words, and the key; of one that the catalogue does not know the key alone."""
    return "\n".join(dict.fromkeys((find(key).title, key)))


def _subplots(n_rows: int, n_columns: int, *inches: int | float) -> "tuple[matplotlib.figure.Figure, np.ndarray]":
    """A figure of this width and height, and its axes [n_rows, n_columns]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(inches[0], inches[1]), layout="constrained")
    return figure, figure.subplots(n_rows, n_columns, squeeze=False)


def _save(figure: "matplotlib.figure.Figure", path: Path, dpi: int = 110) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)
    return path
