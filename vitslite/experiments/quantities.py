"""Quantities of two variants: which figures of a key mean the same, what makes others of them, and paired differences.

loss/kl of two estimators, a likelihood and a KL, a distance of other spectrograms: their difference is no finding.
"""

import statistics
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from vitslite.experiments.variants import Variant
from vitslite.metrics import catalogue
from vitslite.metrics.statistics import half_interval

ON_PATH = ("model.posterior.kind", "model.alignment.kind", "audio.sample_rate", "audio.hop_length")
LOSS_OF_Z = (*ON_PATH, "objective.kl", "objective.kl_samples", "objective.reduction", "objective.log_det")
DECODED = ("model.posterior.kind", "objective.mel_target", "objective.extra_resolutions", "audio.*")
OF_LOG_MEL = ("model.posterior.kind", "model.posterior.recording_noise", "audio.*")
DEFINED_BY = {  # of a key without "val/": the settings that say what it is; the first pattern that fits counts
    "loss/kl": (*LOSS_OF_Z, "objective.regulariser.*"),
    "loss/prior": (*LOSS_OF_Z, *OF_LOG_MEL, "model.posterior.recording_*"),
    "loss/prior_mel": ("audio.*",),
    "loss/total": ("objective.*",),
    "loss/mel": DECODED,
    "loss/energy": DECODED,
    "loss/duration": ("model.duration.kind",),
    "loss/diffusion": ("model.refiner.*", *OF_LOG_MEL),
    "loss/flow_matching": ("model.refiner.*", *OF_LOG_MEL),
    "loss/adversarial": ("*",),  # each discriminator is another judge
    "loss/feature_matching": ("*",),
    "loss/discriminator": ("*",),
    "kl/over_paths*": ("model.posterior.kind", "audio.sample_rate", "audio.hop_length"),
    "kl/*": ON_PATH,
    "nll/over_paths": OF_LOG_MEL,
    "nll/*": (*OF_LOG_MEL, "model.alignment.kind"),
    "wer/*": ("validation.recogniser", "validation.n_heard"),
    "cer/*": ("validation.recogniser", "validation.n_heard"),
}


def apart(key: str, ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """The settings that make `key` of two variants different quantities; [] where they may be compared.

    A setting that one of them does not know has the default, and so counts as the same.
    """
    name = key.removeprefix("val/")
    patterns = next((found for pattern, found in DEFINED_BY.items() if fnmatchcase(name, pattern)), ())
    common = [setting for setting in ours if setting in theirs and ours[setting] != theirs[setting]]
    return [setting for setting in common if any(fnmatchcase(setting, pattern) for pattern in patterns)]


def differences(variant: Variant, baseline: Variant, key: str) -> list[float]:
    """Variant - baseline on every seed that both have: what the seed does to both falls out."""
    ours, theirs = variant.values(key), baseline.values(key)
    return [value - theirs[seed] for seed, value in ours.items() if seed in theirs]


class Difference(NamedTuple):
    """A variant minus another over the common seeds: the mean, half of its 95 % interval (nan of one seed)."""

    mean: float
    half: float
    n: int

    @property
    def is_resolved(self) -> bool:
        return abs(self.mean) > self.half  # never of nan

    def effect(self, key: str) -> str:
        """Better or worse by the catalogue, higher or lower where neither way is better; "" where not resolved."""
        if not self.is_resolved:
            return ""
        is_lower, better = self.mean < 0, catalogue.find(key).better
        if better is None:
            return "lower" if is_lower else "higher"
        return "better" if is_lower == (better == "lower") else "worse"


def difference(variant: Variant, baseline: Variant, key: str) -> Difference | None:
    """None where no seed is common, or where the key is another quantity in each."""
    found = differences(variant, baseline, key)
    if not found or apart(key, variant.settings, baseline.settings):
        return None
    return Difference(statistics.fmean(found), half_interval(found), len(found))
