"""Refiner: draws a sharp mel spectrogram from the blurred one that the text encoder says.

The prior's mean mu, the same in all frames of a token, is what a likelihood alone can teach. The refiner carries noise
around it (or around zero) to recordings: by a diffusion, as Grad-TTS does, or by a flow along straight lines, as
Matcha-TTS does. It stands behind the alignment: it knows mu [B M T] and the frame mask, nothing of the text.

    loss(x, mu, mask, keys)                                loss per element [B M N], unreduced, and its mask [B 1 N]
    sample(mu, mask, keys, noise_scale, n_steps)           x [B M T]

The loss trains the network and, through mu, the text encoder; N is segment_frames, or T. All is zero on padding, and an
utterance gives the same numbers in any batch.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vitslite import randomness
from vitslite.model.refiner_networks import ConvStack, ConvStackSettings, UNet2d, UNet2dSettings
from vitslite.tensors import sequence_mask, slice_segments

KINDS = ("none", "diffusion", "flow_matching")
NETWORKS = ("unet2d", "conv1d")
AROUND = ("mu", "zero")
_EARLIEST = 1e-5  # time of the diffusion in training, from either end: at 0 the score is infinite


@dataclass
class RefinerSettings:
    """Defaults: those of Grad-TTS (Popov et al. 2021), but for `kind`. Matcha-TTS starts around zero."""

    kind: str = field(default="none", metadata={"choices": KINDS})
    network: str = field(default="unet2d", metadata={"choices": NETWORKS})
    # The mean of the noise that sampling starts from, N(mean, 1): that of the prior, or zero.
    around: str = field(default="mu", metadata={"choices": AROUND})
    # Frames per utterance in training, at a random place; null: the whole utterance.
    segment_frames: int | None = field(default=172, metadata={"at_least": 1})
    # Variance per unit of time that a diffusion adds, from t = 0 to t = 1.
    beta_min: float = field(default=0.05, metadata={"at_least": 0})
    beta_max: float = field(default=20.0, metadata={"above": 0})
    sigma_min: float = field(default=1e-4, metadata={"at_least": 0, "below": 1})  # noise left at the end of a flow
    unet2d: UNet2dSettings = field(default_factory=UNet2dSettings)
    conv1d: ConvStackSettings = field(default_factory=ConvStackSettings)


def build_refiner(settings: RefinerSettings, n_mels: int, n_condition: int = 0) -> "Diffusion | FlowMatching | None":
    """The refiner of that kind for spectrograms of `n_mels` bins; None for kind=none."""
    assert settings.kind in KINDS and settings.network in NETWORKS, (settings.kind, settings.network)
    if settings.kind == "none":
        return None
    is_unet = settings.network == "unet2d"
    sizes = n_mels, n_condition
    network = UNet2d(settings.unet2d, *sizes) if is_unet else ConvStack(settings.conv1d, *sizes)
    return (Diffusion if settings.kind == "diffusion" else FlowMatching)(settings, network)


class Refiner(nn.Module):
    """What both kinds share: the loss on random segments, and the walk from noise to a spectrogram.

    `network` is any module (x_t, mu, mask, t [B], g) -> [B M T]: refiner_networks.py. A kind says what stands between
    the noise and a recording (`path`), and where the network's answer leads (`step_time`, `velocity`).
    """

    def __init__(self, settings: RefinerSettings, network: nn.Module):
        super().__init__()
        assert settings.around in AROUND, settings.around
        self.settings = settings
        self.network = network

    def loss(
        self,
        x: Float[Tensor, "B M T"],
        mu: Float[Tensor, "B M T"],
        mask: Bool[Tensor, "B 1 T"],
        keys: Int[Tensor, " B"],
        g: Float[Tensor, "B G 1"] | None = None,
    ) -> tuple[Float[Tensor, "B M N"], Bool[Tensor, "B 1 N"]]:
        """(scale * network(x_t, mu, t) - target)^2 per element, at one t per utterance."""
        x, mu, mask = self._segments(x, mu, mask, keys)
        u = randomness.uniform(keys, "refiner.time", 1)[:, 0].to(x)
        noise = randomness.normal(keys, "refiner.noise", *x.shape[1:]).to(x)
        x_t, t, scale, target = self.path(x, mu, u, noise)
        return (scale * self._ask(x_t, mu, mask, t, g) - target) ** 2 * mask, mask

    @torch.no_grad()
    def sample(
        self,
        mu: Float[Tensor, "B M T"],
        mask: Bool[Tensor, "B 1 T"],
        keys: Int[Tensor, " B"],
        noise_scale: float,
        n_steps: int,
        g: Float[Tensor, "B G 1"] | None = None,
    ) -> Float[Tensor, "B M T"]:
        """A spectrogram, by `n_steps` steps of Euler from a draw of N(around, noise_scale^2)."""
        if n_steps < 1:
            raise ValueError(f"synthesis.n_steps={n_steps}: a refiner takes at least 1 step, say 10")
        x = self._around(mu) + noise_scale * randomness.normal(keys, "refiner.start", *mu.shape[1:]).to(mu)
        for i in range(n_steps):
            t = x.new_full(x.shape[:1], self.step_time(i, n_steps))
            x = x + self.velocity(x, mu, self._ask(x, mu, mask, t, g), t) / n_steps
        return x * mask

    def path(
        self, x: Float[Tensor, "B M N"], mu: Float[Tensor, "B M N"], u: Float[Tensor, " B"], noise: Tensor
    ) -> tuple[Tensor, Float[Tensor, " B"], Tensor | float, Tensor]:
        """(x_t, t, scale, target) of `loss`, for `u` uniform on (0, 1)."""
        raise NotImplementedError

    def step_time(self, i: int, n_steps: int) -> float:
        """The t at which step `i` asks the network."""
        raise NotImplementedError

    def velocity(self, x: Tensor, mu: Tensor, answer: Tensor, t: Float[Tensor, " B"]) -> Float[Tensor, "B M T"]:
        """Where x moves, over the whole walk, by the network's answer."""
        raise NotImplementedError

    def _around(self, mu: Float[Tensor, "B M T"]) -> Float[Tensor, "B M T"]:
        return mu if self.settings.around == "mu" else torch.zeros_like(mu)

    def _segments(
        self,
        x: Float[Tensor, "B M T"],
        mu: Float[Tensor, "B M T"],
        mask: Bool[Tensor, "B 1 T"],
        keys: Int[Tensor, " B"],
    ) -> tuple[Float[Tensor, "B M N"], Float[Tensor, "B M N"], Bool[Tensor, "B 1 N"]]:
        """x, mu and mask at a random place, uniform over all that fit. What is shorter starts at 0 and is padded."""
        n, lengths = self.settings.segment_frames, mask.sum((1, 2))
        if n is None:
            return x, mu, mask
        u = randomness.uniform(keys, "refiner.segment", 1)[:, 0]
        starts = torch.floor(u * ((lengths - n).clamp(min=0) + 1)).long()
        missing = (0, max(n - x.shape[2], 0))
        x, mu = (slice_segments(F.pad(y, missing), starts, n) for y in (x, mu))
        return x, mu, sequence_mask(lengths, n)

    def _ask(
        self,
        x: Float[Tensor, "B M N"],
        mu: Float[Tensor, "B M N"],
        mask: Bool[Tensor, "B 1 N"],
        t: Tensor,
        g: Float[Tensor, "B G 1"] | None,
    ) -> Float[Tensor, "B M N"]:
        """The network's answer, in the precision of x: losses and steps are no matter for half precision."""
        return self.network(x, mu, mask, t, g).to(x.dtype)


