"""VITS model: Batch -> Outputs in training, tokens -> audio in synthesis.

    audio --spectrogram--> posterior q --sample--> z --decoder--> audio_hat
                                                   z --flow--> z_p
    tokens --text encoder--> p_text --durations, by alignment of z_p with p_text--> p

That is VITS. For the laboratory each arrow has other ways: the decoder may listen behind the flow (model.flow.side),
the alignment may look at the spectrogram (model.alignment.score), be even, given or soft, and the posterior may be
relative to the prior (model.posterior.kind=residual), which then has to be aligned first.

Nothing here reduces or weighs a loss: `Outputs` holds unreduced terms and the distributions, objectives/ does the rest.
"""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vitslite import randomness
from vitslite.model import alignment, forward_sum
from vitslite.model.alignment import AlignmentSettings, Items
from vitslite.model.decoders import DecoderSettings, build_decoder
from vitslite.model.durations import ROUNDINGS, DurationSettings, build_durations
from vitslite.model.flows import FlowSettings
from vitslite.model.glow import build_flow
from vitslite.model.posterior_encoder import LOG_MEL_MEAN, PosteriorEncoder, PosteriorEncoderSettings
from vitslite.model.synthesis import Synthesis, SynthesisSettings
from vitslite.model.text_encoder import TextEncoder, TextEncoderSettings
from vitslite.tensors import Batch, Gaussian, Latents, Outputs, Prior, SoftGaussian, sequence_mask, slice_segments

MAX_TOKEN_FRAMES = 1000  # what synthesis gives to one token at most: 11.6 s at hop 256 and 22.05 kHz


@dataclass
class ModelSettings:
    n_latent: int = field(default=192, metadata={"at_least": 1})  # channels of z
    # Frames decoded per utterance in training; null: the whole utterance.
    segment_frames: int | None = field(default=32, metadata={"at_least": 1})
    mel_head: bool = False  # the text encoder also says a log-mel frame per token: Grad-TTS's prior loss, aligned by it
    text_encoder: TextEncoderSettings = field(default_factory=TextEncoderSettings)
    posterior: PosteriorEncoderSettings = field(default_factory=PosteriorEncoderSettings)
    flow: FlowSettings = field(default_factory=FlowSettings)
    alignment: AlignmentSettings = field(default_factory=AlignmentSettings)
    duration: DurationSettings = field(default_factory=DurationSettings)
    decoder: DecoderSettings = field(default_factory=DecoderSettings)


