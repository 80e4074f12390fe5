"""Variants of a comparison: runs grouped by their settings, compared seed by seed. No pictures, no HTML.

Runs whose settings are the same but for the seed are one variant. Settings that may change within a run
(identity.FREE_SETTINGS) do not count, but for those that make other figures of it (sources.MATTERS).
"""

import collections
import difflib
import fnmatch
import json
from dataclasses import dataclass
from typing import Any

from vitslite.config import families
from vitslite.experiments.sources import Found, RunLog
from vitslite.metrics import catalogue
from vitslite.runs import Points

MAX_POINTS = 300  # of a curve; of more, every n-th is drawn
MISSING = object()  # the value of a setting that a run does not have
COMMON = "the common settings"
LABEL_KEYS = 3  # of more, a label has only those that are not as in most variants
LISTED = 5  # keys or variants in one line


@dataclass(frozen=True, eq=False)
class Variant:
    """Runs that differ in the seed alone."""

    label: str
    settings: dict[str, Any]
    runs: dict[str, RunLog]  # by seed: those whose figures count
    left_out: tuple[RunLog, ...] = ()  # unfinished, where others are finished

    def values(self, key: str, best: bool = False) -> dict[str, float]:
        """The last value of each seed, or its best."""
        found = {seed: run.best if best else run.last for seed, run in self.runs.items()}
        return {seed: row[key] for seed, row in found.items() if key in row}

    @property
    def note(self) -> str:
        """What there is to say of its runs."""
        used = [run.unfinished for run in self.runs.values() if run.unfinished]
        out = [f"seed {run.seed} ({run.unfinished})" for run in self.left_out]
        return f"unfinished ({', '.join(used)})" if used else f"unfinished, left out: {', '.join(out)}" if out else ""


@dataclass(frozen=True)
class Comparison:
    """All that the report shows."""

    title: str
    command: str
    variants: list[Variant]
    baseline: Variant
    metrics: list[str]
    remarks: list[str]
    failed: dict[str, str]
    wrong: list[list[str]]  # of each variant: why its loss is wrong on purpose; [] where it is sound

    @property
    def runs(self) -> list[RunLog]:
        """Those whose figures count, and then of each variant the unfinished ones."""
        return [run for variant in self.variants for run in (*variant.runs.values(), *variant.left_out)]

    @property
    def differing(self) -> list[str]:
        return differing([variant.settings for variant in self.variants])


def compare(
    found: Found, title: str, command: str, baseline: str | None = None, metrics: list[str] | None = None
) -> Comparison:
    """ValueError for a baseline or a metric that there is not."""
    variants, remarks = group(found.runs)
    reasons = [next(iter(variant.runs.values())).wrong for variant in variants]
    unknown = [variant.label for variant, why in zip(variants, reasons, strict=True) if why is None]
    if unknown:
        remarks.append(
            f"settings of another version: whether it is wrong on purpose is not known of {'; '.join(unknown)}"
        )
    return Comparison(
        title=title,
        command=command,
        variants=variants,
        baseline=find_baseline(variants, baseline),
        metrics=choose_metrics(variants, metrics),
        remarks=found.remarks + remarks + families.in_words(family_of(variant.settings) for variant in variants),
        failed=found.failed,
        wrong=[why or [] for why in reasons],
    )


def family_of(settings: dict[str, Any]) -> str:
    """Settings of before there were others are VITS'."""
    defaults = {"posterior": "gaussian", "flow": "mean_only", "refiner": "none"}
    return families.family(*(settings.get(f"model.{part}.kind", kind) for part, kind in defaults.items()))


def group(runs: list[RunLog]) -> tuple[list[Variant], list[str]]:
    """The variants in the order of their first runs, and what there is to say of the choice.

    Of runs with the same settings and the same seed the newest counts, or the newest that is finished.
    """
    groups: dict[str, list[RunLog]] = {}
    for run in runs:
        groups.setdefault(json.dumps(run.settings, sort_keys=True, default=str), []).append(run)
    remarks, variants = [], []
    labels = _labels([members[0].settings for members in groups.values()])
    for label, members in zip(labels, groups.values(), strict=True):
        by_seed: dict[str, list[RunLog]] = {}
        for run in sorted(members, key=lambda run: (len(run.seed), run.seed)):
            by_seed.setdefault(run.seed, []).append(run)
        chosen = {seed: max(same, key=lambda run: (not run.unfinished, run.modified)) for seed, same in by_seed.items()}
        remarks += [_twice(same, chosen[seed]) for seed, same in by_seed.items() if len(same) > 1]
        done = {seed: run for seed, run in chosen.items() if not run.unfinished}
        left_out = tuple(run for run in chosen.values() if run.unfinished) if done else ()
        variants.append(Variant(label, members[0].settings, done or chosen, left_out))
    return variants, remarks + _versions(runs)


def differing(settings: list[dict[str, Any]]) -> list[str]:
    """The keys that have not one value in all."""
    keys = dict.fromkeys(key for one in settings for key in one)
    return [key for key in keys if any(one.get(key, MISSING) != settings[0].get(key, MISSING) for one in settings)]


def typed(value: Any) -> str:
    """A value as one types it on the command line; a dash for what is missing."""
    if value is MISSING:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def find_baseline(variants: list[Variant], words: str | None) -> Variant:
    """The variant with these words among its settings, of this label, or with a run of this name; else the first."""
    if words is None:
        return variants[0]
    named = [v for v in variants if words == v.label or words in {r.name for r in (*v.runs.values(), *v.left_out)}]
    fitting = named or [v for v in variants if all(_has(v, word) for word in words.split())]
    if len(fitting) == 1:
        return fitting[0]
    labels = [v.label for v in fitting or variants]
    if fitting:
        some = f"{'; '.join(labels[:LISTED])}{' ...' if len(labels) > LISTED else ''}"
        raise ValueError(f"--baseline {words!r} fits {len(fitting)} variants: {some}; give one of them in full")
    near = difflib.get_close_matches(words, labels, n=1, cutoff=0.0)
    raise ValueError(f"--baseline {words!r}: no such variant and no run of that name; the nearest is {near[0]!r}")


