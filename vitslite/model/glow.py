"""The flow of Glow-TTS: blocks of ActNorm, invertible 1x1 convolution and coupling, on frames put side by side.

Other than in VITS every channel gets a scale, and a learned matrix in place of the reversal mixes the halves: so the
log-determinant has a part that is the same for all frames, also where the couplings only shift. In Glow-TTS z is the
log-mel spectrogram itself, and this flow, inverted, is the decoder.
"""

import dataclasses

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from vitslite.model.flows import Coupling, Flow, FlowSettings
from vitslite.tensors import wide

_LEAST_VARIANCE = 1e-6  # at the start, of a channel that hardly moves: it is scaled up by 1000 and not without bound


def build_flow(settings: FlowSettings, n_latent: int, n_condition: int = 0) -> "Flow | GlowFlow":
    """The flow that `settings.kind` names, for `n_latent` channels, and `n_condition` of a speaker's vector."""
    kind = GlowFlow if settings.kind == "glow" else Flow
    return kind(settings, n_latent, n_condition)


class GlowFlow(nn.Module):
    """z_p = f(z): squeeze, `n_couplings` blocks, the squeeze undone. The interface is that of Flow.

    `forward(z, mask, keys)` -> (z_p, log_det), [B D T] each; `inverse(z_p, mask)` -> z. z must be zero on padding, and
    T and every length a multiple of `multiple` frames: what is left over of a length counts as padding.
    log_det is log |df/dz|, spread over the elements: their sum over channels and valid frames is the utterance's
    log-determinant, it is 0 on padding. Dropout is on where `keys` are given.

    Before training `initialise` sets every ActNorm from data; without it they start as the identity, as the couplings
    do. 12 blocks for 80 channels, as published, have 21,423,936 parameters.

    Source: Kim et al. 2020 (Glow-TTS), section 3.2 and appendix A; Kingma & Dhariwal 2018 (Glow), section 3.
    """

    def __init__(self, settings: FlowSettings, n_latent: int, n_condition: int = 0):
        super().__init__()
        self.multiple = settings.n_squeeze
        n_channels = n_latent * settings.n_squeeze
        self.blocks = nn.ModuleList(
            Block(settings, n_channels, f"flow.{i}", n_condition) for i in range(settings.n_couplings)
        )

    def forward(
        self,
        z: Float[Tensor, "B D T"],
        mask: Bool[Tensor, "B 1 T"],
        keys: Int[Tensor, " B"] | None = None,
        g: Float[Tensor, "B G 1"] | None = None,
    ) -> tuple[Float[Tensor, "B D T"], Float[Tensor, "B D T"]]:
        x, mask = self._squeezed(z, mask)
        x, log_det = x * mask, torch.zeros_like(x)
        for block in self.blocks:
            x, log_scale = block(x, mask, keys, g)
            log_det = log_det + log_scale
        return unsqueeze(x, self.multiple), unsqueeze(log_det, self.multiple)

    def inverse(
        self, z_p: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"], g: Float[Tensor, "B G 1"] | None = None
    ) -> Float[Tensor, "B D T"]:
        x, mask = self._squeezed(z_p, mask)
        x = x * mask
        for block in reversed(self.blocks):
            x = block.inverse(x, mask, g)  # type: ignore[operator]  # a ModuleList forgets its classes
        return unsqueeze(x, self.multiple)

    @torch.no_grad()
    def initialise(
        self, z: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"], g: Float[Tensor, "B G 1"] | None = None
    ) -> None:
        """Set every ActNorm so that its output over the valid frames of this batch has mean 0 and variance 1.

        One pass, layer after layer, without dropout. The statistics are of this batch alone: where several processes
        train one model, they must afterwards take over the weights of one of them.
        """
        x, mask = self._squeezed(z, mask)
        for block in self.blocks:
            assert isinstance(block, Block)
            block.norm.initialise(x, mask)
            x, _ = block(x, mask, g=g)

    def _squeezed(
        self, x: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"]
    ) -> tuple[Float[Tensor, "B C N"], Bool[Tensor, "B 1 N"]]:
        n = self.multiple
        assert x.shape[2] % n == 0, f"{x.shape[2]} frames are no multiple of {n}"
        return squeeze(x, n), mask[:, :, n - 1 :: n]  # valid where the last of its frames is


def squeeze(x: Float[Tensor, "B D T"], n: int) -> Float[Tensor, "B C N"]:
    """n frames become channels of one: y[:, k D + d, t] = x[:, d, n t + k]."""
    return x.unflatten(2, (-1, n)).movedim(3, 1).flatten(1, 2)


def unsqueeze(y: Float[Tensor, "B C N"], n: int) -> Float[Tensor, "B D T"]:
    """The inverse of `squeeze`."""
    return y.unflatten(1, (n, -1)).movedim(1, 3).flatten(2, 3)


