"""Catalogue of the logged metrics: title, unit, which way is better, and where each one is shown.

Keys are those of metrics.jsonl and W&B. "val/" + key, the same on validation data, has the entry of its key. What logs,
prints, draws, compares or ranks a metric asks here; tests/metrics/test_catalogue.py fails for a key without entry.
"""

import fnmatch
import functools
import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

from vitslite.runs import Row


class Metric(NamedTuple):
    pattern: str  # a key without "val/"; * stands for anything
    title: str  # {0} is what * stands for
    unit: str = ""
    better: Literal["lower", "higher"] | None = None  # None: neither, so there is no best value
    # Where, in words: line (at the end of a run), headline (table of a sweep), table (comparison), curves (curves.png
    # of a run), picture and val/picture (that of a comparison: in training, on validation data), extra (a curve that
    # is drawn only where all are asked for). log: on a logarithmic axis already where it spans a factor of 3.
    shown: str = ""

    def is_better(self, value: float, than: float) -> bool:
        """Whether `value` beats `than`. Where neither way is better, as of a KL, the lower one does; NaN never does."""
        return value > than if self.better == "higher" else value < than

    @property
    def worst(self) -> float:
        """What every value beats."""
        return -math.inf if self.better == "higher" else math.inf


# In the order in which they are shown; of two patterns that fit, the first counts.
CATALOGUE = (
    Metric("loss/kl", "KL term of the loss", "nats/frame", None, "line headline table curves picture val/picture"),
    Metric("loss/prior", "prior loss", "nats", "lower", "line headline table curves picture val/picture"),
    Metric("loss/mel", "log-mel L1", "nats", "lower", "line headline table curves picture val/picture"),
    Metric("loss/duration", "duration loss", "per token", "lower", "line table curves log"),
    Metric("loss/diffusion", "diffusion loss", "per element", "lower", "line headline table curves"),
    Metric("loss/flow_matching", "flow-matching loss", "per element", "lower", "line headline table curves"),
    Metric("loss/energy", "spectral energy distance", "nats", "lower", "line headline table"),
    Metric("loss/pitch", "log-pitch L1 of voiced frames", "nats/frame", "lower", "line table"),
    Metric("loss/prior_mel", "prior loss of the log-mel", "nats/element", "lower", "line table"),
    Metric("loss/adversarial", "generator's adversarial loss", "", "lower", "line table"),
    Metric("loss/feature_matching", "feature matching", "", "lower", "line table"),
    Metric("loss/discriminator", "discriminator loss"),
    Metric("loss/total", "weighted sum of the losses"),
    Metric("loss/kl_weight", "weight of the KL"),
    Metric("kl/half_analytic", "KL, half analytic", "nats/frame", None, "headline table picture"),
    Metric("kl/bits_per_second", "KL, half analytic", "bit/s", None, "table"),
    Metric("kl/per_element", "KL, half analytic", "nats/element"),
    Metric("kl/monte_carlo", "KL, Monte Carlo", "nats/frame"),
    Metric("kl/over_paths", "KL over all paths", "nats/frame", None, "headline table val/picture"),
    Metric("kl/over_paths_monte_carlo", "KL over all paths, Monte Carlo", "nats/frame"),
    Metric("kl/error_*", "standard error by utterances, {0}", "nats/frame"),
    Metric("kl/optimal_control_variate", "KL, optimal control variate", "nats/frame"),
    Metric("kl/k3", "KL, k3 estimator", "nats/frame"),
    Metric("kl/closed_form", "KL, closed form without flow", "nats/frame"),
    Metric("kl/pushed_mean", "KL, mean pushed through the flow", "nats/frame"),
    Metric("kl/normaliser", "KL part: log std ratio", "nats/frame"),
    Metric("kl/quadratic", "KL part: quadratic", "nats/frame"),
    Metric("kl/minus_log_det", "KL part: -log-determinant", "nats/frame"),
    Metric("kl/standard_error", "standard error of the KL", "nats/frame"),
    Metric("kl/noise_floor", "standard error at q = p", "nats/frame"),
    Metric("kl/negative_*", "share of negative {0}"),
    Metric("kl/variance_*", "sampling variance, {0}", "nats²/element"),
    Metric("nll/per_frame", "-log p(log-mel | text)", "nats/frame", "lower", "line headline table curves picture"),
    Metric("nll/over_paths", "-log p(log-mel | text) over all paths", "nats/frame", "lower", "table"),
    Metric("nll/error_*", "standard error by utterances, {0}", "nats/frame"),
    Metric("nll/per_element", "-log p(log-mel | text)", "nats/element", "lower"),
    Metric("nll/normaliser", "likelihood's part: normaliser", "nats/frame"),
    Metric("nll/quadratic", "likelihood's part: quadratic", "nats/frame"),
    Metric("nll/minus_log_det", "likelihood's part: -log-determinant", "nats/frame"),
    Metric("nll/standard_error", "standard error of the likelihood", "nats/frame"),
    Metric("mas/error_ms", "alignment error, mean", "ms", "lower", "line headline table curves val/picture log"),
    Metric("mas/error_median_ms", "alignment error, median", "ms", "lower", "line log"),
    Metric("mas/within_50ms", "onsets within 50 ms", "share", "higher", "line"),
    Metric("mas/even_error_ms", "alignment error of even spacing", "ms"),
    Metric("mas/hindsight", "KL that the search gains by hindsight", "nats/frame"),
    Metric("mas/hindsight_error", "standard error of the hindsight", "nats/frame"),
    Metric("mas/log_paths_per_frame", "log number of paths", "nats/frame"),
    Metric("mas/gap_per_frame", "all paths minus the best one", "nats/frame"),
    Metric("mas/path_mass", "posterior mass of the path", "share"),
    Metric("mas/entropy", "entropy of the alignment", "nats/frame"),
    Metric("mas/changed_frames", "frames that changed token", "share"),
    Metric("mas/diagonality", "distance from the diagonal", "share"),
    Metric("mas/zero_tokens", "tokens without frames", "tokens"),
    Metric("mas/max_duration", "longest token", "frames"),
    Metric("latent/active_units", "active units (variance of the mean)", "channels", None, "table"),
    Metric("latent/active_kl_units", "active units (KL)", "channels"),
    Metric("latent/posterior_log_std*", "log std of the posterior{0}"),
    Metric("latent/prior_log_std", "log std of the prior"),
    Metric("latent/ratio", "std of the posterior / of the prior"),
    Metric("latent/narrow_posterior", "elements with a narrow posterior", "share"),
    Metric("latent/noise_square", "mean squared noise"),
    Metric("latent/snr_db", "signal-to-noise ratio of z", "dB"),
    Metric("latent/flow_move", "relative move by the flow"),
    Metric("latent/inverse_error", "error of the flow's inverse"),
    Metric("grad/norm", "gradient norm", "", None, "curves log"),
    Metric("grad/*/*", "gradient norm, {0}", "", None, "extra"),
    Metric("grad/*", "gradient norm, {0}"),
    Metric("noise/scale/*", "gradient-noise scale, {0}", "utterances", None, "extra log"),
    Metric("noise/snr/*", "signal-to-noise ratio of the gradient, {0}", "", None, "extra"),
    Metric("wer/spoken", "word error rate, spoken", "share", "lower", "line headline table curves"),
    Metric("wer/*", "word error rate, {0}", "share", "lower", "line table"),
    Metric("cer/*", "character error rate, {0}", "share", "lower"),
    Metric("sound/high_buzz/copy", "repetition at one hop above 4.5 kHz, copy", "correlation", "lower", "line table"),
    Metric("sound/high_buzz/*", "repetition at one hop above 4.5 kHz, {0}", "correlation", "lower"),
    Metric("sound/mid_buzz/*", "repetition at one hop, 1.5 to 4.5 kHz, {0}", "correlation", "lower"),
    Metric("sound/harmonicity/*", "harmonics-to-noise ratio, {0}", "dB"),
    Metric("sound/slow_modulation/*", "modulation at 8 to 25 Hz, {0}", "dB"),
    Metric("sound/fast_modulation/*", "modulation at 25 to 50 Hz, {0}", "dB"),
    Metric("time/steps_per_second", "training speed", "steps/s", None, "extra"),
    Metric("time/audio_seconds_per_second", "training speed", "s of audio/s", None, "extra"),
    Metric("learning_rate", "learning rate", "", None, "extra"),
)
GROUPS = tuple(dict.fromkeys(metric.pattern.split("/")[0] for metric in CATALOGUE))  # first parts of the keys
OPEN_GROUPS = ("loss", "kl", "nll")  # what one sees at once where groups fold


