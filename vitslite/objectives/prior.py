"""Prior loss of Grad-TTS: the text encoder predicts the mean of the spectrogram itself, not of a latent."""

from jaxtyping import Float
from torch import Tensor

from vitslite.tensors import LOG_2PI

FLOOR = 0.5 * LOG_2PI  # 0.918939 nats per element, where every frame's mean is exact


def prior_mel(mel: Float[Tensor, "B M T"], mean: Float[Tensor, "B M T"]) -> Float[Tensor, "B M T"]:
    """-log N(mel; mean, 1) = 1/2 (mel - mean)^2 + 1/2 log 2 pi, nats per element of the log-mel spectrogram.

    The cross-entropy term of VITS with z_p = mel and std_p = 1. It never falls below `FLOOR`, and stays well above, as
    one mean per token cannot follow the frames: a loss of 1 to 2 is normal. Source: Popov et al. 2021, equation 14.
    """
    return 0.5 * (mel - mean) ** 2 + FLOOR
