"""The graph that is exported says what `infer` says; so does the runtime, where there is one."""

import json
import math

import pytest
import torch
from common import defaults_with

from vitslite import randomness
from vitslite.interop import onnx_check, onnx_file, onnx_graph
from vitslite.interop.onnx_file import Exported
from vitslite.model import istft
from vitslite.model.durations import StochasticDurations
from vitslite.model.vits import VITS
from vitslite.text.frontend import Frontend

SYMBOLS = "_^$ abcdefgh"
SMALL = [
    "audio.hop_length=64",
    "audio.n_fft=256",
    "audio.win_length=256",
    "model.n_latent=12",
    "model.text_encoder.hidden=16",
    "model.text_encoder.filters=24",
    "model.text_encoder.n_layers=1",
    "model.posterior.hidden=8",
    "model.posterior.n_layers=1",
    "model.flow.hidden=8",
    "model.flow.n_layers=1",
    "model.flow.n_couplings=3",
    "model.duration.filters=16",
    "model.decoder.hifigan.channels=16",
    "model.decoder.hifigan.upsample_rates=[8,8]",
    "model.decoder.hifigan.upsample_kernels=[16,16]",
    "model.decoder.hifigan.resblock_kernels=[3]",
    "model.decoder.hifigan.resblock_dilations=[[1,3]]",
    "model.decoder.istft.channels=16",
    "model.decoder.istft.n_layers=1",
    "text.units=codepoints",
]
ISTFT = ["model.decoder.kind=istft", "model.duration.kind=deterministic", "model.duration.rounding=nearest"]
SOURCE_FILTER = ["subframes=4", "harmonics=true", "noise=true"]
VOICES = {
    "hifigan": [],
    "hifigan, blanks": ["text.blanks=true"],
    "hifigan, published blanks": ["text.blanks=true", "text.edges=false"],
    "hifigan, Piper's blanks": ["text.blanks=true", "text.outer_blanks=false"],
    "istft": ISTFT,
    "istft, bare": [*ISTFT, "text.edges=false", "model.flow.kind=householder"],
    "source_filter": [*ISTFT, *(f"model.decoder.istft.{s}" for s in SOURCE_FILTER)],
    "posterior's side": [*ISTFT, "model.flow.side=posterior", "model.flow.kind=affine"],
}


def voice(*overrides):
    config = defaults_with(*SMALL, *overrides)
    audio = config.audio
    torch.manual_seed(0)
    model = VITS(config.model, len(SYMBOLS), audio.n_fft, audio.n_mels, audio.hop_length, audio.sample_rate)
    with torch.no_grad():
        for parameter in model.parameters():  # away from the zeros that couplings start with
            parameter.add_(0.1 * torch.randn_like(parameter))
    return Exported(
        model.requires_grad_(False).eval(), Frontend(config.text, list(SYMBOLS)), audio.sample_rate, config.synthesis
    )


def as_text(exported, inside):
    """Token ids of symbols, as `Frontend.encode` gives them."""
    frontend = exported.frontend
    frontend.symbols = lambda text: ["^", *text, "$"] if frontend.settings.edges else list(text)
    return frontend.encode(inside)


def spoken_by_both(exported, ids, monkeypatch, **changed):
    """`infer`, and the graph run by torch with the noise that `infer` draws."""
    model, keys, scale = exported.model, torch.tensor([3]), 0.5
    own = model.infer(torch.tensor([ids]), torch.tensor([len(ids)]), keys, scale, 0.8, 1 / 1.25)
    n_frames = int(own.durations.sum())
    noise = [randomness.normal(keys, "prior", model.settings.n_latent, n_frames)]
    if isinstance(model.duration_predictor, StochasticDurations):
        noise.insert(0, randomness.normal(keys, "duration.prior", 2, len(ids)))
    if model.settings.decoder.is_random:
        noise.append(randomness.normal(keys, "decoder", 1, n_frames * model.hop_length))
    speech = onnx_graph.Speech(onnx_file.without_weight_norm(model), exported.frontend.settings)
    fed = torch.tensor([onnx_check.as_piper(ids, exported)])
    monkeypatch.setattr(torch, "randn_like", lambda x: noise.pop(0).view_as(x))
    scales = torch.tensor([changed.get("scale", scale), 1.25, 0.8])
    return own.audio[0, 0], speech(fed, torch.tensor([fed.shape[1]]), scales)[0, 0, 0]


