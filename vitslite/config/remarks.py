"""Remarks on settings that run: what is wrong on purpose, what is sound but no negative ELBO, and what does nothing.

What is wrong runs because somebody proposed it and one should see what it does; the run is marked. What does nothing is
said because two equal runs would otherwise look like a finding.
"""

from collections.abc import Iterator

from vitslite.config.settings import Config, language
from vitslite.model.alignment import SEARCHES
from vitslite.model.flows import VOLUME_PRESERVING
from vitslite.objectives.objective import ObjectiveSettings
from vitslite.objectives.proposed import DISTANCES, PROPOSED, WHY_WRONG
from vitslite.objectives.regularisers import RegulariserSettings

WITHOUT_LOG_DET = ("closed_form", "exact_linear", *DISTANCES)  # objective.kl that reads no log-determinant


def wrong_on_purpose(config: Config) -> list[str]:
    """Why what is trained is no KL, nor a likelihood that can stand alone; [] where the objective is sound.

    A sound objective's loss/kl may still be another number than the KL: see `departures`.
    """
    model, objective = config.model, config.objective
    kl, flow = objective.kl, model.flow.kind
    found = []
    if kl in PROPOSED:
        found.append(f"objective.kl={kl} {WHY_WRONG[kl]}")
    if kl == "closed_form" and flow != "none":
        heard = ", only from the decoder" if model.flow.side == "posterior" else " at all"
        found.append(f"objective.kl=closed_form ignores model.flow.kind={flow}, which gets no gradient{heard}")
    if kl == "pushed_mean" and flow != "none":
        found.append("objective.kl=pushed_mean misses what the flow does to the variance")
    if kl == "carried_mean" and model.flow.n_couplings > 1:
        found.append(f"objective.kl=carried_mean is biased behind {model.flow.n_couplings} couplings; behind one not")
    if objective.log_det == "drop" and flow not in VOLUME_PRESERVING and kl not in WITHOUT_LOG_DET:
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
    weights, regulariser, kl = config.objective.weights, config.objective.regulariser, config.objective.kl
    searched = config.model.alignment.kind in SEARCHES and config.model.alignment.score == "latent"
    if config.model.posterior.kind == "recording":
        yield (
            "model.posterior.kind=recording: z is the log-mel itself and has no q, so there is no KL, and kl/* and "
            "most of latent/* are absent; loss/prior and nll/* are -log p(log-mel | text)"
        )
        return
    if kl == "likelihood" and config.objective.detach_posterior:
        yield "objective.kl=likelihood: loss/kl lacks the entropy of q, so it is no KL; kl/half_analytic is the KL"
    if kl in ("antithetic", "k_sample") and searched:
        yield (
            f"objective.kl={kl}: further samples are priced on the path that was found for the first, so loss/kl is "
            "above kl/half_analytic (mas/hindsight says by what)"
        )
    if config.model.alignment.kind == "forward_sum":
        yield (
            "model.alignment.kind=forward_sum: loss/kl is a surrogate with the gradient of the sum over all paths and "
            "not its value; kl/over_paths is the KL"
        )
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
    if config.validation.recogniser == "auto" and config.validation.n_heard and not language(config):
        yield "text=characters does not say the language: nobody listens; English: validation.recogniser=pocketsphinx"


def no_kl_by_design(config: Config) -> list[str]:
    """Those of the two above after which loss/kl is expected to be another number than the KL."""
    return [*wrong_on_purpose(config), *(line for line in departures(config) if "loss/kl" in line)]


def without_effect(config: Config) -> Iterator[str]:
    """Settings that differ from their default and change no loss and no gradient, and why.

    Sizes that configs/ set (model.flow.n_couplings without a flow) are left out: nobody has asked for those.
    """
    model, objective = config.model, config.objective
    alignment, flow, kl, regulariser = model.alignment, model.flow, objective.kl, objective.regulariser
    if objective.log_det == "drop" and kl in WITHOUT_LOG_DET:
        yield f"objective.log_det=drop does nothing: objective.kl={kl} has no log-determinant"
    elif objective.log_det == "drop" and flow.kind in VOLUME_PRESERVING:
        yield (
            f"objective.log_det=drop does nothing: model.flow.kind={flow.kind} preserves volume, so the "
            "log-determinant is 0; with model/flow=affine it is not"
        )
    if alignment.kind not in SEARCHES:
        for name, is_set in (
            ("score=mel", alignment.score == "mel"),
            (f"noise={alignment.noise}", alignment.noise > 0),
        ):
            if is_set:
                yield f"model.alignment.{name} does nothing: model.alignment.kind={alignment.kind} searches for no path"
    elif alignment.noise > 0 and alignment.noise_steps == 0:
        yield f"model.alignment.noise={alignment.noise} does nothing: it has faded before model.alignment.noise_steps=0"
    if flow.side == "posterior" and flow.kind == "none":
        yield "model.flow.side=posterior does nothing: there is no flow (model/flow=none)"
    if flow.coupling != "affine" and flow.kind != "glow":
        yield f"model.flow.coupling={flow.coupling} does nothing: it is of model/flow=glow, and this is {flow.kind}"
    if objective.detach_posterior and regulariser.free_bits > 0:
        yield (
            f"objective.regulariser.free_bits={regulariser.free_bits} trains nothing under objective.detach_posterior="
            "true: the posterior has no gradient to be free of; only the number in loss/kl changes"
        )
    if objective.detach_posterior and regulariser.balance == "sides":
        yield (
            "objective.regulariser.balance=sides has no posterior's side under objective.detach_posterior=true: all "
            f"that is left is the KL's gradient times prior_share={regulariser.prior_share}"
        )
    if model.mel_head and objective.weights.prior_mel == 0:
        yield "model.mel_head=true does nothing: objective.weights.prior_mel=0, so nothing trains it or asks it"
    if not objective.energy and not model.decoder.is_random:
        yield "objective.energy=false does nothing: the decoder is not random, so there is no energy distance"
    if objective.mel_target == "utterance" and model.segment_frames is None:
        yield "objective.mel_target=utterance does nothing: with model.segment_frames=null the segment is the utterance"
    plain = ObjectiveSettings()
    if objective.kl_samples != plain.kl_samples and kl != "k_sample":
        yield f"objective.kl_samples={objective.kl_samples} does nothing: it is of objective.kl=k_sample, not {kl}"
    yield from _unread(regulariser)


def _unread(regulariser: RegulariserSettings) -> Iterator[str]:
    at, plain = "objective.regulariser", RegulariserSettings()
    if regulariser.prior_share != plain.prior_share and regulariser.balance != "sides":
        yield f"{at}.prior_share={regulariser.prior_share} does nothing: it is of {at}.balance=sides"
    for name in ("steps", "floor"):
        value = getattr(regulariser, name)
        if value != getattr(plain, name) and regulariser.schedule == "constant":
            yield f"{at}.{name}={value} does nothing: it is of {at}.schedule=warmup or cyclic"
