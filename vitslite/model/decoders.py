"""Decoders: latent frames [B, D, T] -> audio [B, 1, T * hop_length].

Two of them. `hifigan` is the published one of VITS: transposed convolutions up to the sample rate, most of the cost of
training and nearly all of that of inference. `istft` stays at the frame rate and lets an inverse Fourier transform
make the samples, more than ten times cheaper, so that whole utterances can be reconstructed in each step.

Both take a mask [B, 1, T]. Frame t makes the samples t * hop_length to (t + 1) * hop_length; samples beyond the mask
are zero, and those within it equal, at every sample up to the end, what the utterance gives when decoded alone. For
that, activations are zeroed on padding before each layer that looks sideways. `mask=None` means that every frame is
valid and saves these products.
"""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Complex64, Float
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from vitslite.model.layers import same_conv

KINDS = ("hifigan", "istft")
_SLOPE = 0.1  # of the leaky ReLUs; the last one of HiFi-GAN has torch's default, 0.01


@dataclass
class HiFiGANSettings:
    """Defaults: HiFi-GAN V1 as in VITS, 14,337,024 parameters for 192 latent channels."""

    channels: int = 512  # after the first convolution; halved by each upsampling
    upsample_rates: list[int] = field(default_factory=lambda: [8, 8, 2, 2])  # their product is audio.hop_length
    upsample_kernels: list[int] = field(default_factory=lambda: [16, 16, 4, 4])
    resblock_kind: str = "1"  # "1": two convolutions per dilation, as published; "2": one, light
    resblock_kernels: list[int] = field(default_factory=lambda: [3, 7, 11])
    resblock_dilations: list[list[int]] = field(default_factory=lambda: [[1, 3, 5], [1, 3, 5], [1, 3, 5]])
    weight_norm: bool = True


@dataclass
class ISTFTSettings:
    channels: int = 192
    n_layers: int = 4
    expansion: int = 3  # hidden channels of each block, as a multiple of `channels`
    kernel: int = 7  # frames; odd


@dataclass
class DecoderSettings:
    kind: str = "hifigan"
    hifigan: HiFiGANSettings = field(default_factory=HiFiGANSettings)
    istft: ISTFTSettings = field(default_factory=ISTFTSettings)


def build_decoder(settings: DecoderSettings, n_latent: int, hop_length: int) -> nn.Module:
    """A module with forward(z [B D T], mask [B 1 T] or None) -> audio [B 1 T * hop_length].

    Raises ValueError where the kind is unknown or its settings do not fit `hop_length`.
    """
    if settings.kind == "hifigan":
        return HiFiGAN(settings.hifigan, n_latent, hop_length)
    if settings.kind == "istft":
        return ISTFTDecoder(settings.istft, n_latent, hop_length)
    raise ValueError(f"model.decoder.kind={settings.kind} is unknown: choose one of {', '.join(KINDS)}")


