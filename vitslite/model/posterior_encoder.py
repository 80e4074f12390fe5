"""Posterior encoder: spectrogram -> q(z | spectrogram), a Gaussian per frame and latent channel.

Or no encoder at all: with kind=recording the latent is the log-mel spectrogram itself (`recording`), as in Glow-TTS and
Grad-TTS. There is then no q and no entropy, so no KL: what is left of it is -log p(log-mel | text).
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vitslite import randomness
from vitslite.model.layers import WaveNet
from vitslite.tensors import Gaussian

INPUTS = ("linear", "mel")
KINDS = ("gaussian", "clamped", "fixed_sigma", "residual", "recording")
_SOFT_LIMIT, _LEAST_STD = 5.0, 0.01  # of NVAE's soft clamp
LOG_MEL_MEAN, _LOG_MEL_STD = -5.0, 2.5  # of speech, natural log of mel magnitudes; round figures are good enough


@dataclass
class PosteriorEncoderSettings:
    """Defaults: as published (Kim et al. 2021; 7,238,016 parameters for 513 bins and 192 latent channels)."""

    # linear: magnitude spectrogram, as in VITS; mel: log-mel spectrogram
    input: str = field(default="linear", metadata={"choices": INPUTS})
    hidden: int = field(default=192, metadata={"at_least": 1})  # channels
    kernel: int = field(default=5, metadata={"at_least": 1, "odd": True})  # frames
    n_layers: int = field(default=16, metadata={"at_least": 1})
    dilation_rate: int = field(default=1, metadata={"at_least": 1})
    skip: bool = False  # add a linear view of the input to the mean: lets a small model learn within minutes
    weight_norm: bool = True
    kind: str = field(default="gaussian", metadata={"choices": KINDS})  # gaussian: as in VITS; others: see `posterior`
    fixed_log_std: float = -1.0  # of kind=fixed_sigma
    clamp: bool = False  # of kind=residual: limit both sides softly, as NVAE's code does
    # Of kind=recording, see `recording`; nats of log-mel.
    recording_mean: float = 0.0
    recording_std: float = field(default=1.0, metadata={"above": 0})
    recording_noise: float = field(default=0.0, metadata={"at_least": 0})  # standard deviation


class PosteriorEncoder(nn.Module):
    """Spectrogram [B N T], frame_mask [B 1 T] -> mean, log_std [B D T], in fp32, zero on padding; see `posterior`.

        mean, log_std = proj(WaveNet(pre(x)))          with `skip`:  mean <- mean + skip(x)

    A log-mel input is first brought to about zero mean and unit variance by two constants.
    With `skip`, log_std starts near zero, so that the linear view is not drowned in noise of random loudness.

    Source: Kim et al. 2021 (VITS), section 2.5.2. The skip is ours.
    """

    def __init__(self, settings: PosteriorEncoderSettings, n_bins: int, n_latent: int, n_condition: int = 0):
        super().__init__()
        s = settings
        assert s.input in INPUTS and s.kind in KINDS, (s.input, s.kind)
        self.settings = s
        self.is_log_mel = s.input == "mel"
        self.pre = nn.Conv1d(n_bins, s.hidden, 1)
        self.wavenet = WaveNet(s.hidden, s.kernel, s.dilation_rate, s.n_layers, s.weight_norm, n_condition=n_condition)
        self.proj = nn.Conv1d(s.hidden, 2 * n_latent, 1)
        self.skip = nn.Conv1d(n_bins, n_latent, 1) if s.skip else None
        if s.skip:
            with torch.no_grad():
                weight, bias = self.proj.parameters()
                weight[n_latent:] *= 0.1
                bias.zero_()

    def forward(
        self, x: Float[Tensor, "B N T"], frame_mask: Bool[Tensor, "B 1 T"], g: Float[Tensor, "B G 1"] | None = None
    ) -> Gaussian:
        if self.is_log_mel:
            x = (x - LOG_MEL_MEAN) / _LOG_MEL_STD
        h = self.wavenet(self.pre(x) * frame_mask, frame_mask, g=g)
        mean, log_std = (self.proj(h).float() * frame_mask).chunk(2, dim=1)
        if self.skip is not None:
            mean = mean + self.skip(x).float() * frame_mask
        return Gaussian(mean, log_std)

    def posterior(self, stats: Gaussian, frame_mask: Bool[Tensor, "B 1 T"], prior: Gaussian | None = None) -> Gaussian:
        """q, from the statistics that the network gives, as `kind` has it; zero on padding.

        gaussian       N(mean, std), as in VITS
        clamped        mean and log_std by `soft_clamped`, as in NVAE's code, which limits p, too; here p stays as it is
        fixed_sigma    std = exp(fixed_log_std) for all: an autoencoder with noise, whose entropy cannot move
        residual       N(mean_p + mean, std_p * std): relative to the aligned prior (Vahdat & Kautz 2020, section 3.2).
                       Its KL is 1/2 (mean^2 / std_p^2 + std^2 - 1) - log std, exactly, without a flow: when the prior
                       moves, the posterior moves along. It needs the alignment before there is a z to align.
                       That is the paper. Its code limits the sums, and p, by `soft_clamped`: `clamp`, with `prior`.
                       The formula then no longer holds, nor that the KL leaves the mean of the prior alone, but no
                       std falls below exp(-5) + 0.01 = 0.0167.
        """
        mean, log_std = stats
        if self.settings.kind == "clamped":
            mean, log_std = soft_clamped(stats)
        elif self.settings.kind == "fixed_sigma":
            log_std = torch.full_like(log_std, self.settings.fixed_log_std)
        elif self.settings.kind == "residual":
            assert prior is not None
            mean, log_std = prior.mean + mean, prior.log_std + log_std
            if self.settings.clamp:
                mean, log_std = soft_clamped(Gaussian(mean, log_std))
        return Gaussian(mean * frame_mask, log_std * frame_mask)

    def prior(self, p: Gaussian, mask: Bool[Tensor, "B 1 N"]) -> Gaussian:
        """The prior that q is compared with, per token or frame: `p` itself, or with `clamp` limited as q is."""
        return soft_clamped(p).map(lambda x: x * mask) if self.settings.clamp else p


def soft_clamped(x: Gaussian) -> Gaussian:
    """N(5 tanh(mean / 5), (exp(5 tanh(log_std / 5)) + 0.01)^2): neither mean nor std can run away.

    Source: the code of NVAE (Vahdat & Kautz 2020), which makes every Gaussian so; the paper does not mention it.
    """
    mean, log_std = (_SOFT_LIMIT * torch.tanh(value / _SOFT_LIMIT) for value in x)
    return Gaussian(mean, torch.log(torch.exp(log_std) + _LEAST_STD))


def recording(
    mel: Float[Tensor, "B M T"] | None,
    frame_mask: Bool[Tensor, "B 1 T"],
    settings: PosteriorEncoderSettings,
    keys: Int[Tensor, " B"] | None = None,
) -> Float[Tensor, "B M T"]:
    """The log-mel spectrogram in the place of z: (mel - recording_mean) / recording_std, zero on padding.

    As published the constants are 0 and 1. Others change nothing but where training starts and, for a prior of unit
    variance, how wide it is in log-mel: `recording_std`. Likelihoods are stated of the log-mel, with the scale's
    Jacobian. Source: Kim et al. 2020 (Glow-TTS), equation 1; Popov et al. 2021 (Grad-TTS), section 3.1.

    With `keys`, noise of `recording_noise` nats of log-mel comes in: without it the likelihood has no ceiling.
    """
    s = settings
    assert mel is not None, "the batch has no features yet: see audio.Features"
    z = (mel - s.recording_mean) / s.recording_std
    if keys is not None and s.recording_noise:
        z = z + s.recording_noise / s.recording_std * randomness.normal(keys, "recording", *z.shape[1:])
    return z * frame_mask
