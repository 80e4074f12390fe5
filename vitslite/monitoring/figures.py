"""Pictures of a run: durations, gradients, ratios. With panels.py and timelines.py the owner of matplotlib.

Each function writes a PNG. It takes arrays, not tensors, and imports the drawing part of matplotlib with the first
picture: reading runs needs neither. Paper is transparent and ink a middle grey, which is read on light and dark pages.
"""

import functools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Int
from matplotlib.colors import CenteredNorm, LogNorm

from vitslite.files import replacing
from vitslite.metrics.catalogue import axis_label, find
from vitslite.runs import Row

OTHER_SCRIPTS = ("Noto Sans", "WenQuanYi", "Source Han Sans", "Microsoft YaHei", "PingFang", "Arial Unicode", "Nirmala")
INK = "#7a7d82"  # a contrast of 4 to 1 with white paper and with that of a dark page
LOOK: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor"), "none"),
    **{
        "axes.titlesize": 9,
        "axes.titlelocation": "left",
        "axes.labelsize": 9,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.fontsize": 8,
    },
}
drawing = matplotlib.rc_context(LOOK)  # decorates what draws


@drawing
def durations(path: Path, found: Int[np.ndarray, " N"], predicted: Int[np.ndarray, " N"], frame_ms: float) -> Path:
    """How often a token that lasts so long in the recording is spoken so long. Diagonal: as in the recording.

    The axes end at the 99.5th percentile.
    """
    longest = max(int(np.percentile(np.concatenate([found, predicted]), 99.5)), 2)
    edges = (np.arange(longest + 2) - 0.5) * frame_ms
    figure, ((axes,),) = subplots(1, 1, 6, 5)
    *_, image = axes.hist2d(found * frame_ms, predicted * frame_ms, bins=[edges, edges], norm="log", cmap="viridis")
    axes.plot(edges[[0, -1]], edges[[0, -1]], "--", color="grey", linewidth=1)
    axes.set(xlabel="found in the recording, ms", ylabel="spoken, ms", title="durations of tokens")
    figure.colorbar(image, label="tokens")
    return save(figure, path)


@drawing
def gradient_matrix(path: Path, values: Row, weights: Mapping[str, float]) -> Path:
    """The gradient norm that each loss term (rows) sends to each module (columns), of keys "grad/<term>/<module>".

    Left as it is logged, right times the weight of the term in the total, which is what reaches the optimiser. Other
    keys are left out, so a whole logged row may be given. What is exactly zero is blank but for its "0".
    """
    parts = {key: tuple(key.split("/")) for key in values}
    cells = {parts[key][1:]: v for key, v in values.items() if parts[key][0] == "grad" and len(parts[key]) == 3}
    assert cells, "no gradient norms to show"
    terms, modules = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
    norms = np.array([[cells.get((term, module), 0.0) for module in modules] for term in terms])
    factors = [weights.get(term, 0.0) for term in terms]
    figure, ((left, right),) = subplots(1, 2, 4.5 + 2.0 * len(modules), 1.6 + 0.5 * len(terms))
    for axes, shown in ((left, norms), (right, norms * np.array(factors)[:, None])):
        image = _matrix(axes, shown)
        axes.set_xticks(range(len(modules)), modules, rotation=20, ha="right")
        figure.colorbar(image, ax=axes, label=axis_label("grad/norm"))
    left.set_yticks(range(len(terms)), [metric_title(f"loss/{term}") for term in terms])
    right.set_yticks(range(len(terms)), [f"times {factor:g}" for factor in factors])
    left.set_title("what each loss sends to each module")
    right.set_title("the same with its weight, as trained")
    return save(figure, path)


