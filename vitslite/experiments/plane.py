"""Rate-distortion plane: how many bits a second the latent takes from the recording, and how well it is decoded.

Rate: the KL of validation, bit/s, over all paths where all runs have it, else on the path that was found. Distortion:
val/loss/mel. Weights, free bits and schedules of a sound KL move a run along one curve; a worse loss lies above it.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vitslite.experiments.quantities import apart
from vitslite.experiments.sources import RunLog
from vitslite.experiments.variants import Variant
from vitslite.metrics import catalogue
from vitslite.monitoring import panels
from vitslite.runs import Points

OVER_PATHS, ON_PATH, DISTORTION = "val/kl/over_paths", "val/kl/bits_per_second", "val/loss/mel"
SHOWN = 1.8  # of a trajectory, what is within this factor of its last distortion: the beginning is far away


class Run(NamedTuple):
    """Where it went, (bit/s, log-mel L1), the last is where it is; whether its loss is wrong on purpose."""

    trajectory: list[tuple[float, float]]
    is_wrong: bool


class Plane(NamedTuple):
    """The runs of each variant, by its number."""

    runs: dict[int, list[Run]]
    rate_label: str
    left_out: list[str]  # labels of variants that have no place on it


def plane(variants: Sequence[Variant], baseline: Variant | None = None) -> Plane | None:
    """None where no run has a KL. What is another quantity than the baseline's (the first's) is left out."""
    first = baseline or variants[0]
    runs = [run for variant in variants for run in variant.runs.values() if ON_PATH in run.last]
    key = OVER_PATHS if runs and all(OVER_PATHS in run.last for run in runs) else ON_PATH
    found, left_out = {}, []
    for i, variant in enumerate(variants):
        lines = [Run(line, bool(run.wrong)) for run in variant.runs.values() if (line := trajectory(run, key))]
        if lines and not apart(DISTORTION, variant.settings, first.settings):
            found[i] = lines
        else:
            left_out.append(variant.label)
    title = "KL over all paths" if key == OVER_PATHS else "KL on the path found"
    return Plane(found, f"rate: {title}, bit/s", left_out) if found else None


def trajectory(run: RunLog, key: str) -> list[tuple[float, float]]:
    """Rate and distortion at each validation, from where the distortion is near its last."""
    scale = 1.0
    if key == OVER_PATHS:  # nats per frame
        scale = run.config.get("audio.sample_rate", 0) / run.config.get("audio.hop_length", 1) / math.log(2)
    rates, distortions = dict(run.points(key)), run.points(DISTORTION)
    line: Points = [(step, value) for step, value in distortions if step in rates]
    last = line[-1][1] if line else math.nan
    places = [(rates[step] * scale, value) for step, value in line if value <= SHOWN * last]
    return [place for place in places if all(map(math.isfinite, place))]


def as_svg(found: Plane, n: int) -> str:
    """For a page on which n variants have colours."""
    return panels.plane_svg(found.runs, n, *_labels(found))


def as_png(path: Path, found: Plane, names: Sequence[str]) -> Path:
    """For a document, with a legend."""
    return panels.plane_png(path, {names[i]: runs for i, runs in found.runs.items()}, *_labels(found))


def _labels(found: Plane) -> tuple[str, str]:
    return found.rate_label, f"distortion: {catalogue.axis_label(DISTORTION)}"
