"""Rules across settings: combinations that cannot work, and those that are wrong on purpose.

`check` refuses a configuration that has no meaning, naming both settings and the nearest that has one. What runs and is
wrong, because someone proposed it and one should see what it does, is named by `wrong_on_purpose`: the run is marked.
"""

from vitslite import distributed
from vitslite.config.settings import Config

NONLINEAR = ("mean_only", "affine")


def check(config: Config) -> None:
    """ValueError for combinations that cannot work."""
    for impossible, message in _impossible(config):
        if impossible:
            raise ValueError(message)


def _impossible(config: Config) -> list[tuple[bool, str]]:
    model, objective = config.model, config.objective
    alignment, flow, kl, regulariser = model.alignment, model.flow.kind, objective.kl, objective.regulariser
    looks_at_latent = alignment.kind in ("mas", "forward_sum") and alignment.score == "latent"
    splits = regulariser.free_bits > 0 or regulariser.balance != "none"
    parts = config.trainer.accumulate * distributed.world_size()
    return [
        (
            kl == "carried_mean" and flow not in NONLINEAR,
            f"objective.kl=carried_mean is carried by couplings, and model.flow.kind={flow} has none: "
            "use model/flow=mean_only or affine, or objective.kl=half_analytic",
        ),
        (
            kl == "carried_mean" and objective.log_det == "drop",
            "objective.kl=carried_mean holds the log-determinant in the std that it carries: objective.log_det=drop "
            "cannot drop it there; use objective.kl=half_analytic",
        ),
        (
            kl == "carried_mean" and splits,
            "objective.kl=carried_mean goes through the flow by another way than objective.regulariser.free_bits and "
            ".balance can split: use objective.kl=half_analytic",
        ),
        (
            alignment.kind == "forward_sum" and kl in ("closed_form", "pushed_mean", "carried_mean"),
            f"objective.kl={kl} needs one Gaussian per frame, and model.alignment.kind=forward_sum gives each frame "
            "several: use objective.kl=half_analytic, or model.alignment.kind=mas",
        ),
        (
            model.posterior.kind == "residual" and flow != "none",
            f"model.posterior.kind=residual is relative to the prior, which stands behind the flow: add "
            f"model/flow=none (it is {flow})",
        ),
        (
            model.posterior.kind == "residual" and looks_at_latent,
            f"model.posterior.kind=residual needs the alignment before there is a latent to align, and "
            f"model.alignment.kind={alignment.kind} looks at the latent: add model.alignment.score=mel "
            "model.mel_head=true objective.weights.prior_mel=1, or model.alignment.kind=given or uniform",
        ),
        (
            model.posterior.kind == "residual" and alignment.kind == "forward_sum",
            "model.posterior.kind=residual needs one prior per frame, and model.alignment.kind=forward_sum gives each "
            "frame several: use model.alignment.kind=mas model.alignment.score=mel",
        ),
        (
            model.posterior.kind == "residual"
            and (objective.detach_posterior or regulariser.balance == "sides" or regulariser.free_bits > 0),
            "model.posterior.kind=residual contains the prior, so the KL has no two sides to tell apart: go without "
            "objective.detach_posterior, objective.regulariser.free_bits and .balance=sides, or use "
            "model.posterior.kind=gaussian",
        ),
        (
            alignment.score == "mel" and alignment.kind in ("mas", "forward_sum") and not model.mel_head,
            "model.alignment.score=mel looks at what the mel head says: add model.mel_head=true "
            "objective.weights.prior_mel=1",
        ),
        (
            alignment.score == "mel" and objective.weights.prior_mel == 0,
            "model.alignment.score=mel with objective.weights.prior_mel=0: nothing would train the mel head that it "
            "looks at; add objective.weights.prior_mel=1",
        ),
        (
            objective.weights.prior_mel > 0 and not model.mel_head,
            f"objective.weights.prior_mel={objective.weights.prior_mel} weighs what the mel head says: add "
            "model.mel_head=true",
        ),
        (
            alignment.kind == "given" and (config.data.kind != "demo" or config.text.frontend != "phonemes"),
            "model.alignment.kind=given needs known durations, which only data=demo with text=phonemes has: "
            "use model.alignment.kind=mas, forward_sum or uniform",
        ),
        (
            splits and regulariser.balance != "sides" and parts > 1,
            "objective.regulariser.free_bits and .balance=channels need the whole batch in one place: "
            "trainer.accumulate=1 and one process",
        ),
    ]


def wrong_on_purpose(config: Config) -> list[str]:
    """Why the number in loss/kl is not an estimate of the KL; [] if it is one."""
    model, objective = config.model, config.objective
    kl, flow = objective.kl, model.flow.kind
    proposed = {
        "abs_first_term": "turns the gradient of the entropy round where std_q > 0.61 std_p; its minimum is there",
        "abs_elementwise": "folds the noise of every element into a bias that narrows the posterior (r = 0.63)",
        "clamp_elementwise": "has no gradient from elements below 0, and narrows the posterior (r = 0.70)",
    }
    found = []
    if kl in proposed:
        found.append(f"objective.kl={kl} {proposed[kl]}")
    if kl == "closed_form" and flow != "none":
        found.append(f"objective.kl=closed_form ignores model.flow.kind={flow}: the flow gets no gradient at all")
    if kl == "pushed_mean" and flow != "none":
        found.append("objective.kl=pushed_mean misses the variance that the flow's shift adds")
    if kl == "carried_mean" and model.flow.n_couplings > 1:
        found.append(f"objective.kl=carried_mean is biased behind {model.flow.n_couplings} couplings; behind one not")
    if objective.log_det == "drop" and flow == "affine":
        found.append("objective.log_det=drop with an affine flow: shrinking z_p lowers the loss without bound")
    if kl == "likelihood" and not objective.detach_posterior:
        found.append("objective.kl=likelihood lacks the entropy of q: nothing keeps the posterior wide")
    return found


def departures(config: Config) -> list[str]:
    """What is right, but no negative ELBO."""
    weights, regulariser = config.objective.weights, config.objective.regulariser
    found = []
    if weights.kl < 1:
        found.append(
            f"objective.weights.kl={weights.kl} is below 1: more goes through z than an ELBO would let through, and "
            "the decoder learns sooner; objective=vits has weight 1"
        )
    if config.objective.detach_posterior:
        found.append("objective.detach_posterior=true: nothing pulls the posterior to the prior")
    if config.objective.reduction == "per_element":
        found.append(f"objective.reduction=per_element weighs the KL 1/{config.model.n_latent} of per_frame")
    if regulariser.balance == "channels":
        found.append("objective.regulariser.balance=channels: loss/kl is a weighted sum; kl/half_analytic is the KL")
    if regulariser.free_bits:
        found.append(f"objective.regulariser.free_bits={regulariser.free_bits}: loss/kl is at least that per channel")
    return found
