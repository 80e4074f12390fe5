"""What a benchmark found, as text, as markdown and as JSON, and the machine that it was found on."""

import datetime
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

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
    return [
        {"what": name}
        | {
            f"{clock} ms{label}": 1000 * value(name, clock)
            for clock in timings.seconds[name]
            for label, value in (("", timings.median), (", least", timings.least))
        }
        for name in timings.seconds
    ]


def ratio(timings: Timings, name: str, reference: str) -> Row:
    """How many times as fast `name` is as `reference`, by the time of the device or else of the processor."""
    clock = "gpu" if "gpu" in timings.seconds[name] else "cpu"
    found = timings.ratio(name, reference, clock)
    return {
        "what": name,
        "against": reference,
        "clock": clock,
        "times as fast": found.median,
        "lower quartile": found.low,
        "upper quartile": found.high,
    }


def machine() -> dict[str, Any]:
    """Where and when: a ratio depends on it less than a time does, but it does."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "gpu": gpu,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


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
                lines += ["", *(_markdown(rows) if markdown else _aligned(rows))]
        if section.notes:
            lines += ["", *section.notes]
    return "\n".join(lines)


def as_dict(about: dict[str, Any], sections: list[Section]) -> dict[str, Any]:
    return {"machine": about, "sections": [asdict(section) for section in sections]}


def _markdown(rows: list[Row]) -> list[str]:
    head, *body = _cells(rows)
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body)]


def _aligned(rows: list[Row]) -> list[str]:
    """Columns of one width, numbers to the right; what begins a row is a name, and stands to the left."""
    table = _cells(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    is_text = [any(isinstance(row[key], str) for row in rows) for key in rows[0]]
    return [
        "  ".join(
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(cells, widths, is_text, strict=True)
        ).rstrip()
        for cells in table
    ]


def _cells(rows: list[Row]) -> list[list[str]]:
    assert all(row.keys() == rows[0].keys() for row in rows), "rows of one table have the same columns"
    return [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]


def _cell(value: str | int | float | None) -> str:
    if value is None:
        return NOT_MEASURED
    return significant(value) if isinstance(value, float) else str(value)


def processor() -> str:
    """Its name; Linux alone says it in a file."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
