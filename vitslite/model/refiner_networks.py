"""Networks of the refiner (refiner.py): noisy frames x_t, the prior's mean mu and the time t -> a score or a velocity.

Two of them. `UNet2d` is the published one of Grad-TTS, which sees x_t and mu as a picture of two channels. `ConvStack`
is ours: ConvNeXt blocks along time, at a small part of the cost, for training on a CPU.

Both have forward(x, mu, mask, t, g) -> [B M T], zero on padding; x and mu are [B M T], t is [B] in [0, 1], g is a
speaker's vector or None. What stands on padding reaches no valid frame.
"""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vitslite.model import speakers
from vitslite.model.istft import ConvNeXtBlock

_ATTENTION_HEADS, _ATTENTION_CHANNELS = 4, 32  # of the U-Net; channels per head


@dataclass
class UNet2dSettings:
    """Defaults: as published (Popov et al. 2021; 7,634,887 parameters)."""

    channels: int = field(default=64, metadata={"at_least": 4})  # of the first level, and of the time embedding
    multipliers: list[int] = field(default_factory=lambda: [1, 2, 4], metadata={"at_least": 1})  # of each level
    groups: int = field(default=8, metadata={"at_least": 1})  # of the group norms


@dataclass
class ConvStackSettings:
    """Defaults: 498,000 parameters for 80 mel bins."""

    hidden: int = field(default=128, metadata={"at_least": 4})  # channels, and those of the time embedding
    n_layers: int = field(default=4, metadata={"at_least": 1})
    expansion: int = field(default=2, metadata={"at_least": 1})  # hidden channels of a block, per one of `hidden`
    kernel: int = field(default=7, metadata={"at_least": 1, "odd": True})  # frames


class TimeEmbedding(nn.Module):
    """t in [0, 1] -> sines and cosines of 1000 t at geometric frequencies, 1 to 1e-4, and two layers over them.

    To which the linear view of a speaker's vector is added. (Grad-TTS gives its U-Net a third picture for it.)
    Source: the published code of Grad-TTS, after Ho et al. 2020 (DDPM), whose t counts to 1000.
    """

    def __init__(self, channels: int, n_condition: int = 0):
        super().__init__()
        assert channels % 2 == 0 and channels >= 4, channels
        self.n_frequencies = channels // 2
        self.layers = nn.Sequential(nn.Linear(channels, 4 * channels), nn.Mish(), nn.Linear(4 * channels, channels))
        self.cond = speakers.view(n_condition, channels)

    def forward(self, t: Float[Tensor, " B"], g: Float[Tensor, "B G 1"] | None = None) -> Float[Tensor, "B C"]:
        exponent = torch.arange(self.n_frequencies, device=t.device, dtype=t.dtype) / (self.n_frequencies - 1)
        angle = 1000 * t[:, None] * torch.exp(-math.log(10_000) * exponent)
        time = self.layers(torch.cat([torch.sin(angle), torch.cos(angle)], dim=1))
        return speakers.heard(time[:, :, None], self.cond, g)[:, :, 0]


class ConvStack(nn.Module):
    """h = W [x_t, mu];  h <- ConvNeXt_i(h + V_i(t));  out = U h, which starts at zero.

    Without a norm at its end, so that a linear view of its input reaches the output and a small model learns soon.
    """

    def __init__(self, settings: ConvStackSettings, n_mels: int, n_condition: int = 0):
        super().__init__()
        s = settings
        self.time = TimeEmbedding(s.hidden, n_condition)
        self.time_biases = nn.Linear(s.hidden, s.n_layers * s.hidden)
        self.pre = nn.Conv1d(2 * n_mels, s.hidden, 1)
        self.blocks = nn.ModuleList(ConvNeXtBlock(s.hidden, s.expansion, s.kernel) for _ in range(s.n_layers))
        self.out = nn.Conv1d(s.hidden, n_mels, 1)
        for p in self.out.parameters():
            nn.init.zeros_(p)

    def forward(
        self,
        x: Float[Tensor, "B M T"],
        mu: Float[Tensor, "B M T"],
        mask: Bool[Tensor, "B 1 T"],
        t: Float[Tensor, " B"],
        g: Float[Tensor, "B G 1"] | None = None,
    ) -> Float[Tensor, "B M T"]:
        biases = self.time_biases(F.mish(self.time(t, g)))[:, :, None].chunk(len(self.blocks), dim=1)
        h = self.pre(torch.cat([x, mu], dim=1))
        for block, bias in zip(self.blocks, biases, strict=True):
            h = block(h + bias, mask)
        return self.out(h) * mask


