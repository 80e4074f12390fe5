"""A voice of ours as a folder of transformers: loaded by it, the same samples come out."""

from dataclasses import asdict

import pytest
import torch
from common import defaults_with

from vitslite import randomness
from vitslite.config import identity
from vitslite.interop import huggingface_export, weights
from vitslite.model.vits import VITS
from vitslite.text.frontend import Frontend

transformers = pytest.importorskip("transformers", reason="pip install transformers")
pytest.importorskip("safetensors", reason="pip install safetensors")

SYMBOLS = "_ abcdefghijk"
SMALL = [
    "audio.hop_length=16",
    "audio.n_fft=64",
    "audio.win_length=64",
    "model.n_latent=12",
    "model.text_encoder.hidden=16",
    "model.text_encoder.filters=24",
    "model.text_encoder.n_layers=2",
    "model.posterior.hidden=16",
    "model.posterior.n_layers=3",
    "model.flow.hidden=16",
    "model.flow.n_layers=3",
    "model.duration.filters=16",
    "model.decoder.hifigan.channels=16",
    "model.decoder.hifigan.upsample_rates=[4,4]",
    "model.decoder.hifigan.upsample_kernels=[8,8]",
    "model.decoder.hifigan.resblock_kernels=[3,5]",
    "model.decoder.hifigan.resblock_dilations=[[1,3],[1,3]]",
    "text.units=codepoints",
    "text.edges=false",
    "text.blanks=true",
]
VOICES = {
    "as published": [],
    "deterministic": ["model.duration.kind=deterministic", "model.duration.filters=20"],
    "narrow flow, odd couplings": [
        "model.flow.hidden=10",
        "model.flow.n_couplings=3",
        "model.flow.weight_norm=false",
        "model.posterior.input=mel",
        "model.posterior.skip=true",
        "model.duration.kind=deterministic",
        "model.decoder.hifigan.weight_norm=false",
    ],
    "narrow flow with weight norm": ["model.flow.hidden=6", "model.flow.n_couplings=2"],
}


def voice(overrides):
    config = defaults_with(*SMALL, *overrides)
    audio = config.audio
    torch.manual_seed(0)
    model = VITS(
        config.model, len(SYMBOLS), audio.n_fft, audio.n_mels, audio.hop_length, audio.sample_rate
    ).requires_grad_(False)
    for parameter in model.parameters():  # away from the zeros that couplings start with, at a scale that does not clip
        parameter.add_(0.1 * torch.randn_like(parameter))
    return config, model.eval(), Frontend(config.text, list(SYMBOLS))


def spoken_by_both(config, model, frontend, folder, monkeypatch):
    """Our samples, and theirs from the folder, with our noise handed to them."""
    text, key = "abc de fghij k", torch.tensor([7])
    tokenizer = transformers.VitsTokenizer.from_pretrained(folder)
    theirs, loading = transformers.VitsModel.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values()), loading
    tokens = tokenizer(text, return_tensors="pt")["input_ids"]
    places = [frontend.vocabulary.index(c) for c in text]
    assert tokens[0].tolist() == [x for i in places for x in (0, i)] + [0]
    own = model.infer(tokens, torch.tensor([tokens.shape[1]]), key)
    duration_noise = randomness.normal(key, "duration.prior", 2, tokens.shape[1])
    prior_noise = randomness.normal(key, "prior", config.model.n_latent, int(own.durations.sum()))
    if len(model.flow.couplings) % 2:
        prior_noise = prior_noise.flip(1)
    monkeypatch.setattr(torch, "randn", lambda *shape, **_: duration_noise)
    monkeypatch.setattr(torch, "randn_like", lambda x, **_: prior_noise)
    with torch.no_grad():
        heard = theirs.eval()(tokens).waveform
    return own.audio[0], heard


@pytest.mark.parametrize("overrides", VOICES.values(), ids=VOICES)
def test_transformers_speaks_the_same(overrides, tmp_path, monkeypatch):
    config, model, frontend = voice(overrides)
    huggingface_export.write(tmp_path, model, frontend, config.audio, identity.flatten(asdict(config)))
    own, heard = spoken_by_both(config, model, frontend, tmp_path, monkeypatch)
    assert own.shape == heard.shape
    assert 0.01 < own.abs().max() < 0.99
    assert (own - heard).abs().max() < 1e-6


def in_one_piece(padded, x):
    rows = [x, x.new_zeros(len(padded) - len(x), *x.shape[1:])]
    return torch.cat(rows) if x.ndim == 1 else padded


@pytest.mark.parametrize("forgotten", ["widened gate", "reversed prior"])
def test_a_planted_fault_is_heard(forgotten, tmp_path, monkeypatch):
    config, model, frontend = voice(VOICES["narrow flow, odd couplings"])
    if forgotten == "reversed prior":
        monkeypatch.setattr(weights, "reversed_prior", lambda x: x)
    else:  # both halves of a gate in one piece
        right = huggingface_export.widened
        monkeypatch.setattr(huggingface_export, "widened", lambda n, x, h, w: in_one_piece(right(n, x, h, w), x))
    huggingface_export.write(tmp_path, model, frontend, config.audio, identity.flatten(asdict(config)))
    own, heard = spoken_by_both(config, model, frontend, tmp_path, monkeypatch)
    assert own.shape != heard.shape or (own - heard).abs().max() > 1e-4


def test_weight_norm_is_kept_bit_for_bit(tmp_path):
    config, model, frontend = voice([])
    found = huggingface_export.tensors(model, frontend.n_symbols, config.audio, True)
    v = model.flow.couplings[0].wavenet.convs[0].parametrizations.weight.original1
    assert torch.equal(found["flow.flows.0.wavenet.in_layers.0.parametrizations.weight.original1"], v)


@pytest.mark.parametrize(
    "override",
    [
        "model.decoder.kind=istft",
        "model.duration.rounding=nearest",
        "model.flow.kind=affine",
        "model.decoder.hifigan.resblock_kind=2",
        "model.flow.hidden=18",
        "text.units=phones",
    ],
)
def test_what_does_not_fit_is_named(override, tmp_path):
    config = defaults_with(*SMALL, override)
    key, value = override.split("=")
    with pytest.raises(ValueError, match=f"{key}={value}.*train with"):
        huggingface_export.check(identity.flatten(asdict(config)))
