"""Text encoder: tokens -> hidden states, and the Gaussian prior of each token."""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vitslite.model import speakers
from vitslite.model.layers import ChannelLayerNorm, Dropout, FeedForward, RelativeSelfAttention, same_conv
from vitslite.tensors import Gaussian

PRIOR_STDS = ("learned", "unit", "global", "standard")
_PRENET_KERNEL = 5  # tokens


@dataclass
class TextEncoderSettings:
    """Defaults: as published (Kim et al. 2021; 6,326,784 parameters with 178 symbols and 192 latent channels).

    Glow-TTS, with 148 symbols and 80 channels: prenet 3, prior_std unit, mean_only; 6,854,096 parameters.
    """

    hidden: int = field(default=192, metadata={"at_least": 1})  # channels
    filters: int = field(default=768, metadata={"at_least": 1})  # channels inside the feed-forward layers
    n_layers: int = field(default=6, metadata={"at_least": 0})
    n_heads: int = field(default=2, metadata={"at_least": 1})
    kernel: int = field(default=3, metadata={"at_least": 1, "odd": True})  # tokens, in the feed-forward layers
    window: int = field(default=4, metadata={"at_least": 0})  # tokens to each side whose distance the attention knows
    dropout: float = field(default=0.1, metadata={"at_least": 0, "below": 1})
    # learned: per token, as in VITS; unit: 1, as in Glow-TTS; global: one per channel; standard: N(0, 1) for all tokens
    prior_std: str = field(default="learned", metadata={"choices": PRIOR_STDS})
    mean_only: bool = False  # no weights for a std per token, which unit and global do not read
    prenet: int = field(default=0, metadata={"at_least": 0})  # layers of convolution before the transformer
    prenet_dropout: float = field(default=0.5, metadata={"at_least": 0, "below": 1})
    log_std_scale: float = 1.0  # of the initial weights of the prior's log_std; small: all tokens start equally wide


class TextEncoder(nn.Module):
    """A transformer with relative positions; a 1x1 convolution reads the prior of each token from its output.

    With `prenet`, convolutions look at the neighbours of each token first. A speaker's vector, which VITS does not give
    it, is added to the embeddings.

    tokens [B L], token_mask [B 1 L] -> h [B H L], p_text = N(mean, exp(log_std)^2) [B D L], both zero on padding.
    Dropout is on where `keys` are given. p_text is in fp32 for the densities that follow.

    Source: Kim et al. 2021 (VITS), section 2.5.1; layers as in Kim et al. 2020 (Glow-TTS), appendix A.
    """

    def __init__(self, settings: TextEncoderSettings, n_symbols: int, n_latent: int, n_condition: int = 0):
        super().__init__()
        s = settings
        self.hidden = s.hidden
        self.embedding = nn.Embedding(n_symbols, s.hidden)
        nn.init.normal_(self.embedding.weight, std=s.hidden**-0.5)
        self.prenet = Prenet(s.hidden, s.prenet, s.prenet_dropout, "text_encoder.prenet") if s.prenet else None
        self.layers = nn.ModuleList(EncoderLayer(s, f"text_encoder.{i}") for i in range(s.n_layers))
        self.proj = nn.Conv1d(s.hidden, n_latent if s.mean_only else 2 * n_latent, 1)
        assert s.prior_std in PRIOR_STDS and not (s.mean_only and s.prior_std == "learned"), s.prior_std
        self.mean_only = s.mean_only
        self.prior_std = s.prior_std
        self.global_log_std = nn.Parameter(torch.zeros(n_latent, 1)) if s.prior_std == "global" else None
        with torch.no_grad():
            for p in self.proj.parameters():
                p[n_latent:] *= s.log_std_scale
        self.cond = speakers.view(n_condition, s.hidden)

    def forward(
        self,
        tokens: Int[Tensor, "B L"],
        token_mask: Bool[Tensor, "B 1 L"],
        keys: Int[Tensor, " B"] | None = None,
        g: Float[Tensor, "B G 1"] | None = None,
    ) -> tuple[Float[Tensor, "B H L"], Gaussian]:
        h = self.embedding(tokens).transpose(1, 2) * math.sqrt(self.hidden) * token_mask
        h = speakers.heard(h, self.cond, g) * token_mask if self.cond else h
        if self.prenet is not None:
            h = self.prenet(h, token_mask, keys)
        for layer in self.layers:
            h = layer(h, token_mask, keys)
        h = h * token_mask
        stats = self.proj(h).float() * token_mask
        mean, log_std = (stats, stats) if self.mean_only else stats.chunk(2, dim=1)
        if self.prior_std in ("unit", "standard"):
            log_std = torch.zeros_like(log_std)
            mean = mean if self.prior_std == "unit" else torch.zeros_like(mean)
        elif self.global_log_std is not None:
            log_std = self.global_log_std * token_mask
        return h, Gaussian(mean, log_std)


class Prenet(nn.Module):
    """x + proj(layers(x)), each layer: convolution over 5 tokens, channel layer norm, ReLU, dropout. Zero on padding.

    proj, 1x1, starts at zero, so the whole starts as the identity. 3 layers of 192 channels: 591,744 parameters.

    Source: Kim et al. 2020 (Glow-TTS), appendix A, after Shen et al. 2018 (Tacotron 2).
    """

    def __init__(self, hidden: int, n_layers: int, dropout: float, purpose: str):
        super().__init__()
        self.convs = nn.ModuleList(same_conv(hidden, hidden, _PRENET_KERNEL) for _ in range(n_layers))
        self.norms = nn.ModuleList(ChannelLayerNorm(hidden) for _ in range(n_layers))
        self.dropouts = nn.ModuleList(Dropout(dropout, f"{purpose}.{i}") for i in range(n_layers))
        self.proj = nn.Conv1d(hidden, hidden, 1)
        for p in self.proj.parameters():
            nn.init.zeros_(p)

    def forward(
        self, x: Float[Tensor, "B H L"], mask: Bool[Tensor, "B 1 L"], keys: Int[Tensor, " B"] | None
    ) -> Float[Tensor, "B H L"]:
        h = x
        for conv, norm, dropout in zip(self.convs, self.norms, self.dropouts, strict=True):
            h = dropout(torch.relu(norm(conv(h * mask))), keys)
        return (x + self.proj(h)) * mask


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
