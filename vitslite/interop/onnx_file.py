"""An ONNX file of a voice, for Piper, sherpa-onnx and web pages, and the files that they want beside it.

onnx, onnxscript and onnxruntime are the extra "vitslite[export]"; none of them is needed for anything else.
"""

import contextlib
import copy
import io
import json
import unicodedata
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import nn
from torch.nn.utils import parametrize

from vitslite.files import replacing, write_text
from vitslite.interop.onnx_graph import Speech
from vitslite.interop.voice import refuse
from vitslite.model.synthesis import SynthesisSettings
from vitslite.model.vits import VITS
from vitslite.text.frontend import END, START, Frontend

if TYPE_CHECKING:
    from onnx import ModelProto

FORMATS = ("piper", "sherpa")
_OPSET = 20
_HALF_FROM = 1024  # numbers: smaller constants are kept in fp32
_BEFORE_PULSES = ("text_encoder.", "duration_predictor.", "flow.", "pitch.")  # in names of weights


class Exported(NamedTuple):
    """A voice to export: the parts of it that the files are made of."""

    model: VITS
    frontend: Frontend
    sample_rate: int
    synthesis: SynthesisSettings


def graph(voice: Exported, half: bool = False) -> "ModelProto":
    """The voice as an ONNX graph, with weights in fp32, or stored in fp16 and made fp32 when it is loaded.

    ValueError names what cannot be exported, with the setting to train with.
    """
    onnx = _onnx()
    check(voice)
    speech = Speech(without_weight_norm(voice.model), voice.frontend.settings).requires_grad_(False).eval()
    tokens = torch.ones(1, 21, dtype=torch.int64)
    example = (tokens, torch.tensor([tokens.shape[1]]), torch.tensor([0.667, 1.0, 0.8]))
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # the exporter talks of its progress
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            speech,
            example,
            dynamo=True,
            dynamic_shapes=({1: torch.export.Dim.DYNAMIC}, None, None),
            input_names=["input", "input_lengths", "scales"],
            output_names=["output"],
            opset_version=_OPSET,
        )
    assert program is not None
    proto = program.model_proto
    for node in [*proto.graph.node]:
        node.ClearField("doc_string")  # and the stacks of this machine
        del node.metadata_props[:]
    n_ceil = sum(node.op_type == "Ceil" for node in proto.graph.node)
    assert n_ceil == 1, f"{n_ceil} Ceil nodes: Piper's alignments want the one of the durations"
    metadata = {
        "model_type": "vits",
        "comment": "piper",  # how sherpa-onnx names these inputs
        "language": voice.frontend.settings.voice,
        "voice": voice.frontend.settings.voice,
        "has_espeak": "1" if _is_phonemes(voice.frontend) else "0",
        "n_speakers": "1",
        "sample_rate": str(voice.sample_rate),
    }
    if not _is_phonemes(voice.frontend):
        metadata["frontend"] = "characters"
    onnx.helper.set_model_props(proto, metadata)
    return in_half(proto, has_pulses(voice)) if half else proto


def check(voice: Exported) -> None:
    """ValueError names the settings that these runtimes have no form for, and those to train with."""
    s, text = voice.model.settings, voice.frontend.settings
    faults = {
        f"model.refiner.kind={s.refiner.kind}: train with model/refiner=none": s.refiner.kind != "none",
        f"model.flow.kind={s.flow.kind}: train with model/flow=mean_only or affine": s.flow.kind
        in ("glow", "linear_iaf"),
        "text.units=phones: these programs give one code point per phoneme; train with text.units=codepoints": (
            text.frontend == "phonemes" and text.units == "phones"
        ),
    }
    refuse("the voice", (fault for fault, is_so in faults.items() if is_so))