class Diffusion(Refiner):
    """Grad-TTS: noise comes in by an equation whose end is N(mu, 1); the network learns the score of every time.

        dX = 1/2 (mu - X) beta(t) dt + sqrt(beta(t)) dW,     beta(t) = beta_min + (beta_max - beta_min) t
        X_t | X_0 ~ N(e^(-B/2) X_0 + (1 - e^(-B/2)) mu, 1 - e^(-B)),     B(t) = integral of beta up to t

    As published B(1) is 10.025, so that 0.7 % of the recording are left at t = 1, where sampling starts without them.

    Source: Popov et al. 2021 (Grad-TTS), section 2, with covariance I; Song et al. 2021 (Score-based generative
    modelling), section 4.3, for the equation without noise that sampling follows.
    """

    def path(
        self, x: Float[Tensor, "B M N"], mu: Float[Tensor, "B M N"], u: Float[Tensor, " B"], noise: Tensor
    ) -> tuple[Tensor, Float[Tensor, " B"], Tensor | float, Tensor]:
        """The loss is (std_t score + noise)^2: 1 for a score of zero."""
        t = _EARLIEST + (1 - 2 * _EARLIEST) * u
        mean, std = self.noised(x, mu, t)
        return mean + std * noise, t, std, -noise

    def step_time(self, i: int, n_steps: int) -> float:
        """From 1 to 0, the middle of the step; X itself is that of its beginning, so this is of first order."""
        return 1 - (i + 0.5) / n_steps

    def velocity(self, x: Tensor, mu: Tensor, answer: Tensor, t: Float[Tensor, " B"]) -> Float[Tensor, "B M T"]:
        """-1/2 (mu - X - score) beta. The scale of the start's noise is 1 / temperature of Grad-TTS, which divides."""
        drift = 0.5 * (self._around(mu) - x - answer)
        return -drift * self.beta(t)[:, None, None]

    def beta(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        s = self.settings
        return s.beta_min + (s.beta_max - s.beta_min) * t

    def noised(
        self, x: Float[Tensor, "B M N"], mu: Float[Tensor, "B M N"], t: Float[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B M N"], Float[Tensor, "B 1 1"]]:
        """Mean and standard deviation of X_t, given X_0 = x."""
        s = self.settings
        total = (s.beta_min * t + 0.5 * (s.beta_max - s.beta_min) * t**2)[:, None, None]
        left = torch.exp(-0.5 * total)
        return left * x + (1 - left) * self._around(mu), torch.sqrt(-torch.expm1(-total))


class FlowMatching(Refiner):
    """Matcha-TTS: straight lines from noise, t = 0, to recordings, t = 1; the network learns the velocity.

        x_t = (1 - (1 - sigma_min) t) x_0 + t x_1,     dx_t / dt = x_1 - (1 - sigma_min) x_0,     x_0 ~ N(around, 1)

    Source: Lipman et al. 2023 (Flow matching), eq. 20 to 23; Mehta et al. 2024 (Matcha-TTS), section 3.1, with
    around=zero. A start around mu is ours.
    """

    def path(
        self, x: Float[Tensor, "B M N"], mu: Float[Tensor, "B M N"], u: Float[Tensor, " B"], noise: Tensor
    ) -> tuple[Tensor, Float[Tensor, " B"], Tensor | float, Tensor]:
        """The loss is (velocity - dx_t / dt)^2."""
        x_t, velocity = self.line(self._around(mu) + noise, x, u)
        return x_t, u, 1.0, velocity

    def step_time(self, i: int, n_steps: int) -> float:
        """From 0 to 1, the beginning of the step."""
        return i / n_steps

    def velocity(self, x: Tensor, mu: Tensor, answer: Tensor, t: Float[Tensor, " B"]) -> Float[Tensor, "B M T"]:
        """The answer itself. The scale of the start's noise is the temperature of Matcha-TTS."""
        return answer

    def line(
        self, start: Float[Tensor, "B M N"], end: Float[Tensor, "B M N"], t: Float[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B M N"], Float[Tensor, "B M N"]]:
        """x_t between both, and its velocity, which is the same at every t."""
        kept = 1 - self.settings.sigma_min
        t = t[:, None, None]
        return (1 - kept * t) * start + t * end, end - kept * start
