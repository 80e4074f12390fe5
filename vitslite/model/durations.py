"""Duration predictors: how many frames does each token last?

Both have forward(h, token_mask, durations, keys, dropout_keys) -> loss per token [B, L], zero on padding, and
predict(h, token_mask, keys, noise_scale) -> log-durations [B, L], natural logarithm of frames, zero on padding.

`h` [B, H, L] comes from the text encoder; detach it to keep this loss from shaping the encoder, as VITS does. `g` is
the vector of the speaker, where there are several.
`keys` are the random keys of randomness.py, for noise; `dropout_keys` those for dropout, None in evaluation.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vitslite import randomness
from vitslite.model import speakers
from vitslite.model.layers import ChannelLayerNorm, Dropout, same_conv
from vitslite.model.splines import DilatedConvs, SplineCoupling
from vitslite.tensors import LOG_2PI

KINDS = ("stochastic", "deterministic")
ROUNDINGS = {"ceil": torch.ceil, "nearest": torch.round}
MAX_TOKEN_FRAMES = 1000  # what synthesis gives to one token at most: 11.6 s at hop 256 and 22.05 kHz


@dataclass
class DurationSettings:
    """Defaults: the stochastic predictor of VITS. Its deterministic one has filters=256, and no use for the rest."""

    kind: str = field(default="stochastic", metadata={"choices": KINDS})
    filters: int = field(default=192, metadata={"at_least": 1})  # channels
    kernel: int = field(default=3, metadata={"at_least": 1, "odd": True})  # tokens
    dropout: float = field(default=0.5, metadata={"at_least": 0, "below": 1})
    # Spline flows, each of the prior and the posterior; one flow would leave the duration as it is.
    n_flows: int = field(default=4, metadata={"at_least": 2})
    n_bins: int = field(default=10, metadata={"at_least": 2})  # of each spline
    # Of predicted frames: ceil, as in VITS; nearest, where ceil makes speech too slow.
    rounding: str = field(default="ceil", metadata={"choices": tuple(ROUNDINGS)})
    # The splines act on log-durations within +-tail_bound after the first scaling.
    tail_bound: float = field(default=5.0, metadata={"above": 0})


def build_durations(
    settings: DurationSettings, hidden: int, n_condition: int = 0
) -> "StochasticDurations | DeterministicDurations":
    """The predictor of that kind for `hidden` channels of the text encoder, and those of a speaker."""
    assert settings.kind in KINDS, settings.kind
    kind = StochasticDurations if settings.kind == "stochastic" else DeterministicDurations
    return kind(settings, hidden, n_condition)


def whole_frames(log_durations: Float[Tensor, "B L"], speed: float, rounding: str) -> Int[Tensor, "B L"]:
    """exp(log_duration) / speed, rounded (up in VITS, so on average half a frame too long), 1 to MAX_TOKEN_FRAMES."""
    if torch.isnan(log_durations).any():
        raise ValueError("the duration predictor returned NaN: the model's weights are damaged, or it diverged")
    return ROUNDINGS[rounding](torch.exp(log_durations.float()) / speed).clamp(1, MAX_TOKEN_FRAMES).long()


class DeterministicDurations(nn.Module):
    """Two convolutions that predict the log-duration; loss (log d_hat - log d)^2 per token.

    Fast, and the same tempo every time. Source: Kim et al. 2020 (Glow-TTS), section 3.2, after FastSpeech.
    """

    def __init__(self, settings: DurationSettings, hidden: int, n_condition: int = 0):
        super().__init__()
        s = settings
        self.conv_1 = same_conv(hidden, s.filters, s.kernel)
        self.norm_1 = ChannelLayerNorm(s.filters)
        self.dropout_1 = Dropout(s.dropout, "duration.dropout.1")
        self.conv_2 = same_conv(s.filters, s.filters, s.kernel)
        self.norm_2 = ChannelLayerNorm(s.filters)
        self.dropout_2 = Dropout(s.dropout, "duration.dropout.2")
        self.proj = nn.Conv1d(s.filters, 1, 1)
        self.cond = speakers.view(n_condition, hidden)

    def forward(
        self,
        h: Float[Tensor, "B H L"],
        token_mask: Bool[Tensor, "B 1 L"],
        durations: Int[Tensor, "B L"],
        keys: Int[Tensor, " B"],
        dropout_keys: Int[Tensor, " B"] | None = None,
        g: Float[Tensor, "B G 1"] | None = None,
    ) -> Float[Tensor, "B L"]:
        """Squared log ratio per token. A token without frames counts as one of 1e-6 frames, as in VITS."""
        log_durations = torch.log(durations.float() + 1e-6)
        return (self._log_durations(h, token_mask, dropout_keys, g) - log_durations) ** 2 * token_mask[:, 0]

    def predict(
        self,
        h: Float[Tensor, "B H L"],
        token_mask: Bool[Tensor, "B 1 L"],
        keys: Int[Tensor, " B"] | None = None,
        noise_scale: float = 1.0,
        g: Float[Tensor, "B G 1"] | None = None,
    ) -> Float[Tensor, "B L"]:
        """The one answer it has: `keys` and `noise_scale` make no difference."""
        return self._log_durations(h, token_mask, None, g)

    def _log_durations(
        self,
        h: Float[Tensor, "B H L"],
        mask: Bool[Tensor, "B 1 L"],
        keys: Int[Tensor, " B"] | None,
        g: Float[Tensor, "B G 1"] | None,
    ) -> Float[Tensor, "B L"]:
        x = speakers.heard(h, self.cond, g)
        x = self.dropout_1(self.norm_1(torch.relu(self.conv_1(x * mask))), keys)
        x = self.dropout_2(self.norm_2(torch.relu(self.conv_2(x * mask))), keys)
        return (self.proj(x).float() * mask)[:, 0]


class StochasticDurations(nn.Module):
    """A normalising flow over durations, trained by a variational bound; loss in nats per token.

    A whole number d cannot go through a flow, and one number is too few for couplings. So a posterior adds
    u in (0, 1), which makes d - u real, and v, a second coordinate:

        loss = log q(u, v | d, c) - log p(d - u, v | c),     E_q[loss] >= -log P(d | c) >= 0

    p is the flow of (log(d - u), v) to a standard normal. Prediction runs it backwards; rounding exp(log-duration) up
    undoes u. A mean below zero therefore means tokens without frames, not a good model.

    Source: Kim et al. 2021 (VITS), section 2.2.2, equation 7 and appendix A.
    """

    def __init__(self, settings: DurationSettings, hidden: int, n_condition: int = 0):
        super().__init__()
        s = settings
        self.conv_pre = nn.Conv1d(hidden, s.filters, 1)
        self.conv_dds = DilatedConvs(s.filters, s.kernel, s.dropout, "duration.dropout.text")
        self.conv_proj = nn.Conv1d(s.filters, s.filters, 1)
        self.post_conv_pre = nn.Conv1d(1, s.filters, 1)
        self.post_conv_dds = DilatedConvs(s.filters, s.kernel, s.dropout, "duration.dropout.posterior")
        self.post_conv_proj = nn.Conv1d(s.filters, s.filters, 1)
        self.flows, self.post_flows = (
            nn.ModuleList(
                [
                    ElementwiseAffine(),
                    *(SplineCoupling(s.filters, s.kernel, s.n_bins, s.tail_bound) for _ in range(s.n_flows)),
                ]
            )
            for _ in range(2)
        )
        self.cond = speakers.view(n_condition, s.filters)

    def forward(
        self,
        h: Float[Tensor, "B H L"],
        token_mask: Bool[Tensor, "B 1 L"],
        durations: Int[Tensor, "B L"],
        keys: Int[Tensor, " B"],
        dropout_keys: Int[Tensor, " B"] | None = None,
        g: Float[Tensor, "B G 1"] | None = None,
    ) -> Float[Tensor, "B L"]:
        """A one-sample estimate of the bound, nats per token, summed over both coordinates."""
        c = self._condition(h, token_mask, dropout_keys, g)
        d = durations[:, None].float() * token_mask
        noise = randomness.normal(keys, "duration.posterior", 2, durations.shape[1]) * token_mask

        log_q, logit_u, v = self._posterior(c, d, token_mask, dropout_keys, noise)
        log_d = torch.log((d - torch.sigmoid(logit_u)).clamp(min=1e-5)) * token_mask
        z, log_det = self._flow(self.flows, torch.cat([log_d, v], dim=1), token_mask, c)
        log_p = _standard_normal(z) + log_det - log_d[:, 0]  # d log(x) / dx = 1 / x
        return (log_q - log_p) * token_mask[:, 0]

    def predict(
        self,
        h: Float[Tensor, "B H L"],
        token_mask: Bool[Tensor, "B 1 L"],
        keys: Int[Tensor, " B"],
        noise_scale: float = 1.0,
        g: Float[Tensor, "B G 1"] | None = None,
    ) -> Float[Tensor, "B L"]:
        """A sample of the log-durations; noise_scale=0 gives the same one for every key."""
        noise = noise_scale * randomness.normal(keys, "duration.prior", 2, h.shape[2])
        return self.invert(h, token_mask, noise, g)

    def invert(
        self,
        h: Float[Tensor, "B H L"],
        mask: Bool[Tensor, "B 1 L"],
        noise: Float[Tensor, "B 2 L"],
        g: Float[Tensor, "B G 1"] | None = None,
    ) -> Float[Tensor, "B L"]:
        """Noise to log-durations. The first coupling changes only v, which is not wanted, and is left out."""
        c = self._condition(h, mask, None, g)
        z = noise * mask
        for flow in reversed(self.flows[2:]):
            z, _ = flow(z.flip(1), mask, c, inverse=True)
        affine = self.flows[0]
        assert isinstance(affine, ElementwiseAffine)
        return affine.inverse(z.flip(1), mask)[:, 0]

    def _condition(
        self,
        h: Float[Tensor, "B H L"],
        mask: Bool[Tensor, "B 1 L"],
        keys: Int[Tensor, " B"] | None,
        g: Float[Tensor, "B G 1"] | None = None,
    ) -> Float[Tensor, "B C L"]:
        x = speakers.heard(self.conv_pre(h), self.cond, g)
        return self.conv_proj(self.conv_dds(x, mask, keys)) * mask

    def _posterior(
        self,
        c: Float[Tensor, "B C L"],
        d: Float[Tensor, "B 1 L"],
        mask: Bool[Tensor, "B 1 L"],
        keys: Int[Tensor, " B"] | None,
        noise: Float[Tensor, "B 2 L"],
    ) -> tuple[Float[Tensor, "B L"], Float[Tensor, "B 1 L"], Float[Tensor, "B 1 L"]]:
        """A sample of (logit u, v) given d, and log q(u, v | d, c)."""
        seen = self.post_conv_proj(self.post_conv_dds(self.post_conv_pre(d), mask, keys)) * mask
        z, log_det = self._flow(self.post_flows, noise, mask, c + seen)
        logit_u, v = z.chunk(2, dim=1)
        log_det_sigmoid = F.logsigmoid(logit_u) + F.logsigmoid(-logit_u)
        return _standard_normal(noise) - log_det - log_det_sigmoid[:, 0], logit_u, v

    def _flow(
        self, flows: nn.ModuleList, x: Float[Tensor, "B 2 L"], mask: Bool[Tensor, "B 1 L"], c: Float[Tensor, "B C L"]
    ) -> tuple[Float[Tensor, "B 2 L"], Float[Tensor, "B L"]]:
        """Affine, then couplings with the coordinates exchanged after each; log |det| per token."""
        x, log_det = flows[0](x, mask)
        for flow in flows[1:]:
            x, log_det_i = flow(x, mask, c)
            x, log_det = x.flip(1), log_det + log_det_i
        return x, log_det


class ElementwiseAffine(nn.Module):
    """x -> translate + exp(log_scale) x, for both coordinates, the same for every token."""

    def __init__(self):
        super().__init__()
        self.translate = nn.Parameter(torch.zeros(2, 1))
        self.log_scale = nn.Parameter(torch.zeros(2, 1))

    def forward(
        self, x: Float[Tensor, "B 2 L"], mask: Bool[Tensor, "B 1 L"]
    ) -> tuple[Float[Tensor, "B 2 L"], Float[Tensor, "B L"]]:
        return (self.translate + torch.exp(self.log_scale) * x) * mask, (self.log_scale * mask).sum(1)

    def inverse(self, x: Float[Tensor, "B 2 L"], mask: Bool[Tensor, "B 1 L"]) -> Float[Tensor, "B 2 L"]:
        return (x - self.translate) * torch.exp(-self.log_scale) * mask


def _standard_normal(z: Float[Tensor, "B 2 L"]) -> Float[Tensor, "B L"]:
    """log N(z; 0, 1), summed over both coordinates."""
    return (-0.5 * LOG_2PI - 0.5 * z**2).sum(1)