def without_weight_norm(model: VITS) -> VITS:
    """A copy on the CPU whose weights are what weight norm makes of them."""
    model = copy.deepcopy(model).cpu().float()
    for module in [*model.modules()]:
        if parametrize.is_parametrized(module, "weight"):
            # Not remove_parametrizations: it alters the class, which a copy shares with what it is a copy of.
            weight = cast(torch.Tensor, module.weight).detach()
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module.parametrizations
            module.register_parameter("weight", nn.Parameter(weight))
    return model


def has_pulses(voice: Exported) -> bool:
    s = voice.model.settings.decoder
    return s.kind == "istft" and s.istft.harmonics


def in_half(proto: "ModelProto", of_decoder_alone: bool) -> "ModelProto":
    """Large constants stored in fp16, with a Cast to fp32 behind each, which runtimes fold when they load it.

    Where pulses have a phase, the sum of a predicted pitch, all that the pitch is made of stays in fp32.
    """
    onnx = _onnx()
    out = onnx.ModelProto()
    out.CopyFrom(proto)
    casts = []
    for tensor in out.graph.initializer:
        is_kept = of_decoder_alone and any(part in tensor.name for part in _BEFORE_PULSES)
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.raw_data) >= 4 * _HALF_FROM and not is_kept:
            name, values = tensor.name, onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype("float16"), f"{name}.fp16"))
            casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *out.graph.node]
    del out.graph.node[:]
    out.graph.node.extend(nodes)
    return out


def write(proto: "ModelProto", voice: Exported, path: Path, layout: str) -> list[Path]:
    """The file, and beside it what the program of that layout reads: NAME.onnx.json, or tokens.txt."""
    with replacing(path) as unfinished:
        unfinished.write_bytes(proto.SerializeToString())
    if layout == "piper":
        beside, text = (
            path.with_name(f"{path.name}.json"),
            json.dumps(piper_config(voice), ensure_ascii=False, indent=1),
        )
    else:
        symbols = symbol_ids(voice.frontend).items()
        beside, text = path.with_name("tokens.txt"), "".join(f"{symbol} {ids[0]}\n" for symbol, ids in symbols)
    write_text(beside, text)
    return [path, beside]


def piper_config(voice: Exported) -> dict:
    """What Piper reads beside the file."""
    own = voice.synthesis
    return {
        "audio": {"sample_rate": voice.sample_rate},
        "espeak": {"voice": voice.frontend.settings.voice},
        "phoneme_type": "espeak" if _is_phonemes(voice.frontend) else "text",
        "num_symbols": voice.frontend.n_symbols,
        "num_speakers": 1,
        "speaker_id_map": {},
        "inference": {"noise_scale": own.noise_scale, "length_scale": 1.0, "noise_w": own.duration_noise_scale},
        "hop_length": voice.model.hop_length,
        "phoneme_id_map": symbol_ids(voice.frontend),
    }


def symbol_ids(frontend: Frontend) -> dict[str, list[int]]:
    """{symbol: [id]}, "^", "_" and "$" among them, which are fed whether or not the voice knows them.

    Of characters also the capitals, with the ids of their small letters.
    """
    ids = {symbol: [i] for i, symbol in enumerate(frontend.vocabulary) if symbol}
    if not _is_phonemes(frontend):
        capitals = {s.upper(): i for s, i in ids.items() if len(s.upper()) == 1}
        ids = capitals | ids
    return {"_": [0], START: [0], END: [0]} | ids


def not_fed(frontend: Frontend) -> list[str]:
    """Symbols that Piper never feeds, since it takes letters and their marks apart (NFD)."""
    return [s for s in frontend.vocabulary if s and unicodedata.normalize("NFD", s) != s]


def _is_phonemes(frontend: Frontend) -> bool:
    return frontend.settings.frontend == "phonemes"


def _onnx() -> Any:
    """The library. ValueError where it is not installed."""
    try:
        import onnx
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ImportError as error:
        raise ValueError('to export a voice to ONNX: pip install "vitslite[export]"') from error
    return onnx
