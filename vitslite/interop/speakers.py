"""One speaker of a voice that has several, exactly: what an embedding adds everywhere in time is part of a bias.

A speaker's embedding e conditions the WaveNets (one 1x1 convolution for all layers), the decoder and the stochastic
durations by cond(e) = W e + b, the same for all frames or tokens, added right behind a convolution: to its bias, then.
The deterministic durations have it in front of a convolution that sees zeros beyond the ends: there it does not fold.

Source: Kim et al. 2021 (VITS), section 2.5; here without conditioning.
"""

import torch
from torch import Tensor

from vitslite.interop import names, weights
from vitslite.interop.voice import Voice


@torch.no_grad()
def fold(voice: Voice, speaker: int) -> dict[str, Tensor]:
    """The weights of `voice`, as of a voice with that speaker alone. ValueError for deterministic durations."""
    found = dict(voice.weights)

    def their(ours: str) -> str:
        name = names.theirs(ours, voice.rows)
        assert name is not None, ours
        return name

    if voice.settings["model.duration.kind"] == "deterministic":
        raise ValueError(
            f"{voice.path}: several speakers with the deterministic duration predictor, whose conditioning is no bias: "
            "only those with the stochastic one (use_sdp) can be imported"
        )
    embedding = found.pop(their("speakers.weight"))[speaker].double()

    def shift(ours: str) -> Tensor | None:
        """cond(e), which is then no more; None where the file has none."""
        name = their(ours)
        if f"{name}.bias" not in found:
            return None
        bias = found.pop(f"{name}.bias").double()
        if f"{name}.weight" in found:
            weight = found.pop(f"{name}.weight").double()
        else:
            weight = weights.fold(found.pop(f"{name}.weight_g").double(), found.pop(f"{name}.weight_v").double())
        return weight.flatten(1) @ embedding + bias

    def add(ours: str, value: Tensor | None) -> None:
        if value is not None:
            bias = found[their(ours)]
            found[their(ours)] = (bias.double() + value).to(bias.dtype)

    n_couplings, n_layers = (voice.settings[f"model.flow.{key}"] for key in ("n_couplings", "n_layers"))
    wavenets = {f"flow.couplings.{i}.wavenet": n_layers for i in range(n_couplings)}
    wavenets["posterior_encoder.wavenet"] = voice.settings["model.posterior.n_layers"]
    for wavenet, depth in wavenets.items():
        both = shift(f"{wavenet}.cond")
        for j, value in enumerate([] if both is None else both.chunk(depth)):
            add(f"{wavenet}.convs.{j}.bias", value)
    for part in ("decoder", "duration_predictor"):
        add(f"{part}.conv_pre.bias", shift(f"{part}.cond"))
    return found
