"""VITS model: Batch -> Outputs in training, tokens -> audio in synthesis.

    audio --spectrogram--> posterior q --sample--> z --decoder--> audio_hat
                                                   z --flow--> z_p
    tokens --text encoder--> p_text --durations, by alignment of z_p with p_text--> p

That is VITS. For the laboratory each arrow has other ways: the decoder may listen behind the flow (model.flow.side),
the alignment may look at the spectrogram (model.alignment.score), be even, given or soft, and the posterior may be
relative to the prior (model.posterior.kind=residual), which then has to be aligned first.

With model.posterior.kind=recording z is the log-mel spectrogram itself, there is no q, and the decoder is a vocoder
that the rest does not hear of: Glow-TTS, where the flow has a log-determinant (model/flow=glow), and Grad-TTS, where
there is no flow and a refiner (model/refiner=diffusion) makes a spectrogram of the prior's mean.

Nothing here reduces or weighs a loss: `Outputs` holds unreduced terms and the distributions, objectives/ does the rest.
"""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vitslite import randomness
from vitslite.model import alignment, prior
from vitslite.model.alignment import AlignmentSettings
from vitslite.model.decoders import DecoderSettings, build_decoder
from vitslite.model.durations import ROUNDINGS, DurationSettings, build_durations
from vitslite.model.flows import FlowSettings
from vitslite.model.glow import build_flow
from vitslite.model.posterior_encoder import (
    LOG_MEL_MEAN,
    PosteriorEncoder,
    PosteriorEncoderSettings,
    recording,
    with_noise,
)
from vitslite.model.refiner import RefinerSettings, build_refiner
from vitslite.model.segments import segments
from vitslite.model.synthesis import Synthesis, SynthesisSettings
from vitslite.model.text_encoder import TextEncoder, TextEncoderSettings
from vitslite.tensors import Batch, Gaussian, Latents, Outputs, Prior, Refined, SoftGaussian, sequence_mask

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
    refiner: RefinerSettings = field(default_factory=RefinerSettings)
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
        is_recording = s.posterior.kind == "recording"
        self.posterior_encoder = None if is_recording else PosteriorEncoder(s.posterior, n_bins, s.n_latent)
        self.flow = build_flow(s.flow, s.n_latent)
        self.refiner = build_refiner(s.refiner, s.n_latent)
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
        mask = self._frame_mask(batch)
        if self.settings.posterior.kind == "residual":
            durations, p = self._align(batch, p_text, mask, None, mel_text)
            q, z = self._sample(batch, mask, p)
            z_p, log_det = self._flow(z, mask, dropout_keys)
            assert isinstance(p, Gaussian)  # config/rules.py: one prior per frame
            p_text, p = self._limited(p_text, token_mask), self._limited(p, mask)
        else:
            q, z = self._sample(batch, mask)
            z_p, log_det = self._flow(z, mask, dropout_keys)
            durations, p = self._align(batch, p_text, mask, z_p, mel_text)
        latents = Latents(q, p, z, z_p, log_det, mask, self.flow, batch.keys)

        # Durations, detached: they should follow the encoder, not bend it (VITS, section 2.2.2).
        duration_loss = self.duration_predictor(h.detach(), token_mask, durations, batch.keys, dropout_keys)

        # A better spectrogram than the prior's mean, by diffusion or flow matching: Grad-TTS and Matcha-TTS.
        refined = None
        if self.refiner is not None:
            refined = Refined(self.settings.refiner.kind, *self.refiner.loss(z, p.mean, mask, batch.keys))

        # Waveform: of a random segment, which is all valid, or of the whole utterance.
        audio, z, audio_frames, audio_mel = segments(
            batch, self._decoder_input(batch, z, z_p, mask), self.settings.segment_frames, self.hop_length
        )
        mel_prior = None if mel_text is None else alignment.expand(mel_text, durations, mask.shape[2])
        decoder_mask = mask if self.settings.segment_frames is None else None
        decoded = self.decoder(z, decoder_mask, batch.keys, recording=audio, twice=True)
        heard = (decoded.audio, audio, audio_frames, batch.mel, mel_prior, decoded.again, decoded.pitch_loss)
        return Outputs(latents, p_text, durations, duration_loss, *heard, audio_mel, refined)

    def start_from_data(self, batch: Batch) -> None:
        """The data-dependent start of the flow, for which it must have one (GlowFlow.initialise)."""
        mask = self._frame_mask(batch)
        self.flow.initialise(self._sample(batch, mask)[1], mask)

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> Float[Tensor, "B 1 S"]:
        """Copy synthesis: the whole utterances, decoded from the posterior sample that `forward` draws, too."""
        mask = self._frame_mask(batch)
        p = None
        if self.settings.posterior.kind == "residual":
            h, p_text = self.text_encoder(batch.tokens, batch.token_mask)
            _, p = self._align(batch, p_text, mask, None, self.mel_head(h).float() if self.mel_head else None)
        _, z = self._sample(batch, mask, p)
        z_p = self.flow(z, mask)[0] if self.settings.flow.side == "posterior" else z  # heard on that side alone
        return self.decoder(self._decoder_input(batch, z, z_p, mask), mask, batch.keys).audio

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
        n_steps: int = SynthesisSettings.n_steps,
    ) -> Synthesis:
        """Speak: z_p = mean + noise_scale * std * noise from the prior, z = f^-1(z_p), audio = decoder(z).

        (Where the flow is on the posterior's side, the decoder takes z_p itself. Where there is a refiner, it makes z
        of the prior's mean, in `n_steps` steps from noise of `noise_scale`.)

        Durations, where not given, are exp(log_duration) / speed frames, rounded as model.duration.rounding says (up in
        VITS, so on average half a frame longer than predicted), at least 1 and at most MAX_TOKEN_FRAMES per token.
        `speed` does not change given ones.
        Same keys, same audio, in any batch. Raises ValueError for a `speed` that is not positive, a negative scale, no
        step, and where the predictor returns NaN. Waits for the device, to learn how long the output is.
        """
        if not 0 < speed < math.inf:
            raise ValueError(f"speed={speed}: give a positive number; 1.0 is the speed of the training data")
        for name, scale in (("noise_scale", noise_scale), ("duration_noise_scale", duration_noise_scale)):
            if not 0 <= scale < math.inf:
                raise ValueError(f"{name}={scale}: give 0 or a positive number; VITS has 0.667 and 0.8")
        if n_steps < 1:
            raise ValueError(f"n_steps={n_steps}: a refiner takes at least 1 step, say 10")
        token_mask = sequence_mask(token_lengths, tokens.shape[1])
        h, p_text = self.text_encoder(tokens, token_mask)
        if durations is None:
            log_durations = self.duration_predictor.predict(h, token_mask, keys, duration_noise_scale).float()
            if torch.isnan(log_durations).any():
                raise ValueError("the duration predictor returned NaN: the model's weights are damaged, or it diverged")
            round_frames = ROUNDINGS[self.settings.duration.rounding]
            durations = round_frames(torch.exp(log_durations) / speed).clamp(1, MAX_TOKEN_FRAMES).long()
        durations = prior.to_multiple(durations * token_mask[:, 0], token_lengths, self.flow.multiple)
        frame_lengths = durations.sum(1)
        n_frames = int(frame_lengths.max())
        frame_mask = sequence_mask(frame_lengths, n_frames)

        p = self._limited(prior.expand(p_text, durations, frame_mask), frame_mask)
        if self.refiner is not None:
            z = self.refiner.sample(p.mean, frame_mask, keys, noise_scale, n_steps)
        else:
            noise = randomness.normal(keys, "prior", self.settings.n_latent, n_frames)
            z = p.sample(noise_scale * noise) * frame_mask
        if self.settings.flow.side == "prior":
            z = self.flow.inverse(z, frame_mask)
        audio = self.decoder(z, frame_mask, keys).audio
        return Synthesis(audio, frame_lengths * self.hop_length, durations, z)

    def _frame_mask(self, batch: Batch) -> Bool[Tensor, "B 1 T"]:
        return sequence_mask(batch.frame_lengths, batch.audio.shape[2] // self.hop_length)

    def _sample(
        self, batch: Batch, mask: Bool[Tensor, "B 1 T"], p: Prior | None = None
    ) -> tuple[Gaussian | None, Float[Tensor, "B D T"]]:
        """q and a sample z of it, zero on padding; of a recording no q, and z is its log-mel."""
        s = self.settings.posterior
        if self.posterior_encoder is None:
            return None, with_noise(self._recording(batch, mask), mask, batch.keys, s)
        assert not isinstance(p, SoftGaussian)  # config/rules.py: a residual posterior has one prior per frame
        x = batch.mel if s.input == "mel" else batch.spec
        assert x is not None, "the batch has no features yet: see audio.Features"
        q = self.posterior_encoder.posterior(self.posterior_encoder(x, mask), mask, p)
        return q, q.sample(randomness.normal(batch.keys, "posterior", *q.mean.shape[1:])) * mask

    def _limited(self, p: Gaussian, mask: Bool[Tensor, "B 1 N"]) -> Gaussian:
        """The prior that q is compared with, as the posterior's `clamp` has it."""
        return p if self.posterior_encoder is None else self.posterior_encoder.prior(p, mask)

    def _recording(self, batch: Batch, mask: Bool[Tensor, "B 1 T"]) -> Float[Tensor, "B D T"]:
        assert batch.mel is not None, "the batch has no features yet: see audio.Features"
        return recording(batch.mel, mask, self.settings.posterior)

    def _flow(
        self, z: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"], keys: Int[Tensor, " B"] | None
    ) -> tuple[Float[Tensor, "B D T"], Float[Tensor, "B D T"]]:
        """z_p = f(z) and log |df/dz|; of a recording log |df/d(log-mel)|, its scale included."""
        z_p, log_det = self.flow(z, mask, keys)
        if self.posterior_encoder is None:
            log_det = log_det - math.log(self.settings.posterior.recording_std) * mask
        return z_p, log_det

    def _decoder_input(
        self, batch: Batch, z: Float[Tensor, "B D T"], z_p: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"]
    ) -> Float[Tensor, "B D T"]:
        """z; or f(z), where the flow is part of the posterior; or the recording without noise."""
        if self.posterior_encoder is None:
            return self._recording(batch, mask)
        return z if self.settings.flow.side == "prior" else z_p

    def _align(
        self,
        batch: Batch,
        p_text: Gaussian,
        mask: Bool[Tensor, "B 1 T"],
        z_p: Float[Tensor, "B D T"] | None,
        mel_text: Float[Tensor, "B M L"] | None,
    ) -> tuple[Int[Tensor, "B L"], Prior]:
        return prior.align(self.settings.alignment, batch, p_text, mask, z_p, mel_text, self.training)
