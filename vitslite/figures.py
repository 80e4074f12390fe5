"""Pictures: the alignment, the spectrograms, the curves. The one owner of matplotlib. Each function writes a PNG."""

import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: no display is needed or looked for

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

TITLE_WIDTH = 90  # characters; longer sentences are cut


def alignment(
    path: Path,
    log_lik: Float[Tensor, "L T"],
    durations: Int[Tensor, " L"],
    symbols: list[str],
    onsets: list[tuple[int, float]] | None,
    title: str,
    onsets_label: str = "true onsets",
) -> Path:
    """The token-frame log-likelihood, the path that the search found, and onsets (token, frame) where known."""
    scores = log_lik.float().cpu().numpy()
    scores = scores - scores.max(0, keepdims=True)  # every frame relative to its best token: constant along a path
    boundaries = np.concatenate([[0], durations.cpu().numpy().cumsum()])
    figure, axes = plt.subplots(figsize=(10, 5), layout="constrained")
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


def spectrograms(path: Path, mels: dict[str, Float[Tensor, "M T"]], title: str) -> Path:
    """Log-mel spectrograms below each other on one colour scale."""
    figure, rows = plt.subplots(len(mels), 1, figsize=(10, 2.2 * len(mels)), layout="constrained", squeeze=False)
    width = max(mel.shape[1] for mel in mels.values())
    for axes, (name, mel) in zip(rows[:, 0], mels.items(), strict=True):
        image = axes.imshow(mel.float().cpu().numpy(), origin="lower", aspect="auto", vmin=-10, vmax=2, cmap="viridis")
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
    figure, axes = plt.subplots(figsize=(6, 5), layout="constrained")
    *_, image = axes.hist2d(found * frame_ms, predicted * frame_ms, bins=[edges, edges], norm="log", cmap="viridis")
    axes.plot(edges[[0, -1]], edges[[0, -1]], "--", color="grey", linewidth=1)
    axes.set(xlabel="found in the recording, ms", ylabel="spoken, ms", title="durations of tokens")
    figure.colorbar(image, label="tokens")
    return _save(figure, path)


def curves(path: Path, rows: list[dict[str, int | float]], keys: list[str], title: str) -> Path:
    """Each of `keys` over the steps: training as a line, validation ("val/" + key) as dots."""
    shown = [k for k in keys if any(k in row or f"val/{k}" in row for row in rows)]
    n_columns = min(3, max(1, len(shown)))
    n_rows = max(1, -(-len(shown) // n_columns))
    figure, panels = plt.subplots(
        n_rows, n_columns, figsize=(4.2 * n_columns, 2.8 * n_rows), layout="constrained", squeeze=False
    )
    for axes, key in zip(panels.flat, shown, strict=False):
        for name, style, label in ((key, "-", "training"), (f"val/{key}", "o-", "validation")):
            points = [(row["step"], row[name]) for row in rows if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), style, label=label, linewidth=1, markersize=3)
        axes.set(title=key, xlabel="step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    for axes in panels.flat[len(shown) :]:
        axes.set_visible(False)
    figure.suptitle(title)
    return _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