class HiFiGAN(nn.Module):
    """HiFi-GAN generator: upsample step by step, each step followed by residual blocks of several widths, averaged.

    Source: Kong et al. 2020 (HiFi-GAN), section 2.2; as in VITS, the first and last convolution have no weight norm
    and the last no bias. Raises ValueError where `upsample_rates` do not multiply to `hop_length`.
    """

    def __init__(self, settings: HiFiGANSettings, n_latent: int, hop_length: int):
        super().__init__()
        s = settings
        _check_hifigan(s, hop_length)
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
        for conv in [*self.ups.modules(), *self.resblocks.modules()]:
            if isinstance(conv, nn.Conv1d | nn.ConvTranspose1d):
                nn.init.normal_(conv.weight, std=0.01)
                if s.weight_norm:
                    parametrizations.weight_norm(conv)

    def forward(self, z: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"] | None) -> Float[Tensor, "B 1 S"]:
        x = _masked(self.conv_pre(_masked(z, mask)), mask)
        for i, (rate, up) in enumerate(zip(self.rates, self.ups, strict=True)):
            x = up(F.leaky_relu(x, _SLOPE))
            mask = None if mask is None else mask.repeat_interleave(rate, dim=2)
            x = _masked(x, mask)
            blocks = self.resblocks[i * self.n_blocks : (i + 1) * self.n_blocks]
            x = sum(block(x, mask) for block in blocks) / self.n_blocks
        return _masked(torch.tanh(self.conv_post(F.leaky_relu(x)).float()), mask)


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
                y = self.convs2[i](_masked(F.leaky_relu(y, _SLOPE), mask))
            x = _masked(x + y, mask)
        return x


class ISTFTDecoder(nn.Module):
    """ConvNeXt blocks at the frame rate, then magnitude and phase of each frame, then an inverse Fourier transform.

    The magnitude leaves the network as a logarithm, limited to a sine of twice full scale; the phase is any real
    number. The first output is quiet: log-magnitudes of about -1, where a full-scale sine has log(hop_length).
    From the last layer on in fp32, since half precision turns a phase of some radians into noise.
    Source: Siuzdak 2023 (Vocos), section 3, with our own synthesis (`overlap_add`).
    """

    def __init__(self, settings: ISTFTSettings, n_latent: int, hop_length: int):
        super().__init__()
        s = settings
        if hop_length % 2:
            raise ValueError(f"model.decoder.kind=istft centres its frames: make audio.hop_length={hop_length} even")
        n_fft = 4 * hop_length
        self.max_log_magnitude = math.log(n_fft / 2)
        self.conv_in = same_conv(n_latent, s.channels, s.kernel)
        self.blocks = nn.ModuleList(ConvNeXtBlock(s.channels, s.expansion, s.kernel) for _ in range(s.n_layers))
        self.norm = nn.LayerNorm(s.channels)
        self.out = nn.Linear(s.channels, n_fft + 2)
        with torch.no_grad():
            self.out.weight[: n_fft // 2 + 1] *= 0.3
            self.out.bias[: n_fft // 2 + 1] = -1.0
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, z: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"] | None) -> Float[Tensor, "B 1 S"]:
        x = self.conv_in(_masked(z, mask))
        for block in self.blocks:
            x = block(x, mask)
        with torch.autocast(x.device.type, enabled=False):
            log_magnitude, phase = self.out(self.norm(x.float().transpose(1, 2))).chunk(2, dim=2)
            magnitude = torch.exp(log_magnitude.clamp(max=self.max_log_magnitude))
            if mask is not None:
                magnitude = magnitude * mask.transpose(1, 2)
            audio = overlap_add(torch.polar(magnitude, phase), self.window)
        samples_per_frame = len(self.window) // 4
        return _masked(audio, None if mask is None else mask.repeat_interleave(samples_per_frame, dim=2))


class ConvNeXtBlock(nn.Module):
    """x + scale * W2 gelu(W1 norm(depthwise(x))): Liu et al. 2022 (ConvNeXt), section 2, in one dimension.

    Norm and products work on channels-last, which is transposed to and from once.
    """

    def __init__(self, channels: int, expansion: int, kernel: int):
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, expansion * channels)
        self.project = nn.Linear(expansion * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: Float[Tensor, "B C T"], mask: Bool[Tensor, "B 1 T"] | None) -> Float[Tensor, "B C T"]:
        y = self.norm(self.depthwise(_masked(x, mask)).transpose(1, 2))
        y = self.scale * self.project(F.gelu(self.expand(y)))
        return x + y.transpose(1, 2)


def overlap_add(spectrum: Complex64[Tensor, "B T F"], window: Float[Tensor, " K"]) -> Float[Tensor, "B 1 S"]:
    """Inverse of the short-time Fourier transform with a Hann window of K = 4 hop samples; in fp32.

        audio = sum_t shift_t(window * irfft(spectrum[t])) / 1.5,     S = T * hop

    1.5 is the sum of the four squared Hann windows over each sample, so this is the least-squares inverse inside the
    utterance. At its ends fewer frames overlap and the sound fades; dividing by the true sum there, as usual, would
    amplify what the network makes of frames that do not exist. Frame t is centred on sample t * hop + hop / 2.
    """
    hop = len(window) // 4
    frames = (torch.fft.irfft(spectrum, n=len(window)) * window).unflatten(2, (4, hop))
    audio = sum(F.pad(frames[:, :, k], (0, 0, k, 3 - k)) for k in range(4)).flatten(1)
    first = 3 * hop // 2  # of the window of frame 0, before sample 0
    return audio[:, None, first : first + spectrum.shape[1] * hop] / 1.5


def _masked(x: Float[Tensor, "B C N"], mask: Bool[Tensor, "B 1 N"] | None) -> Float[Tensor, "B C N"]:
    return x if mask is None else x * mask


def _check_hifigan(s: HiFiGANSettings, hop_length: int) -> None:
    where = "model.decoder.hifigan"
    rates, kernels = list(s.upsample_rates), list(s.upsample_kernels)
    if math.prod(rates) != hop_length:
        raise ValueError(
            f"{where}.upsample_rates={rates} make {math.prod(rates)} samples of a frame, but "
            f"audio.hop_length={hop_length}: give rates whose product is {hop_length}"
        )
    fits = [k >= r and (k - r) % 2 == 0 for r, k in zip(rates, kernels, strict=False)]
    if len(rates) != len(kernels) or not all(fits):
        raise ValueError(
            f"{where}.upsample_kernels={kernels}: give one for each of upsample_rates={rates}, "
            "at least as large and larger by an even number; twice the rate is usual"
        )
    if len(s.resblock_kernels) != len(s.resblock_dilations):
        raise ValueError(
            f"{where}.resblock_dilations has {len(s.resblock_dilations)} lists, "
            f"one is needed for each of resblock_kernels={list(s.resblock_kernels)}"
        )
    if s.channels % 2 ** len(rates):
        raise ValueError(f"{where}.channels={s.channels} cannot be halved {len(rates)} times, once per upsampling")
    if s.resblock_kind not in ("1", "2"):
        raise ValueError(f'{where}.resblock_kind={s.resblock_kind} is unknown: choose "1" (published) or "2" (light)')
