"""Pictures of measurements. Each function writes a PNG."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: no display is needed or looked for

import matplotlib.pyplot as plt

from vitslite.benchmarks.result import Row

SIDES = {"B": "utterances", "L": "tokens", "T": "frames"}


def growth(path: Path, rows: list[Row]) -> Path:
    """The rows of `mas.growth`: a panel per side that grows, a line per search; both axes logarithmic."""
    names = [key for key in rows[0] if key.endswith(" ms")]
    sides = list(dict.fromkeys(row["grows"] for row in rows))
    figure, panels = plt.subplots(1, len(sides), figsize=(10, 3.2), sharey=True, layout="constrained", squeeze=False)
    for axes, side in zip(panels[0], sides, strict=True):
        points = [row for row in rows if row["grows"] == side]
        for name in names:
            axes.plot(
                [p[side] for p in points], [p[name] for p in points], "o-", markersize=3, linewidth=1.3, label=name
            )
        fixed = ", ".join(f"{points[-1][other]} {SIDES[other]}" for other in sides if other != side)
        axes.set(xscale="log", yscale="log", xlabel=f"{SIDES[side]} ({fixed})")
        axes.set_xticks([p[side] for p in points], [str(p[side]) for p in points])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0, 0].set(ylabel="milliseconds")
    figure.legend(
        *panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)
    return path
