"""Monotonic rational-quadratic splines, and the coupling and network round them in the stochastic durations.

Source: Durkan et al. 2019 (Neural spline flows), section 3.1, equations 4 to 8, with linear tails; Kim et al. 2021
(VITS), appendix B.3.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vitslite.model.layers import ChannelLayerNorm, Dropout

_MIN_SIZE = 1e-3  # of a bin, as a share of the interval
_MIN_SLOPE = 1e-3


def rational_quadratic(
    x: Float[Tensor, "B N"],
    widths: Float[Tensor, "B N K"],
    heights: Float[Tensor, "B N K"],
    slopes: Float[Tensor, "B N J"],
    tail_bound: float,
    inverse: bool = False,
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
    """y = spline(x) and log |dy/dx|, or with `inverse` x = spline^-1(y) and log |dx/dy|. In fp32.

    The square from -tail_bound to tail_bound is divided into K bins, `widths` by `heights` after a softmax each;
    softplus(`slopes`) are the derivatives at the J = K - 1 knots between them. Outside the square the curve is the
    identity, which it joins with slope 1. No branch depends on a value: outside, the curve is computed for the nearest
    end and not used, so nothing waits for the device and gradients stay finite.
    """
    x, widths, heights, slopes = x.float(), widths.float(), heights.float(), slopes.float()
    assert slopes.shape[-1] == widths.shape[-1] - 1, "one slope for each knot between two bins"
    x_knots, y_knots = _knots(widths, tail_bound), _knots(heights, tail_bound)
    slopes = F.pad(_MIN_SLOPE + F.softplus(slopes), (1, 1), value=1.0)

    inside = (x >= -tail_bound) & (x <= tail_bound)
    clamped = x.clamp(-tail_bound, tail_bound)
    inner_knots = (y_knots if inverse else x_knots)[..., 1:-1]
    left = (clamped[..., None] >= inner_knots).sum(-1, keepdim=True)  # the bin, and its left knot

    x_left, x_right = _at(x_knots, left), _at(x_knots, left + 1)
    y_left, y_right = _at(y_knots, left), _at(y_knots, left + 1)
    slope_left, slope_right = _at(slopes, left), _at(slopes, left + 1)
    width, height = x_right - x_left, y_right - y_left
    chord = height / width  # s_k in the paper
    bend = slope_right + slope_left - 2 * chord

    # xi in the paper: 0 at the left knot, 1 at the right.
    share = _solve(clamped - y_left, height, chord, bend, slope_left) if inverse else (clamped - x_left) / width
    rest = 1 - share
    denominator = chord + bend * share * rest
    if inverse:
        result = x_left + share * width
    else:
        result = y_left + height * (chord * share**2 + slope_left * share * rest) / denominator
    slope = slope_right * share**2 + 2 * chord * share * rest + slope_left * rest**2
    log_det = 2 * torch.log(chord) + torch.log(slope) - 2 * torch.log(denominator)
    log_det = -log_det if inverse else log_det
    return torch.where(inside, result, x), torch.where(inside, log_det, torch.zeros_like(log_det))


def _knots(sizes: Float[Tensor, "B N K"], tail_bound: float) -> Float[Tensor, "B N knots"]:
    """The K + 1 ends of K bins, whose shares of the interval are softmax(sizes), none below _MIN_SIZE."""
    n_bins = sizes.shape[-1]
    shares = _MIN_SIZE + (1 - _MIN_SIZE * n_bins) * torch.softmax(sizes, dim=-1)
    inner = torch.cumsum(shares, dim=-1)[..., :-1]
    return F.pad(2 * tail_bound * F.pad(inner, (1, 0)) - tail_bound, (0, 1), value=tail_bound)


def _at(values: Float[Tensor, "B N M"], index: Tensor) -> Float[Tensor, "B N"]:
    return values.gather(-1, index)[..., 0]


def _solve(
    rise: Float[Tensor, "B N"],
    height: Float[Tensor, "B N"],
    chord: Float[Tensor, "B N"],
    bend: Float[Tensor, "B N"],
    slope_left: Float[Tensor, "B N"],
) -> Float[Tensor, "B N"]:
    """Where in its bin the curve has risen by `rise`: the root of a quadratic, in the form without cancellation."""
    a = height * (chord - slope_left) + rise * bend
    b = height * slope_left - rise * bend
    c = -chord * rise
    return 2 * c / (-b - torch.sqrt((b**2 - 4 * a * c).clamp(min=0)))


class SplineCoupling(nn.Module):
    """The first coordinate stays; the second goes through a spline, which a network of the first and of c shapes."""

    def __init__(self, filters: int, kernel: int, n_bins: int, tail_bound: float):
        super().__init__()
        self.filters, self.n_bins, self.tail_bound = filters, n_bins, tail_bound
        self.conv_pre = nn.Conv1d(1, filters, 1)
        self.conv_dds = DilatedConvs(filters, kernel, 0.0, "duration.dropout.none")
        self.conv_proj = nn.Conv1d(filters, 3 * n_bins - 1, 1)
        for p in self.conv_proj.parameters():
            nn.init.zeros_(p)

    def forward(
        self, x: Float[Tensor, "B 2 L"], mask: Bool[Tensor, "B 1 L"], c: Float[Tensor, "B C L"], inverse: bool = False
    ) -> tuple[Float[Tensor, "B 2 L"], Float[Tensor, "B L"]]:
        first, second = x.chunk(2, dim=1)
        shape = self.conv_proj(self.conv_dds(self.conv_pre(first) + c, mask, None)).float() * mask
        widths, heights, slopes = shape.transpose(1, 2).split([self.n_bins, self.n_bins, self.n_bins - 1], dim=2)
        scale = 1 / math.sqrt(self.filters)
        second, log_det = rational_quadratic(
            second[:, 0], scale * widths, scale * heights, slopes, self.tail_bound, inverse
        )
        return torch.cat([first, second[:, None]], dim=1) * mask, log_det * mask[:, 0]


class DilatedConvs(nn.Module):
    """Three residual layers: x <- x + dropout(gelu(norm(pointwise(gelu(norm(depthwise(x))))))), dilation kernel**i."""

    def __init__(self, channels: int, kernel: int, dropout: float, purpose: str, n_layers: int = 3):
        super().__init__()
        self.convs_dilated = nn.ModuleList(
            nn.Conv1d(
                channels, channels, kernel, groups=channels, dilation=kernel**i, padding=kernel**i * (kernel // 2)
            )
            for i in range(n_layers)
        )
        self.convs_pointwise = nn.ModuleList(nn.Conv1d(channels, channels, 1) for _ in range(n_layers))
        self.norms_1 = nn.ModuleList(ChannelLayerNorm(channels) for _ in range(n_layers))
        self.norms_2 = nn.ModuleList(ChannelLayerNorm(channels) for _ in range(n_layers))
        self.dropouts = nn.ModuleList(Dropout(dropout, f"{purpose}.{i}") for i in range(n_layers))

    def forward(
        self, x: Float[Tensor, "B C L"], mask: Bool[Tensor, "B 1 L"], keys: Int[Tensor, " B"] | None
    ) -> Float[Tensor, "B C L"]:
        layers = zip(self.convs_dilated, self.norms_1, self.convs_pointwise, self.norms_2, self.dropouts, strict=True)
        for depthwise, norm_1, pointwise, norm_2, dropout in layers:
            y = F.gelu(norm_1(depthwise(x * mask)))
            x = x + dropout(F.gelu(norm_2(pointwise(y))), keys)
        return x * mask