class UNet2d(nn.Module):
    """The U-Net of Grad-TTS over (mel bins, frames): two residual blocks and a linear attention per level.

    Levels at 1, 1/2, 1/4 of both axes, so mel bins have to be a multiple of 4; frames are padded to one here. As
    published, level 1 has no way across: its first half goes down and nowhere else.

    Group norms and attention look at valid frames alone. The published ones look at padding, too, so that there an
    utterance depends on its batch; where all frames are valid, both are the same function.

    Source: Popov et al. 2021 (Grad-TTS) and its published code; Ronneberger et al. 2015 (U-Net).
    """

    def __init__(self, settings: UNet2dSettings, n_mels: int, n_condition: int = 0):
        super().__init__()
        s = settings
        self.multiple = 2 ** (len(s.multipliers) - 1)
        assert n_mels % self.multiple == 0 and s.channels % s.groups == 0, (n_mels, s)  # config/network_rules.py
        widths = [2, *(s.channels * m for m in s.multipliers)]
        sizes = (s.channels, s.groups)  # of every level
        self.time = TimeEmbedding(s.channels, n_condition)
        halve = [nn.Conv2d(n, n, 3, 2, 1) for n in widths[1:-1]]
        self.downs = nn.ModuleList(
            Level(n_in, n_out, *sizes, resample)
            for n_in, n_out, resample in zip(widths[:-1], widths[1:], [*halve, nn.Identity()], strict=True)
        )
        self.mid = Level(widths[-1], widths[-1], *sizes, nn.Identity(), is_middle=True)
        self.ups = nn.ModuleList(
            Level(2 * n_in, n_out, *sizes, nn.ConvTranspose2d(n_out, n_out, 4, 2, 1))
            for n_in, n_out in zip(widths[:1:-1], widths[-2:0:-1], strict=True)
        )
        self.final = NormedConv(widths[1], widths[1], s.groups)
        self.out = nn.Conv2d(widths[1], 1, 1)

    def forward(
        self,
        x: Float[Tensor, "B M T"],
        mu: Float[Tensor, "B M T"],
        mask: Bool[Tensor, "B 1 T"],
        t: Float[Tensor, " B"],
        g: Float[Tensor, "B G 1"] | None = None,
    ) -> Float[Tensor, "B M T"]:
        n_frames = x.shape[2]
        n_extra = -n_frames % self.multiple
        h = F.pad(torch.stack([mu, x], dim=1), (0, n_extra))
        full = F.pad(mask, (0, n_extra))[:, None]
        masks = [full[..., :: 2**i] for i in range(len(self.downs))]
        time = F.mish(self.time(t, g))
        across = []
        for level, level_mask in zip(self.downs, masks, strict=True):
            before, h = level(h, level_mask, time)
            across.append(before)
        h, _ = self.mid(h, masks[-1], time)
        for level, level_mask, other in zip(self.ups, masks[:0:-1], across[:0:-1], strict=True):
            _, h = level(torch.cat([h, other], dim=1), level_mask, time)
        return (self.out(self.final(h, full)) * full)[:, 0, :, :n_frames]


