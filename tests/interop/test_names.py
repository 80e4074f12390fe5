"""Tables of names: every parameter of transformers.VitsModel and of the published code, each exactly once."""

import pytest
import torch
from common import defaults_with

from vitslite import build
from vitslite.interop import names, names_original, names_transformers

SMALL = ["model.text_encoder.n_layers=2", "model.flow.n_couplings=2", "model.decoder.hifigan.weight_norm=false"]


def our_names(*overrides):
    with torch.device("meta"):
        return list(build.model(defaults_with(*SMALL, *overrides), 20).state_dict())


@pytest.mark.parametrize("kind", ["stochastic", "deterministic"])
def test_the_names_of_transformers(kind):
    transformers = pytest.importorskip("transformers")
    config = transformers.VitsConfig(
        num_hidden_layers=2, prior_encoder_num_flows=2, use_stochastic_duration_prediction=kind == "stochastic"
    )
    with torch.device("meta"):
        model = transformers.VitsModel(config)
    expected = {names.canonical(name) for name in model.state_dict()}
    found = names.table(our_names(f"model.duration.kind={kind}"), names_transformers.WEIGHTS)
    assert set(found.values()) == expected
    settings = {*names_transformers.SETTINGS, *names_transformers.STOCHASTIC, *names_transformers.DETERMINISTIC}
    known = config.to_dict()
    assert all(theirs in known for _, theirs in settings)
    assert all(known[name] == value for name, value in names_transformers.FIXED.items())
    defaults = set(build.known_keys())
    assert all(ours in defaults for ours, _ in settings)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("text_encoder.layers.1.attention_norm.weight", "enc_p.encoder.norm_layers_1.1.gamma"),
        ("text_encoder.layers.1.feed_forward.conv_2.bias", "enc_p.encoder.ffn_layers.1.conv_2.bias"),
        ("flow.couplings.1.wavenet.convs.3.parametrizations.weight.original0", "flow.flows.2.enc.in_layers.3.weight_g"),
        ("duration_predictor.flows.0.log_scale", "dp.flows.0.logs"),
        ("duration_predictor.post_flows.4.conv_dds.norms_2.1.bias", "dp.post_flows.7.convs.norms_2.1.beta"),
        ("duration_predictor.conv_proj.weight", "dp.proj.weight"),
        ("duration_predictor.proj.weight", "dp.proj.weight"),
        ("flow.couplings.1.wavenet.cond.weight_v", "flow.flows.2.enc.cond_layer.weight_v"),
    ],
)
def test_names_of_the_published_code(ours, theirs):
    assert names.theirs(names.canonical(ours), names_original.WEIGHTS) == theirs


@pytest.mark.parametrize("kind", ["stochastic", "deterministic"])
def test_every_parameter_has_one_name_in_the_published_code(kind):
    found = names.table(our_names(f"model.duration.kind={kind}"), names_original.WEIGHTS)
    assert None not in found.values() and len(set(found.values())) == len(found)
    assert [names.parametrized(names.canonical(name)) for name in found] == list(found)


def test_two_of_ours_that_would_be_one_of_theirs_are_noticed():
    """Planted: a row that sends keys where queries go."""
    rows = ((".attention.key", ".attn_q"), *names_transformers.WEIGHTS)
    wrong = [(a, b.replace("k_proj", "q_proj")) for a, b in rows]
    with pytest.raises(AssertionError, match="q_proj"):
        names.table(our_names(), wrong)


def test_what_another_has_no_name_for_is_none():
    assert names.theirs("mel_head.weight", names_transformers.WEIGHTS) is None
    assert names.theirs("text_encoder.projected.weight", names_transformers.WEIGHTS) is None
