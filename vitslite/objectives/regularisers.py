"""KL regularisers: annealing schedules, free bits, KL balancing.

The KL has two sides. It pulls the posterior to the prior (q side) and the prior, with its flow, to the posterior
(p side). In VITS the p side is all that trains the text encoder and the flow, so whatever weakens it stops them from
learning; the functions here weaken one side and leave the other whole.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call

from vitslite.objectives.kl import Estimator
from vitslite.tensors import FlowLike, Latents

SCHEDULES = ("constant", "warmup", "cyclic")


@dataclass
class RegulariserSettings:
    """Everything off by default, as in VITS. The weight itself (beta) is objective.weights.kl."""

    # Of the KL's weight: constant, warmup (0 to 1 over `steps`), cyclic (every `steps`).
    schedule: str = field(default="constant", metadata={"choices": SCHEDULES})
    steps: int = field(default=0, metadata={"at_least": 0})
    # The least factor of warmup and cyclic; at 0 the text encoder would not train at all.
    floor: float = field(default=1e-4, metadata={"at_least": 0, "at_most": 1})
    free_bits: float = field(default=0.0, metadata={"at_least": 0})  # nats per channel and frame that cost nothing
    # sides: prior and posterior by `prior_share`; channels: as NVAE balances its groups
    balance: str = field(default="none", metadata={"choices": ("none", "sides", "channels")})
    # Of balance=channels; full_weight: off once the schedule has come to 1, as in NVAE's code
    balance_until: str = field(default="always", metadata={"choices": ("always", "full_weight")})
    prior_share: float = field(default=0.8, metadata={"at_least": 0, "at_most": 1})  # of the gradient, to the prior


def weight_factor(settings: RegulariserSettings, step: int) -> float:
    """What objective.weights.kl is multiplied by in step `step` (from 0).

    warmup: step / steps up to 1. cyclic: the same over the first half of every `steps` steps, then 1 (Fu et al. 2019).
    Adam divides gradients by their size, so text encoder and flow, which get nothing but the KL, hardly notice a small
    factor; the posterior, which the decoder trains too, does.
    """
    if settings.schedule == "constant":
        return 1.0
    progress = step / settings.steps if settings.schedule == "warmup" else 2 * (step % settings.steps) / settings.steps
    return max(settings.floor, min(1.0, progress))


def regularised(
    estimator: Estimator, x: Latents, settings: RegulariserSettings, factor: float = 1.0
) -> Float[Tensor, "B D T"]:
    """The estimator's elements with the gradients shared out as `settings` say, where the weight has this `factor`."""
    if settings.free_bits:
        return with_free_bits(estimator, x, settings.free_bits)
    if settings.balance == "sides":
        share = settings.prior_share
        return share * estimator(prior_side(x)) + (1 - share) * estimator(posterior_side(x))
    elements = estimator(x)
    if settings.balance == "channels" and (factor < 1 or settings.balance_until == "always"):
        elements = elements * channel_coefficients(elements, x.mask)
    return elements


def with_free_bits(estimator: Estimator, x: Latents, free: float) -> Float[Tensor, "B D T"]:
    """sum_c max(free, KL_c), KL_c the mean of channel c over the valid frames; on the posterior side alone.

    The prior side keeps its whole gradient and adds nothing to the value: with free bits on both sides a text encoder
    would get nothing from the channels below the limit, and at VITS' operating point (0.012 nats per element) that is
    all of them. Source: Kingma et al. 2016, equation 15.
    """
    elements = estimator(posterior_side(x))
    prior = estimator(prior_side(x))
    per_channel = (elements * x.mask).sum((0, 2), keepdim=True) / x.mask.sum()
    limited = torch.where(per_channel > free, elements, torch.full_like(elements, free))
    return limited + prior - prior.detach()


def channel_coefficients(elements: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"]) -> Float[Tensor, "1 D 1"]:
    """gamma_c = (|KL_c| + 0.01) / their mean, without gradient: NVAE's balancer, with channels for its groups.

    |KL_c| is the mean over utterances of the size of each one's mean over frames. Channels that say much are pressed
    harder, so that none falls silent.

    Source: Vahdat & Kautz 2020 (NVAE), appendix A (all alpha = 1). There it is part of the warm-up: the code balances
    while the weight of the KL is below 1, and no longer then, which is balance_until=full_weight. Its groups are scales
    of an image, each with its KL summed; a mean per frame is so much smaller that the 0.01 weighs more: at VITS' 0.012
    nats per element it halves the differences.
    """
    per_utterance = (elements * mask).sum(2, keepdim=True) / mask.sum(2, keepdim=True)
    size = per_utterance.abs().mean(0, keepdim=True) + 0.01
    return (size / size.mean()).detach()


def prior_side(x: Latents) -> Latents:
    """KL(sg[q] || p): the same value, gradient to the prior and the flow alone."""
    x = x._replace(posterior=x.q.map(Tensor.detach))
    return x._replace(z=x.z.detach(), z_p=x.z_p.detach()) if x.flow is None else x.at(x.z.detach())


def posterior_side(x: Latents) -> Latents:
    """KL(q || sg[p]): the same value, gradient to the posterior alone. The flow belongs to the prior."""
    x = x._replace(p=x.p.map(Tensor.detach))
    assert x.flow is None or isinstance(x.flow, nn.Module)
    return x if x.flow is None else x._replace(flow=_without_parameter_gradients(x.flow)).at(x.z)


def _without_parameter_gradients(flow: nn.Module) -> FlowLike:
    """The flow with its parameters held fixed; gradients still pass through to its input."""
    values = {name: v.detach() for name, v in [*flow.named_parameters(), *flow.named_buffers()]}
    return lambda z, mask: functional_call(flow, values, (z, mask))
