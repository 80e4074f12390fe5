"""KL over all paths: to a prior that is a density whatever the alignment, so that runs may be compared by it.

The text gives every monotonic path A of an utterance a density, p(z | A) = prod_t N(f(z)_t; token A(t)) |det df/dz|.
The prior of the text alone is their mixture, each of the N = C(T-1, L-1) paths as likely as any other:

    p(z | text) = 1/N sum_A p(z | A)
    KL over paths = E_q[log q(z) - log p(z | text)] = E_q[log q(z) - log |det df/dz| - log_sum(f(z)) + ln N]

with log_sum of model/forward_sum.py. The KL that a run trains with plugs one path in. With score(A) = sum_t log N,
gap = log_sum - score(A) >= 0 is what that path leaves out, and by subtraction

    KL over paths = KL on a path + ln N - gap = kl/half_analytic + mas/log_paths_per_frame - mas/gap_per_frame

for the best path, a given one and even durations alike: no path is left on the left-hand side. The soft prior of
forward_sum is a surrogate that has the gradient of log_sum and not its value, so of it only the first line holds.

    kl/over_paths                   the entropy of q exact, as in half_analytic; nats per frame. Never negative but for
                                    noise: a density stands on both sides, and no search can lower it
    kl/over_paths_monte_carlo       log q at the sample: the quieter one near q = p
    mas/hindsight                   KL on the path at another sample of q, less that at the sample which the path was
                                    found for: what the search gains by having seen the noise. 0 but for noise where
                                    the path does not depend on the sample. Both with the control variate of `quiet`
    mas/gap_per_frame               of the path in `durations`, over these utterances
    nll/over_paths                  -log p(log-mel | text), where z is the recording: nll/per_frame + ln N - gap
    kl/error_*, nll/error_*, mas/hindsight_error        standard errors, clustered by utterance: frames of a sentence
                                    are alike, so they count as one; absent where there is only one utterance

All sums here are per utterance, in float64; `over_path_statistics` adds those of several batches up.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitslite.metrics.latents import in_float64
from vitslite.model import forward_sum
from vitslite.model.alignment import frame_to_token
from vitslite.objectives import kl
from vitslite.tensors import LOG_2PI, Gaussian, Latents, Outputs, wide

Sums = dict[str, Float[Tensor, " B"]]  # by name, nats of each utterance in float64; "frames" is their number

FIGURES = {  # logged key -> its sum; the key of its standard error
    "kl/half_analytic": ("half_analytic", "kl/error_half_analytic"),
    "kl/monte_carlo": ("monte_carlo", "kl/error_monte_carlo"),
    "kl/over_paths": ("over_paths", "kl/error_over_paths"),
    "kl/over_paths_monte_carlo": ("over_paths_monte_carlo", "kl/error_over_paths_monte_carlo"),
    "mas/hindsight": ("hindsight", "mas/hindsight_error"),
    "nll/per_frame": ("nll", "nll/error_per_frame"),
    "nll/over_paths": ("nll_over_paths", "nll/error_over_paths"),
    "mas/gap_per_frame": ("gap", None),
}
_KNOWN = {"kl/half_analytic", "kl/monte_carlo", "nll/per_frame"}  # metrics/latents.py logs these; here their errors


@torch.no_grad()
def utterance_sums(outputs: Outputs, token_lengths: Int[Tensor, " B"]) -> Sums:
    """The sums of the module's docstring for each utterance. One sweep over the frames and one call of the flow.

    half_analytic, monte_carlo, over_paths, over_paths_monte_carlo, hindsight; of recordings nll, nll_over_paths; of
    both frames, gap and log_paths. Whatever lies on padding has no influence.
    """
    x = in_float64(outputs.latents)
    frame_lengths = x.mask.sum((1, 2))
    score = token_scores(x.z_p, outputs.p_text)
    log_sum = forward_sum.log_sum(score, token_lengths, frame_lengths)
    log_paths = forward_sum.log_n_paths(token_lengths, frame_lengths)
    token = frame_to_token(outputs.durations, x.mask.shape[2])
    on_path = total(score.gather(1, token[:, None]), x)
    minus_log_p = log_paths - log_sum - total(x.log_det, x)
    sums = {"frames": wide(frame_lengths), "gap": log_sum - on_path, "log_paths": log_paths}
    if x.posterior is None:
        return sums | {"nll": total(kl.likelihood(x), x), "nll_over_paths": minus_log_p}
    redrawn = in_float64(kl.redrawn(outputs.latents, 1))
    return sums | {
        "half_analytic": total(kl.half_analytic(x), x),
        "monte_carlo": total(kl.monte_carlo(x), x),
        "over_paths": total(x.q.neg_entropy(), x) + minus_log_p,
        "over_paths_monte_carlo": total(x.q.log_prob(x.z), x) + minus_log_p,
        "hindsight": total(quiet(redrawn) - quiet(x), x),
    }


def over_path_statistics(batches: Sequence[Sums]) -> dict[str, float]:
    """The figures over all utterances of these batches, per frame, and their standard errors."""
    sums = {name: torch.cat([batch[name] for batch in batches]).cpu() for name in batches[0]}
    frames = sums["frames"]
    statistics = {}
    for key, (name, error_key) in FIGURES.items():
        if name not in sums:
            continue
        if key not in _KNOWN:
            statistics[key] = (sums[name].sum() / frames.sum()).item()
        if error_key is not None and len(frames) > 1:
            statistics[error_key] = clustered_error(sums[name], frames)
    return statistics


def clustered_error(sums: Float[Tensor, " B"], frames: Float[Tensor, " B"]) -> float:
    """Standard error of sum(sums) / sum(frames), the B utterances independent, what is within one not.

    sqrt(B / (B - 1) sum_b (sums_b - mean * frames_b)^2) / sum(frames): the ratio estimator of cluster sampling
    (Cochran 1977, Sampling techniques, section 9A.2).
    """
    n = len(sums)
    residuals = sums - sums.sum() / frames.sum() * frames
    return ((n / (n - 1) * (residuals**2).sum()) ** 0.5 / frames.sum()).item()


def quiet(x: Latents) -> Float[Tensor, "B D T"]:
    """`kl.optimal_control_variate` with c of each utterance, not of its batch: an utterance's figure is its own."""
    ratio = torch.exp(2 * (x.q.log_std - x.p.log_std)).masked_fill(~x.mask, 0)
    c = 0.5 * (1 - ratio.sum(2, keepdim=True) / x.mask.sum(2, keepdim=True))
    return kl.monte_carlo(x) + c * (x.noise**2 - 1)


def token_scores(z_p: Float[Tensor, "B D T"], p_text: Gaussian) -> Float[Tensor, "B L T"]:
    """`alignment.log_likelihood` in float64, where the expanded square does not cancel."""
    mean, log_std = p_text.map(wide)
    precision = torch.exp(-2 * log_std)
    constant = (-log_std - 0.5 * LOG_2PI - 0.5 * mean**2 * precision).sum(1)[:, :, None]
    with torch.autocast(z_p.device.type, enabled=False):
        return constant + (mean * precision).mT @ z_p - 0.5 * precision.mT @ z_p**2


def total(value: Float[Tensor, "B _ T"], x: Latents) -> Float[Tensor, " B"]:
    """The sum of each utterance over its valid frames, also where padding holds NaN or infinity."""
    return value.masked_fill(~x.mask, 0).sum((1, 2))
