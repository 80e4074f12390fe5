"""The flow f between the latent space, where the decoder listens, and the prior space, where the text is Gaussian."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vitslite.model.layers import WaveNet

KINDS = ("mean_only", "affine", "none")


@dataclass
class FlowSettings:
    """Defaults: as published (Kim et al. 2021; 4 x 1,775,520 parameters for 192 latent channels)."""

    kind: str = "mean_only"  # mean_only: volume-preserving, as in VITS; affine: with a scale; none: f(z) = z
    hidden: int = 192  # channels
    kernel: int = 5  # frames; odd
    dilation_rate: int = 1
    n_layers: int = 4  # in each coupling
    n_couplings: int = 4
    weight_norm: bool = True


class Flow(nn.Module):
    """z_p = f(z): couplings, each followed by a reversal of the channels so that the halves change roles.

    `forward(z, mask)` -> (z_p, log_det), [B D T] each; `inverse(z_p, mask)` -> z. z must be zero on padding.
    log_det is log |df/dz|, spread over the elements that were scaled: their sum over channels and valid frames is the
    log-determinant, it is 0 on padding, and exactly 0 everywhere unless kind is "affine". At the start of training
    every coupling is the identity. After an odd number of couplings z_p stands in reversed channel order.
    Raises ValueError for an unknown kind, or for an odd number of latent channels.

    Source: Dinh et al. 2017 (Real NVP), eq. 7 to 9; Kim et al. 2021 (VITS), section 2.5.2.
    """

    def __init__(self, settings: FlowSettings, n_latent: int):
        super().__init__()
        if settings.kind not in KINDS:
            raise ValueError(f"model.flow.kind={settings.kind} is unknown: choose one of {', '.join(KINDS)}")
        n_couplings = 0 if settings.kind == "none" else settings.n_couplings
        self.couplings = nn.ModuleList(Coupling(settings, n_latent) for _ in range(n_couplings))

    def forward(
        self, z: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"]
    ) -> tuple[Float[Tensor, "B D T"], Float[Tensor, "B D T"]]:
        log_det = torch.zeros_like(z)
        for coupling in self.couplings:
            z, log_scale = coupling(z, mask)
            z, log_det = z.flip(1), (log_det + log_scale).flip(1)  # together: log_det stays with its element
        return z, log_det

    def inverse(self, z_p: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"]) -> Float[Tensor, "B D T"]:
        for coupling in reversed(self.couplings):
            z_p = coupling.inverse(z_p.flip(1), mask)
        return z_p


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
        x0, x1 = x.chunk(2, dim=1)
        mean, log_scale = self._mean_and_log_scale(x0, mask)
        y1 = mean + x1 * torch.exp(log_scale) * mask
        return torch.cat([x0, y1], dim=1), torch.cat([torch.zeros_like(x0), log_scale], dim=1)

    def inverse(self, y: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"]) -> Float[Tensor, "B D T"]:
        y0, y1 = y.chunk(2, dim=1)
        mean, log_scale = self._mean_and_log_scale(y0, mask)
        return torch.cat([y0, (y1 - mean) * torch.exp(-log_scale) * mask], dim=1)

    def _mean_and_log_scale(
        self, x0: Float[Tensor, "B halfD T"], mask: Bool[Tensor, "B 1 T"]
    ) -> tuple[Float[Tensor, "B halfD T"], Float[Tensor, "B halfD T"]]:
        h = self.wavenet(self.pre(x0) * mask, mask)
        stats = self.post(h).float() * mask
        return stats.chunk(2, dim=1) if self.is_affine else (stats, torch.zeros_like(stats))
