"""Normalising flow f between the latent space of the decoder and the prior space, where the text is Gaussian.

Couplings, as in VITS, or linear (linear_flows.py); that of Glow-TTS is in glow.py.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vitslite.model.layers import WaveNet
from vitslite.model.linear_flows import Householder, UnitTriangular
from vitslite.tensors import Gaussian

COUPLING_KINDS = ("mean_only", "affine")
LINEAR_KINDS = ("householder", "linear_iaf")
KINDS = (*COUPLING_KINDS, *LINEAR_KINDS, "glow", "none")
VOLUME_PRESERVING = ("mean_only", "householder", "linear_iaf", "none")  # log |det| = 0 everywhere
SIDES = ("prior", "posterior")


@dataclass
class FlowSettings:
    """Defaults: as published (Kim et al. 2021; 4 x 1,775,520 parameters for 192 latent channels).

    kind: mean_only: couplings that shift, as in VITS; affine: couplings with a scale; householder, linear_iaf: linear
    and of unit volume, with `n_couplings` matrices and no network; glow: that of Glow-TTS (model/glow.py), with
    `n_couplings` blocks, published 12; none: f(z) = z.
    side: prior: f stands between z and the prior, as in VITS; posterior: q is the flow's output, the decoder hears
    f(z) (VAE with volume-preserving flows).
    """

    kind: str = field(default="mean_only", metadata={"choices": KINDS})
    side: str = field(default="prior", metadata={"choices": SIDES})
    hidden: int = field(default=192, metadata={"at_least": 1})  # channels
    kernel: int = field(default=5, metadata={"at_least": 1, "odd": True})  # frames
    dilation_rate: int = field(default=1, metadata={"at_least": 1})
    n_layers: int = field(default=4, metadata={"at_least": 1})  # in each coupling
    n_couplings: int = field(default=4, metadata={"at_least": 0})
    weight_norm: bool = True
    # Of glow alone: what its couplings do, frames that become channels of one, channels that a 1x1 convolution mixes,
    # and dropout in the couplings.
    coupling: str = field(default="affine", metadata={"choices": COUPLING_KINDS})
    n_squeeze: int = field(default=2, metadata={"at_least": 1})
    n_split: int = field(default=4, metadata={"at_least": 2})
    dropout: float = field(default=0.05, metadata={"at_least": 0, "below": 1})


class Flow(nn.Module):
    """z_p = f(z): layers, each followed by a reversal of the channels so that the halves change roles.

    `forward(z, mask)` -> (z_p, log_det), [B D T] each; `inverse(z_p, mask)` -> z. z must be zero on padding. The layers
    are couplings, or linear; all are in `couplings`, the name that checkpoints know. Every kind but glow is this class;
    glow.build_flow makes the one that the settings name.
    log_det is log |df/dz|, spread over the elements that were scaled: their sum over channels and valid frames is the
    log-determinant, it is 0 on padding, and exactly 0 everywhere for the VOLUME_PRESERVING kinds. At the start of
    training every layer but a Householder reflection is the identity. After an odd number of layers the channels are
    put back into their order, so that a channel of the prior is the one of the posterior.

    Source: Dinh et al. 2017 (Real NVP), eq. 7 to 9; Kim et al. 2021 (VITS), section 2.5.2.
    """

    multiple = 1  # what lengths must be multiples of, in frames

    def __init__(self, settings: FlowSettings, n_latent: int, n_condition: int = 0):
        super().__init__()
        assert settings.kind in KINDS and settings.side in SIDES, (settings.kind, settings.side)
        assert settings.kind != "glow", "see glow.build_flow"
        self.kind = settings.kind
        n_layers = 0 if settings.kind == "none" else settings.n_couplings
        self.couplings = nn.ModuleList(
            _LINEAR[settings.kind](n_latent)
            if settings.kind in LINEAR_KINDS
            else Coupling(settings, n_latent, n_condition=n_condition)
            for _ in range(n_layers)
        )

    def initialise(
        self, z: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"], g: Float[Tensor, "B G 1"] | None = None
    ) -> None:
        """No layer here starts from data; GlowFlow's do."""

    def forward(
        self,
        z: Float[Tensor, "B D T"],
        mask: Bool[Tensor, "B 1 T"],
        keys: Int[Tensor, " B"] | None = None,
        g: Float[Tensor, "B G 1"] | None = None,
    ) -> tuple[Float[Tensor, "B D T"], Float[Tensor, "B D T"]]:
        """`keys` would be for dropout, of which there is none here; `g` is the speaker's."""
        log_det = torch.zeros_like(z)
        for coupling in self.couplings:
            z, log_scale = coupling(z, mask, g=g)
            z, log_det = z.flip(1), (log_det + log_scale).flip(1)  # together: log_det stays with its element
        return self._in_order(z), self._in_order(log_det)

    def inverse(
        self, z_p: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"], g: Float[Tensor, "B G 1"] | None = None
    ) -> Float[Tensor, "B D T"]:
        z_p = self._in_order(z_p)
        for coupling in reversed(self.couplings):
            z_p = coupling.inverse(z_p.flip(1), mask, g)  # type: ignore[operator]  # a ModuleList forgets its classes
        return z_p

    def carry(
        self,
        q: Gaussian,
        z: Float[Tensor, "B D T"],
        mask: Bool[Tensor, "B 1 T"],
        g: Float[Tensor, "B G 1"] | None = None,
    ) -> Gaussian:
        """The carried mean: q [B D T] taken through f along with its sample z; zero on padding.

        At every coupling the network sees the sample's first half z0, and q's second half moves as the sample's does:

            mean1 <- mean(z0) + mean1 * exp(log_scale(z0)),   log_std1 <- log_std1 + log_scale(z0)

        The KL of the result to the prior is Rao-Blackwellised: the second half is integrated exactly, given z0. It is
        unbiased for one coupling. For two or more it is biased, since the second network sees a half that was sampled
        where the formula holds it fixed (T13 in docs/identities.md). Carrying log_std is subtracting log_det: the sum
        of the log_std grows by it. Not for the linear kinds, which have no halves.
        """
        mean, log_std = q
        for coupling in self.couplings:
            assert isinstance(coupling, Coupling), f"{self.kind} has no halves to carry"
            shift, log_scale = coupling.shift_and_log_scale(z, mask, g=g)
            scale = torch.exp(log_scale) * mask
            moved = (shift + z * scale, shift + mean * scale, log_std + log_scale)
            z, mean, log_std = (x.flip(1) for x in moved)
        return Gaussian(self._in_order(mean * mask), self._in_order(log_std * mask))

    def _in_order(self, x: Float[Tensor, "B D T"]) -> Float[Tensor, "B D T"]:
        return x.flip(1) if len(self.couplings) % 2 else x


