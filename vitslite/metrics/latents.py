"""Latent statistics: the KL by several estimators on the same noise, its parts, its standard error, active units.

The same estimators are read off whatever the run trains with, so that different losses can be laid side by side.
`latent_sums` reduces a batch to sums in float64, `merge` adds those of several batches, and `latent_statistics` makes
the logged figures of them: the figures of all batches together, not a mean of means. The KL is in nats per frame unless
said otherwise; its estimators are in objectives/kl.py.

kl/half_analytic, kl/monte_carlo,   unbiased estimates from the same sample; they differ by (eps^2 - 1) / 2 and
kl/optimal_control_variate          c (eps^2 - 1) alone, c = (1 - r^2) / 2, r = std_q / std_p
kl/k3                               w - 1 - ln w, w = p(z) / q(z) of a whole frame: unbiased, never negative, and of
                                    infinite variance where std_p^2 >= 2 std_q^2, so rarely near the others
kl/closed_form, kl/pushed_mean      no noise, but true only in the cases of objectives/kl.py
kl/normaliser, kl/quadratic, kl/minus_log_det           the three parts of half_analytic
kl/standard_error                   of half_analytic over these frames: std / sqrt N
kl/noise_floor                      sqrt(D / 2 / N): what the standard error is at q = p, whatever one does
kl/negative_elements, kl/negative_frames                shares; 0.683 of the elements are negative at q = p
kl/per_element, kl/bits_per_second  half_analytic in other units

latent/posterior_log_std, .._min, .._max, latent/prior_log_std      mean and extremes over elements
latent/ratio                exp of the mean of log_std_q - log_std_p
latent/narrow_posterior     share of elements with std_q < std_p / sqrt 2, where half_analytic has less variance
                            than monte_carlo
                            (both compare std_q of z with std_p of f(z): behind a flow that scales, two spaces)
latent/noise_square         mean eps^2, which must be near 1
latent/active_units         channels where the variance of q.mean over frames exceeds 0.01
latent/active_kl_units      channels whose closed form exceeds 0.01 nats per frame
latent/snr_db               10 log10(sum_c Var(mean_c) / sum_c E[std_c^2]); at least -100
latent/flow_move            ||z_p - z|| / ||z||

Where z is the recording itself there is no q, so none of these but latent/prior_log_std and, where there is a flow, the
last; instead the likelihood of the log-mel spectrogram, whatever the scale inside (its Jacobian is in log_det):

nll/per_frame, nll/per_element      -log p(log-mel | text), nats, on the path that the alignment found
nll/normaliser, nll/quadratic, nll/minus_log_det        its three parts per frame; the first two of the prior in z_p
nll/standard_error                  of nll/per_frame over these frames
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitslite.objectives import kl
from vitslite.tensors import LOG_2PI, FlowLike, Latents, Outputs, wide

ACTIVE_VARIANCE = 0.01  # of q.mean over frames (Burda et al. 2016, section 5.2)
ACTIVE_KL = 0.01  # nats per frame
LEAST_SNR = 1e-10  # -100 dB, in the place of -inf


@dataclass(frozen=True)
class LatentSums:
    """Sums over valid frames, in float64, and the extremes of q.log_std, which do not add up."""

    totals: dict[str, Float[Tensor, ""]]  # over channels, too
    channels: dict[str, Float[Tensor, " D"]]
    smallest: Float[Tensor, ""]
    largest: Float[Tensor, ""]

    def merge(self, other: "LatentSums") -> "LatentSums":
        return LatentSums(
            {name: value + other.totals[name] for name, value in self.totals.items()},
            {name: value + other.channels[name] for name, value in self.channels.items()},
            torch.minimum(self.smallest, other.smallest),
            torch.maximum(self.largest, other.largest),
        )


@torch.no_grad()
def latent_sums(outputs: Outputs) -> LatentSums:
    """What `latent_statistics` needs of one batch. One call of the flow, for `kl.pushed_mean`; padding adds nothing."""
    if outputs.latents.posterior is None:
        return _likelihood_sums(in_float64(outputs.latents))
    pushed = kl.closed_form if outputs.latents.flow is None else kl.pushed_mean
    pushed_mean = wide(pushed(outputs.latents))  # in the flow's own precision, all else in float64
    x = in_float64(outputs.latents)
    log_ratio = x.q.log_std - x.p.log_std
    half, log_weight = kl.half_analytic(x), -kl.monte_carlo(x)
    elements = {
        "half": half,
        "monte_carlo": -log_weight,
        "pushed_mean": pushed_mean,
        "normaliser": -log_ratio - 0.5,
        "quadratic": -x.p.log_prob(x.z_p) - x.p.log_std - 0.5 * LOG_2PI,  # 1/2 ((z_p - mean_p) / std_p)^2
        "log_det": x.log_det,
        "negative": half < 0,
        "q_log_std": x.q.log_std,
        "p_log_std": x.p.log_std,
        "narrow": log_ratio < -0.5 * math.log(2),
        "move_square": (x.z_p - x.z) ** 2,
        "z_square": x.z**2,
    }
    by_channel = {
        "closed_form": kl.closed_form(x),
        "mean": x.q.mean,
        "mean_square": x.q.mean**2,
        "variance": torch.exp(2 * x.q.log_std),
        "ratio_square": torch.exp(2 * log_ratio),
        "noise_square": x.noise**2,
    }
    half_frame, log_weight = (_valid(v, x).sum(1) for v in (half, log_weight))
    frames = {
        "frames": x.mask[:, 0],
        "half_square": half_frame**2,
        "negative_frames": half_frame < 0,
        "k3": torch.expm1(log_weight) - log_weight,
    }
    totals = {name: _valid(value, x).sum() for name, value in elements.items()}
    totals |= {name: wide(value).sum() for name, value in frames.items()}
    return LatentSums(
        totals,
        {name: _valid(value, x).sum((0, 2)) for name, value in by_channel.items()},
        smallest=x.q.log_std.masked_fill(~x.mask, math.inf).min(),
        largest=x.q.log_std.masked_fill(~x.mask, -math.inf).max(),
    )


def _likelihood_sums(x: Latents) -> LatentSums:
    """Of latents without a posterior."""
    nll = kl.likelihood(x)
    elements = {
        "nll": nll,
        "quadratic": -x.p.log_prob(x.z_p) - x.p.log_std - 0.5 * LOG_2PI,
        "log_det": x.log_det,
        "p_log_std": x.p.log_std,
        "move_square": (x.z_p - x.z) ** 2,
        "z_square": x.z**2,
    }
    if not is_flow(x.flow):
        del elements["move_square"]
    totals = {name: _valid(value, x).sum() for name, value in elements.items()}
    totals |= {"frames": wide(x.mask.sum()), "nll_square": (_valid(nll, x).sum(1) ** 2).sum()}
    totals["elements"] = totals["frames"] * x.z.shape[1]
    none = torch.zeros((), device=x.z.device)
    return LatentSums(totals, {}, smallest=none, largest=none)


def latent_statistics(sums: LatentSums, frames_per_second: float) -> dict[str, float]:
    """All figures of the module's docstring. `frames_per_second` = sample_rate / hop_length."""
    if not sums.channels:
        return _likelihood_statistics(sums)
    # The device is waited for twice: totals, and means over frames by channel.
    total = dict(zip(sums.totals, torch.stack(list(sums.totals.values())).tolist(), strict=True))
    n_frames = total["frames"]
    means = torch.stack(list(sums.channels.values())).cpu() / n_frames
    channels, n_channels = dict(zip(sums.channels, means, strict=True)), means.shape[1]
    per_frame = {name: value / n_frames for name, value in total.items()}
    per_element = {name: value / (n_frames * n_channels) for name, value in total.items()}
    half = per_frame["half"]
    half_variance = max(0.0, total["half_square"] - n_frames * half**2) / max(1.0, n_frames - 1)
    c = 0.5 * (1 - channels["ratio_square"])
    mean_variance = (channels["mean_square"] - channels["mean"] ** 2).clamp(min=0)
    snr = (mean_variance.sum() / channels["variance"].sum()).item()
    return {
        "kl/half_analytic": half,
        "kl/monte_carlo": per_frame["monte_carlo"],
        "kl/closed_form": channels["closed_form"].sum().item(),
        "kl/pushed_mean": per_frame["pushed_mean"],
        "kl/optimal_control_variate": per_frame["monte_carlo"] + (c * (channels["noise_square"] - 1)).sum().item(),
        "kl/k3": per_frame["k3"],
        "kl/normaliser": per_frame["normaliser"],
        "kl/quadratic": per_frame["quadratic"],
        "kl/minus_log_det": -per_frame["log_det"],
        "kl/standard_error": (half_variance / n_frames) ** 0.5,
        "kl/noise_floor": (n_channels / 2 / n_frames) ** 0.5,
        "kl/negative_elements": per_frame["negative"] / n_channels,
        "kl/negative_frames": per_frame["negative_frames"],
        "kl/per_element": half / n_channels,
        "kl/bits_per_second": half * frames_per_second / math.log(2),
        "latent/posterior_log_std": per_element["q_log_std"],
        "latent/posterior_log_std_min": sums.smallest.item(),
        "latent/posterior_log_std_max": sums.largest.item(),
        "latent/prior_log_std": per_element["p_log_std"],
        "latent/ratio": math.exp(per_element["q_log_std"] - per_element["p_log_std"]),
        "latent/narrow_posterior": per_element["narrow"],
        "latent/noise_square": channels["noise_square"].mean().item(),
        "latent/active_units": float((mean_variance > ACTIVE_VARIANCE).sum()),
        "latent/active_kl_units": float((channels["closed_form"] > ACTIVE_KL).sum()),
        "latent/snr_db": 10 * math.log10(max(snr, LEAST_SNR)),
        "latent/flow_move": (total["move_square"] / total["z_square"]) ** 0.5,
    }


