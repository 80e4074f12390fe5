"""Remarks on settings that run: what is wrong on purpose, and what is sound but no negative ELBO.

What is wrong runs because somebody proposed it and one should see what it does; the run is marked.
"""

from collections.abc import Iterator

from vitslite.config.settings import Config
from vitslite.model.flows import VOLUME_PRESERVING
from vitslite.objectives.proposed import DISTANCES, PROPOSED, WHY_WRONG


def wrong_on_purpose(config: Config) -> list[str]:
    """Why the number in loss/kl is not an estimate of the KL; [] if it is one."""
    model, objective = config.model, config.objective
    kl, flow = objective.kl, model.flow.kind
    found = []
    if kl in PROPOSED:
        found.append(f"objective.kl={kl} {WHY_WRONG[kl]}")
    if kl == "closed_form" and flow != "none":
        found.append(f"objective.kl=closed_form ignores model.flow.kind={flow}: the flow gets no gradient at all")
    if kl == "pushed_mean" and flow != "none":
        found.append("objective.kl=pushed_mean misses the variance that the flow's shift adds")
    if kl == "carried_mean" and model.flow.n_couplings > 1:
        found.append(f"objective.kl=carried_mean is biased behind {model.flow.n_couplings} couplings; behind one not")
    if objective.log_det == "drop" and flow not in VOLUME_PRESERVING:
        found.append(f"objective.log_det=drop with model.flow.kind={flow}: shrinking z_p lowers the loss without bound")
    if kl in DISTANCES:
        found.append(f"objective.kl={kl} is a distance, no likelihood: loss/prior is not in nats, and nll/per_frame is")
        if flow not in VOLUME_PRESERVING:
            found.append(
                f"objective.kl={kl} has no log-determinant, and model.flow.kind={flow} one: shrinking z_p lowers the "
                "loss without bound"
            )
    if kl == "likelihood" and not objective.detach_posterior and model.posterior.kind != "recording":
        found.append("objective.kl=likelihood lacks the entropy of q: nothing keeps the posterior wide")
    return found


def departures(config: Config) -> Iterator[str]:
    """Losses that are sound, but no negative ELBO."""
    weights, regulariser = config.objective.weights, config.objective.regulariser
    if config.model.posterior.kind == "recording":
        yield (
            "model.posterior.kind=recording: z is the log-mel itself and has no q, so there is no KL, and kl/* and "
            "most of latent/* are absent; loss/prior and nll/* are -log p(log-mel | text)"
        )
        return
    if weights.kl < 1:
        yield (
            f"objective.weights.kl={weights.kl} is below 1: more goes through z than an ELBO would let through, and "
            "the decoder learns sooner; objective=vits has weight 1"
        )
    if config.objective.detach_posterior:
        yield "objective.detach_posterior=true: nothing pulls the posterior to the prior"
    if config.objective.reduction == "per_element":
        yield f"objective.reduction=per_element weighs the KL 1/{config.model.n_latent} of per_frame"
    if regulariser.balance == "channels":
        while_ = " until the weight of the KL is full" if regulariser.balance_until == "full_weight" else ""
        yield f"objective.regulariser.balance=channels: loss/kl is a weighted sum{while_}; kl/half_analytic is the KL"
    if regulariser.free_bits:
        yield f"objective.regulariser.free_bits={regulariser.free_bits}: loss/kl is at least that per channel"
