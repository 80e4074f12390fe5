"""KL estimators: where the KL is computed, and why it is computed from a sample.

The prior stands behind the flow f, so by the change of variables

    log p(z | text) = log N(f(z); mean_p, std_p) + log |det df/dz|             (VITS, equation 4)
    KL(q || p)      = E_q[ log q(z | spectrogram) - log p(z | text) ]          (VITS, equation 3)

The first expectation is the negative entropy of a Gaussian, known exactly. The second is not: f(z) is not Gaussian when
f is nonlinear, so it is taken at the one sample z that the decoder gets anyway. The estimators below differ only in
which expectation is exact. Each takes `Latents` and returns nats per element, [B, D, T], unreduced and unmasked; the
objective masks and reduces once, to nats per frame (summed over D, averaged over the valid frames).

Why does mean_q (m_q in VITS) stand nowhere in the loss? log q enters by its entropy, which knows std_q alone, and log p
is taken at the sample z = mean_q + std_q eps: mean_q acts through z_p = f(z), and gets its gradient there. Without a
flow the expectation of (z - mean_p)^2 is std_q^2 + (mean_q - mean_p)^2, the term of the closed form.

Four facts that save an afternoon:
  * `half_analytic - monte_carlo = 1/2 (eps^2 - 1)`: free of parameters. Their gradients are equal sample by sample.
  * A sampled estimate may be negative although the KL is not. At q = p, `half_analytic` has a standard deviation of
    sqrt(1/2) per element and 68 % of its elements are negative; `monte_carlo` is exactly zero there.
  * The sample needs |det df/dz|. A mean-only coupling has log_det = 0, which is why VITS can do without it; the affine
    coupling cannot, and dropping it makes the loss unbounded below.
  * The closed form is not "the exact version": behind a nonlinear flow it is without noise, and wrong. Behind a linear
    one the exact version is `exact_linear`.

Under an alignment search the path is chosen by the sample, and the price of the sample is paid on that path. The
sample that was searched for is then cheaper than any other by mas/hindsight (metrics/over_paths.py). What is priced at
other samples or at none (`antithetic`, `k_sample`, the closed forms) takes the path as it stands, so there it does not
estimate the number that half_analytic reads, but one that is higher: by mas/hindsight times the share of other samples,
and a mirrored sample costs more than another one, as it lies where the search found the path least likely.
Searching again for each would be another loss, whose prior has several paths. With soft alignment the same holds of the
shares, and `half_analytic` itself is a surrogate there: it has the gradient of log_sum, not its value.

What has been proposed against negative values (abs, clamp) is in objectives/proposed.py, with what it does instead.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from vitslite import randomness
from vitslite.model.flows import BoundFlow, Flow
from vitslite.tensors import Gaussian, Latents, Prior

Estimator = Callable[[Latents], Tensor]


# --------------------------------------------------------------------------------------- the same latents elsewhere


def without_log_det(x: Latents) -> Latents:
    """As if the flow preserved volume: wrong on purpose where it does not."""
    flow = x.flow
    forget = flow and (lambda z, mask: (flow(z, mask)[0], torch.zeros_like(z)))
    return x._replace(log_det=torch.zeros_like(x.log_det), flow=forget)


def mirrored(x: Latents) -> Latents:
    """At mean - std * noise instead of mean + std * noise."""
    return x.at(2 * x.q.mean - x.z)


def redrawn(x: Latents, k: int) -> Latents:
    """At the k-th further sample of q."""
    assert x.keys is not None
    return x.at(x.q.sample(randomness.normal(x.keys, f"posterior.{k}", *x.z.shape[1:])))


# ------------------------------------------------------------------------------------- unbiased, whatever the flow


def half_analytic(x: Latents) -> Float[Tensor, "B D T"]:
    """E_q[log q] exactly, log p at the sample: the loss of VITS. May be negative.

    With VITS' names: logs_p - logs_q - 1/2 + 1/2 (z_p - m_p)^2 exp(-2 logs_p) - log_det, nats per element.
    Per element and without a flow its variance is d^2 r^2 + r^4 / 2, with r = std_q / std_p and
    d = (mean_q - mean_p) / std_p: lower than that of `monte_carlo` where r < 1 / sqrt(2).
    """
    return x.q.neg_entropy() - x.p.log_prob(x.z_p) - x.log_det


def monte_carlo(x: Latents) -> Float[Tensor, "B D T"]:
    """log q and log p both at the sample, nats per element. Exactly 0 where q = p; variance d^2 r^2 + (r^2 - 1)^2 / 2.

    As NVAE with flows and VAEs with volume-preserving flows compute it.
    """
    return x.q.log_prob(x.z) - x.p.log_prob(x.z_p) - x.log_det


def optimal_control_variate(x: Latents) -> Float[Tensor, "B D T"]:
    """monte_carlo + c (eps^2 - 1), c = 1/2 (1 - r^2): the member of the family with the least variance, d^2 r^2.

    half_analytic is c = 1/2, monte_carlo c = 0. E[eps^2 - 1] = 0, so every c is unbiased, and as c is held fixed, all
    have the same gradient: this cleans what one reads, not what one trains. c must not know eps, but the alignment
    picks the prior of a frame by eps; so r^2 is the average of each channel over the valid frames.
    """
    ratio = torch.exp(2 * (x.q.log_std - x.p.log_std)).detach()
    c = 0.5 * (1 - (ratio * x.mask).sum((0, 2), keepdim=True) / x.mask.sum())
    return monte_carlo(x) + c * (x.noise**2 - 1)


def antithetic(x: Latents) -> Float[Tensor, "B D T"]:
    """The mean of half_analytic at eps and at -eps. Exact without a flow but for the variance r^4 / 2 of eps^2.

    Both on the path of eps: under a search the mirror has no hindsight, see the top.
    """
    return 0.5 * (half_analytic(x) + half_analytic(mirrored(x)))


def k_sample(x: Latents, k: int = 4) -> Float[Tensor, "B D T"]:
    """The mean of half_analytic over k samples, the first of them the one that is decoded. Variance 1 / k of one's.

    All on the path of the first: under a search (k - 1) / k of it has no hindsight, see the top.
    """
    return sum((half_analytic(redrawn(x, i)) for i in range(1, k)), start=half_analytic(x)) / k


def sticking_the_landing(x: Latents) -> Float[Tensor, "B D T"]:
    """The value of monte_carlo, its gradient through the sample alone: q's parameters inside log q are held fixed.

    Unbiased, since the part left out has expectation zero. No gradient noise where q = p; less than the other
    estimators where r > 1 / sqrt(2). Source: Roeder et al. 2017, equation 8.
    """
    return x.q.map(Tensor.detach).log_prob(x.z) - x.p.log_prob(x.z_p) - x.log_det


# ------------------------------------------------------------------------ without sampling, true in special cases


def closed_form(x: Latents) -> Float[Tensor, "B D T"]:
    """KL(N_q || N_p) as if there were no flow. True only where f is the identity.

    Behind a flow f(z) is not Gaussian any more, and no sample enters to notice: the loss is deterministic and wrong.
    The flow gets no gradient from it.
    """
    return gaussian_kl(x.q, x.p)


def pushed_mean(x: Latents) -> Float[Tensor, "B D T"]:
    """KL(N(f(mean_q), std_q) || N_p) - log_det: the closed form with the mean put through the flow.

    True only where f shifts by a constant: even a linear shift t(z0) = a z0 adds variance a^2 std_q^2 that this misses.
    """
    pushed = x.at(x.q.mean)
    return gaussian_kl(Gaussian(pushed.z_p, x.q.log_std), x.p) - pushed.log_det


def carried_mean(x: Latents) -> Float[Tensor, "B D T"]:
    """KL(N(carried mean, carried std) || N_p): the moved half of each coupling integrated exactly, given the other.

    Unbiased, with far less variance, for one coupling (Rao-Blackwell). From the second coupling on the network sees a
    half that was sampled where the formula holds it fixed: biased. Carrying the std is subtracting log_det.
    """
    assert isinstance(x.flow, Flow | BoundFlow)
    return gaussian_kl(x.flow.carry(x.q, x.z, x.mask), x.p)


def exact_linear(x: Latents) -> Float[Tensor, "B D T"]:
    """KL(N(A mean_q + b, A diag(std_q^2) A^T) || N_p), exactly: for a flow f(z) = A z + b, the same in every frame.

    The covariance is full, but a diagonal prior asks for its diagonal alone, and its log-determinant is the sum of the
    2 log_std_q plus 2 log |det A|. Per channel of the prior, in nats per element:

        log_std_p - log_std_q - 1/2 + 1/2 (sum_j A_dj^2 std_q_j^2 + (f(mean_q)_d - mean_p_d)^2) / std_p_d^2 - log_det_d

    Each is the expectation of half_analytic's element over the noise, so the sum over channels is the KL and the
    gradient that of the expectation. A is what f does to the unit vectors. Without a flow it is `closed_form`.
    """
    assert x.flow is not None
    n_channels = x.z.shape[1]
    unit = torch.eye(n_channels, dtype=x.z.dtype, device=x.z.device)[None]
    everywhere = x.mask.new_ones(1, 1, n_channels)
    a = (x.flow(unit, everywhere)[0] - x.flow(torch.zeros_like(unit), everywhere)[0])[0]
    pushed = x.at(x.q.mean)
    with torch.autocast(x.z.device.type, enabled=False):
        variance = a**2 @ torch.exp(2 * x.q.log_std)
    distance = variance + (pushed.z_p - x.p.mean) ** 2
    scaled = 0.5 * distance * torch.exp(-2 * x.p.log_std)
    return x.p.log_std - x.q.log_std - 0.5 + scaled - pushed.log_det


def gaussian_kl(q: Gaussian, p: Prior) -> Float[Tensor, "*shape"]:
    """log_std_p - log_std_q - 1/2 + 1/2 (std_q^2 + (mean_q - mean_p)^2) / std_p^2, nats per element."""
    ratio = torch.exp(2 * (q.log_std - p.log_std))
    distance = ((q.mean - p.mean) * torch.exp(-p.log_std)) ** 2
    return p.log_std - q.log_std - 0.5 + 0.5 * (ratio + distance)


# ----------------------------------------------------------------------------------------------- not a KL


def likelihood(x: Latents) -> Float[Tensor, "B D T"]:
    """-log N(f(z); p) - log_det, nats per element: Glow-TTS's loss, with z in the place of the spectrogram.

    half_analytic without the entropy of q: the same gradient to text encoder and flow, but nothing keeps q wide. Its
    floor for a prior of unit variance is 1/2 log 2 pi = 0.918939 per element. Source: Kim et al. 2020, equation 1.
    """
    return -x.p.log_prob(x.z_p) - x.log_det


UNBIASED = (half_analytic, monte_carlo, optimal_control_variate, antithetic, k_sample, sticking_the_landing)
WITHOUT_SAMPLING = (closed_form, pushed_mean, carried_mean, exact_linear)
ESTIMATORS: dict[str, Estimator] = {f.__name__: f for f in (*UNBIASED, *WITHOUT_SAMPLING, likelihood)}
