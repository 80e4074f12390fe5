"""What torch.compile takes on: the parts that are chains of small operations, which a compiler makes into fewer.

It compiles a part once for each length that it meets, some seconds each time: its convolutions have no form for any
length. So give batches few lengths (data.pad_multiple), or let the parts see segments alone, as model=vits does.
On a CPU it does not pay (docs/performance.md).
"""

import torch
from torch import nn

from vitslite.discriminators import PeriodDiscriminator, ScaleDiscriminator
from vitslite.model.decoders import ConvNeXtBlock, HiFiGAN
from vitslite.model.layers import WaveNet

COMPILED = (WaveNet, HiFiGAN, ConvNeXtBlock, PeriodDiscriminator, ScaleDiscriminator)
MAX_LENGTHS = 64  # of a part, with and without gradient; beyond, it goes on uncompiled


def compile_parts(module: nn.Module) -> None:
    """Compile those within `module`, in place, at their next call. Names in the state dict stay what they are."""
    torch.compiler.config.recompile_limit = MAX_LENGTHS
    for part in module.modules():
        if isinstance(part, COMPILED):
            part.compile(dynamic=False)
