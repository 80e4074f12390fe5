"""Decoders: latent frames [B, D, T] -> audio [B, 1, T * hop_length].

Two of them. `hifigan` is the published one of VITS: transposed convolutions up to the sample rate, most of the cost of
training and nearly all of that of inference. `istft` (istft.py) stays at the frame rate and lets an inverse Fourier
transform make the samples, more than ten times cheaper, so that whole utterances can be reconstructed in each step.

Both take a mask [B, 1, T]. Frame t makes the samples t * hop_length to (t + 1) * hop_length; samples beyond the mask
are zero, and those within it equal, at every sample up to the end, what the utterance gives when decoded alone. For
that, activations are zeroed on padding before each layer that looks sideways. `mask=None` means that every frame is
valid and saves these products.
"""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from vitslite.model import speakers
from vitslite.model.istft import Decoded, ISTFTDecoder, ISTFTSettings
from vitslite.model.layers import masked, same_conv

KINDS = ("hifigan", "istft")
_SLOPE = 0.1  # of the leaky ReLUs; the last one of HiFi-GAN has torch's default, 0.01


@dataclass
class HiFiGANSettings:
    """Defaults: HiFi-GAN V1 as in VITS, 14,337,024 parameters for 192 latent channels."""

    channels: int = field(default=512, metadata={"at_least": 1})  # of the first convolution; halved by each upsampling
    # Their product is audio.hop_length.
    upsample_rates: list[int] = field(default_factory=lambda: [8, 8, 2, 2], metadata={"at_least": 1})
    upsample_kernels: list[int] = field(default_factory=lambda: [16, 16, 4, 4], metadata={"at_least": 1})
    # "1": two convolutions per dilation, as published; "2": one, light
    resblock_kind: str = field(default="1", metadata={"choices": ("1", "2")})
    resblock_kernels: list[int] = field(default_factory=lambda: [3, 7, 11], metadata={"at_least": 1, "odd": True})
    resblock_dilations: list[list[int]] = field(default_factory=lambda: [[1, 3, 5]] * 3, metadata={"at_least": 1})
    weight_norm: bool = True


@dataclass
class DecoderSettings:
    kind: str = field(default="hifigan", metadata={"choices": KINDS})
    hifigan: HiFiGANSettings = field(default_factory=HiFiGANSettings)
    istft: ISTFTSettings = field(default_factory=ISTFTSettings)

    @property
    def is_random(self) -> bool:
        return self.kind == "istft" and self.istft.noise


def build_decoder(
    settings: DecoderSettings, n_latent: int, hop_length: int, sample_rate: int, n_condition: int = 0
) -> "HiFiGAN | ISTFTDecoder":
    """A module with forward(z [B D T], mask [B 1 T] or None, keys, ...) -> Decoded, its audio [B 1 T * hop_length]."""
    if settings.kind == "hifigan":
        return HiFiGAN(settings.hifigan, n_latent, hop_length, n_condition)
    assert settings.kind == "istft", settings.kind
    return ISTFTDecoder(settings.istft, n_latent, hop_length, sample_rate, n_condition)


class HiFiGAN(nn.Module):
    """HiFi-GAN generator: upsample step by step, each step followed by residual blocks of several widths, averaged.

    Source: Kong et al. 2020 (HiFi-GAN), section 2.2; as in VITS, the first and last convolution have no weight norm
    and the last no bias. `upsample_rates` multiply to `hop_length`.

    With weight norm all weights start as torch has them. So they do in the published code: its N(0, 0.01) is written
    where the weight norm has already taken the weights apart, and the next forward pass overwrites it. Without weight
    norm, which is ours, upsampling and residual blocks start at N(0, 0.01), as was meant.
    """

    def __init__(self, settings: HiFiGANSettings, n_latent: int, hop_length: int, n_condition: int = 0):
        super().__init__()
        s = settings
        assert math.prod(s.upsample_rates) == hop_length, (s.upsample_rates, hop_length)
        self.rates = list(s.upsample_rates)
        self.n_blocks = len(s.resblock_kernels)
        self.conv_pre = same_conv(n_latent, s.channels, 7)
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        channels = s.channels
        for rate, kernel in zip(s.upsample_rates, s.upsample_kernels, strict=True):
            up = nn.ConvTranspose1d(channels, channels // 2, kernel, stride=rate, padding=(kernel - rate) // 2)
            self.ups.append(up)
            channels //= 2
            for block_kernel, dilations in zip(s.resblock_kernels, s.resblock_dilations, strict=True):
                self.resblocks.append(ResBlock(channels, block_kernel, list(dilations), s.resblock_kind == "2"))
        self.conv_post = nn.Conv1d(channels, 1, 7, padding=3, bias=False)
        self.cond = speakers.view(n_condition, s.channels)
        for conv in [*self.ups.modules(), *self.resblocks.modules()]:
            if isinstance(conv, nn.Conv1d | nn.ConvTranspose1d):
                if s.weight_norm:
                    parametrizations.weight_norm(conv)
                else:
                    nn.init.normal_(conv.weight, std=0.01)

    def forward(
        self,
        z: Float[Tensor, "B D T"],
        mask: Bool[Tensor, "B 1 T"] | None,
        keys: Int[Tensor, " B"] | None = None,
        recording: Float[Tensor, "B 1 S"] | None = None,
        twice: bool = False,
        g: Float[Tensor, "B G 1"] | None = None,
    ) -> Decoded:
        x = masked(speakers.heard(self.conv_pre(masked(z, mask)), self.cond, g), mask)
        for i, (rate, up) in enumerate(zip(self.rates, self.ups, strict=True)):
            x = up(F.leaky_relu(x, _SLOPE))
            mask = None if mask is None else mask.repeat_interleave(rate, dim=2)
            x = masked(x, mask)
            blocks = self.resblocks[i * self.n_blocks : (i + 1) * self.n_blocks]
            x = sum(block(x, mask) for block in blocks) / self.n_blocks
        return Decoded(masked(torch.tanh(self.conv_post(F.leaky_relu(x)).float()), mask))


class ResBlock(nn.Module):
    """x <- x + conv2(f(conv1(f(x)))) for each dilation of conv1; `is_light`: x <- x + conv1(f(x)). f: leaky ReLU."""

    def __init__(self, channels: int, kernel: int, dilations: list[int], is_light: bool):
        super().__init__()
        self.convs1 = nn.ModuleList(same_conv(channels, channels, kernel, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList([] if is_light else [same_conv(channels, channels, kernel) for _ in dilations])

    def forward(self, x: Float[Tensor, "B C N"], mask: Bool[Tensor, "B 1 N"] | None) -> Float[Tensor, "B C N"]:
        for i, conv in enumerate(self.convs1):
            y = conv(F.leaky_relu(x, _SLOPE))
            if self.convs2:
                y = self.convs2[i](masked(F.leaky_relu(y, _SLOPE), mask))
            x = masked(x + y, mask)
        return x
