"""What a benchmark found, as text, as markdown and as JSON, and the machine that it was found on."""

import datetime
import json
import os
import platform
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from tabulate import tabulate

from vitslite.benchmarks.timing import Timings
from vitslite.metrics.statistics import NOT_MEASURED, significant

Row = dict[str, str | int | float | None]  # of a table; None: not measured


@dataclass
class Section:
    """One comparison: what was run, how long it took, and the ratios that it was run for."""

    title: str
    rows: list[Row]
    ratios: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def times(timings: Timings) -> list[Row]:
    """A row per call: median and least time by every clock, in milliseconds."""
    rows = []
    for name, clocks in timings.seconds.items():
        row: Row = {"what": name}
        for clock in clocks:
            row[f"{clock} ms"] = 1000 * timings.median(name, clock)
            row[f"{clock} ms, least"] = 1000 * timings.least(name, clock)
        rows.append(row)
    return rows


def ratio(timings: Timings, name: str, reference: str) -> Row:
    """How many times as fast `name` is as `reference`, by the time of the device or else of the processor."""
    median, low, high = timings.ratio(name, reference, timings.clock)
    quartiles = {"times as fast": median, "lower quartile": low, "upper quartile": high}
    return {"what": name, "against": reference, "clock": timings.clock, **quartiles}


def machine() -> dict[str, Any]:
    """Where and when: a ratio depends on it less than a time does, but it does."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


def processor() -> str:
    """Its name; Linux alone says it in a file."""
    path = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", path.read_text()) if path.is_file() else []
    return names[0] if names else platform.processor() or platform.machine()


def as_text(about: dict[str, Any], sections: list[Section], markdown: bool) -> str:
    """Everything, for a terminal or for a document."""
    load = f"load {about['load']}" + (" (the machine is busy)" if about["load"] > 0.5 * about["cores"] else "")
    where = f"{about['processor']}, {about['threads']} of {about['cores']} cores, {load}"
    where += f", {about['gpu']}" if about["gpu"] else ""
    lines = [f"{where}; torch {about['torch']}, Python {about['python']}; {about['date']}"]
    for section in sections:
        lines += ["", f"### {section.title}" if markdown else section.title]
        for rows in (section.rows, section.ratios):
            if rows:
                lines += ["", table(rows, "pipe" if markdown else "plain")]
        if section.notes:
            lines += ["", *section.notes]
    return "\n".join(lines)


def table(rows: list[Row], style: str) -> str:
    """Names stand to the left, numbers to the right."""
    sides = ["left" if isinstance(value, str) else "right" for value in rows[0].values()]
    cells = [[significant(value) if isinstance(value, float) else value for value in row.values()] for row in rows]
    return tabulate(cells, list(rows[0]), style, disable_numparse=True, missingval=NOT_MEASURED, colalign=sides)


def as_json(about: dict[str, Any], sections: list[Section]) -> str:
    return json.dumps({"machine": about, "sections": [asdict(section) for section in sections]}, indent=1) + "\n"


def draw_growth(path: Path, rows: list[Row]) -> None:
    """The rows of `mas.growth`: a panel per side that grows, a line per search; both axes logarithmic. Writes a PNG."""
    sides = {"B": "utterances", "L": "tokens", "T": "frames"}
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    panels = figure.subplots(1, len(sides), sharey=True)
    for axes, (side, unit) in zip(panels, sides.items(), strict=True):
        points = [row for row in rows if row["grows"] == side]
        lengths = [point[side] for point in points]
        for name in points[0]:
            if name.endswith(" ms"):
                axes.plot(lengths, [p[name] for p in points], "o-", markersize=3, linewidth=1.3, label=name)
        fixed = ", ".join(f"{points[-1][other]} {sides[other]}" for other in sides if other != side)
        axes.set(xscale="log", yscale="log", xlabel=f"{unit} ({fixed})")
        axes.set_xticks(lengths, map(str, lengths))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("milliseconds")
    entries = panels[0].get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
