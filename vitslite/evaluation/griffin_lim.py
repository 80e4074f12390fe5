"""Griffin-Lim from our own log-mel spectrogram: a copy without any learning, the floor of a learned decoder."""

import torch
from jaxtyping import Float
from torch import Tensor
from torchaudio.functional import griffinlim

from vitslite.audio import AudioSettings, LogMel

N_ITERATIONS = 32


class GriffinLim:
    """Log-mel [B, M, T] -> audio [B, 1, T * hop_length], by magnitudes that have this mel and phases that fit them.

    Magnitudes are the least-squares inverse of the mel filters, where that is positive. Phases start random, the same
    every time, and are refined by going to the time domain and back. Source: Griffin and Lim 1984, with the momentum of
    Perraudin et al. 2013.
    """

    def __init__(self, audio: AudioSettings):
        self.audio = audio
        mel = LogMel(audio)
        self.inverse = torch.linalg.pinv(mel.filters.double()).float()
        self.window = mel.linear.window

    def __call__(self, log_mel: Float[Tensor, "B M T"]) -> Float[Tensor, "B 1 S"]:
        s, n_frames = self.audio, log_mel.shape[2]
        magnitude = (self.inverse @ log_mel.float().exp().cpu()).clamp(min=0)
        hop, samples = s.hop_length, n_frames * s.hop_length
        # Its frames are centred on the samples 0, hop, ... to the end, one more than ours, which are half a hop later.
        magnitude = torch.cat([magnitude, magnitude[:, :, -1:]], 2)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            audio = griffinlim(
                magnitude,
                self.window,
                s.n_fft,
                hop,
                s.win_length,
                power=1.0,
                n_iter=N_ITERATIONS,
                momentum=0.99,
                length=samples,
                rand_init=True,
            )
        before = hop // 2
        return torch.nn.functional.pad(audio, (before, 0))[:, None, :samples]
