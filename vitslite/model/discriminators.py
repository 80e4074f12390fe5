"""Discriminators: multi-period, multi-resolution, and VITS' own set.

A period discriminator folds the samples into rows of a prime length and looks down the columns, where what should
repeat does; the scale discriminator looks at the plain waveform; a resolution discriminator at a magnitude spectrogram.
`kind` chooses the sub-discriminators:

    none      no adversarial training                 mpd       all periods
    mrd       all resolutions                         mpd_mrd   both
    vits      the scale and all periods, as published: 46,747,132 parameters
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from vitslite.tensors import DiscriminatorOutput

KINDS = ("none", "mpd", "mrd", "mpd_mrd", "vits")
_SLOPE = 0.1  # of the leaky ReLUs


@dataclass
class DiscriminatorSettings:
    """Defaults of the sizes: as published. Their width is the price: half the channels cost less than a quarter."""

    kind: str = field(default="none", metadata={"choices": KINDS})
    periods: list[int] = field(default_factory=lambda: [2, 3, 5, 7, 11], metadata={"at_least": 1})  # samples
    period_channels: list[int] = field(default_factory=lambda: [32, 128, 512, 1024, 1024], metadata={"at_least": 1})
    # n_fft in samples; the hop is a quarter
    resolutions: list[int] = field(default_factory=lambda: [512, 1024, 2048], metadata={"at_least": 8})
    resolution_channels: int = field(default=32, metadata={"at_least": 1})
    weight_norm: bool = True
    segment_frames: int = field(default=32, metadata={"at_least": 1})  # length of the excerpt it sees
    start_step: int = field(default=0, metadata={"at_least": 0})  # training steps before the discriminators join


def build_discriminator(settings: DiscriminatorSettings) -> "Discriminator | None":
    """None for kind "none"."""
    return None if settings.kind == "none" else Discriminator(settings)


class Discriminator(nn.Module):
    """All sub-discriminators of a kind. forward(audio [B 1 S], any S) -> one DiscriminatorOutput each."""

    def __init__(self, settings: DiscriminatorSettings):
        super().__init__()
        self.settings = s = settings
        assert s.kind in KINDS, s.kind
        self.judges = nn.ModuleList()  # the sub-discriminators; the name that checkpoints know
        if s.kind == "vits":
            self.judges.append(ScaleDiscriminator())
        if s.kind in ("mpd", "mpd_mrd", "vits"):
            self.judges.extend(PeriodDiscriminator(period, list(s.period_channels)) for period in s.periods)
        if s.kind in ("mrd", "mpd_mrd"):
            self.judges.extend(ResolutionDiscriminator(n_fft, s.resolution_channels) for n_fft in s.resolutions)
        if s.weight_norm:
            for module in list(self.modules()):
                if isinstance(module, nn.Conv1d | nn.Conv2d):
                    parametrizations.weight_norm(module)

    def forward(self, audio: Float[Tensor, "B 1 S"]) -> list[DiscriminatorOutput]:
        return [judge(audio) for judge in self.judges]


class PeriodDiscriminator(nn.Module):
    """2-D convolutions over [period, S / period] that never mix rows; stride 3 along them, but for the last.

    Source: Kong et al. 2020 (HiFi-GAN), section 2.3, "multi-period discriminator"; channels as in the published code,
    which has rows and columns exchanged: along a contiguous axis, convolutions are faster on a CPU.
    """

    def __init__(self, period: int, channels: list[int]):
        super().__init__()
        self.period = period
        strides = [3] * (len(channels) - 1) + [1]
        self.convs = nn.ModuleList(
            nn.Conv2d(n_in, n_out, (1, 5), (1, stride), padding=(0, 2))
            for n_in, n_out, stride in zip([1, *channels], channels, strides, strict=False)
        )
        self.conv_post = nn.Conv2d(channels[-1], 1, (1, 3), padding=(0, 1))

    def forward(self, audio: Float[Tensor, "B 1 S"]) -> DiscriminatorOutput:
        missing = -audio.shape[2] % self.period
        columns = F.pad(audio, (0, missing), "reflect").unflatten(2, (-1, self.period))
        return _run(self.convs, self.conv_post, columns.transpose(2, 3).contiguous())


class ScaleDiscriminator(nn.Module):
    """Strided, grouped convolutions over the waveform: the one scale that VITS keeps of MelGAN's three.

    Source: Kumar et al. 2019 (MelGAN), section 2.2; Kim et al. 2021 (VITS), section 2.5.4.
    """

    def __init__(self):
        super().__init__()
        # channels in, channels out, kernel, stride, groups
        sizes = [
            (1, 16, 15, 1, 1),
            (16, 64, 41, 4, 4),
            (64, 256, 41, 4, 16),
            (256, 1024, 41, 4, 64),
            (1024, 1024, 41, 4, 256),
            (1024, 1024, 5, 1, 1),
        ]
        self.convs = nn.ModuleList(
            nn.Conv1d(n_in, n_out, kernel, stride, padding=kernel // 2, groups=groups)
            for n_in, n_out, kernel, stride, groups in sizes
        )
        self.conv_post = nn.Conv1d(1024, 1, 3, padding=1)

    def forward(self, audio: Float[Tensor, "B 1 S"]) -> DiscriminatorOutput:
        return _run(self.convs, self.conv_post, audio)


class ResolutionDiscriminator(nn.Module):
    """2-D convolutions over a magnitude spectrogram [T, F]; three of them halve the frequencies.

    The spectrogram is fp32 and scaled by 1 / sqrt(n_fft), so that all resolutions see numbers of like size; beyond the
    ends there is silence. Source: Jang et al. 2021 (UnivNet), section 2.3, with a hop of n_fft / 4.
    """

    window: Tensor

    def __init__(self, n_fft: int, channels: int):
        super().__init__()
        self.n_fft = n_fft
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(1, channels, (3, 9), padding=(1, 4)),
                *(nn.Conv2d(channels, channels, (3, 9), (1, 2), padding=(1, 4)) for _ in range(3)),
                nn.Conv2d(channels, channels, (3, 3), padding=1),
            ]
        )
        self.conv_post = nn.Conv2d(channels, 1, (3, 3), padding=1)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, audio: Float[Tensor, "B 1 S"]) -> DiscriminatorOutput:
        return _run(self.convs, self.conv_post, self.magnitude(audio)[:, None])

    def magnitude(self, audio: Float[Tensor, "B 1 S"]) -> Float[Tensor, "B T F"]:
        """sqrt(re^2 + im^2 + 1e-9): the constant keeps the gradient finite at silence."""
        with torch.autocast(audio.device.type, enabled=False):
            spectrum = torch.stft(
                audio[:, 0].float(),
                self.n_fft,
                self.n_fft // 4,
                window=self.window,
                pad_mode="constant",
                normalized=True,
                return_complex=True,
            )
            return torch.sqrt(spectrum.real.square() + spectrum.imag.square() + 1e-9).transpose(1, 2)


def _run(convs: nn.ModuleList, conv_post: nn.Module, x: Tensor) -> DiscriminatorOutput:
    features = []
    for conv in convs:
        x = F.leaky_relu(conv(x), _SLOPE)
        features.append(x)
    score = conv_post(x)
    return DiscriminatorOutput(score.flatten(1), [*features, score])
