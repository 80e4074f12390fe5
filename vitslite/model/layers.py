"""Shared layers: keyed dropout, layer norm, WaveNet, relative self-attention, feed-forward.

All work on [B C N] (channels before time) and take a mask [B 1 N]. What stands on padding never reaches a valid
position, so that an utterance gives the same numbers alone and in any batch.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from vitslite import randomness
from vitslite.model import speakers


def same_conv(in_channels: int, out_channels: int, kernel: int, dilation: int = 1) -> nn.Conv1d:
    """A convolution whose output is as long as its input; `kernel` is odd."""
    assert kernel % 2, f"a kernel of {kernel} has no middle"
    return nn.Conv1d(in_channels, out_channels, kernel, dilation=dilation, padding=dilation * (kernel // 2))


def masked(x: Float[Tensor, "B C N"], mask: Bool[Tensor, "B 1 N"] | None) -> Float[Tensor, "B C N"]:
    """Zero beyond the mask; None: all is valid."""
    return x if mask is None else x * mask


class Dropout(nn.Module):
    """Zeroes each element with probability p and scales the others by 1 / (1 - p).

    Which ones is a function of (key, purpose, index), as all randomness of the project (randomness.py).
    Without keys it is the identity: inference is told by `keys=None`, not by a training flag.
    `purpose` must be unique in the model, or two places drop the same elements.
    """

    def __init__(self, p: float, purpose: str):
        super().__init__()
        assert 0 <= p < 1, f"a dropout of {p} is outside [0, 1)"
        self.p, self.purpose = p, purpose

    def forward(self, x: Float[Tensor, " B *shape"], keys: Int[Tensor, " B"] | None) -> Float[Tensor, " B *shape"]:
        if keys is None or self.p == 0:
            return x
        keep = randomness.uniform(keys, self.purpose, *x.shape[1:]) >= self.p
        return x * keep / (1 - self.p)

    def extra_repr(self) -> str:
        return f"{self.p}, {self.purpose!r}"


class ChannelLayerNorm(nn.Module):
    """Layer normalisation over the channels of [B C N], with a scale and a shift per channel."""

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "B C N"]) -> Float[Tensor, "B C N"]:
        return F.layer_norm(x.transpose(1, 2), self.weight.shape, self.weight, self.bias, self.eps).transpose(1, 2)


class WaveNet(nn.Module):
    """Non-causal WaveNet: n_layers x (dilated convolution, tanh * sigmoid gate, 1x1 to residual and skip).

        a, b = conv_i(x);   r, s = res_skip_i(tanh(a) * sigmoid(b));   x <- (x + r) * mask;   y <- y + s

    The last layer has a skip output only. Layer i has dilation `dilation_rate ** i`. Receptive field:
    1 + (kernel - 1) * sum of the dilations (VITS, posterior: 65 frames). The input must be zero on padding.
    `dropout` is of a and b, as in Glow-TTS, where `keys` are given; VITS has none. With `n_condition` channels of a
    speaker g, its linear view is added to a and b of every layer.

    Source: van den Oord et al. 2016 (WaveNet), eq. 2 and section 2.5; Kim et al. 2021 (VITS), section 2.5.2.
    """

    def __init__(
        self,
        hidden: int,
        kernel: int,
        dilation_rate: int,
        n_layers: int,
        weight_norm: bool,
        dropout: float = 0.0,
        purpose: str = "",
        n_condition: int = 0,
    ):
        super().__init__()
        assert dropout == 0 or purpose, "a dropout without a purpose would drop what another drops"
        self.convs = nn.ModuleList(
            same_conv(hidden, 2 * hidden, kernel, dilation=dilation_rate**i) for i in range(n_layers)
        )
        self.res_skips = nn.ModuleList(
            nn.Conv1d(hidden, 2 * hidden if i < n_layers - 1 else hidden, 1) for i in range(n_layers)
        )
        self.cond = speakers.view(n_condition, 2 * hidden * n_layers)
        if weight_norm:
            for conv in [*self.convs, *self.res_skips, *([self.cond] if self.cond else [])]:
                parametrizations.weight_norm(conv)
        self.dropouts = nn.ModuleList(Dropout(dropout, f"{purpose}.{i}") for i in range(n_layers))

    def forward(
        self,
        x: Float[Tensor, "B H N"],
        mask: Bool[Tensor, "B 1 N"],
        keys: Int[Tensor, " B"] | None = None,
        g: Float[Tensor, "B G 1"] | None = None,
    ) -> Float[Tensor, "B H N"]:
        mask = mask.to(x.dtype)  # once, instead of a mixed-type product per layer
        voices = self.cond(g).chunk(len(self.convs), dim=1) if self.cond else [None] * len(self.convs)
        skips = 0
        for conv, dropout, res_skip, voice in zip(self.convs, self.dropouts, self.res_skips, voices, strict=True):
            h = dropout(conv(x), keys)
            a, b = (h if voice is None else h + voice).chunk(2, dim=1)
            y = res_skip(torch.tanh(a) * torch.sigmoid(b))
            if y.shape[1] > x.shape[1]:
                residual, y = y.chunk(2, dim=1)
                x = (x + residual) * mask
            skips = skips + y
        return skips * mask


class RelativeSelfAttention(nn.Module):
    """Multi-head self-attention that knows distances up to `window`, through relative keys and values.

        score_ij = q_i . (k_j + relative_key[j - i]) / sqrt(C / n_heads)
        y_i      = sum_j softmax_j(score)_ij (v_j + relative_value[j - i])

    The relative embeddings are zero where |j - i| > window and are shared by the heads.

    Source: Shaw et al. 2018 (Self-attention with relative position representations), eq. 3 and 4; the initialisation
    is that of Glow-TTS and VITS: Xavier for query, key and value, N(0, C / heads) ** -1/2 for the embeddings.
    """

    def __init__(self, hidden: int, n_heads: int, window: int, dropout: float, purpose: str):
        super().__init__()
        assert hidden % n_heads == 0, f"{n_heads} heads do not divide {hidden} channels"
        self.n_heads, self.window = n_heads, window
        self.query, self.key, self.value = (nn.Conv1d(hidden, hidden, 1) for _ in range(3))
        for projection in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(projection.weight)
        self.out = nn.Conv1d(hidden, hidden, 1)
        n_channels = hidden // n_heads
        self.relative_key = nn.Parameter(torch.randn(2 * window + 1, n_channels) * n_channels**-0.5)
        self.relative_value = nn.Parameter(torch.randn(2 * window + 1, n_channels) * n_channels**-0.5)
        self.dropout = Dropout(dropout, purpose)

    def forward(
        self, x: Float[Tensor, "B C L"], mask: Bool[Tensor, "B 1 L"], keys: Int[Tensor, " B"] | None
    ) -> Float[Tensor, "B C L"]:
        q, k, v = (self._split_heads(f(x)) for f in (self.query, self.key, self.value))
        q = q * q.shape[-1] ** -0.5
        score = q @ k.transpose(2, 3) + self._to_positions(q @ self.relative_key.t())
        # The lowest number instead of -inf: a row without any valid token stays free of NaN.
        score = score.masked_fill(~mask[:, None], torch.finfo(score.dtype).min)
        weight = self.dropout(score.softmax(dim=3), keys)
        y = weight @ v + self._to_distances(weight) @ self.relative_value
        return self.out(y.transpose(2, 3).flatten(1, 2))

    def _split_heads(self, x: Float[Tensor, "B C L"]) -> Float[Tensor, "B heads L channels"]:
        return x.unflatten(1, (self.n_heads, -1)).transpose(2, 3)

    def _to_positions(self, x: Float[Tensor, "B heads L R"]) -> Float[Tensor, "B heads L L"]:
        """y[i, j] = x[i, j - i + window] within the window, else 0.

        Rows of R + L numbers, read again as rows of R + L - 1, shift by one more place in each row.
        (No gather: its gradient adds up in an order that differs from run to run on a GPU.)
        """
        n = x.shape[2]
        rows = F.pad(x, (0, n)).flatten(2)[..., :-n].unflatten(2, (n, 2 * self.window + n))
        return rows[..., self.window : self.window + n]

    def _to_distances(self, x: Float[Tensor, "B heads L L"]) -> Float[Tensor, "B heads L R"]:
        """y[i, r] = x[i, i + r - window], 0 outside: the transpose of `_to_positions`."""
        n = x.shape[2]
        rows = F.pad(F.pad(x, (self.window, self.window)).flatten(2), (0, n))
        return rows.unflatten(2, (n, 2 * self.window + n + 1))[..., : 2 * self.window + 1]


class FeedForward(nn.Module):
    """Convolution, ReLU, dropout, convolution; zero on padding."""

    def __init__(self, hidden: int, filters: int, kernel: int, dropout: float, purpose: str):
        super().__init__()
        self.conv_1 = same_conv(hidden, filters, kernel)
        self.conv_2 = same_conv(filters, hidden, kernel)
        self.dropout = Dropout(dropout, purpose)

    def forward(
        self, x: Float[Tensor, "B C L"], mask: Bool[Tensor, "B 1 L"], keys: Int[Tensor, " B"] | None
    ) -> Float[Tensor, "B C L"]:
        x = self.dropout(torch.relu(self.conv_1(x * mask)), keys)
        return self.conv_2(x * mask) * mask