class Block(nn.Module):
    """ActNorm, invertible 1x1 convolution, coupling; (x, mask, keys, g) -> (y, log of the scale of each element)."""

    def __init__(self, settings: FlowSettings, n_channels: int, purpose: str, n_condition: int = 0):
        super().__init__()
        self.norm = ActNorm(n_channels)
        self.mixing = InvertibleConv(n_channels, settings.n_split)
        self.coupling = GlowCoupling(settings, n_channels, purpose, n_condition)

    def forward(
        self,
        x: Float[Tensor, "B C N"],
        mask: Bool[Tensor, "B 1 N"],
        keys: Int[Tensor, " B"] | None = None,
        g: Float[Tensor, "B G 1"] | None = None,
    ) -> tuple[Float[Tensor, "B C N"], Float[Tensor, "B C N"]]:
        x, by_norm = self.norm(x, mask)
        x, by_mixing = self.mixing(x, mask)
        x, by_coupling = self.coupling(x, mask, keys, g)
        return x, by_norm + by_mixing + by_coupling

    def inverse(
        self, y: Float[Tensor, "B C N"], mask: Bool[Tensor, "B 1 N"], g: Float[Tensor, "B G 1"] | None = None
    ) -> Float[Tensor, "B C N"]:
        return self.norm.inverse(self.mixing.inverse(self.coupling.inverse(y, mask, g), mask), mask)


class ActNorm(nn.Module):
    """y = shift + x * exp(log_scale), each per channel; log |det| = sum of log_scale, for every frame.

    It starts as the identity. `initialise` makes it normalise a first batch; it is no batch norm, from then on the two
    are parameters like others.

    Source: Kingma & Dhariwal 2018 (Glow), section 3.1.
    """

    def __init__(self, n_channels: int):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(n_channels, 1))
        self.shift = nn.Parameter(torch.zeros(n_channels, 1))

    def forward(
        self, x: Float[Tensor, "B C N"], mask: Bool[Tensor, "B 1 N"]
    ) -> tuple[Float[Tensor, "B C N"], Float[Tensor, "B C N"]]:
        """The output, and the log of the scale that each element got."""
        return (self.shift + x * torch.exp(self.log_scale)) * mask, self.log_scale * mask

    def inverse(self, y: Float[Tensor, "B C N"], mask: Bool[Tensor, "B 1 N"]) -> Float[Tensor, "B C N"]:
        return (y - self.shift) * torch.exp(-self.log_scale) * mask

    @torch.no_grad()
    def initialise(self, x: Float[Tensor, "B C N"], mask: Bool[Tensor, "B 1 N"]) -> None:
        """log_scale = -log std and shift = -mean / std of x over the valid frames."""
        n = mask.sum()
        mean = (x * mask).sum((0, 2))[:, None] / n
        variance = ((x - mean) ** 2 * mask).sum((0, 2))[:, None] / n
        self.log_scale.copy_(-0.5 * torch.log(variance.clamp(min=_LEAST_VARIANCE)))
        self.shift.copy_(-mean * torch.exp(self.log_scale))


class InvertibleConv(nn.Module):
    """y = W x in groups of S = `n_split` channels, W [S S] one for all groups and frames.

    Group g holds the channels g S/2 to (g + 1) S/2 - 1 of each half, the first half's first: so what a coupling passes
    and what it moves are mixed. log |det| = C / S log |det W| per frame, a share of log |det W| / S for each element.
    W starts as a random rotation, drawn from torch's global generator. The arithmetic is fp32, also under autocast.

    Source: Kingma & Dhariwal 2018 (Glow), section 3.2; the groups: Kim et al. 2020 (Glow-TTS), appendix A.
    """

    def __init__(self, n_channels: int, n_split: int):
        super().__init__()
        assert n_split % 2 == 0 and n_channels % n_split == 0, f"{n_channels} channels in groups of {n_split}"
        self.n_split = n_split
        rotation = torch.linalg.qr(torch.randn(n_split, n_split)).Q
        rotation[:, 0] *= torch.linalg.det(rotation).sign()  # a reflection becomes a rotation
        self.weight = nn.Parameter(rotation)

    def forward(
        self, x: Float[Tensor, "B C N"], mask: Bool[Tensor, "B 1 N"]
    ) -> tuple[Float[Tensor, "B C N"], Float[Tensor, "B C N"]]:
        """The output, and the share of the log-determinant that falls to each element."""
        with torch.autocast(x.device.type, enabled=False):
            log_det = torch.linalg.slogdet(self.weight).logabsdet
            return self._mixed(x, self.weight) * mask, (log_det / self.n_split * mask).expand_as(x)

    def inverse(self, y: Float[Tensor, "B C N"], mask: Bool[Tensor, "B 1 N"]) -> Float[Tensor, "B C N"]:
        with torch.autocast(y.device.type, enabled=False):
            return self._mixed(y, torch.linalg.inv(wide(self.weight)).to(y.dtype)) * mask

    def _mixed(self, x: Float[Tensor, "B C N"], weight: Float[Tensor, "S S"]) -> Float[Tensor, "B C N"]:
        n = self.n_split // 2
        groups = x.unflatten(1, (2, -1, n))  # half, group, channel in the half's part of the group
        mixed = torch.einsum("hcjd,bjgdn->bhgcn", weight.view(2, n, 2, n), groups)
        return mixed.flatten(1, 3)


class GlowCoupling(Coupling):
    """The coupling of Glow-TTS: affine, or as `coupling` says, with dropout, and weight norm at its entrance, too."""

    def __init__(self, settings: FlowSettings, n_channels: int, purpose: str, n_condition: int = 0):
        kind = dataclasses.replace(settings, kind=settings.coupling)
        super().__init__(kind, n_channels, settings.dropout, f"{purpose}.wavenet", n_condition)
        if settings.weight_norm:
            parametrizations.weight_norm(self.pre)
