"""Synthesis of one utterance as a graph of operations that every ONNX runtime has, and that is equal to `VITS.infer`.

    input [1 N], input_lengths [1], scales [3] -> audio [1 1 1 S]

Inputs are those of Piper's voices: tokens "^ _ p _ p _ $" with a blank after each symbol but the last, and the scales
of the prior's noise, of the durations (1 / speed) and of the durations' noise. What has no form in ONNX, or a slow
one, is said in another way here: the alignment's search as a comparison, keyed noise as the runtime's own, rounding
to the nearest as `ceil(x - 1/2)`, Fourier transforms as convolutions with a basis, the pulses' phase in closed form.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitslite.model.durations import MAX_TOKEN_FRAMES, StochasticDurations
from vitslite.model.istft import ISTFTDecoder
from vitslite.model.vits import VITS
from vitslite.tensors import Gaussian
from vitslite.text.frontend import TextSettings


class Speech(nn.Module):
    """`VITS.infer` for one utterance, of a text with these settings."""

    def __init__(self, model: VITS, text: TextSettings):
        super().__init__()
        self.model, self.text = model, text
        self.spectral = SpectralDecoder(model.decoder) if isinstance(model.decoder, ISTFTDecoder) else None

    def forward(
        self, input: Int[Tensor, "1 N"], input_lengths: Int[Tensor, " 1"], scales: Float[Tensor, " 3"]
    ) -> Float[Tensor, "1 1 1 S"]:
        noise_scale, length_scale, duration_noise_scale = scales.unbind()
        model = self.model
        tokens = self._own_layout(input)
        token_mask = torch.ones_like(tokens, dtype=torch.bool)[:, None]
        h, p_text = model.text_encoder(tokens, token_mask)
        durations = self._durations(h, token_mask, length_scale, duration_noise_scale)

        ends = durations.cumsum(0)
        n_frames = cast(int, ends[-1].item())  # no int(): of an exported graph it is a symbol
        torch._check(n_frames >= 1)
        token = (torch.arange(n_frames)[:, None] >= ends).sum(1)
        p = Gaussian(*(x[:, :, token] for x in p_text))
        mask = torch.ones(1, 1, n_frames, dtype=torch.bool)
        if model.posterior_encoder is not None:
            p = model.posterior_encoder.prior(p, mask)
        z = p.sample(noise_scale * torch.randn_like(p.mean))
        if model.settings.flow.side == "prior":
            z = model.flow.inverse(z, mask)
        return (self.spectral(z) if self.spectral else model.decoder(z, None).audio)[None]

    def _own_layout(self, tokens: Int[Tensor, "1 N"]) -> Int[Tensor, "1 L"]:
        """Piper's `^ _ p _ p _ $` as this voice has learnt it: with or without blanks and edges."""
        own = tokens if self.text.edges else tokens[:, 2:-2]
        if not self.text.blanks:
            return own[:, ::2]
        return F.pad(own, (1, 1)) if self.text.outer_blanks else own

    def _durations(
        self,
        h: Float[Tensor, "1 H L"],
        mask: Tensor,
        length_scale: Float[Tensor, ""],
        noise_scale: Float[Tensor, ""],
    ) -> Int[Tensor, " L"]:
        """Frames per token. The one Ceil of the graph: Piper's alignments look for it."""
        predictor = self.model.duration_predictor
        if isinstance(predictor, StochasticDurations):
            log_durations = predictor.invert(h, mask, noise_scale * torch.randn_like(h[:, :2]))
        else:
            log_durations = predictor.predict(h, mask)
        frames = torch.exp(log_durations[0]) * length_scale
        if self.model.settings.duration.rounding == "nearest":
            frames = frames - 0.5
        return torch.ceil(frames).clamp(1, MAX_TOKEN_FRAMES).long()