@functools.cache
def find(key: str) -> Metric:
    """The entry of a key, with its title filled in. One that is not in the catalogue is its own title."""
    name = key.removeprefix("val/")
    for metric in CATALOGUE:
        if fnmatch.fnmatchcase(name, metric.pattern):
            start, _, end = metric.pattern.partition("*")
            rest = name[len(start) : len(name) - len(end) if end and "*" not in end else None]
            return metric._replace(title=metric.title.format(rest.replace("_", " ").replace("/", " to ")))
    return Metric(name, name)


def is_known(key: str) -> bool:
    return any(fnmatch.fnmatchcase(key.removeprefix("val/"), metric.pattern) for metric in CATALOGUE)


def axis_label(key: str) -> str:
    """Title and unit, for an axis: "KL, half analytic, nats/frame"."""
    metric = find(key)
    return f"{metric.title}, {metric.unit}" if metric.unit else metric.title


def chosen(shown: str, keys: Iterable[str]) -> list[str]:
    """Those of `keys` that are `shown` in a place, in the order of the catalogue."""
    return in_order(key for key in keys if shown in find(key).shown.split())


def is_extra(key: str) -> bool:
    """Whether the curve of a key is drawn only where all are asked for. So it is of what is not in the catalogue."""
    return "extra" in find(key).shown.split() or key.removeprefix("val/").split("/")[0] not in GROUPS


def in_order(keys: Iterable[str]) -> list[str]:
    """Without repetitions, as the catalogue has them; what it does not know comes last."""
    places = {metric.pattern: i for i, metric in enumerate(CATALOGUE)}
    return sorted(dict.fromkeys(keys), key=lambda key: places.get(find(key).pattern, len(places)))


def best_values(rows: Iterable[Row]) -> Row:
    """The best of each validated metric of which one way is better. The one before the first step is left out."""
    best: Row = {}
    for row in rows:
        for key, value in row.items():
            metric = find(key)
            counts = key.startswith("val/") and metric.better and row["step"] > 0 and math.isfinite(value)
            if counts and metric.is_better(value, than=best.get(key, metric.worst)):
                best[key] = value
    return best
