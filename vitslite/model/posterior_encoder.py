"""Posterior encoder: spectrogram -> q(z | spectrogram), a Gaussian per frame and latent channel."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vitslite.model.layers import WaveNet
from vitslite.tensors import Gaussian

INPUTS = ("linear", "mel")
_LOG_MEL_MEAN, _LOG_MEL_STD = -5.0, 2.5  # of speech, natural log of mel magnitudes; round figures are good enough


@dataclass
class PosteriorEncoderSettings:
    """Defaults: as published (Kim et al. 2021; 7,238,016 parameters for 513 bins and 192 latent channels)."""

    input: str = "linear"  # linear: magnitude spectrogram, as in VITS; mel: log-mel spectrogram
    hidden: int = 192  # channels
    kernel: int = 5  # frames; odd
    n_layers: int = 16
    dilation_rate: int = 1
    skip: bool = False  # add a linear view of the input to the mean: lets a small model learn within minutes
    weight_norm: bool = True


class PosteriorEncoder(nn.Module):
    """Spectrogram [B N T], frame_mask [B 1 T] -> q = N(mean, exp(log_std)^2) [B D T], in fp32, zero on padding.

        mean, log_std = proj(WaveNet(pre(x)))          with `skip`:  mean <- mean + skip(x)

    A log-mel input is first brought to about zero mean and unit variance by two constants.
    With `skip`, log_std starts near zero, so that the linear view is not drowned in noise of random loudness.
    Raises ValueError for an unknown `input`.

    Source: Kim et al. 2021 (VITS), section 2.5.2. The skip is ours.
    """

    def __init__(self, settings: PosteriorEncoderSettings, n_bins: int, n_latent: int):
        super().__init__()
        s = settings
        if s.input not in INPUTS:
            raise ValueError(f"model.posterior.input={s.input} is unknown: choose one of {', '.join(INPUTS)}")
        self.is_log_mel = s.input == "mel"
        self.pre = nn.Conv1d(n_bins, s.hidden, 1)
        self.wavenet = WaveNet(s.hidden, s.kernel, s.dilation_rate, s.n_layers, s.weight_norm)
        self.proj = nn.Conv1d(s.hidden, 2 * n_latent, 1)
        self.skip = nn.Conv1d(n_bins, n_latent, 1) if s.skip else None
        if s.skip:
            with torch.no_grad():
                self.proj.weight[n_latent:] *= 0.1
                self.proj.bias.zero_()

    def forward(self, x: Float[Tensor, "B N T"], frame_mask: Bool[Tensor, "B 1 T"]) -> Gaussian:
        if self.is_log_mel:
            x = (x - _LOG_MEL_MEAN) / _LOG_MEL_STD
        h = self.wavenet(self.pre(x) * frame_mask, frame_mask)
        mean, log_std = (self.proj(h).float() * frame_mask).chunk(2, dim=1)
        if self.skip is not None:
            mean = mean + self.skip(x).float() * frame_mask
        return Gaussian(mean, log_std)
