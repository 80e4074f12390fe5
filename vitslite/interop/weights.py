"""Weights of another implementation into a model of ours: by name and shape, nothing left over and nothing missing.

Weight norm is kept where both sides have it; made, w -> g = |w|, v = w, or folded, w = g v / |v|, where one side has
not. Those who do not put the channels back in order after an odd number of couplings have their prior in reverse order.
"""

import re

import torch
from torch import Tensor, nn

from vitslite.interop import names
from vitslite.interop.voice import Voice


@torch.no_grad()
def load(model: nn.Module, voice: Voice, n_couplings: int) -> list[str]:
    """Give `model` the weights of `voice`, of one speaker. Gives the names of ours that stay at their start.

    ValueError names each tensor that is missing, left over or of another shape, with both shapes.
    """
    own = model.state_dict()
    named = names.table(own, voice.rows)
    given = in_form(voice.weights, named)
    absent = [name for name in own if name.startswith(voice.absent)] if voice.absent else []
    wanted = {ours: other for ours, other in named.items() if ours not in absent}
    faults = [f"{o} is missing, {_size(own[n])} here ({n})" for n, o in wanted.items() if o not in given]
    faults += [f"{o} {_size(t)} is left over" for o, t in given.items() if o not in wanted.values()]
    for ours, other in wanted.items():
        if other in given and not _same(given[other], own[ours]):
            faults.append(f"{other} is {_size(given[other])} there, {_size(own[ours])} here ({ours})")
    if faults:
        raise ValueError(f"{voice.path}: {len(faults)} tensors do not fit: {'; '.join(faults)}")
    for ours, other in wanted.items():
        assert other is not None
        own[ours].copy_(given[other].reshape(own[ours].shape))
    if n_couplings % 2:
        for name in ("text_encoder.proj.weight", "text_encoder.proj.bias"):
            own[name].copy_(reversed_prior(own[name]))
    return absent


def in_form(weights: dict[str, Tensor], named: dict[str, str | None]) -> dict[str, Tensor]:
    """The weights with weight norm exactly where our model, of `names.table`, has it."""
    out = dict(weights)
    for other in named.values():
        if other is None:
            continue
        if other.endswith(".weight_v") and other.removesuffix("_v") in out:
            base = other.removesuffix("_v")
            out[f"{base}_g"], out[other] = split(out.pop(base))
        elif other.endswith(".weight") and f"{other}_v" in out:
            out[other] = fold(out.pop(f"{other}_g"), out.pop(f"{other}_v"))
    return out


def split(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(g, v) of a weight [C, ...], a norm for each of its rows. A row of zeros has g = 0, v = 1: 0 / 0 is no weight."""
    g = torch.norm_except_dim(weight, 2, 0)
    return g, torch.where(g == 0, 1.0, weight)


def fold(g: Tensor, v: Tensor) -> Tensor:
    """The weight that g and v stand for."""
    return torch._weight_norm(v, g, 0)


def reversed_prior(x: Tensor) -> Tensor:
    """The rows of the projection to the prior, means and log-stds [2 D, ...], each half in reverse order."""
    return torch.cat([half.flip(0) for half in x.chunk(2)])


def _same(a: Tensor, b: Tensor) -> bool:
    """Equal shapes, but for dimensions of 1: a linear layer is a convolution of kernel 1."""
    return [n for n in a.shape if n > 1] == [n for n in b.shape if n > 1]


def _size(x: Tensor) -> str:
    return re.sub(r"torch.Size\((.*)\)", r"\1", str(x.shape))
