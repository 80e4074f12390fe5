"""torch.compile for the parts that are chains of small operations, which it fuses.

It compiles a part once for each length that it meets, some seconds each time: its convolutions have no form for any
length. Decoders and discriminators that see segments meet one length; for the others give batches few of them
(data.pad_multiple). Validation and probes run the parts eagerly. On a CPU it does not pay
(docs/performance.md).
"""

import contextlib

import torch
from torch import nn

from vitslite.model.decoders import HiFiGAN
from vitslite.model.discriminators import PeriodDiscriminator, ScaleDiscriminator
from vitslite.model.istft import ConvNeXtBlock
from vitslite.model.layers import WaveNet

COMPILED = (WaveNet, HiFiGAN, ConvNeXtBlock, PeriodDiscriminator, ScaleDiscriminator)
MAX_GRAPHS = 256  # of one class: its parts, their lengths, with and without gradient; beyond, it goes on uncompiled


def compile_parts(*networks: nn.Module | None) -> None:
    """Compile those within the networks, in place, at their next call. Names in the state dict stay what they are."""
    torch.compiler.config.recompile_limit = MAX_GRAPHS
    for network in filter(None, networks):
        for part in network.modules():
            if isinstance(part, COMPILED):
                part.compile(dynamic=False)


def eager(is_compiled: bool) -> contextlib.AbstractContextManager:
    """A context in which compiled parts run eagerly: for validation and probes, whose shapes vary."""
    return torch.compiler.set_stance("force_eager") if is_compiled else contextlib.nullcontext()
