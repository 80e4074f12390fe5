"""Picture of a corpus: how long clips are, how fast they speak, how loud they are, how often each symbol occurs."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from vitslite.monitoring.figures import save, subplots

_BINS = 40
_N_SYMBOLS = 80  # the rarest are cut off the picture; the page lists them
_BLUE = "#0072b2"


def corpus(
    path: Path,
    seconds: Float[np.ndarray, " N"],
    characters: Float[np.ndarray, " N"],
    rates: Float[np.ndarray, " N"],
    levels: Float[np.ndarray, " N"],
    symbols: list[tuple[str, int]],
) -> Path:
    """Histograms over the clips, their lengths beside those of the texts, and the symbols by frequency."""
    figure, rows = subplots(3, 2, 11, 9.5)
    for axes, values, label in (
        (rows[0, 0], seconds, "seconds per clip"),
        (rows[0, 1], rates, "characters per second of sound"),
        (rows[1, 0], levels, "level of the sound, dB of full scale"),
    ):
        axes.hist(values, bins=_BINS, color=_BLUE)
        axes.set(xlabel=label, ylabel="clips")
    rows[1, 1].plot(characters, seconds, ".", markersize=4, alpha=0.5, color=_BLUE)
    rows[1, 1].set(xlabel="characters", ylabel="seconds", xlim=(0, None), ylim=(0, None))
    grid = rows[2, 0].get_gridspec()
    for axes in rows[2]:
        axes.remove()
    axes = figure.add_subplot(grid[2, :])
    names, counts = zip(*symbols[:_N_SYMBOLS], strict=True)
    axes.bar(range(len(names)), counts, color=_BLUE)
    axes.set_xticks(range(len(names)), ["sp" if n == " " else n for n in names], fontsize=8, parse_math=False)
    axes.set(yscale="log", ylabel="times", xlabel="symbol", xlim=(-1, len(names)))
    return save(figure, path)
