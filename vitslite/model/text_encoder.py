"""Text encoder: tokens -> hidden states, and the Gaussian prior of each token."""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vitslite.model.layers import ChannelLayerNorm, Dropout, FeedForward, RelativeSelfAttention
from vitslite.tensors import Gaussian

PRIOR_STDS = ("learned", "unit", "global")


@dataclass
class TextEncoderSettings:
    """Defaults: as published (Kim et al. 2021; 6,326,784 parameters with 178 symbols and 192 latent channels)."""

    hidden: int = field(default=192, metadata={"at_least": 1})  # channels
    filters: int = field(default=768, metadata={"at_least": 1})  # channels inside the feed-forward layers
    n_layers: int = field(default=6, metadata={"at_least": 0})
    n_heads: int = field(default=2, metadata={"at_least": 1})
    kernel: int = field(default=3, metadata={"at_least": 1, "odd": True})  # tokens, in the feed-forward layers
    window: int = field(default=4, metadata={"at_least": 0})  # tokens to each side whose distance the attention knows
    dropout: float = field(default=0.1, metadata={"at_least": 0, "below": 1})
    # learned: per token, as in VITS; unit: 1, as in Glow-TTS; global: one per channel
    prior_std: str = field(default="learned", metadata={"choices": PRIOR_STDS})
    log_std_scale: float = 1.0  # of the initial weights of the prior's log_std; small: all tokens start equally wide


class TextEncoder(nn.Module):
    """A transformer with relative positions; a 1x1 convolution reads the prior of each token from its output.

    tokens [B L], token_mask [B 1 L] -> h [B H L], p_text = N(mean, exp(log_std)^2) [B D L], both zero on padding.
    Dropout is on where `keys` are given. p_text is in fp32 for the densities that follow.

    Source: Kim et al. 2021 (VITS), section 2.5.1; layers as in Kim et al. 2020 (Glow-TTS), appendix A.
    """

    def __init__(self, settings: TextEncoderSettings, n_symbols: int, n_latent: int):
        super().__init__()
        s = settings
        self.hidden = s.hidden
        self.embedding = nn.Embedding(n_symbols, s.hidden)
        nn.init.normal_(self.embedding.weight, std=s.hidden**-0.5)
        self.layers = nn.ModuleList(EncoderLayer(s, f"text_encoder.{i}") for i in range(s.n_layers))
        self.proj = nn.Conv1d(s.hidden, 2 * n_latent, 1)
        assert s.prior_std in PRIOR_STDS, s.prior_std
        self.prior_std = s.prior_std
        self.global_log_std = nn.Parameter(torch.zeros(n_latent, 1)) if s.prior_std == "global" else None
        with torch.no_grad():
            for p in self.proj.parameters():
                p[n_latent:] *= s.log_std_scale

    def forward(
        self, tokens: Int[Tensor, "B L"], token_mask: Bool[Tensor, "B 1 L"], keys: Int[Tensor, " B"] | None = None
    ) -> tuple[Float[Tensor, "B H L"], Gaussian]:
        h = self.embedding(tokens).transpose(1, 2) * math.sqrt(self.hidden) * token_mask
        for layer in self.layers:
            h = layer(h, token_mask, keys)
        h = h * token_mask
        mean, log_std = (self.proj(h).float() * token_mask).chunk(2, dim=1)
        if self.prior_std == "unit":
            log_std = torch.zeros_like(log_std)
        elif self.global_log_std is not None:
            log_std = self.global_log_std * token_mask
        return h, Gaussian(mean, log_std)


class EncoderLayer(nn.Module):
    """Attention, then feed-forward; each with dropout, a residual, and the norm after the sum ("post-LN")."""

    def __init__(self, settings: TextEncoderSettings, purpose: str):
        super().__init__()
        s = settings
        self.attention = RelativeSelfAttention(s.hidden, s.n_heads, s.window, s.dropout, f"{purpose}.attention.weight")
        self.attention_dropout = Dropout(s.dropout, f"{purpose}.attention")
        self.attention_norm = ChannelLayerNorm(s.hidden)
        self.feed_forward = FeedForward(s.hidden, s.filters, s.kernel, s.dropout, f"{purpose}.feed_forward.inner")
        self.feed_forward_dropout = Dropout(s.dropout, f"{purpose}.feed_forward")
        self.feed_forward_norm = ChannelLayerNorm(s.hidden)

    def forward(
        self, x: Float[Tensor, "B H L"], mask: Bool[Tensor, "B 1 L"], keys: Int[Tensor, " B"] | None
    ) -> Float[Tensor, "B H L"]:
        x = self.attention_norm(x + self.attention_dropout(self.attention(x, mask, keys), keys))
        return self.feed_forward_norm(x + self.feed_forward_dropout(self.feed_forward(x, mask, keys), keys))