class BoundFlow(nn.Module):
    """f of the speakers of one batch, for those who know of no speakers: (z, mask) -> f(z), log |df/dz|."""

    g: Tensor

    def __init__(self, flow: nn.Module, g: Float[Tensor, "B G 1"]):
        super().__init__()
        self.flow = flow
        self.register_buffer("g", g, persistent=False)  # so that it is held fixed where the flow's parameters are

    def forward(
        self, z: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"], keys: Int[Tensor, " B"] | None = None
    ) -> tuple[Float[Tensor, "B D T"], Float[Tensor, "B D T"]]:
        return self.flow(z, mask, keys, self.g)

    def inverse(self, z_p: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"]) -> Float[Tensor, "B D T"]:
        return self.flow.inverse(z_p, mask, self.g)  # type: ignore[operator]  # it knows its inverse

    def carry(self, q: Gaussian, z: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"]) -> Gaussian:
        return self.flow.carry(q, z, mask, self.g)  # type: ignore[operator]


class Coupling(nn.Module):
    """Shifts (and scales) the second half of the channels by a network of the first half, which passes unchanged.

        (x0, x1) -> (x0, mean(x0) + x1 * exp(log_scale(x0))),   log |det| = sum of log_scale

    `mean_only` has log_scale = 0. The network may run in half precision; the arithmetic on the latents is fp32.
    Dropout, of its `purpose`, is on where `keys` are given. `g` is the speaker's vector, of `n_condition` channels.
    """

    def __init__(
        self, settings: FlowSettings, n_latent: int, dropout: float = 0.0, purpose: str = "", n_condition: int = 0
    ):
        super().__init__()
        s = settings
        assert n_latent % 2 == 0, f"{n_latent} channels do not split into halves"
        self.is_affine = s.kind == "affine"
        self.pre = nn.Conv1d(n_latent // 2, s.hidden, 1)
        self.wavenet = WaveNet(
            s.hidden, s.kernel, s.dilation_rate, s.n_layers, s.weight_norm, dropout, purpose, n_condition
        )
        self.post = nn.Conv1d(s.hidden, n_latent if self.is_affine else n_latent // 2, 1)
        for p in self.post.parameters():
            nn.init.zeros_(p)

    def forward(
        self,
        x: Float[Tensor, "B D T"],
        mask: Bool[Tensor, "B 1 T"],
        keys: Int[Tensor, " B"] | None = None,
        g: Float[Tensor, "B G 1"] | None = None,
    ) -> tuple[Float[Tensor, "B D T"], Float[Tensor, "B D T"]]:
        """The output, and the log of the scale that each element got: 0 for the first half."""
        shift, log_scale = self.shift_and_log_scale(x, mask, keys, g)
        return shift + x * torch.exp(log_scale) * mask, log_scale

    def inverse(
        self, y: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"], g: Float[Tensor, "B G 1"] | None = None
    ) -> Float[Tensor, "B D T"]:
        shift, log_scale = self.shift_and_log_scale(y, mask, g=g)
        return (y - shift) * torch.exp(-log_scale) * mask

    def shift_and_log_scale(
        self,
        x: Float[Tensor, "B D T"],
        mask: Bool[Tensor, "B 1 T"],
        keys: Int[Tensor, " B"] | None = None,
        g: Float[Tensor, "B G 1"] | None = None,
    ) -> tuple[Float[Tensor, "B D T"], Float[Tensor, "B D T"]]:
        """What happens to each element: 0 and 0 in the first half, which alone is looked at. Zero on padding."""
        x0, _ = x.chunk(2, dim=1)
        h = self.wavenet(self.pre(x0) * mask, mask, keys, g)
        stats = self.post(h).float() * mask
        mean, log_scale = stats.chunk(2, dim=1) if self.is_affine else (stats, torch.zeros_like(stats))
        unchanged = torch.zeros_like(mean)
        return torch.cat([unchanged, mean], dim=1), torch.cat([unchanged, log_scale], dim=1)


_LINEAR = dict(zip(LINEAR_KINDS, (Householder, UnitTriangular), strict=True))