def _matrix(axes: "matplotlib.axes.Axes", norms: np.ndarray) -> "matplotlib.image.AxesImage":
    """Norms as colours on a logarithmic scale and as numbers."""
    coloured = np.isfinite(norms) & (norms > 0)
    low, high = (norms[coloured].min(), norms[coloured].max()) if coloured.any() else (1.0, 1.0)
    scale = LogNorm(low, max(high, 10 * low))  # a range of its own also where all norms are equal
    image = axes.imshow(np.ma.masked_where(~coloured, norms), aspect="auto", norm=scale, cmap="viridis")
    for (i, j), norm in np.ndenumerate(norms):
        colour = INK if not coloured[i, j] else "white" if scale(norm) < 0.5 else "black"
        axes.text(j, i, f"{norm:.2g}", ha="center", va="center", fontsize=8, color=colour)
    return image


@drawing
def ratios(path: Path, by_step: Mapping[int, list[float]]) -> Path:
    """r = std_q / std_p of each latent channel (rms over frames) at each validation: all channels, and how many are
    where. Below the line at 1 / sqrt 2 half_analytic is quieter than monte_carlo, at r = 1 a channel may say nothing.
    """
    steps = sorted(by_step)
    values = np.array([by_step[step] for step in steps]).T  # [D, steps]
    values = np.log2(np.clip(values, 2.0**-20, 2.0**20))[np.argsort(values[:, -1])]
    figure, ((left, right),) = subplots(1, 2, 10, 3.4)
    places = np.arange(len(steps) + 1) - 0.5
    image = left.pcolormesh(places, np.arange(len(values) + 1) + 0.5, values, norm=CenteredNorm(0), cmap="RdBu_r")
    left.set(ylabel="latent channel, by its last r", title="r = std of posterior / of prior, by channel")
    figure.colorbar(image, ax=left, label="log2 r")
    low, high = np.floor(values.min() * 2) / 2 - 0.25, np.ceil(values.max() * 2) / 2 + 0.25
    edges = np.linspace(low, high, 25)
    counts = np.stack([np.histogram(column, edges)[0] for column in values.T], axis=1)
    image = right.pcolormesh(places, edges, np.ma.masked_equal(counts, 0), cmap="viridis")
    for r, name in ((1.0, "r = 1"), (0.5**0.5, "r = 1 / \u221a2")):
        if low < np.log2(r) < high:
            right.axhline(np.log2(r), color="#D55E00", linewidth=1)
            right.text(places[-1], np.log2(r), f"{name} ", ha="right", va="bottom", fontsize=8, color="#D55E00")
    right.set(ylabel="log2 r", title="how many channels have which r")
    figure.colorbar(image, ax=right, label="channels")
    shown = range(0, len(steps), -(-len(steps) // 6))
    for axes in (left, right):
        axes.set_xticks(list(shown), [str(steps[i]) for i in shown])
        axes.set_xlabel("step")
    return save(figure, path)


def metric_title(key: str) -> str:
    """The metric in words, and the key; of one that the catalogue does not know the key alone."""
    return "\n".join(dict.fromkeys((find(key).title, key)))


def subplots(n_rows: int, n_columns: int, *inches: int | float) -> "tuple[matplotlib.figure.Figure, np.ndarray]":
    """A figure of this width and height, and its axes [n_rows, n_columns]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(inches[0], inches[1]), layout="constrained")
    return figure, figure.subplots(n_rows, n_columns, squeeze=False)


def save(figure: "matplotlib.figure.Figure", path: Path, dpi: int = 110, notes: dict[str, str] | None = None) -> Path:
    """`notes` go into the PNG, by their names."""
    with (
        replacing(path) as unfinished,
        matplotlib.rc_context({"font.sans-serif": _fonts()}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a box, where no font of this machine has it
        figure.savefig(unfinished, dpi=dpi, metadata=notes, format=path.suffix.removeprefix("."))
    return path


@functools.cache
def _fonts() -> list[str]:
    """matplotlib's own font, then those of this machine that have the letters of other scripts."""
    from matplotlib.font_manager import fontManager

    installed = sorted({font.name for font in fontManager.ttflist})
    return ["DejaVu Sans", *(name for name in installed if name.startswith(OTHER_SCRIPTS))]