@pytest.mark.parametrize("overrides", VOICES.values(), ids=VOICES)
def test_the_graph_says_what_infer_says(overrides, monkeypatch):
    exported = voice(*overrides)
    own, heard = spoken_by_both(exported, as_text(exported, "abc de fgh"), monkeypatch)
    assert own.shape == heard.shape
    assert own.abs().max() > 0.01
    has_pulses = any("harmonics" in o for o in overrides)
    assert (own - heard).abs().max() < (3e-4 if has_pulses else 1e-5) * max(1.0, float(own.abs().max()))


def test_a_planted_scale_is_heard(monkeypatch):
    exported = voice()
    own, heard = spoken_by_both(exported, as_text(exported, "abc de fgh"), monkeypatch, scale=0.51)
    assert (own - heard).abs().max() > 1e-4


def test_the_phase_of_the_pulses_in_closed_form():
    """Both against fp64; ours for the graph, with a sum in closed form, is the nearer one."""
    hop = 64
    pitch = torch.linspace(2.0, 9.0, 40) + 0.5 * torch.sin(torch.arange(40.0))
    per_sample = (
        torch.nn.functional.interpolate(pitch.double()[None, None], scale_factor=hop, mode="linear")[0, 0] / hop
    )
    phi, n = 2 * math.pi * per_sample.cumsum(0), torch.floor(0.5 / per_sample)
    truth = torch.sin((n + 0.5) * phi) / (2 * torch.sin(phi / 2)) - 0.5
    found = onnx_graph.pulse_train(pitch.log()[None], hop)[0]
    far = (0.5 / per_sample - (0.5 / per_sample).round()).abs() > 1e-4  # where rounding decides on no harmonic
    assert far.float().mean() > 0.95
    assert (found - truth)[far].abs().max() < 1e-2
    assert (istft.pulse_train(pitch.log()[None], hop)[0] - truth)[far].abs().max() < 1e-2
    assert truth.max() > 10


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["text.units=phones"], "text.units=codepoints"),
        (["model.flow.kind=glow", "model.flow.hidden=8"], "model/flow=mean_only"),
    ],
)
def test_what_has_no_form_is_named(overrides, named):
    with pytest.raises(ValueError, match=named):
        onnx_file.check(voice(*overrides))


def test_the_files_beside_the_graph():
    exported = voice("text.frontend=characters", "text.edges=false")
    config = onnx_file.piper_config(exported)
    assert config["phoneme_type"] == "text"
    assert config["phoneme_id_map"]["A"] == config["phoneme_id_map"]["a"] == [SYMBOLS.index("a")]
    assert config["audio"]["sample_rate"] == exported.sample_rate
    assert json.loads(json.dumps(config)) == config


@pytest.fixture(scope="module")
def exported_files():
    pytest.importorskip("onnx", reason="pip install onnx")
    pytest.importorskip("onnxscript", reason="pip install onnxscript")
    pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
    found = {}
    for name in ("hifigan", "source_filter"):
        exported = voice(*VOICES[name])
        found[name] = exported, onnx_file.graph(exported)
    return found


@pytest.mark.parametrize("name", ["hifigan", "source_filter"])
@pytest.mark.parametrize("text", ["a", "abc de", "abcdefgh gfedcba hgf"])
def test_the_runtime_says_what_infer_says(exported_files, name, text):
    exported, proto = exported_files[name]
    compared = onnx_check.compare(proto, exported, as_text(exported, text))
    onnx_check.verify(compared, has_pulses=name == "source_filter", half=False)


def test_half_precision_is_half_the_size_and_a_fault_is_refused(exported_files):
    exported, proto = exported_files["hifigan"]
    half = onnx_file.in_half(proto, False)
    assert half.ByteSize() < 0.8 * proto.ByteSize()
    compared = onnx_check.compare(half, exported, as_text(exported, "abc de"))
    onnx_check.verify(compared, has_pulses=False, half=True)
    with pytest.raises(ValueError, match="not the voice"):
        onnx_check.verify(compared, has_pulses=False, half=False)
