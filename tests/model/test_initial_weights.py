"""Initial weights of model=vits with discriminator=vits: torch's defaults wherever the published code has those."""

import math
import re

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from vitslite.model.decoders import HiFiGAN, HiFiGANSettings
from vitslite.model.discriminators import Discriminator, DiscriminatorSettings
from vitslite.model.vits import VITS, ModelSettings

HIDDEN, HEAD = 192, 96  # channels of the text encoder, and of each of its two heads
# What does not start as torch has it, in the published code as here: pattern of the name -> standard deviation.
EXCEPTIONS = {
    r"text_encoder\.embedding\.weight": HIDDEN**-0.5,
    r"\.attention\.relative_(key|value)": HEAD**-0.5,
    r"\.attention\.(query|key|value)\.weight": math.sqrt(2 / (HIDDEN + HIDDEN)),  # Xavier
    r"\.couplings\.\d+\.post\.(weight|bias)": 0.0,  # each coupling starts as the identity
    r"flows\.[1-4]\.conv_proj\.(weight|bias)": 0.0,  # and so does each spline
    r"flows\.0\.(translate|log_scale)": 0.0,
}
LARGE = 400  # numbers whose standard deviation is known to some 2 %


def fresh(module: nn.Module) -> nn.Module:
    """Another module of the same shapes, as torch makes it."""
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d):
        sizes = module.in_channels, module.out_channels, module.kernel_size
        return type(module)(*sizes, groups=module.groups, bias=module.bias is not None)
    assert isinstance(module, nn.Embedding), module
    return nn.Embedding(module.num_embeddings, module.embedding_dim)


def far_from_the_default(model: nn.Module) -> tuple[dict[str, float], set[str]]:
    """Weights, as the network applies them, whose spread is not within 15 % of torch's, with the ratio; and all names.

    Of tensors with few numbers it is the largest that must be in reach of the default.
    """
    found, seen = {}, set()
    for name, module in model.named_modules():
        if isinstance(module, parametrize.ParametrizationList) or ".parametrizations" in name:
            continue
        weights = dict(module.named_parameters(recurse=False))
        if parametrize.is_parametrized(module):
            weights["weight"] = module.weight
        if not weights:
            continue
        is_norm = type(module).__name__ == "ChannelLayerNorm"
        is_own = not isinstance(module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.Embedding)
        default = None if is_own else fresh(module)
        for kind, weight in weights.items():
            label = f"{name}.{kind}"
            seen.add(label)
            if is_norm:
                assert (weight == (1 if kind == "weight" else 0)).all(), label  # as nn.LayerNorm
                continue
            exception = next((std for pattern, std in EXCEPTIONS.items() if re.search(pattern + "$", label)), None)
            if exception == 0:
                assert not weight.any(), label
                continue
            if exception is not None:
                ratio = weight.std().item() / exception
            elif weight.numel() >= LARGE:
                ratio = (weight.std() / getattr(default, kind).std()).item()
            else:  # uniform up to a bound, which the larger tensor of the module tells
                bound = default.weight.abs().max()
                ratio = 1.0 if weight.abs().max() <= 1.15 * bound and weight.any() else math.inf
            if not 0.85 < ratio < 1.15:
                found[label] = ratio
    return found, seen


def published() -> tuple[VITS, Discriminator]:
    torch.manual_seed(0)
    model = VITS(ModelSettings(), 178, n_fft=1024, n_mels=80, hop_length=256, sample_rate=22050)
    return model, Discriminator(DiscriminatorSettings(kind="vits"))


def test_vits_and_its_discriminators_start_as_published():
    for network in published():
        found, seen = far_from_the_default(network)
        assert found == {}
        # Each is looked at; a weight norm makes two parameters of one weight.
        assert len(seen) == len([n for n, _ in network.named_parameters() if not n.endswith("original0")])


def test_another_start_is_noticed():
    """The planted fault: N(0, 0.01) that reaches the weights, being written before the weight norm."""
    settings = HiFiGANSettings(channels=256)
    decoder = HiFiGAN(settings, 192, 256)
    assert far_from_the_default(decoder)[0] == {}
    for module in [*decoder.ups, *(conv for block in decoder.resblocks for conv in [*block.convs1, *block.convs2])]:
        module.weight = 0.01 * torch.randn_like(module.weight)
    assert len(far_from_the_default(decoder)[0]) == 4 + 4 * 3 * 6


def test_without_weight_norm_upsampling_and_blocks_start_small():
    """Ours, as the presets nano, tiny and small have it."""
    torch.manual_seed(0)
    decoder = HiFiGAN(HiFiGANSettings(channels=128, weight_norm=False), 96, 256)
    for name, weight in decoder.named_parameters():
        if name.startswith(("ups", "resblocks")) and name.endswith("weight"):
            assert weight.std().item() == pytest.approx(0.01, rel=0.2), name
    assert (
        not {n for n, _ in decoder.named_parameters() if n.startswith("conv_")}
        & far_from_the_default(decoder)[0].keys()
    )
