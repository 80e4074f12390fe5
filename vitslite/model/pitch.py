"""Pitch of recordings, for decoders that are given one."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

F0_MIN, F0_MAX = 60.0, 500.0  # Hz; speaking voices, men to children
_RATE = 4000.0  # Hz, about: what is above 2 kHz says little about the pitch
_VOICED = 0.5  # correlation at one period from which a frame counts as voiced
_OCTAVE_COST = 0.15  # correlation that the double of a period must be better by: it fits nearly as well
_SILENT = 1e-5  # mean square, -50 dBFS


class PitchTracker(nn.Module):
    """ln of the cycles per frame at the centre of each frame, as audio.LogMel has them; NaN where unvoiced.

    The lag of the highest peak of the normalised autocorrelation of Hann windows of three longest periods, on audio
    brought to 4 kHz, between its samples by a parabola. Without a search for the best track through the frames, so a
    hundredth of them is off by an octave. Source: Boersma 1993.
    """

    window: Tensor
    lowpass: Tensor

    def __init__(self, sample_rate: int, hop_length: int):
        super().__init__()
        self.hop_length = hop_length
        self.factor = max(1, round(sample_rate / _RATE))
        self.rate = sample_rate / self.factor
        self.n_window = 2 * math.ceil(1.5 * self.rate / F0_MIN)
        self.first_lag, self.last_lag = math.floor(self.rate / F0_MAX), math.ceil(self.rate / F0_MIN)
        self.register_buffer("window", torch.hann_window(self.n_window), persistent=False)
        lowpass = torch.hann_window(4 * self.factor + 1, periodic=False)
        self.register_buffer("lowpass", lowpass / lowpass.sum(), persistent=False)

    @torch.no_grad()
    def forward(self, audio: Float[Tensor, "B 1 S"]) -> Float[Tensor, "B T"]:
        """T = S // hop_length."""
        with torch.autocast(audio.device.type, enabled=False):
            correlation, power = self._correlation(audio.float())
        lags = torch.arange(self.first_lag, self.last_lag + 1, device=audio.device)
        before, here, after = correlation[..., :-2], correlation[..., 1:-1], correlation[..., 2:]
        is_peak = (here >= before) & (here >= after)
        score = (here - _OCTAVE_COST * torch.log2(lags[1:-1])).masked_fill(~is_peak, -math.inf)
        best = score.argmax(-1, keepdim=True)
        before, here, after = (x.gather(-1, best)[..., 0] for x in (before, here, after))
        shift = 0.5 * (before - after) / (before - 2 * here + after).clamp(max=-1e-6)  # the top of the parabola
        period = lags[1:-1][best[..., 0]] + shift.clamp(-0.5, 0.5)
        is_voiced = is_peak.any(-1) & (here > _VOICED) & (power > _SILENT)
        return torch.where(is_voiced, torch.log(self.hop_length / (self.factor * period)), torch.nan)

    def _correlation(self, audio: Float[Tensor, "B 1 S"]) -> tuple[Float[Tensor, "B T G"], Float[Tensor, "B T"]]:
        """Normalised autocorrelation at each lag, and the power, of the window around the centre of each frame."""
        n, k = self.n_window, self.factor
        n_frames = audio.shape[2] // self.hop_length
        slow = F.conv1d(audio, self.lowpass[None, None], stride=k, padding=2 * k)[:, 0]
        starts = ((torch.arange(n_frames, device=audio.device) + 0.5) * self.hop_length / k).round().long()
        index = starts[:, None] + torch.arange(n, device=audio.device)
        frames = F.pad(slow, (n // 2, n))[:, index]
        frames = frames - frames.mean(-1, keepdim=True)
        lags = slice(self.first_lag, self.last_lag + 1)
        of_frames, of_window = _autocorrelation(frames * self.window), _autocorrelation(self.window)
        ratio = of_frames[..., lags] / of_frames[..., :1].clamp(min=1e-9)
        return ratio / (of_window[lags] / of_window[0]), frames.square().mean(-1)


def _autocorrelation(x: Float[Tensor, "*B N"]) -> Float[Tensor, "*B N"]:
    n = 2 ** math.ceil(math.log2(2 * x.shape[-1]))
    return torch.fft.irfft(torch.fft.rfft(x, n).abs().square(), n)[..., : x.shape[-1]]
