"""Pictures of a run: alignment, spectrograms, durations, gradients. With panels.py the owner of matplotlib.

Each function writes a PNG. It takes arrays, not tensors, and imports the drawing part of matplotlib with the first
picture: reading runs needs neither.
"""

import functools
import textwrap
import warnings
from collections.abc import Iterable
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.colors import LogNorm

from vitslite.metrics.catalogue import axis_label, find
from vitslite.runs import Row

OTHER_SCRIPTS = ("Noto Sans", "WenQuanYi", "Source Han Sans", "Microsoft YaHei", "PingFang", "Arial Unicode", "Nirmala")
TITLE_WIDTH = 90  # characters; longer sentences are cut


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
    figure, ((axes,),) = subplots(1, 1, 10, 5)
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
    return save(figure, path)


def spectrograms(path: Path, mels: dict[str, Float[np.ndarray, "M _"]], title: str) -> Path:
    """Log-mel spectrograms below each other on one colour scale."""
    figure, rows = _stack(mels, title, 2.2)
    width = max(mel.shape[1] for mel in mels.values())
    for axes, mel in zip(rows, mels.values(), strict=True):
        image = axes.imshow(mel, origin="lower", aspect="auto", vmin=-10, vmax=2, cmap="viridis")
        axes.set(xlim=(0, width), ylabel="mel bin")
    rows[-1].set_xlabel("spectrogram frame")
    figure.colorbar(image, ax=rows, label="log mel")
    return save(figure, path)


def high_bands(path: Path, wavs: dict[str, Float[np.ndarray, " _"]], sample_rate: int, title: str) -> Path:
    """Spectrograms of 16 ms above 4 kHz, dB: noise is grainy there, a buzz at the frame rate is horizontal stripes."""
    figure, rows = _stack(wavs, title, 1.6)
    n_fft = sample_rate // 60
    for axes, wav in zip(rows, wavs.values(), strict=True):
        axes.specgram(wav + 1e-9, n_fft, sample_rate, noverlap=n_fft * 3 // 4, vmin=-120, vmax=-60)
        axes.set(ylim=(4000, sample_rate / 2), ylabel="Hz")
    rows[-1].set_xlabel("seconds")
    return save(figure, path)


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
    figure, ((axes,),) = subplots(1, 1, 3.5 + 1.3 * len(modules), 1.5 + 0.5 * len(terms))
    scale = LogNorm(low, max(high, 10 * low))  # a range of its own also where all norms are equal
    image = axes.imshow(np.ma.masked_where(~coloured, norms), aspect="auto", norm=scale, cmap="viridis")
    for (i, j), norm in np.ndenumerate(norms):
        dark = coloured[i, j] and scale(norm) < 0.5
        axes.text(j, i, f"{norm:.2g}", ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axes.set_xticks(range(len(modules)), modules, fontsize=8, rotation=20, ha="right")
    axes.set_yticks(range(len(terms)), [metric_title(f"loss/{term}") for term in terms], fontsize=8)
    axes.set(xlabel="module", ylabel="loss term, unweighted", title="what each loss sends to each module")
    figure.colorbar(image, label=axis_label("grad/norm"))
    return save(figure, path)


def metric_title(key: str) -> str:
    """The metric in words, and the key; of one that the catalogue does not know the key alone."""
    return "\n".join(dict.fromkeys((find(key).title, key)))


def subplots(n_rows: int, n_columns: int, *inches: int | float) -> "tuple[matplotlib.figure.Figure, np.ndarray]":
    """A figure of this width and height, and its axes [n_rows, n_columns]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(inches[0], inches[1]), layout="constrained")
    return figure, figure.subplots(n_rows, n_columns, squeeze=False)


def _stack(names: Iterable[str], title: str, inches: float) -> "tuple[matplotlib.figure.Figure, list]":
    """A figure of named panels below each other, each so many inches high, and their axes."""
    names = list(names)
    figure, rows = subplots(len(names), 1, 10, inches * len(names))
    for axes, name in zip(rows[:, 0], names, strict=True):
        axes.set_title(textwrap.shorten(name, TITLE_WIDTH), parse_math=False)
    figure.suptitle(textwrap.shorten(title, TITLE_WIDTH), parse_math=False)
    return figure, rows[:, 0].tolist()


def save(figure: "matplotlib.figure.Figure", path: Path, dpi: int = 110) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"font.sans-serif": _fonts()}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a box, where no font of this machine has it
        figure.savefig(path, dpi=dpi)
    return path


@functools.cache
def _fonts() -> list[str]:
    """matplotlib's own font, then those of this machine that have the letters of other scripts."""
    from matplotlib.font_manager import fontManager

    installed = sorted({font.name for font in fontManager.ttflist})
    return ["DejaVu Sans", *(name for name in installed if name.startswith(OTHER_SCRIPTS))]
