"""Findings of a comparison in words: its question, what is wrong on purpose at what cost, what the seeds resolve."""

from collections.abc import Iterable
from typing import NamedTuple

from vitslite.experiments import atlas
from vitslite.experiments.quantities import Difference, apart, difference
from vitslite.experiments.sources import RunLog
from vitslite.experiments.variants import Comparison, Variant, logged_keys
from vitslite.metrics import catalogue
from vitslite.metrics.statistics import plus_minus, significant

KL_KEYS = ("val/kl/over_paths", "val/kl/half_analytic")  # the first that both have is the honest one
COSTS = ("val/nll/over_paths", "val/loss/mel", "val/mas/error_ms", "val/wer/spoken")


class Finding(NamedTuple):
    """What there is to say of a variant, by its number."""

    variant: int
    role: str  # baseline, wrong on purpose, or nothing
    sentences: list[str]


def question(runs: Iterable[RunLog]) -> tuple[str, str] | None:
    """Question and prediction of the experiment of the atlas that all runs are of, if they are."""
    asked = atlas.of_runs(run.name for run in runs)
    return (asked.question, asked.expected) if asked else None


def findings(c: Comparison) -> list[Finding]:
    """One per variant: wrong on purpose, why and what it costs beside the first sound one; what differs, resolved."""
    sound = [i for i in range(len(c.variants)) if not c.wrong[i]]
    base = c.variants.index(c.baseline)
    beside = base if base in sound else next(iter(sound), base)
    found = []
    for i, variant in enumerate(c.variants):
        other = c.variants[beside if c.wrong[i] else base]
        role = "wrong on purpose" if c.wrong[i] else "baseline" if i == base else ""
        sentences = [f"{reason}." for reason in c.wrong[i]]
        if variant is not other:
            words = _cost(variant, other) if c.wrong[i] else _resolved(variant, other, c.metrics)
            sentences.append(f"{'It costs, beside' if c.wrong[i] else 'Beside'} {other.label}: {words}.")
        found.append(Finding(i, role, sentences))
    return found


def opening(c: Comparison) -> str:
    """Which variant is what, in a sentence or two."""
    wrong = [v.label for v, reasons in zip(c.variants, c.wrong, strict=True) if reasons]
    parts = [f"{len(c.variants)} variants; the baseline is {c.baseline.label}." if len(c.variants) > 1 else ""]
    if wrong:
        parts.append(f"Wrong on purpose: {', '.join(wrong)}.")
    pairs = [len(set(v.runs) & set(c.baseline.runs)) for v in c.variants if v is not c.baseline]
    if pairs and max(pairs) < 2:
        parts.append("No two seeds are common, so nothing can be resolved: the figures below may be chance.")
    return " ".join(part for part in parts if part)


def _cost(variant: Variant, other: Variant) -> str:
    """The honest KL, and what one hears; resolved or not."""
    logged = set(logged_keys([variant])) & set(logged_keys([other]))
    kl = next((key for key in KL_KEYS if key in logged and not apart(key, variant.settings, other.settings)), None)
    keys = ([kl] if kl else []) + [key for key in COSTS if key in logged]
    found = [(key, difference(variant, other, key)) for key in keys]
    return "; ".join(in_words(key, d) for key, d in found if d) or "nothing both have measured"


def _resolved(variant: Variant, other: Variant, keys: list[str]) -> str:
    """What the seeds resolve, good and bad; the rest by its number."""
    found = [(key, difference(variant, other, key)) for key in keys]
    known = [(key, d) for key, d in found if d]
    resolved = [in_words(key, d) for key, d in known if d.is_resolved]
    n_open, n_other = len(known) - len(resolved), len(found) - len(known)
    rest = [f"{n_open} not resolved"] * bool(n_open) + [f"{n_other} not to be compared"] * bool(n_other)
    return "; ".join([*resolved, *rest]) if resolved or rest else "nothing both have measured"


def in_words(key: str, d: Difference) -> str:
    """Title, difference, unit, and what the seeds say of it: "log-mel L1 -0.1 ± 0.02 nats (better)"."""
    metric = catalogue.find(key)
    scale, unit = (100, "%") if metric.unit == "share" else (1, metric.unit)
    mean, half = d.mean * scale, d.half * scale
    number = plus_minus(mean, half, signed=True) if d.n > 1 else f"{'+' if mean > 0 else ''}{significant(mean)}"
    says = d.effect(key) or ("not resolved" if d.n > 1 else "one seed: no interval")
    return f"{metric.title} {number} {unit} ({says})".replace("  ", " ")
