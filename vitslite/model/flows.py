"""Normalising flow f between the latent space of the decoder and the prior space, where the text is Gaussian.

The linear flows here have one matrix for all frames and log |det| = 0. A linear map of a Gaussian is a Gaussian with a
full covariance: what they can give the posterior is correlation between channels, never another shape. A reflection
leaves the KL to a standard normal as it was, sample by sample; a triangular matrix does not, although its
log-determinant is zero, too: volume is not distance.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vitslite.model.layers import WaveNet
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

    def __init__(self, settings: FlowSettings, n_latent: int):
        super().__init__()
        assert settings.kind in KINDS and settings.side in SIDES, (settings.kind, settings.side)
        assert settings.kind != "glow", "see glow.build_flow"
        self.kind = settings.kind
        n_layers = 0 if settings.kind == "none" else settings.n_couplings
        self.couplings = nn.ModuleList(
            _LINEAR[settings.kind](n_latent) if settings.kind in LINEAR_KINDS else Coupling(settings, n_latent)
            for _ in range(n_layers)
        )

    def initialise(self, z: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"]) -> None:
        """No layer here starts from data; GlowFlow's do."""

    def forward(
        self, z: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"], keys: Int[Tensor, " B"] | None = None
    ) -> tuple[Float[Tensor, "B D T"], Float[Tensor, "B D T"]]:
        """`keys` would be for dropout, of which there is none here."""
        log_det = torch.zeros_like(z)
        for coupling in self.couplings:
            z, log_scale = coupling(z, mask)
            z, log_det = z.flip(1), (log_det + log_scale).flip(1)  # together: log_det stays with its element
        return self._in_order(z), self._in_order(log_det)

    def inverse(self, z_p: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"]) -> Float[Tensor, "B D T"]:
        z_p = self._in_order(z_p)
        for coupling in reversed(self.couplings):
            z_p = coupling.inverse(z_p.flip(1), mask)  # type: ignore[operator]  # a ModuleList forgets its classes
        return z_p

    def carry(self, q: Gaussian, z: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"]) -> Gaussian:
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
            shift, log_scale = coupling.shift_and_log_scale(z, mask)
            scale = torch.exp(log_scale) * mask
            moved = (shift + z * scale, shift + mean * scale, log_std + log_scale)
            z, mean, log_std = (x.flip(1) for x in moved)
        return Gaussian(self._in_order(mean * mask), self._in_order(log_std * mask))

    def _in_order(self, x: Float[Tensor, "B D T"]) -> Float[Tensor, "B D T"]:
        return x.flip(1) if len(self.couplings) % 2 else x


class Coupling(nn.Module):
    """Shifts (and scales) the second half of the channels by a network of the first half, which passes unchanged.

        (x0, x1) -> (x0, mean(x0) + x1 * exp(log_scale(x0))),   log |det| = sum of log_scale

    `mean_only` has log_scale = 0. The network may run in half precision; the arithmetic on the latents is fp32.
    Dropout, of its `purpose`, is on where `keys` are given.
    """

    def __init__(self, settings: FlowSettings, n_latent: int, dropout: float = 0.0, purpose: str = ""):
        super().__init__()
        s = settings
        assert n_latent % 2 == 0, f"{n_latent} channels do not split into halves"
        self.is_affine = s.kind == "affine"
        self.pre = nn.Conv1d(n_latent // 2, s.hidden, 1)
        self.wavenet = WaveNet(s.hidden, s.kernel, s.dilation_rate, s.n_layers, s.weight_norm, dropout, purpose)
        self.post = nn.Conv1d(s.hidden, n_latent if self.is_affine else n_latent // 2, 1)
        for p in self.post.parameters():
            nn.init.zeros_(p)

    def forward(
        self, x: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"], keys: Int[Tensor, " B"] | None = None
    ) -> tuple[Float[Tensor, "B D T"], Float[Tensor, "B D T"]]:
        """The output, and the log of the scale that each element got: 0 for the first half."""
        shift, log_scale = self.shift_and_log_scale(x, mask, keys)
        return shift + x * torch.exp(log_scale) * mask, log_scale

    def inverse(self, y: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"]) -> Float[Tensor, "B D T"]:
        shift, log_scale = self.shift_and_log_scale(y, mask)
        return (y - shift) * torch.exp(-log_scale) * mask

    def shift_and_log_scale(
        self, x: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"], keys: Int[Tensor, " B"] | None = None
    ) -> tuple[Float[Tensor, "B D T"], Float[Tensor, "B D T"]]:
        """What happens to each element: 0 and 0 in the first half, which alone is looked at. Zero on padding."""
        x0, _ = x.chunk(2, dim=1)
        h = self.wavenet(self.pre(x0) * mask, mask, keys)
        stats = self.post(h).float() * mask
        mean, log_scale = stats.chunk(2, dim=1) if self.is_affine else (stats, torch.zeros_like(stats))
        unchanged = torch.zeros_like(mean)
        return torch.cat([unchanged, mean], dim=1), torch.cat([unchanged, log_scale], dim=1)


class Householder(nn.Module):
    """A reflection: y = x - 2 v (v . x) / ||v||^2, with one learned vector v [D] for all frames.

    det = -1, so log |det| = 0. It is its own inverse and keeps the length of every frame. v starts standard normal,
    drawn from torch's global generator; its own length does not matter. The arithmetic is fp32, also under autocast.

    Tomczak & Welling compute v from the encoder, one for each input. A flow on the prior's side cannot do that, since
    synthesis has no recording to compute it from; so v is a parameter here, on both sides.

    Source: Tomczak & Welling 2016 (Improving variational auto-encoders using Householder flow).
    """

    def __init__(self, n_latent: int):
        super().__init__()
        self.v = nn.Parameter(torch.randn(n_latent))

    def forward(
        self, x: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"]
    ) -> tuple[Float[Tensor, "B D T"], Float[Tensor, "B D T"]]:
        """The output, and the log of the scale that each element got: 0."""
        return self.inverse(x, mask), torch.zeros_like(x)

    def inverse(self, y: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"]) -> Float[Tensor, "B D T"]:
        v = self.v[:, None]
        along = (v * y).sum(1, keepdim=True) / (v * v).sum()  # no matrix product: autocast would make it half precision
        return (y - 2 * v * along) * mask


class UnitTriangular(nn.Module):
    """y = L x, L [D, D] lower triangular with ones on its diagonal, one for all frames; log |det| = 0.

    Only the part of `weight` below the diagonal is read; it starts at zero, so the layer starts as the identity. The
    inverse is forward substitution, whose rounding errors grow with the entries of L. fp32, also under autocast.

    Source: Tomczak & Welling 2017 (Improving variational auto-encoders using convex combination linear inverse
    autoregressive flow, "ccLinIAF"), with a single matrix, and learned instead of computed from the encoder.
    """

    def __init__(self, n_latent: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_latent, n_latent))

    def forward(
        self, x: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"]
    ) -> tuple[Float[Tensor, "B D T"], Float[Tensor, "B D T"]]:
        """The output, and the log of the scale that each element got: 0."""
        with torch.autocast(x.device.type, enabled=False):
            return (x + self._below_diagonal() @ x) * mask, torch.zeros_like(x)

    def inverse(self, y: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"]) -> Float[Tensor, "B D T"]:
        with torch.autocast(y.device.type, enabled=False):
            return torch.linalg.solve_triangular(self._below_diagonal(), y, upper=False, unitriangular=True) * mask

    def _below_diagonal(self) -> Float[Tensor, "D D"]:
        """L without its ones: `forward` adds them as x, `unitriangular` takes them as given."""
        return torch.tril(self.weight, -1)


_LINEAR = dict(zip(LINEAR_KINDS, (Householder, UnitTriangular), strict=True))
