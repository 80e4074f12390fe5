"""Griffin-Lim from our own log-mel spectrogram: a copy without any learning, the floor of a learned decoder."""

import numpy as np
import torch
from jaxtyping import Float
from torchaudio.functional import griffinlim

from vitslite.audio import AudioSettings, LogMel

N_ITERATIONS = 32


class GriffinLim:
    """A wav -> its copy by way of its log-mel: magnitudes that have this mel, and phases that fit them.

    Magnitudes are the least-squares inverse of the mel filters, where that is positive. Phases start random, the same
    every time, and are refined by going to the time domain and back. Source: Griffin and Lim 1984, with the momentum of
    Perraudin et al. 2013.
    """

    def __init__(self, audio: AudioSettings):
        self.audio = audio
        self.log_mel = LogMel(audio)
        self.inverse = torch.linalg.pinv(self.log_mel.filters.double()).float()

    def __call__(self, wav: Float[np.ndarray, " S"]) -> Float[np.ndarray, " _"]:
        """As many whole frames as `wav` has."""
        s = self.audio
        log_mel = self.log_mel(torch.from_numpy(wav)[None, None], torch.tensor([len(wav)]))
        magnitude = (self.inverse @ log_mel.exp()).clamp(min=0)
        hop, samples = s.hop_length, log_mel.shape[2] * s.hop_length
        # Its frames are centred on the samples 0, hop, ... to the end, one more than ours, which are half a hop later.
        magnitude = torch.cat([magnitude, magnitude[:, :, -1:]], 2)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            audio = griffinlim(
                magnitude,
                self.log_mel.linear.window,
                s.n_fft,
                hop,
                s.win_length,
                power=1.0,
                n_iter=N_ITERATIONS,
                momentum=0.99,
                length=samples,
                rand_init=True,
            )
        return torch.nn.functional.pad(audio, (hop // 2, 0))[0, :samples].numpy()
