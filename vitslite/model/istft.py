"""Decoder by an inverse short-time Fourier transform: ConvNeXt at the frame rate, spectra of short frames, overlap-add.

The plain form (the settings' defaults) makes up magnitude and phase of every bin. Its phases are a function of a few
latent frames, so where those stay alike the phases repeat from frame to frame, which is heard as a buzz at the frame
rate; no network that sees a window of frames alone can go on with the phase of a pitch, as that is a sum over all
frames before. The source-filter form is given what the plain one lacks: pulses at a pitch whose phase is that sum
(`harmonics`), and noise (`noise`); the network shapes both.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Complex64, Float, Int
from torch import Tensor, nn

from vitslite import randomness
from vitslite.model import speakers
from vitslite.model.layers import masked, same_conv
from vitslite.model.pitch import PitchTracker
from vitslite.tensors import wide

_SLOWEST, _FASTEST = 0.5, 16.0  # cycles per frame of a pulse train: 25 to 800 Hz at 50 frames a second
_PITCH_CHANNELS, _PITCH_START = 96, 3.0  # of the pitch head; cycles per frame it starts at


@dataclass
class ISTFTSettings:
    channels: int = field(default=192, metadata={"at_least": 1})
    n_layers: int = field(default=4, metadata={"at_least": 0})
    expansion: int = field(default=3, metadata={"at_least": 1})  # hidden channels of a block, per one of `channels`
    kernel: int = field(default=7, metadata={"at_least": 1, "odd": True})  # frames
    # Spectra per latent frame, each of 4 hop_length / subframes samples: the shorter, the sharper in time.
    subframes: int = field(default=1, metadata={"at_least": 1})
    harmonics: bool = False  # filter a pulse train at a predicted pitch; objective.weights.pitch trains that
    noise: bool = False  # add filtered Gaussian noise: the decoder is then random, as objective.energy wants it


class Decoded(NamedTuple):
    audio: Float[Tensor, "B 1 S"]
    again: Float[Tensor, "B 1 S"] | None = None  # another draw of a decoder that has noise of its own, where asked for
    pitch_loss: Float[Tensor, "B T"] | None = None  # |log-pitch error|, nats, 0 where unvoiced; of a given recording


class ISTFTDecoder(nn.Module):
    """Spectra of short frames from latent ones, then `overlap_add`.

        S = exp(m + i a) P + exp(n) W           m, a, n: outputs of the network, per short frame and bin

    P is the short-time Fourier transform of the pulse train, or 1 where there are no `harmonics`; W that of white
    noise, where there is `noise`. Log-magnitudes are limited to a sine of twice full scale; the first output is quiet.
    From the last layer on in fp32, since half precision turns a phase of some radians into noise.
    Source: Siuzdak 2023 (Vocos), section 3, with our own synthesis; pulses and noise, each through a filter that the
    network predicts: Wang et al. 2019 (neural source-filter), Engel et al. 2020 (DDSP), Li et al. 2023 (HiFTNet).
    """

    window: Tensor

    def __init__(self, settings: ISTFTSettings, n_latent: int, hop_length: int, sample_rate: int, n_condition: int = 0):
        super().__init__()
        s = settings
        assert hop_length % (2 * s.subframes) == 0, (hop_length, s.subframes)
        self.settings = s
        self.hop_length = hop_length
        n_fft = 4 * hop_length // s.subframes
        self.max_log_magnitude = math.log(n_fft / 2)
        self.conv_in = same_conv(n_latent, s.channels, s.kernel)
        self.blocks = nn.ModuleList(ConvNeXtBlock(s.channels, s.expansion, s.kernel) for _ in range(s.n_layers))
        self.norm = nn.LayerNorm(s.channels)
        n_heads, n_bins = 3 if s.noise else 2, n_fft // 2 + 1  # log-magnitude, phase, log-magnitude of the noise
        self.out = nn.Linear(s.channels, s.subframes * n_heads * n_bins)
        with torch.no_grad():
            weight = self.out.weight.unflatten(0, (s.subframes, n_heads, n_bins))
            bias = self.out.bias.unflatten(0, (s.subframes, n_heads, n_bins))
            weight[:, ::2] *= 0.3
            bias[:, 0] = -1.0
            bias[:, 2:] = -3.0
        self.pitch = PitchHead(n_latent, s.kernel) if s.harmonics else None
        self.tracker = PitchTracker(sample_rate, hop_length) if s.harmonics else None
        self.cond = speakers.view(n_condition, s.channels)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(
        self,
        z: Float[Tensor, "B D T"],
        mask: Bool[Tensor, "B 1 T"] | None,
        keys: Int[Tensor, " B"] | None = None,
        recording: Float[Tensor, "B 1 S"] | None = None,
        twice: bool = False,
        g: Float[Tensor, "B G 1"] | None = None,
    ) -> Decoded:
        """`keys` are those of the noise, if there is any; `twice` asks for a second draw of it.

        Where the `recording` is given the pulses have its pitch in voiced frames, and not the predicted one: harmonics
        beside those of the recording would be paid for with noise between them.
        """
        heads = self.heads(z, mask, g)
        n_draws = 2 if twice and self.settings.noise else 1
        log_pitch = pitch_loss = None
        if self.pitch and self.tracker:
            log_pitch = predicted = self.pitch(z, mask)
            if recording is not None:
                found = self.tracker(recording)
                log_pitch = torch.where(found.isnan(), predicted.detach(), found)
                pitch_loss = masked((predicted - log_pitch).abs()[:, None], mask)[:, 0]
        with torch.autocast(z.device.type, enabled=False):
            audio = self._synthesise(heads, mask, log_pitch, keys, n_draws)
        return Decoded(audio[:, :1], audio[:, 1:] if n_draws == 2 else None, pitch_loss)

    def heads(
        self, z: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"] | None, g: Float[Tensor, "B G 1"] | None = None
    ) -> Float[Tensor, "B T2 heads F"]:
        """What the network says of each short frame and bin: log-magnitude, phase, log-magnitude of the noise."""
        x = speakers.heard(self.conv_in(masked(z, mask)), self.cond, g)
        for block in self.blocks:
            x = block(x, mask)
        with torch.autocast(z.device.type, enabled=False):
            x = self.out(self.norm(x.float().transpose(1, 2)))
        return x.unflatten(2, (self.settings.subframes, -1, len(self.window) // 2 + 1)).flatten(1, 2)

    def _synthesise(
        self,
        heads: Float[Tensor, "B T2 heads F"],
        mask: Bool[Tensor, "B 1 T"] | None,
        log_pitch: Float[Tensor, "B T"] | None,
        keys: Int[Tensor, " B"] | None,
        n_draws: int,
    ) -> Float[Tensor, "B N S"]:
        """Audio, N draws of it, from what the network says of each short frame and bin."""
        n_fft, n_subframes = len(self.window), self.settings.subframes
        gains = torch.exp(heads[:, :, ::2].clamp(max=self.max_log_magnitude))  # of the pulses, of the noise
        samples = None
        if mask is not None:
            gains = gains * mask.repeat_interleave(n_subframes, dim=2).transpose(1, 2)[..., None]
            samples = mask.repeat_interleave(self.hop_length, dim=2)
        spectrum = torch.polar(gains[:, :, 0], heads[:, :, 1])[:, None]
        if log_pitch is not None:
            pulses = masked(pulse_train(log_pitch, self.hop_length)[:, None], samples)
            # A harmonic of amplitude 1 has n_fft / 4 in its bin; so that the gain is that of what comes out:
            spectrum = spectrum * self._frames(pulses * (4 / n_fft))
        if self.settings.noise:
            assert keys is not None, "a decoder with noise needs the keys of its draws"
            n_samples = heads.shape[1] // n_subframes * self.hop_length
            noise = masked(randomness.normal(keys, "decoder", n_draws, n_samples), samples)
            noise = self._frames(noise / math.sqrt(0.375 * n_fft))  # variance 1 in each bin: sum(window^2) = 3/8 n_fft
            # As real numbers, which saves making the gain complex.
            shaped = gains[:, None, :, 1, :, None] * torch.view_as_real(noise)
            spectrum = torch.view_as_complex(torch.view_as_real(spectrum) + shaped)
        audio = overlap_add(spectrum.flatten(0, 1), self.window).unflatten(0, spectrum.shape[:2])[:, :, 0]
        return masked(audio, samples)

    def _frames(self, audio: Float[Tensor, "B N S"]) -> Complex64[Tensor, "B N T2 F"]:
        """Short-time Fourier transform with the frames of `overlap_add`; silence before and after."""
        hop = len(self.window) // 4
        frames = F.pad(audio, (3 * hop // 2, 3 * hop // 2)).unfold(2, 4 * hop, hop)
        return torch.fft.rfft(frames * self.window)


class PitchHead(nn.Module):
    """ln of the cycles per frame at each latent frame: two convolutions and a projection of z."""

    def __init__(self, n_latent: int, kernel: int):
        super().__init__()
        self.conv1 = same_conv(n_latent, _PITCH_CHANNELS, kernel)
        self.conv2 = same_conv(_PITCH_CHANNELS, _PITCH_CHANNELS, kernel)
        self.out = nn.Linear(_PITCH_CHANNELS, 1)
        nn.init.constant_(self.out.bias, math.log(_PITCH_START))

    def forward(self, z: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"] | None) -> Float[Tensor, "B T"]:
        """Beyond the mask: the value of the last valid frame."""
        with torch.autocast(z.device.type, enabled=False):  # a pitch of half precision is off by some cents
            x = F.gelu(self.conv1(masked(z.float(), mask)))
            x = F.gelu(self.conv2(masked(x, mask)))
            log_pitch = self.out(x.transpose(1, 2))[:, :, 0].clamp(math.log(_SLOWEST), math.log(_FASTEST))
        if mask is None:
            return log_pitch
        last = mask.sum(2) - 1
        return log_pitch.gather(1, torch.minimum(torch.arange(mask.shape[2], device=z.device)[None], last.clamp(min=0)))


class ConvNeXtBlock(nn.Module):
    """x + scale * W2 gelu(W1 norm(depthwise(x))): Liu et al. 2022 (ConvNeXt), section 2, in one dimension.

    Norm and products work on channels-last, which is transposed to and from once.
    """

    def __init__(self, channels: int, expansion: int, kernel: int):
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, expansion * channels)
        self.project = nn.Linear(expansion * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: Float[Tensor, "B C T"], mask: Bool[Tensor, "B 1 T"] | None) -> Float[Tensor, "B C T"]:
        y = self.norm(self.depthwise(masked(x, mask)).transpose(1, 2))
        y = self.scale * self.project(F.gelu(self.expand(y)))
        return x + y.transpose(1, 2)


def pulse_train(log_pitch: Float[Tensor, "B T"], hop_length: int) -> Float[Tensor, "B S"]:
    """Band-limited pulses: sum_k cos(k phi) over the harmonics k below half the sample rate; phi' is the pitch.

    The pitch, exp(log_pitch) cycles per frame, is interpolated linearly between the centres of the frames and held
    outside. phi starts at 0 and is summed in fp64 from frame to frame, so that it is exact after minutes. The sum is
    Dirichlet's kernel, sin((K + 1/2) phi) / (2 sin(phi / 2)) - 1/2 for K harmonics. No gradient reaches the pitch.
    """
    pitch = log_pitch.detach().exp()
    per_sample = F.interpolate(pitch[:, None], scale_factor=hop_length, mode="linear")[:, 0] / hop_length  # cycles
    within = per_sample.unflatten(1, (-1, hop_length)).cumsum(2)
    before = wide(within[:, :, -1]).cumsum(1) - within[:, :, -1]
    phi = 2 * math.pi * ((before.remainder(1)[:, :, None].float() + within) % 1).flatten(1)
    n_harmonics = torch.floor(0.5 / per_sample)
    denominator = 2 * torch.sin(phi / 2)
    at_pulse = denominator.abs() < 1e-4
    kernel = torch.sin((n_harmonics + 0.5) * phi) / denominator.masked_fill(at_pulse, 1.0) - 0.5
    return torch.where(at_pulse, n_harmonics, kernel)


def overlap_add(spectrum: Complex64[Tensor, "B T F"], window: Float[Tensor, " K"]) -> Float[Tensor, "B 1 S"]:
    """Inverse of the short-time Fourier transform with a Hann window of K = 4 hop samples; in fp32.

        audio = sum_t shift_t(window * irfft(spectrum[t])) / 1.5,     S = T * hop

    1.5 is the sum of the four squared Hann windows over each sample, so this is the least-squares inverse inside the
    utterance. At its ends fewer frames overlap and the sound fades; dividing by the true sum there, as usual, would
    amplify what the network makes of frames that do not exist. Frame t is centred on sample t * hop + hop / 2.
    """
    hop = len(window) // 4
    frames = (torch.fft.irfft(spectrum, n=len(window)) * window).unflatten(2, (4, hop))
    audio = sum((F.pad(frames[:, :, k], (0, 0, k, 3 - k)) for k in range(4)), frames.new_zeros(())).flatten(1)
    first = 3 * hop // 2  # of the window of frame 0, before sample 0
    return audio[:, None, first : first + spectrum.shape[1] * hop] / 1.5
