"""Losses on the log-mel spectrogram: L1 (VITS, equation 2), spectral energy distance, the prior loss of Grad-TTS."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vitslite.audio import AudioSettings, LogMel
from vitslite.tensors import LOG_2PI, sequence_mask


class MelReconstruction(nn.Module):
    """mean |log mel(audio_hat) - log mel(audio)| over valid frames and bins, averaged over resolutions; natural log.

    Up to a constant it is the negative log-likelihood of a Laplace distribution per mel bin. The first resolution is
    that of `audio`; `extra_resolutions` adds rows of (n_fft, hop_length, n_mels). VITS has the first one alone.

    Both spectrograms are made the same way from the same stretch of audio, so a perfect copy costs nothing. Published
    VITS cuts the recording's from that of the whole utterance instead (`target`): there the outermost frames, two at
    each end for n_fft = 4 hop_length, see what comes before and after, where those of the copy see a reflection. With
    segments of 32 frames a perfect copy of speech then costs about 0.03. Without segments the two are equal.

    Of a decoder that is random, `again` is a second draw, and the spectral energy distance is given as well:

        1/2 (d(x, y) + d(x, y') - d(y, y')),      d: the mean above

    Its expectation is lowest where the decoder's distribution of spectrograms is that of the recordings, in each bin
    (a proper scoring rule), while that of d(x, y) alone is lowest where the decoder always says the median, and so
    makes noise without noise. Source: Gritsenko et al. 2020 (spectral energy distance), equation 2.
    """

    def __init__(self, audio: AudioSettings, extra_resolutions: list[list[int]]):
        super().__init__()
        self.hop_length = audio.hop_length
        self.resolutions = [audio] + [
            replace(audio, n_fft=n_fft, hop_length=hop, win_length=n_fft, n_mels=n_mels)
            for n_fft, hop, n_mels in extra_resolutions
        ]
        self.mels = nn.ModuleList(LogMel(resolution) for resolution in self.resolutions)

    def counts(self, audio_frames: Int[Tensor, " B"]) -> list[Float[Tensor, ""]]:
        """Valid spectrogram elements of this batch, for each resolution: what `forward` divides by."""
        samples = audio_frames * self.hop_length
        return [(samples // r.hop_length).sum().float() * r.n_mels for r in self.resolutions]

    def forward(
        self,
        audio_hat: Float[Tensor, "B 1 S"],
        audio: Float[Tensor, "B 1 S"],
        audio_frames: Int[Tensor, " B"],
        counts: list[Float[Tensor, ""]],
        again: Float[Tensor, "B 1 S"] | None = None,
        target: Float[Tensor, "B M T"] | None = None,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""] | None]:
        """(the mean, the energy distance where there is another draw). `target`: of the first resolution, if given."""
        samples = audio_frames * self.hop_length
        loss = audio.new_zeros(())
        energy = None if again is None else audio.new_zeros(())
        targets = [target, *[None] * (len(self.mels) - 1)]
        for mel, resolution, count, target in zip(self.mels, self.resolutions, counts, targets, strict=True):
            if target is None:
                with torch.no_grad():
                    target = mel(audio, samples)
            mask = sequence_mask(samples // resolution.hop_length, target.shape[2])
            said = mel(audio_hat, samples)
            distance = _l1(said, target, mask) / count
            loss = loss + distance
            if energy is not None:
                said_again = mel(again, samples)
                energy = energy + distance + (_l1(said_again, target, mask) - _l1(said, said_again, mask)) / count
        n = len(self.mels)
        return loss / n, None if energy is None else energy / (2 * n)


def _l1(a: Float[Tensor, "B M T"], b: Float[Tensor, "B M T"], mask: Bool[Tensor, "B 1 T"]) -> Float[Tensor, ""]:
    return ((a - b).abs() * mask).sum()


def prior_mel(mel: Float[Tensor, "B M T"], mean: Float[Tensor, "B M T"]) -> Float[Tensor, "B M T"]:
    """-log N(mel; mean, 1) = 1/2 (mel - mean)^2 + 1/2 log 2 pi, nats per element of the log-mel spectrogram.

    The text encoder predicts the mean of the spectrogram itself, not of a latent: the cross-entropy term of VITS with
    z_p = mel and std_p = 1. It never falls below 1/2 log 2 pi = 0.918939, where every frame's mean is exact, and stays
    well above, as one mean per token cannot follow the frames: a loss of 1 to 2 is normal. Source: Popov et al. 2021,
    equation 14.
    """
    return 0.5 * (mel - mean) ** 2 + 0.5 * LOG_2PI
