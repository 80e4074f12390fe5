"""T39: which loss trains which module. The KL alone trains the text encoder and the flow."""

import pytest
import torch
from common import reached

from vitslite import build
from vitslite.objectives import adversarial

SEGMENTS = ["model.segment_frames=16", "discriminator.segment_frames=16"]
ROUTES = {
    "kl": {"text_encoder", "posterior_encoder", "flow"},
    "mel": {"posterior_encoder", "decoder"},
    "duration": {"duration_predictor"},
    "adversarial": {"posterior_encoder", "decoder"},
    "feature_matching": {"posterior_encoder", "decoder"},
}


@pytest.fixture
def parts(compose):
    overrides = ["discriminator=mpd", "discriminator.period_channels=[4,4,4,4,4]", *SEGMENTS]
    config = build.parse(compose(*overrides), overrides)
    corpus = build.corpus(config)
    data = build.data(config, corpus)
    model = build.model(config, corpus.frontend.n_symbols).train()
    batch = data.features(next(data.loader.batches(0))[0])
    return model, build.objective(config), build.discriminator(config), batch, data.audio.hop_length


def terms_of(parts):
    model, objective, discriminator, batch, hop_length = parts
    outputs = model(batch)
    real, fake = adversarial.excerpts(outputs, batch, 16, hop_length)
    return objective(outputs, objective.counts(batch), discriminator(real), discriminator(fake)).terms


@pytest.mark.parametrize("term", ROUTES)
def test_gradients_go_where_they_should(parts, term):
    assert reached(parts[0], terms_of(parts)[term]) == ROUTES[term]


def test_a_planted_leak_is_noticed(parts, monkeypatch):
    """Were the durations' input not detached, they would bend the text encoder."""
    monkeypatch.setattr(torch.Tensor, "detach", lambda self: self)
    assert reached(parts[0], terms_of(parts)["duration"]) == {"text_encoder", "duration_predictor"}


def test_without_the_kl_the_text_encoder_does_not_train(parts):
    """T33: at weight 0 the text encoder and the flow get exactly nothing, and the alignment is arbitrary."""
    terms = terms_of(parts)
    total = sum(value for name, value in terms.items() if name != "kl")
    assert reached(parts[0], total) == {"posterior_encoder", "decoder", "duration_predictor"}
