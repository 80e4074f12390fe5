"""Remarks: a walk over combinations of the laboratory's axes, each of which changes something or is said not to."""

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from vitslite import build
from vitslite.config import remarks
from vitslite.config.settings import Config

CONTEXTS = [
    ["model.flow.kind=none"],
    ["model.flow.kind=affine"],
    ["objective.kl=closed_form", "model.flow.kind=affine", "objective.regulariser.schedule=warmup"],
    ["objective.kl=k_sample", "objective.detach_posterior=true", "model.segment_frames=16"],
    ["model.alignment.kind=given"],
    ["model.alignment.kind=uniform", "model.mel_head=true", "objective.weights.prior_mel=1"],
    ["model.alignment.kind=forward_sum", "objective.regulariser.balance=sides"],
]
AXES = [
    "objective.kl=antithetic",
    "objective.log_det=drop",
    "objective.detach_posterior=true",
    "objective.kl_samples=2",
    "objective.energy=false",
    "objective.mel_target=utterance",
    "objective.regulariser.free_bits=0.5",
    "objective.regulariser.prior_share=0.5",
    "objective.regulariser.floor=0.2",
    "model.flow.side=posterior",
    "model.flow.coupling=mean_only",
    "model.mel_head=true",
    "model.alignment.score=mel",
    "model.alignment.noise=3.0",
]


@pytest.fixture(scope="module")
def made() -> dict[str, object]:
    return {}


def settings(base, *changes: str) -> Config | None:
    """None where the combination is refused."""
    changed = OmegaConf.merge(base, OmegaConf.from_dotlist(list(changes)))
    try:
        return build.parse(changed, list(changes))
    except ValueError:
        return None


def fingerprint(config: Config, corpus, batch) -> list[float]:
    """Every loss and the gradient of their sum, by parameter, of a model all of whose layers have something to say."""
    model = build.model(config, corpus.frontend.n_symbols).train()
    torch.manual_seed(0)
    for p in model.parameters():
        if (p == 0).all():
            nn.init.normal_(p, std=0.1)
    objective = build.objective(config)
    losses = objective(model(batch), objective.counts(batch), step=1)
    losses.total.backward()
    values = {name: value.item() for name, value in losses.terms.items() if name != "prior_mel"}
    gradients = [
        p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None and "mel_h" not in name
    ]
    return [*values.values(), *[g for g in gradients if g > 0]]


@pytest.mark.parametrize("context", CONTEXTS, ids=" ".join)
def test_every_axis_changes_something_or_is_said_not_to(compose, made, context):
    base = compose("objective.extra_resolutions=[]", "objective.regulariser.steps=50", "data.batch_size=2")
    if not made:
        config = build.parse(base, [])
        corpus = build.corpus(config)
        data = build.data(config, corpus)
        made.update(corpus=corpus, batch=data.features(next(data.loader.batches(0))[0]))
    plain = settings(base, *context)
    assert plain is not None
    reference = fingerprint(plain, **made)
    seen = {"changed": 0, "nothing": 0, "refused": 0}
    for axis in AXES:
        config = settings(base, *context, axis)
        if config is None or config.model == plain.model and config.objective == plain.objective:
            seen["refused"] += config is None
            continue
        said = any(line.startswith(f"{axis} does nothing") for line in remarks.without_effect(config))
        changed = fingerprint(config, **made) != reference
        assert changed != said, f"{' '.join(context)} + {axis}: {'changes something' if changed else 'changes nothing'}"
        seen["changed" if changed else "nothing"] += 1
    assert seen["changed"] > 2 and seen["nothing"] > 2, seen
