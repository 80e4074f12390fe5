"""A folder of transformers.VitsModel and VitsTokenizer made of a voice of ours: the reverse of huggingface.py.

Theirs has one hidden size, for the text encoder and both WaveNets. A WaveNet of fewer channels sits in a wider one,
exactly: its other channels have no weights, and tanh(0) sigmoid(0) = 0. After an odd number of couplings we put the
channels back in order and they do not: their prior has its rows reversed. A posterior encoder that theirs has no form
for is left out, since it does not speak: it is all zeros there.
"""

import copy
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitslite.audio import AudioSettings
from vitslite.files import replacing, write_text
from vitslite.interop import names, weights
from vitslite.interop import names_transformers as theirs
from vitslite.interop.voice import refuse
from vitslite.model.vits import VITS, ModelSettings
from vitslite.text.frontend import Frontend

_POSTERIOR = "model.posterior."


def write(
    folder: Path, model: VITS, frontend: Frontend, audio: AudioSettings, settings: Mapping[str, Any]
) -> list[str]:
    """config.json, model.safetensors, vocab.json, tokenizer_config.json and README.md. Gives what to know of them.

    `settings` are those of the run, by dotted key. ValueError names what cannot be said there, and what to train with.
    """
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise ValueError("to export a voice to transformers: pip install safetensors") from error
    check(settings)
    keeps_posterior = has_published_posterior(settings)
    found = {name: x.contiguous() for name, x in tensors(model, frontend.n_symbols, audio, keeps_posterior).items()}
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "model.safetensors") as unfinished:
        save_file(found, unfinished, {"format": "pt"})
    vocabulary = {symbol: i for i, symbol in enumerate(frontend.vocabulary) if symbol}
    notes = _notes(settings, keeps_posterior)
    for name, content in (
        ("config.json", config(settings, frontend.n_symbols, audio)),
        ("vocab.json", vocabulary),
        ("tokenizer_config.json", tokenizer(frontend)),
    ):
        write_text(folder / name, json.dumps(content, ensure_ascii=False, indent=1))
    write_text(folder / "README.md", _CARD + "".join(f"- {note}\n" for note in notes))
    return notes


def check(settings: Mapping[str, Any]) -> None:
    """ValueError names each setting that transformers cannot express, and what to train with."""
    s = {key.removeprefix("model."): value for key, value in settings.items()}
    hidden = s["text_encoder.hidden"]
    faults = {
        f"model.decoder.kind={s['decoder.kind']}: train with model/decoder=hifigan": s["decoder.kind"] != "hifigan",
        "model.decoder.hifigan.resblock_kind=2: train with 1": s["decoder.hifigan.resblock_kind"] == "2",
        f"model.duration.rounding={s['duration.rounding']}: train with ceil": s["duration.rounding"] != "ceil",
        f"model.flow.kind={s['flow.kind']}: train with model/flow=mean_only": s["flow.kind"] != "mean_only",
        "model.flow.side=posterior: train with prior": s["flow.side"] != "prior",
        f"model.flow.hidden={s['flow.hidden']}: train with {hidden} or less": s["flow.hidden"] > hidden,
        f"model.refiner.kind={s['refiner.kind']}: train with model/refiner=none": s["refiner.kind"] != "none",
        "model.text_encoder.prenet: train with 0": s["text_encoder.prenet"] > 0,
        f"model.text_encoder.prior_std={s['text_encoder.prior_std']}: train with learned": (
            s["text_encoder.prior_std"] != "learned"
        ),
        "model.posterior.clamp=true: train with false": s["posterior.clamp"],
        f"model.duration.filters={s['duration.filters']}: train with {hidden}": (
            s["duration.kind"] == "stochastic" and s["duration.filters"] != hidden
        ),
        "text.units=phones: VitsTokenizer has one code point per symbol; train with text.units=codepoints": (
            s["text.frontend"] == "phonemes" and s["text.units"] == "phones"
        ),
        "text.outer_blanks=false: VitsTokenizer has blanks at both ends; train with true": s["text.blanks"]
        and not s["text.outer_blanks"],
    }
    refuse("transformers.VitsModel", (fault for fault, is_so in faults.items() if is_so))


def has_published_posterior(settings: Mapping[str, Any]) -> bool:
    """Whether transformers has a form for the posterior encoder: linear spectrograms, one hidden size, no skip."""
    s = {key.removeprefix(_POSTERIOR): value for key, value in settings.items() if key.startswith(_POSTERIOR)}
    return (
        (s["kind"], s["input"], s["skip"]) == ("gaussian", "linear", False)
        and s["hidden"] == settings["model.text_encoder.hidden"]
        and all(s[key] == settings[f"model.flow.{key}"] for key in ("kernel", "dilation_rate"))
    )


def config(settings: Mapping[str, Any], n_symbols: int, audio: AudioSettings) -> dict[str, Any]:
    """config.json."""
    is_stochastic = settings["model.duration.kind"] == "stochastic"
    rows = theirs.SETTINGS + (theirs.STOCHASTIC if is_stochastic else theirs.DETERMINISTIC)
    named: dict[str, Any] = {}
    for ours, other in rows:
        named.setdefault(other, settings[ours])  # the text encoder's hidden size comes first
    return {
        "architectures": ["VitsModel"],
        "model_type": "vits",
        "vocab_size": n_symbols,
        "spectrogram_bins": audio.n_fft // 2 + 1,
        "use_stochastic_duration_prediction": is_stochastic,
        "num_speakers": 1,
        "speaker_embedding_size": 0,
        "speaking_rate": 1.0,
        **theirs.FIXED,
        **named,
    }


