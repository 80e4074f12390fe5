"""Linear flows: one matrix for all frames, log |det| = 0.

A linear map of a Gaussian is a Gaussian with a full covariance: what they can give the posterior is correlation between
channels, never another shape. A reflection leaves the KL to a standard normal as it was, sample by sample; a triangular
matrix does not, although its log-determinant is zero, too: volume is not distance. They hear no speaker.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


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
        self, x: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"], g: None = None
    ) -> tuple[Float[Tensor, "B D T"], Float[Tensor, "B D T"]]:
        """The output, and the log of the scale that each element got: 0."""
        return self.inverse(x, mask), torch.zeros_like(x)

    def inverse(self, y: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"], g: None = None) -> Float[Tensor, "B D T"]:
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
        self, x: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"], g: None = None
    ) -> tuple[Float[Tensor, "B D T"], Float[Tensor, "B D T"]]:
        """The output, and the log of the scale that each element got: 0."""
        with torch.autocast(x.device.type, enabled=False):
            return (x + self._below_diagonal() @ x) * mask, torch.zeros_like(x)

    def inverse(self, y: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"], g: None = None) -> Float[Tensor, "B D T"]:
        with torch.autocast(y.device.type, enabled=False):
            return torch.linalg.solve_triangular(self._below_diagonal(), y, upper=False, unitriangular=True) * mask

    def _below_diagonal(self) -> Float[Tensor, "D D"]:
        """L without its ones: `forward` adds them as x, `unitriangular` takes them as given."""
        return torch.tril(self.weight, -1)