def _likelihood_statistics(sums: LatentSums) -> dict[str, float]:
    total = dict(zip(sums.totals, torch.stack(list(sums.totals.values())).tolist(), strict=True))
    n_frames, n_elements = total["frames"], total["elements"]
    per_frame = {name: value / n_frames for name, value in total.items()}
    nll = per_frame["nll"]
    variance = max(0.0, total["nll_square"] - n_frames * nll**2) / max(1.0, n_frames - 1)
    return {
        "nll/per_frame": nll,
        "nll/per_element": total["nll"] / n_elements,
        "nll/normaliser": per_frame["p_log_std"] + 0.5 * LOG_2PI * n_elements / n_frames,
        "nll/quadratic": per_frame["quadratic"],
        "nll/minus_log_det": -per_frame["log_det"],
        "nll/standard_error": (variance / n_frames) ** 0.5,
        "latent/prior_log_std": total["p_log_std"] / n_elements,
        **({"latent/flow_move": (total["move_square"] / total["z_square"]) ** 0.5} if "move_square" in total else {}),
    }


def is_flow(flow: FlowLike | None) -> bool:
    """Whether there is a flow to speak of: that of model/flow=none, without parameters, passes z on."""
    return isinstance(flow, nn.Module) and any(True for _ in flow.parameters())


def in_float64(x: Latents) -> Latents:
    """The same numbers in float64. The flow stays as it is, so `at` is not for these."""
    q, p = x.posterior and x.posterior.map(wide), x.p.map(wide)
    return x._replace(posterior=q, p=p, z=wide(x.z), z_p=wide(x.z_p), log_det=wide(x.log_det))


def _valid(value: Tensor, x: Latents) -> Float[Tensor, "B D T"]:
    """0 on padding, also where it holds NaN or infinity."""
    return wide(value).masked_fill(~x.mask, 0)