class Level(nn.Module):
    """Two residual blocks and a linear attention, after them or between them -> before and after `resample`."""

    def __init__(self, n_in: int, n_out: int, n_time: int, groups: int, resample: nn.Module, is_middle: bool = False):
        super().__init__()
        self.block_1 = ResidualBlock(n_in, n_out, n_time, groups)
        self.block_2 = ResidualBlock(n_out, n_out, n_time, groups)
        self.attention = LinearAttention(n_out)
        self.resample = resample
        self.is_middle = is_middle

    def forward(
        self, x: Float[Tensor, "B C M T"], mask: Bool[Tensor, "B 1 1 T"], time: Float[Tensor, "B C2"]
    ) -> tuple[Float[Tensor, "B C3 M T"], Float[Tensor, "B C3 M2 T2"]]:
        x = self.block_1(x, mask, time)
        if self.is_middle:
            x = self.block_2(self.attention(x, mask), mask, time)
        else:
            x = self.attention(self.block_2(x, mask, time), mask)
        return x, self.resample(x * mask)


class ResidualBlock(nn.Module):
    """x -> x W + conv_2(conv_1(x) + V time): NormedConv twice; W is the identity where the channels stay."""

    def __init__(self, n_in: int, n_out: int, n_time: int, groups: int):
        super().__init__()
        self.conv_1 = NormedConv(n_in, n_out, groups)
        self.conv_2 = NormedConv(n_out, n_out, groups)
        self.time = nn.Linear(n_time, n_out)
        self.across = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()

    def forward(
        self, x: Float[Tensor, "B C M T"], mask: Bool[Tensor, "B 1 1 T"], time: Float[Tensor, "B C2"]
    ) -> Float[Tensor, "B C3 M T"]:
        x = x * mask
        return self.conv_2(self.conv_1(x, mask) + self.time(time)[:, :, None, None], mask) + self.across(x)


class NormedConv(nn.Module):
    """mish(norm(conv(x))), the norm per group of channels over bins and valid frames, as if the padding were not there.

    The statistics are those of nn.GroupNorm (Wu and He 2018), in fp32 also under autocast.
    """

    def __init__(self, n_in: int, n_out: int, groups: int):
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.norm = nn.GroupNorm(groups, n_out)

    def forward(self, x: Float[Tensor, "B C M T"], mask: Bool[Tensor, "B 1 1 T"]) -> Float[Tensor, "B C2 M T"]:
        return F.mish(self._normalise(self.conv(x * mask), mask)) * mask

    def _normalise(self, x: Float[Tensor, "B C M T"], mask: Bool[Tensor, "B 1 1 T"]) -> Float[Tensor, "B C M T"]:
        norm, valid = self.norm, mask[:, None]
        groups = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(1, (norm.num_groups, -1))
        n = mask.sum((2, 3)).clamp(min=1)[:, :, None, None, None] * groups.shape[2] * groups.shape[3]
        centred = groups - (groups * valid).sum((2, 3, 4), keepdim=True) / n
        variance = ((centred * valid) ** 2).sum((2, 3, 4), keepdim=True) / n
        normal = (centred * torch.rsqrt(variance + norm.eps)).flatten(1, 2)
        return (normal * norm.weight[:, None, None] + norm.bias[:, None, None]).to(x.dtype)


class LinearAttention(nn.Module):
    """x + g out(q^T (softmax(k) v^T)), softmax over all valid places, so of linear cost; g starts at zero.

    Source: Shen et al. 2021 (Efficient attention), without the softmax of q, as in Grad-TTS' published code;
    Bachlechner et al. 2020 (ReZero).
    """

    def __init__(self, channels: int):
        super().__init__()
        inner = _ATTENTION_HEADS * _ATTENTION_CHANNELS
        self.to_qkv = nn.Conv2d(channels, 3 * inner, 1, bias=False)
        self.out = nn.Conv2d(inner, channels, 1)
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, x: Float[Tensor, "B C M T"], mask: Bool[Tensor, "B 1 1 T"]) -> Float[Tensor, "B C M T"]:
        q, k, v = self.to_qkv(x).unflatten(1, (3, _ATTENTION_HEADS, -1)).unbind(1)  # each B heads channels M T
        k = k.masked_fill(~mask[:, None], torch.finfo(k.dtype).min).flatten(3).softmax(dim=3).to(v.dtype)
        context = k @ v.flatten(3).transpose(2, 3)
        y = (context.transpose(2, 3) @ q.flatten(3)).unflatten(3, x.shape[2:])
        return x + self.gain * self.out(y.flatten(1, 2))