class SpectralDecoder(nn.Module):
    """`ISTFTDecoder` in real numbers: both Fourier transforms are convolutions with windowed sines and cosines."""

    analysis: Tensor
    scale: Tensor

    def __init__(self, decoder: ISTFTDecoder):
        super().__init__()
        self.decoder = decoder
        window = decoder.window.double()
        n_fft = len(window)
        n_bins = n_fft // 2 + 1
        angle = 2 * math.pi / n_fft * (torch.arange(n_bins)[:, None] * torch.arange(n_fft) % n_fft).double()
        cosine, sine = torch.cos(angle) * window, torch.sin(angle) * window
        self.hop = n_fft // 4
        self.register_buffer("analysis", torch.cat([cosine, -sine])[:, None].float())
        # A bin counts twice, but for the first and the last, whose imaginary part irfft does not read: sin = 0.
        twice = torch.full((n_bins, 1), 2.0, dtype=torch.float64)
        twice[[0, -1]] = 1.0
        self.register_buffer("scale", (twice / (1.5 * n_fft)).repeat(2, 1).float())

    def forward(self, z: Float[Tensor, "1 D T"]) -> Float[Tensor, "1 1 S"]:
        heads = self.decoder.heads(z, None).movedim(1, 3)  # 1 heads F T2
        gain = torch.exp(heads[:, ::2].clamp(max=self.decoder.max_log_magnitude))
        real, imaginary = gain[:, 0] * torch.cos(heads[:, 1]), gain[:, 0] * torch.sin(heads[:, 1])
        n_fft = 4 * self.hop
        if self.decoder.pitch is not None:
            pulses = pulse_train(self.decoder.pitch(z, None), self.decoder.hop_length)
            a, b = self._frames(pulses * (4 / n_fft))
            real, imaginary = real * a - imaginary * b, real * b + imaginary * a
        if self.decoder.settings.noise:
            noise = torch.randn_like(z[:, :1].repeat_interleave(self.decoder.hop_length, 2))[0]
            a, b = self._frames(noise / math.sqrt(0.375 * n_fft))
            real, imaginary = real + gain[:, 1] * a, imaginary + gain[:, 1] * b
        spectrum = torch.cat([real, imaginary], 1) * self.scale
        return F.conv_transpose1d(spectrum, self.analysis, stride=self.hop, padding=3 * self.hop // 2)

    def _frames(self, audio: Float[Tensor, "1 S"]) -> tuple[Float[Tensor, "1 F T2"], Float[Tensor, "1 F T2"]]:
        """Real and imaginary part of the short-time Fourier transform; silence before and after."""
        real, imaginary = F.conv1d(audio[:, None], self.analysis, stride=self.hop, padding=3 * self.hop // 2).chunk(
            2, 1
        )
        return real, imaginary


def pulse_train(log_pitch: Float[Tensor, "1 T"], hop_length: int) -> Float[Tensor, "1 S"]:
    """`istft.pulse_train`, with the sum of the interpolated pitch over the samples of a frame in closed form."""
    x = (torch.arange(hop_length, dtype=torch.float64) + 0.5) / hop_length - 0.5  # frames, from the centre of its own
    weights = torch.stack([-x.clamp(max=0), 1 - x.abs(), x.clamp(min=0)], 1) / hop_length  # of the frames around
    pitch = log_pitch[0].exp().double()
    around = torch.stack([torch.cat([pitch[:1], pitch[:-1]]), pitch, torch.cat([pitch[1:], pitch[-1:]])])
    within = weights.cumsum(0) @ around  # cycles since the frame began: hop T
    before = within[-1].cumsum(0) - within[-1]
    cycles = (before - before.floor() + within).t().flatten()[None]
    phi = (2 * math.pi * (cycles - cycles.floor())).float()
    n_harmonics = torch.floor(0.5 / (weights @ around).t().flatten()[None]).float()
    denominator = 2 * torch.sin(phi / 2)
    at_pulse = denominator.abs() < 1e-4
    kernel = torch.sin((n_harmonics + 0.5) * phi) / torch.where(at_pulse, 1.0, denominator) - 0.5
    return torch.where(at_pulse, n_harmonics, kernel)
