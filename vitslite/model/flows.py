"""The flow f between the latent space, where the decoder listens, and the prior space, where the text is Gaussian."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vitslite.model.layers import WaveNet
from vitslite.model.linear_flows import Householder, UnitTriangular
from vitslite.tensors import Gaussian

LINEAR = {"householder": Householder, "linear_iaf": UnitTriangular}
KINDS = ("mean_only", "affine", *LINEAR, "none")
SIDES = ("prior", "posterior")


@dataclass
class FlowSettings:
    """Defaults: as published (Kim et al. 2021; 4 x 1,775,520 parameters for 192 latent channels).

    kind: mean_only: couplings that shift, as in VITS; affine: couplings with a scale; householder, linear_iaf: linear
    and of unit volume, with `n_couplings` matrices and no network; none: f(z) = z.
    side: prior: f stands between z and the prior, as in VITS; posterior: q is the flow's output, the decoder hears
    f(z) (VAE with volume-preserving flows).
    """

    kind: str = "mean_only"
    side: str = "prior"
    hidden: int = 192  # channels
    kernel: int = 5  # frames; odd
    dilation_rate: int = 1
    n_layers: int = 4  # in each coupling
    n_couplings: int = 4
    weight_norm: bool = True


class Flow(nn.Module):
    """z_p = f(z): layers, each followed by a reversal of the channels so that the halves change roles.

    `forward(z, mask)` -> (z_p, log_det), [B D T] each; `inverse(z_p, mask)` -> z. z must be zero on padding. The layers
    are couplings, or the linear ones of linear_flows.py; all are in `couplings`, the name that checkpoints know.
    log_det is log |df/dz|, spread over the elements that were scaled: their sum over channels and valid frames is the
    log-determinant, it is 0 on padding, and exactly 0 everywhere unless kind is "affine". At the start of training
    every layer but a Householder reflection is the identity. After an odd number of layers the channels are put back
    into their order, so that a channel of the prior is the one of the posterior.
    Raises ValueError for an unknown kind or side, or for couplings of an odd number of latent channels.

    Source: Dinh et al. 2017 (Real NVP), eq. 7 to 9; Kim et al. 2021 (VITS), section 2.5.2.
    """

    def __init__(self, settings: FlowSettings, n_latent: int):
        super().__init__()
        if settings.kind not in KINDS:
            raise ValueError(f"model.flow.kind={settings.kind} is unknown: choose one of {', '.join(KINDS)}")
        if settings.side not in SIDES:
            raise ValueError(f"model.flow.side={settings.side} is unknown: choose one of {', '.join(SIDES)}")
        self.kind = settings.kind
        n_layers = 0 if settings.kind == "none" else settings.n_couplings
        self.couplings = nn.ModuleList(
            LINEAR[settings.kind](n_latent) if settings.kind in LINEAR else Coupling(settings, n_latent)
            for _ in range(n_layers)
        )

    def forward(
        self, z: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"]
    ) -> tuple[Float[Tensor, "B D T"], Float[Tensor, "B D T"]]:
        log_det = torch.zeros_like(z)
        for coupling in self.couplings:
            z, log_scale = coupling(z, mask)
            z, log_det = z.flip(1), (log_det + log_scale).flip(1)  # together: log_det stays with its element
        return self._in_order(z), self._in_order(log_det)

    def inverse(self, z_p: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"]) -> Float[Tensor, "B D T"]:
        z_p = self._in_order(z_p)
        for coupling in reversed(self.couplings):
            z_p = coupling.inverse(z_p.flip(1), mask)
        return z_p

    def carry(self, q: Gaussian, z: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"]) -> Gaussian:
        """The carried mean: q [B D T] taken through f along with its sample z; zero on padding.

        At every coupling the network sees the sample's first half z0, and q's second half moves as the sample's does:

            mean1 <- mean(z0) + mean1 * exp(log_scale(z0)),   log_std1 <- log_std1 + log_scale(z0)

        The KL of the result to the prior is Rao-Blackwellised: the second half is integrated exactly, given z0. It is
        unbiased for one coupling. For two or more it is biased, since the second network sees a half that was sampled
        where the formula holds it fixed (T13 in docs/identities.md). Carrying log_std is subtracting log_det: the sum
        of the log_std grows by it. Raises ValueError for the linear kinds, which have no halves.
        """
        if self.kind in LINEAR:
            raise ValueError(
                f"model.flow.kind={self.kind} has no halves to carry: objective.kl=carried_mean needs couplings: "
                "model/flow=mean_only or affine"
            )
        mean, log_std = q
        for coupling in self.couplings:
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
    """

    def __init__(self, settings: FlowSettings, n_latent: int):
        super().__init__()
        s = settings
        if n_latent % 2:
            raise ValueError(
                f"model.n_latent={n_latent} does not split into halves: make it even, or model.flow.kind=none"
            )
        self.is_affine = s.kind == "affine"
        self.pre = nn.Conv1d(n_latent // 2, s.hidden, 1)
        self.wavenet = WaveNet(s.hidden, s.kernel, s.dilation_rate, s.n_layers, s.weight_norm)
        self.post = nn.Conv1d(s.hidden, n_latent if self.is_affine else n_latent // 2, 1)
        nn.init.zeros_(self.post.weight)
        nn.init.zeros_(self.post.bias)

    def forward(
        self, x: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"]
    ) -> tuple[Float[Tensor, "B D T"], Float[Tensor, "B D T"]]:
        """The output, and the log of the scale that each element got: 0 for the first half."""
        shift, log_scale = self.shift_and_log_scale(x, mask)
        return shift + x * torch.exp(log_scale) * mask, log_scale

    def inverse(self, y: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"]) -> Float[Tensor, "B D T"]:
        shift, log_scale = self.shift_and_log_scale(y, mask)
        return (y - shift) * torch.exp(-log_scale) * mask

    def shift_and_log_scale(
        self, x: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"]
    ) -> tuple[Float[Tensor, "B D T"], Float[Tensor, "B D T"]]:
        """What happens to each element: 0 and 0 in the first half, which alone is looked at. Zero on padding."""
        x0, _ = x.chunk(2, dim=1)
        h = self.wavenet(self.pre(x0) * mask, mask)
        stats = self.post(h).float() * mask
        mean, log_scale = stats.chunk(2, dim=1) if self.is_affine else (stats, torch.zeros_like(stats))
        unchanged = torch.zeros_like(mean)
        return torch.cat([unchanged, mean], dim=1), torch.cat([unchanged, log_scale], dim=1)
