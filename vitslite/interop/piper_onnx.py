"""A published Piper voice, .onnx beside .onnx.json: the weights of inference, read out of the graph.

Most weights keep their names. The exporter has folded the weight norm, and with it the names of the flow's WaveNet
weights: the bias of the same convolution tells them. The embedding is the table that the input looks up. Of the affine
layer of the durations exp(-log_scale) is left. What only training needs is not in the file: the posterior encoder and
the posterior half of the durations; the first coupling of the durations, which changes only what is not wanted.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitslite.interop import piper
from vitslite.interop.original import networks
from vitslite.interop.voice import Settings, Voice

ABSENT = ("posterior_encoder.", "duration_predictor.post_", "duration_predictor.flows.1.")
_PARTS = ("enc_p.", "dec.", "flow.", "dp.", "emb_g.")
_LOG_SCALE, _TRANSLATE, _EMBEDDING = "dp.flows.0.logs", "dp.flows.0.m", "enc_p.emb.weight"


def read(path: Path, config_path: Path | None) -> Voice:
    """The voice at `path`. ValueError where a weight of speech cannot be found in the graph."""
    graph = _graph(path)
    weights, layers = _weights(graph, path)
    where = config_path or path.with_name(f"{path.name}.json")
    try:
        found = _architecture(weights, layers)
    except (KeyError, ZeroDivisionError) as error:
        raise ValueError(f"{path}: no {error} in its graph: no Piper voice as its exporter makes them") from error
    hop_length = int(np.prod(found["upsample_rates"]))
    settings: Settings = networks(weights, found, path) | _depths(weights, layers) | {"audio.hop_length": hop_length}
    voice = piper.voice(path, where, settings, weights, "a Piper voice")
    voice.settings["audio.sample_rate"] = piper.read_json(where, path)["audio"]["sample_rate"]
    voice.absent = ABSENT
    voice.notes.append("n_fft and window are not in it and count as 1024: the posterior encoder alone looks at them")
    return voice


def _graph(path: Path) -> Any:
    try:
        import onnx
    except ImportError as error:
        raise ValueError("to import a Piper voice: pip install onnx") from error
    try:
        return onnx.load(str(path)).graph
    except Exception as error:  # protobuf's DecodeError, of one package or another
        raise ValueError(f"{path}: damaged, or no ONNX file ({' '.join(str(error).split())[:160]})") from error


def _weights(graph: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights by their names in the published code, and the node that each convolution's weight is used in."""
    from onnx import numpy_helper

    stored = {x.name: x for x in graph.initializer}
    tensors = {name: torch.tensor(numpy_helper.to_array(x)) for name, x in stored.items() if x.data_type in (1, 10, 11)}
    users = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            users[name].append(node)
    weights = {name: x for name, x in tensors.items() if name.startswith(_PARTS)}
    layers = {}
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            name = node.input[1]
            if name not in weights and len(node.input) > 2:
                name = f"{node.input[2].removesuffix('.bias')}.weight"
                weights[name] = tensors[node.input[1]]
            layers[name] = node
        if node.op_type == "Gather" and node.input[1] == graph.input[0].name:
            weights[_EMBEDDING] = tensors[node.input[0]]
    if _TRANSLATE in weights and _LOG_SCALE not in weights:
        # (x - m) * exp(-logs), the product with a constant.
        difference = next(n.output[0] for n in users[_TRANSLATE] if n.op_type == "Sub")
        product = next(n for n in users[difference] if n.op_type == "Mul")
        constant = next((tensors[n] for n in product.input if n in tensors), None)
        if constant is None:
            raise ValueError(f"{path}: {_LOG_SCALE} is not in its graph")
        weights[_LOG_SCALE] = -torch.log(constant)
    return weights, layers


def _architecture(weights: dict[str, Tensor], layers: dict[str, Any]) -> dict[str, Any]:
    """The settings of the published code, from the shapes of the weights and the strides and dilations of the graph."""
    hidden = weights[_EMBEDDING].shape[1]
    light = "dec.resblocks.0.convs.0.weight" in weights
    convs = "convs" if light else "convs1"
    n_ups, n_blocks = _count(weights, "dec.ups.{}.weight"), _count(weights, f"dec.resblocks.{{}}.{convs}.0.weight")
    feed_forward = weights["enc_p.encoder.ffn_layers.0.conv_1.weight"]
    blocks = range(n_blocks // n_ups)
    dilations = [
        [
            _attribute(layers, f"dec.resblocks.{b}.{convs}.{k}.weight", "dilations")
            for k in range(_count(weights, f"dec.resblocks.{b}.{convs}.{{}}.weight"))
        ]
        for b in blocks
    ]
    return {
        "inter_channels": weights["enc_p.proj.weight"].shape[0] // 2,
        "hidden_channels": hidden,
        "filter_channels": feed_forward.shape[0],
        "n_layers": _count(weights, "enc_p.encoder.ffn_layers.{}.conv_1.weight"),
        "n_heads": hidden // weights["enc_p.encoder.attn_layers.0.emb_rel_k"].shape[2],
        "kernel_size": feed_forward.shape[2],
        "p_dropout": 0.1,
        "upsample_initial_channel": weights["dec.conv_pre.weight"].shape[0],
        "upsample_rates": [_attribute(layers, f"dec.ups.{i}.weight", "strides") for i in range(n_ups)],
        "upsample_kernel_sizes": [weights[f"dec.ups.{i}.weight"].shape[2] for i in range(n_ups)],
        "resblock": "2" if light else "1",
        "resblock_kernel_sizes": [weights[f"dec.resblocks.{b}.{convs}.0.weight"].shape[2] for b in blocks],
        "resblock_dilation_sizes": dilations,
    }


def _depths(weights: dict[str, Tensor], layers: dict[str, Any]) -> Settings:
    """What the published code has fixed and the graph may have otherwise."""
    n_layers = _count(weights, "flow.flows.0.enc.in_layers.{}.weight")
    rate = _attribute(layers, "flow.flows.0.enc.in_layers.1.weight", "dilations") if n_layers > 1 else 1
    return {
        "model.text_encoder.window": weights["enc_p.encoder.attn_layers.0.emb_rel_k"].shape[1] // 2,
        "model.flow.n_couplings": sum(f"flow.flows.{i}.pre.weight" in weights for i in range(64)),
        "model.flow.n_layers": n_layers,
        "model.flow.dilation_rate": rate,
    }


def _count(weights: dict[str, Tensor], pattern: str) -> int:
    return next(i for i in range(len(weights) + 1) if pattern.format(i) not in weights)


def _attribute(layers: dict[str, Any], name: str, attribute: str) -> int:
    return next((x.ints[0] for x in layers[name].attribute if x.name == attribute), 1)