class VITS(nn.Module):
    """Conditional VAE with a flow prior (Kim et al. 2021, "VITS"), single speaker.

    `forward(batch)` -> Outputs, the inputs of every loss term. `infer(tokens, ...)` -> Synthesis.
    `reconstruct(batch)` -> audio decoded from the posterior. An utterance gives the same numbers (up to rounding) in
    any batch. Dropout is on under `train()` alone; the noise of q, of the durations and of the segments is keyed by
    `batch.keys` in both modes.
    """

    def __init__(
        self, settings: ModelSettings, n_symbols: int, n_fft: int, n_mels: int, hop_length: int, sample_rate: int
    ):
        super().__init__()
        s = settings
        self.settings = s
        self.hop_length = hop_length
        n_bins = n_mels if s.posterior.input == "mel" else n_fft // 2 + 1
        self.text_encoder = TextEncoder(s.text_encoder, n_symbols, s.n_latent)
        self.posterior_encoder = PosteriorEncoder(s.posterior, n_bins, s.n_latent)
        self.flow = build_flow(s.flow, s.n_latent)
        self.duration_predictor = build_durations(s.duration, s.text_encoder.hidden)
        self.decoder = build_decoder(s.decoder, s.n_latent, hop_length, sample_rate)
        self.mel_head = nn.Conv1d(s.text_encoder.hidden, n_mels, 1) if s.mel_head else None
        if self.mel_head and self.mel_head.bias is not None:
            nn.init.constant_(self.mel_head.bias, LOG_MEL_MEAN)  # where speech is

    def forward(self, batch: Batch) -> Outputs:
        """Encode both sides, align them, decode. No step waits for the device, except a search done on the CPU."""
        # Text: hidden states, and the prior of each token.
        token_mask = batch.token_mask
        dropout_keys = batch.keys if self.training else None
        h, p_text = self.text_encoder(batch.tokens, token_mask, dropout_keys)
        mel_text = self.mel_head(h).float() if self.mel_head else None

        # Recording: the posterior q, its sample z, and z_p = f(z). The alignment looks at z_p, and gives each frame the
        # prior of its token; a residual posterior is relative to that prior, so there the alignment comes first.
        stats, mask = self._posterior_stats(batch)
        if self.settings.posterior.kind == "residual":
            durations, p = self._align(batch, p_text, mask, None, mel_text)
            q, z, z_p, log_det = self._sample(batch, stats, mask, p)
            assert isinstance(p, Gaussian)  # config/rules.py: one prior per frame
            p_text, p = self.posterior_encoder.prior(p_text, token_mask), self.posterior_encoder.prior(p, mask)
        else:
            q, z, z_p, log_det = self._sample(batch, stats, mask)
            durations, p = self._align(batch, p_text, mask, z_p, mel_text)
        latents = Latents(q, p, z, z_p, log_det, mask, self.flow, batch.keys)

        # Durations, detached: they should follow the encoder, not bend it (VITS, section 2.2.2).
        duration_loss = self.duration_predictor(h.detach(), token_mask, durations, batch.keys, dropout_keys)

        # Waveform: of a random segment, which is all valid, or of the whole utterance.
        audio, z, audio_frames, audio_mel = self._segments(batch, self._decoder_input(z, z_p))
        mel_prior = None if mel_text is None else alignment.expand(mel_text, durations, mask.shape[2])
        decoder_mask = mask if self.settings.segment_frames is None else None
        decoded = self.decoder(z, decoder_mask, batch.keys, recording=audio, twice=True)
        heard = (decoded.audio, audio, audio_frames, batch.mel, mel_prior, decoded.again, decoded.pitch_loss)
        return Outputs(latents, p_text, durations, duration_loss, *heard, audio_mel)

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> Float[Tensor, "B 1 S"]:
        """Copy synthesis: the whole utterances, decoded from the posterior sample that `forward` draws, too."""
        stats, mask = self._posterior_stats(batch)
        p = None
        if self.settings.posterior.kind == "residual":
            h, p_text = self.text_encoder(batch.tokens, batch.token_mask)
            _, p = self._align(batch, p_text, mask, None, self.mel_head(h).float() if self.mel_head else None)
        _, z, z_p, _ = self._sample(batch, stats, mask, p)
        return self.decoder(self._decoder_input(z, z_p), mask, batch.keys).audio

    @torch.no_grad()
    def infer(
        self,
        tokens: Int[Tensor, "B L"],
        token_lengths: Int[Tensor, " B"],
        keys: Int[Tensor, " B"],
        noise_scale: float = SynthesisSettings.noise_scale,
        duration_noise_scale: float = SynthesisSettings.duration_noise_scale,
        speed: float = 1.0,
        durations: Int[Tensor, "B L"] | None = None,
    ) -> Synthesis:
        """Speak: z_p = mean + noise_scale * std * noise from the prior, z = f^-1(z_p), audio = decoder(z).

        (Where the flow is on the posterior's side, the decoder takes z_p itself.)

        Durations, where not given, are exp(log_duration) / speed frames, rounded as model.duration.rounding says (up in
        VITS, so on average half a frame longer than predicted), at least 1 and at most MAX_TOKEN_FRAMES per token.
        `speed` does not change given ones.
        Same keys, same audio, in any batch. Raises ValueError for a `speed` that is not positive and where the
        predictor returns NaN. Waits for the device, to learn how long the output is.
        """
        if not 0 < speed < math.inf:
            raise ValueError(f"speed={speed}: give a positive number; 1.0 is the speed of the training data")
        for name, scale in (("noise_scale", noise_scale), ("duration_noise_scale", duration_noise_scale)):
            if not 0 <= scale < math.inf:
                raise ValueError(f"{name}={scale}: give 0 or a positive number; VITS has 0.667 and 0.8")
        token_mask = sequence_mask(token_lengths, tokens.shape[1])
        h, p_text = self.text_encoder(tokens, token_mask)
        if durations is None:
            log_durations = self.duration_predictor.predict(h, token_mask, keys, duration_noise_scale).float()
            if torch.isnan(log_durations).any():
                raise ValueError("the duration predictor returned NaN: the model's weights are damaged, or it diverged")
            round_frames = ROUNDINGS[self.settings.duration.rounding]
            durations = round_frames(torch.exp(log_durations) / speed).clamp(1, MAX_TOKEN_FRAMES).long()
        durations = durations * token_mask[:, 0]
        frame_lengths = durations.sum(1)
        n_frames = int(frame_lengths.max())
        frame_mask = sequence_mask(frame_lengths, n_frames)

        p = self.posterior_encoder.prior(self._expand(p_text, durations, frame_mask), frame_mask)
        noise = randomness.normal(keys, "prior", self.settings.n_latent, n_frames)
        z = p.sample(noise_scale * noise) * frame_mask
        if self.settings.flow.side == "prior":
            z = self.flow.inverse(z, frame_mask)
        audio = self.decoder(z, frame_mask, keys).audio
        return Synthesis(audio, frame_lengths * self.hop_length, durations, z)

    def _posterior_stats(self, batch: Batch) -> tuple[Gaussian, Bool[Tensor, "B 1 T"]]:
        """Mean and log_std of the posterior encoder for the recordings, and the frame mask."""
        x = batch.mel if self.settings.posterior.input == "mel" else batch.spec
        assert x is not None, "the batch has no features yet: see audio.Features"
        mask = sequence_mask(batch.frame_lengths, x.shape[2])
        return self.posterior_encoder(x, mask), mask

    def _sample(
        self, batch: Batch, stats: Gaussian, mask: Bool[Tensor, "B 1 T"], p: Prior | None = None
    ) -> tuple[Gaussian, Float[Tensor, "B D T"], Float[Tensor, "B D T"], Float[Tensor, "B D T"]]:
        """q, a sample z of it, zero on padding, and z_p, log_det = f(z)."""
        assert not isinstance(p, SoftGaussian)  # config/rules.py: a residual posterior has one prior per frame
        q = self.posterior_encoder.posterior(stats, mask, p)
        z = q.sample(randomness.normal(batch.keys, "posterior", *q.mean.shape[1:])) * mask
        return q, z, *self.flow(z, mask)

    def _decoder_input(self, z: Float[Tensor, "B D T"], z_p: Float[Tensor, "B D T"]) -> Float[Tensor, "B D T"]:
        """z, or, where the flow is part of the posterior, f(z)."""
        return z if self.settings.flow.side == "prior" else z_p

    def _align(
        self,
        batch: Batch,
        p_text: Gaussian,
        mask: Bool[Tensor, "B 1 T"],
        z_p: Float[Tensor, "B D T"] | None,
        mel_text: Float[Tensor, "B M L"] | None,
    ) -> tuple[Int[Tensor, "B L"], Prior]:
        """Frames per token, and the prior of each frame. In fp32: half precision loses the path.

        Penalty and noise help training alone: what is judged under `eval()` is the alignment of the model itself.
        """
        settings, lengths = self.settings.alignment, (batch.token_lengths, batch.frame_lengths)
        if settings.kind == "uniform":
            durations = alignment.uniform(*lengths, p_text.mean.shape[2])
            return durations, self._expand(p_text, durations, mask)
        if settings.kind == "given":
            if batch.durations is None:
                raise ValueError("model.alignment.kind=given: the corpus knows no durations; use mas or forward_sum")
            return batch.durations, self._expand(p_text, batch.durations, mask)
        x, tokens = z_p, p_text
        if settings.score == "mel":
            assert batch.mel is not None and mel_text is not None
            # Centred, so that the expanded square of the score does not cancel in fp32.
            x, tokens = batch.mel - LOG_MEL_MEAN, Gaussian(mel_text - LOG_MEL_MEAN, torch.zeros_like(mel_text))
        assert x is not None
        items, step = Items(batch.ids, *lengths, batch.keys), batch.step if self.training else None
        if settings.kind == "mas":
            durations = alignment.scored_search(x, tokens, items, settings, step)
            return durations, self._expand(p_text, durations, mask)
        with torch.no_grad():
            log_lik = alignment.log_likelihood(x, tokens)
            durations = alignment.search(log_lik, items, settings, step, x.shape[1])
            aided = log_lik if step is None else alignment.penalised(log_lik, items, settings, step, x.shape[1])
            weight = forward_sum.posterior(aided, *lengths)
        return durations, SoftGaussian(p_text, weight)

    def _expand(self, p_text: Gaussian, durations: Int[Tensor, "B L"], mask: Bool[Tensor, "B 1 T"]) -> Gaussian:
        """The prior of each frame: that of the token it belongs to. Zeros on padding, as everywhere."""
        mean, log_std = (alignment.expand(x, durations, mask.shape[2]) * mask for x in p_text)
        return Gaussian(mean, log_std)

    def _segments(
        self, batch: Batch, z: Float[Tensor, "B D T"]
    ) -> tuple[Float[Tensor, "B 1 S"], Float[Tensor, "B D N"], Int[Tensor, " B"], Float[Tensor, "B M N"] | None]:
        """What is decoded: audio and z of a random segment of each utterance, or of all of it; its valid frames, and
        the utterance's log-mel there.
        """
        n = self.settings.segment_frames
        if n is None:
            audio_mask = sequence_mask(batch.frame_lengths * self.hop_length, batch.audio.shape[2])
            return batch.audio * audio_mask, z, batch.frame_lengths, batch.mel
        self._check_lengths(batch, n)
        starts = segment_starts(batch.keys, batch.frame_lengths, n)
        audio = slice_segments(batch.audio, starts * self.hop_length, n * self.hop_length)
        mel = None if batch.mel is None else slice_segments(batch.mel, starts, n)
        return audio, slice_segments(z, starts, n), torch.full_like(batch.frame_lengths, n), mel

    def _check_lengths(self, batch: Batch, n: int) -> None:
        """The data layer leaves out what is shorter than a segment. A guard behind it, where it costs no waiting."""
        if batch.frame_lengths.device.type != "cpu":
            return
        for name, length in zip(batch.ids, batch.frame_lengths.tolist(), strict=True):
            if length < n:
                raise ValueError(
                    f"utterance {name} has {length} frames, fewer than model.segment_frames={n}: "
                    f"leave it out of the batch, or type model.segment_frames=null to decode all of it"
                )


def segment_starts(keys: Int[Tensor, " B"], frame_lengths: Int[Tensor, " B"], n: int) -> Int[Tensor, " B"]:
    """The first frame of a segment of n frames, uniform over all that fit."""
    u = randomness.uniform(keys, "segment", 1)[:, 0]
    return torch.floor(u * (frame_lengths - n + 1)).long()