def choose_metrics(variants: list[Variant], wanted: list[str] | None) -> list[str]:
    """Keys of the tables, in the order wanted; val/loss/* stands for all such. ValueError for one never logged.

    Without a wish those of the catalogue's tables, on validation data.
    """
    logged = sorted(logged_keys(variants))
    if not wanted:
        return catalogue.chosen("table", (key for key in logged if key.startswith("val/")))
    chosen = [(pattern, fnmatch.filter(logged, pattern)) for pattern in wanted]
    for pattern, keys in chosen:
        if not keys:
            near = difflib.get_close_matches(pattern, logged, n=1, cutoff=0.0)
            raise ValueError(f"--metrics {pattern}: never logged{f', did you mean {near[0]}?' if near else ''}")
    return list(dict.fromkeys(key for _, keys in chosen for key in keys))


def curves(
    variants: list[Variant], everything: bool
) -> dict[str, tuple[dict[int, list[Points]], dict[int, list[Points]]]]:
    """Key without "val/" -> (training, validation): by number of the variant, the points of its seeds.

    In the order of the catalogue; `everything` draws also what is extra there.
    """
    names = catalogue.in_order(key.removeprefix("val/") for key in logged_keys(variants))
    shown = [name for name in names if everything or not catalogue.is_extra(name)]
    return {name: (curve(variants, name), curve(variants, f"val/{name}")) for name in shown}


def logged_keys(variants: list[Variant]) -> list[str]:
    """What the runs whose figures count have logged, in that order."""
    return list(dict.fromkeys(key for v in variants for run in v.runs.values() for key in run.last if key != "step"))


def curve(variants: list[Variant], key: str) -> dict[int, list[Points]]:
    """By number of the variant, the points of its seeds; variants that have none are left out."""
    found = {i: [run.points(key) for run in variant.runs.values()] for i, variant in enumerate(variants)}
    return {i: [_thinned(points) for points in seeds if points] for i, seeds in found.items() if any(seeds)}


def _thinned(points: Points) -> Points:
    """Every n-th point, and the last."""
    n = -(-len(points) // MAX_POINTS)
    return points[::n] + ([points[-1]] if (len(points) - 1) % n else [])


def _labels(settings: list[dict[str, Any]]) -> list[str]:
    """What tells each variant from the others, as overrides.

    Of more than LABEL_KEYS keys only those whose value is not that of most variants. A key that some do not have, and
    all others have with one value, tells versions of vitslite apart rather than variants: it is in no label. Families
    that differ in more than LABEL_KEYS keys are labelled each by itself, behind its name.
    """
    if len(settings) == 1:
        return ["all"]
    words = [{key: typed(one[key]) for key in differing(settings) if key in one} for one in settings]
    values = {key: [one[key] for one in words if key in one] for key in differing(settings)}
    keys = [key for key, found in values.items() if len(set(found)) > 1]
    by_family: dict[str, list[int]] = {}
    for i, one in enumerate(settings):
        by_family.setdefault(family_of(one), []).append(i)
    if len(by_family) > 1 and len(keys) > LABEL_KEYS:
        found: dict[int, str] = {}
        for name, members in by_family.items():
            own = _labels([settings[i] for i in members])
            found |= {
                i: f"{name}: {label}" if len(members) > 1 else name for i, label in zip(members, own, strict=True)
            }
        return [found[i] for i in range(len(settings))]
    usual = {
        key: collections.Counter(values[key]).most_common(1)[0][0] if len(keys) > LABEL_KEYS else None for key in keys
    }
    labels = [" ".join(f"{k}={one[k]}" for k in keys if k in one and one[k] != usual[k]) or COMMON for one in words]
    return [
        f"{label} (version {labels[: i + 1].count(label)})" if labels.count(label) > 1 else label
        for i, label in enumerate(labels)
    ]


def _twice(runs: list[RunLog], chosen: RunLog) -> str:
    """A line for runs of the same settings and the same seed; by their places where their names are the same."""
    unique = len({run.name for run in runs}) == len(runs)
    names = {run: run.name if unique else str(run.folder or run.url) for run in runs}
    which = "the newest" if chosen.modified == max(run.modified for run in runs) else "the newest that is finished"
    return f"{', '.join(names.values())}: same settings, same seed; {names[chosen]}, {which}, is used"


def _versions(runs: list[RunLog]) -> list[str]:
    """A line for the runs that lack settings which others have."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    lacking = collections.Counter(tuple(key for key in keys if key not in run.settings) for run in runs)
    return [
        f"{n} run{'s were' if n > 1 else ' was'} made by another version: keys {', '.join(missing[:LISTED])}"
        f"{f' and {len(missing) - LISTED} more' if len(missing) > LISTED else ''} missing"
        for missing, n in lacking.items()
        if missing
    ]


def _has(variant: Variant, word: str) -> bool:
    """Whether "key=value" is one of its settings; numbers are the same however they are written."""
    key, _, wanted = word.partition("=")
    if key not in variant.settings:
        return False
    value = variant.settings[key]
    try:
        return typed(value) == wanted or (isinstance(value, int | float) and float(wanted) == value)
    except ValueError:
        return False  # not a number
