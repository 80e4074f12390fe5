"""Where the KL is computed, and why it is computed from a sample.

The prior stands behind the flow f, so by the change of variables

    log p(z | text) = log N(f(z); mean_p, std_p) + log |det df/dz|             (VITS, equation 4)
    KL(q || p)      = E_q[ log q(z | spectrogram) - log p(z | text) ]          (VITS, equation 3)

The first expectation is the negative entropy of a Gaussian, known exactly. The second is not: f(z) is not Gaussian when
f is nonlinear, so it is taken at the one sample z that the decoder gets anyway. The estimators below differ only in
which expectation is exact. Each takes `Latents` and returns nats per element, [B, D, T], unreduced and unmasked; the
objective masks and reduces once, to nats per frame (summed over D, averaged over the valid frames).

Three facts that save an afternoon:
  * `half_analytic - monte_carlo = 1/2 (eps^2 - 1)`: free of parameters. Their gradients are equal sample by sample.
  * A sampled estimate may be negative although the KL is not. At q = p, `half_analytic` has a standard deviation of
    sqrt(1/2) per element and 68 % of its elements are negative; `monte_carlo` is exactly zero there.
  * The sample needs |det df/dz|. A mean-only coupling has log_det = 0, which is why VITS can do without it; the affine
    coupling cannot, and dropping it makes the loss unbounded below.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from vitslite.tensors import Gaussian, Latents


def half_analytic(x: Latents) -> Float[Tensor, "B D T"]:
    """E_q[log q] exactly, log p at the sample: the loss of VITS. Unbiased for every flow; may be negative.

    With VITS' names: logs_p - logs_q - 1/2 + 1/2 (z_p - m_p)^2 exp(-2 logs_p) - log_det, nats per element.
    Its variance is lower than that of `monte_carlo` where std_q < std_p / sqrt(2).
    """
    return x.q.neg_entropy() - x.p.log_prob(x.z_p) - x.log_det


def monte_carlo(x: Latents) -> Float[Tensor, "B D T"]:
    """log q and log p both at the sample, nats per element. Unbiased for every flow; exactly 0 where q = p.

    As NVAE with flows and VAEs with volume-preserving flows compute it.
    """
    return x.q.log_prob(x.z) - x.p.log_prob(x.z_p) - x.log_det


def closed_form(x: Latents) -> Float[Tensor, "B D T"]:
    """KL(N_q || N_p) of two Gaussians, nats per element. No noise, but true only where f is the identity.

    Needs model/flow=none: behind a flow f(z) is not Gaussian any more, and no sample enters to notice. Ignoring
    a coupling's shift t, say, misses its variance and its mean. `build` refuses other flows.
    """
    return gaussian_kl(x.q, x.p)


def gaussian_kl(q: Gaussian, p: Gaussian) -> Float[Tensor, "*shape"]:
    """log_std_p - log_std_q - 1/2 + 1/2 (std_q^2 + (mean_q - mean_p)^2) / std_p^2, nats per element."""
    ratio = torch.exp(2 * (q.log_std - p.log_std))
    distance = ((q.mean - p.mean) * torch.exp(-p.log_std)) ** 2
    return p.log_std - q.log_std - 0.5 + 0.5 * (ratio + distance)


ESTIMATORS: dict[str, Callable[[Latents], Tensor]] = {f.__name__: f for f in (half_analytic, monte_carlo, closed_form)}