def tokenizer(frontend: Frontend) -> dict[str, Any]:
    """tokenizer_config.json. Phonemes are its input: theirs would come from another program."""
    text = frontend.settings
    return {
        "tokenizer_class": "VitsTokenizer",
        "add_blank": text.blanks,
        "normalize": text.frontend == "characters",
        "phonemize": False,
        "is_uroman": False,
        "language": text.voice,
        "pad_token": frontend.vocabulary[0],
        "unk_token": "<unk>",
    }


@torch.no_grad()
def tensors(model: VITS, n_symbols: int, audio: AudioSettings, keeps_posterior: bool) -> dict[str, Tensor]:
    """The weights under their names, in their shapes; the same bit for bit where both sides have the same form."""
    wide = widest(model.settings, keeps_posterior)
    target = VITS(wide, n_symbols, audio.n_fft, audio.n_mels, audio.hop_length, audio.sample_rate).state_dict()
    shapes = {names.canonical(name): x.shape for name, x in target.items()}
    own = {names.canonical(name): x.detach().cpu().float() for name, x in model.state_dict().items()}
    if not keeps_posterior:
        own = {name: x for name, x in own.items() if not name.startswith("posterior_encoder.")}
    hidden, wider = model.settings.flow.hidden, wide.flow.hidden
    if hidden < wider:
        folded = _folded(own, "flow.")
        own = {n: widened(n, x, hidden, wider) if n.startswith("flow.") else x for n, x in folded.items()}
    own = weights.in_form(own, {name: name for name in shapes})
    if model.settings.flow.n_couplings % 2:
        own |= {n: weights.reversed_prior(own[n]) for n in ("text_encoder.proj.weight", "text_encoder.proj.bias")}
    out = {}
    for name, shape in shapes.items():
        other = names.theirs(name, theirs.WEIGHTS)
        assert other is not None, name
        x = own.get(name, (torch.ones if name.endswith("_v") else torch.zeros)(shape))
        out[names.parametrized(other)] = _reshaped(other, x)
    return out


def widest(settings: ModelSettings, keeps_posterior: bool) -> ModelSettings:
    """The settings of a model of ours that has the weights of theirs, one for one."""
    s, hidden = copy.deepcopy(settings), settings.text_encoder.hidden
    s.mel_head = False
    s.flow.hidden, s.flow.weight_norm, s.decoder.hifigan.weight_norm = hidden, True, False
    if not keeps_posterior:
        s.posterior.kernel, s.posterior.dilation_rate = s.flow.kernel, s.flow.dilation_rate
    s.posterior = dataclasses.replace(
        s.posterior, kind="gaussian", input="linear", skip=False, hidden=hidden, weight_norm=True
    )
    return s


def widened(name: str, x: Tensor, hidden: int, wider: int) -> Tensor:
    """A parameter of a coupling with `hidden` channels, for one with more: zeros for the others.

    Of 2 hidden rows, the two sides of a gate or residual and skip, each half by itself.
    """
    n_new = wider - hidden
    if x.ndim > 1 and ".pre." not in name:  # which reads the latents
        x = torch.cat([x, x.new_zeros(x.shape[0], n_new, *x.shape[2:])], 1)
    if ".post." not in name:  # which writes them
        halves = x.chunk(x.shape[0] // hidden)
        x = torch.cat([part for half in halves for part in (half, x.new_zeros(n_new, *x.shape[1:]))])
    return x


def _folded(own: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those parameters with one weight in the place of g and v."""
    plain = {n.removesuffix("_g").removesuffix("_v") for n in own if n.startswith(prefix)}
    return weights.in_form(own, {n: n for n in plain})


def _reshaped(name: str, x: Tensor) -> Tensor:
    """A linear layer for a convolution of kernel 1, relative embeddings with an axis for the heads that share them."""
    if name.endswith("_proj.weight") and ".attention." in name:
        return x[:, :, 0]
    return x[None] if name.endswith((".emb_rel_k", ".emb_rel_v")) else x


def _notes(settings: Mapping[str, Any], keeps_posterior: bool) -> list[str]:
    notes = []
    if not keeps_posterior:
        notes.append(
            "Without its posterior encoder, which transformers has no form for: it speaks, but cannot be trained on."
        )
    if settings["text.frontend"] == "phonemes":
        edges = "between ^ and $, " if settings["text.edges"] else ""
        notes.append(
            f"Its texts are phonemes of espeak-ng (IPA, {settings['text.voice']}), {edges}as the tokenizer's input."
        )
    elif settings["text.edges"]:
        notes.append("Its texts stand between ^ and $, which the tokenizer does not add.")
    return notes


_CARD = """---
library_name: transformers
pipeline_tag: text-to-speech
---
A VITS voice trained with vitslite.

"""
