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
from vitslite.model.durations import DurationSettings, build_durations, whole_frames
from vitslite.model.flows import BoundFlow, FlowSettings
from vitslite.model.glow import build_flow
from vitslite.model.posterior_encoder import LOG_MEL_MEAN, PosteriorEncoder, PosteriorEncoderSettings, recording
from vitslite.model.refiner import RefinerSettings, build_refiner
from vitslite.model.segments import segments
from vitslite.model.speakers import Condition, Speakers, SpeakerSettings, widths
from vitslite.model.synthesis import Synthesis, SynthesisSettings, check
from vitslite.model.text_encoder import TextEncoder, TextEncoderSettings
from vitslite.tensors import Batch, Gaussian, Latents, Outputs, Prior, Refined, SoftGaussian, sequence_mask


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
    speakers: SpeakerSettings = field(default_factory=SpeakerSettings)


class VITS(nn.Module):
    """Conditional VAE with a flow prior (Kim et al. 2021, "VITS"), of one voice, or of `n_speakers`.

    `forward(batch)` -> Outputs, the inputs of every loss term. `infer(tokens, ...)` -> Synthesis.
    `reconstruct(batch)` -> audio decoded from the posterior. An utterance gives the same numbers (up to rounding) in
    any batch. Dropout is on under `train()` alone; the noise of q, of the durations and of the segments is keyed by
    `batch.keys` in both modes.
    """

    def __init__(
        self,
        settings: ModelSettings,
        n_symbols: int,
        n_fft: int,
        n_mels: int,
        hop_length: int,
        sample_rate: int,
        n_speakers: int = 0,
    ):
        super().__init__()
        s = settings
        self.settings = s
        self.hop_length = hop_length
        n_bins = n_mels if s.posterior.input == "mel" else n_fft // 2 + 1
        n_heard = widths(s.speakers, n_speakers)
        self.text_encoder = TextEncoder(s.text_encoder, n_symbols, s.n_latent, n_heard["text_encoder"])
        is_recording = s.posterior.kind == "recording"
        self.posterior_encoder = (
            None if is_recording else PosteriorEncoder(s.posterior, n_bins, s.n_latent, n_heard["posterior"])
        )
        self.flow = build_flow(s.flow, s.n_latent, n_heard["flow"])
        self.refiner = build_refiner(s.refiner, s.n_latent, n_heard["refiner"])
        self.duration_predictor = build_durations(s.duration, s.text_encoder.hidden, n_heard["duration"])
        self.decoder = build_decoder(s.decoder, s.n_latent, hop_length, sample_rate, n_heard["decoder"])
        self.mel_head = nn.Conv1d(s.text_encoder.hidden, n_mels, 1) if s.mel_head else None
        if self.mel_head and self.mel_head.bias is not None:
            nn.init.constant_(self.mel_head.bias, LOG_MEL_MEAN)  # where speech is
        self.speakers = Speakers(s.speakers, n_speakers) if n_speakers else None

    def forward(self, batch: Batch) -> Outputs:
        """Encode both sides, align them, decode. No step waits for the device, except a search done on the CPU."""
        g = self._condition(batch.speakers)
        flow = self.flow if g.flow is None else BoundFlow(self.flow, g.flow)

        # Text: hidden states, and the prior of each token.
        token_mask = batch.token_mask
        dropout_keys = batch.keys if self.training else None
        h, p_text = self.text_encoder(batch.tokens, token_mask, dropout_keys, g.text_encoder)
        mel_text = self.mel_head(h).float() if self.mel_head else None

        # Recording: the posterior q, its sample z, and z_p = f(z). The alignment looks at z_p, and gives each frame the
        # prior of its token; a residual posterior is relative to that prior, so there the alignment comes first.
        mask = self._frame_mask(batch)
        if self.settings.posterior.kind == "residual":
            durations, p = self._align(batch, p_text, mask, None, mel_text)
            q, z = self._sample(batch, mask, g, p)
            z_p, log_det = flow(z, mask, dropout_keys)
            assert isinstance(p, Gaussian)  # config/rules.py: one prior per frame
            p_text, p = self._limited(p_text, token_mask), self._limited(p, mask)
        else:
            q, z = self._sample(batch, mask, g)
            z_p, log_det = flow(z, mask, dropout_keys)
            durations, p = self._align(batch, p_text, mask, z_p, mel_text)
        latents = Latents(q, p, z, z_p, self._scaled(log_det, mask), mask, flow, batch.keys)

        # Durations, detached: they should follow the encoder, not bend it (VITS, section 2.2.2).
        keys = batch.keys, dropout_keys
        duration_loss = self.duration_predictor(h.detach(), token_mask, durations, *keys, g.duration)

        # A better spectrogram than the prior's mean, by diffusion or flow matching: Grad-TTS and Matcha-TTS.
        refined = None
        if self.refiner is not None:
            refined = Refined(self.settings.refiner.kind, *self.refiner.loss(z, p.mean, mask, batch.keys, g.refiner))

        # Waveform: of a random segment, which is all valid, or of the whole utterance.
        audio, z, audio_frames, audio_mel = segments(
            batch, self._decoder_input(batch, z, z_p, mask), self.settings.segment_frames, self.hop_length
        )
        mel_prior = None if mel_text is None else alignment.expand(mel_text, durations, mask.shape[2])
        decoder_mask = mask if self.settings.segment_frames is None else None
        decoded = self.decoder(z, decoder_mask, batch.keys, recording=audio, twice=True, g=g.decoder)
        heard = (decoded.audio, audio, audio_frames, batch.mel, mel_prior, decoded.again, decoded.pitch_loss)
        return Outputs(latents, p_text, durations, duration_loss, *heard, audio_mel, refined)

    def start_from_data(self, batch: Batch) -> None:
        """The data-dependent start of the flow, for which it must have one (GlowFlow.initialise)."""
        mask, g = self._frame_mask(batch), self._condition(batch.speakers)
        self.flow.initialise(self._sample(batch, mask, g)[1], mask, g.flow)

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> Float[Tensor, "B 1 S"]:
        """Copy synthesis: the whole utterances, decoded from the posterior sample that `forward` draws, too."""
        mask, g = self._frame_mask(batch), self._condition(batch.speakers)
        p = None
        if self.settings.posterior.kind == "residual":
            h, p_text = self.text_encoder(batch.tokens, batch.token_mask, g=g.text_encoder)
            _, p = self._align(batch, p_text, mask, None, self.mel_head(h).float() if self.mel_head else None)
        _, z = self._sample(batch, mask, g, p)
        z_p = self.flow(z, mask, g=g.flow)[0] if self.settings.flow.side == "posterior" else z  # heard there alone
        return self.decoder(self._decoder_input(batch, z, z_p, mask), mask, batch.keys, g=g.decoder).audio

    @torch.no_grad()
    def convert(self, batch: Batch, speakers: Int[Tensor, " B"] | Float[Tensor, "B K"]) -> Float[Tensor, "B 1 S"]:
        """What the batch's speakers said, in other voices: z_p = f(z), which knows no voice, and back by the others'.

        Source: Kim et al. 2021 (VITS), section 4.4. Not for a model whose flow is on the posterior's side.
        """
        mask, g, other = self._frame_mask(batch), self._condition(batch.speakers), self._condition(speakers)
        z_p, _ = self.flow(self._sample(batch, mask, g)[1], mask, g=g.flow)
        return self.decoder(self.flow.inverse(z_p, mask, other.flow), mask, batch.keys, g=other.decoder).audio

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
        speakers: Int[Tensor, " B"] | Float[Tensor, "B K"] | None = None,
    ) -> Synthesis:
        """Speak: z_p = mean + noise_scale * std * noise from the prior, z = f^-1(z_p), audio = decoder(z).

        (Where the flow is on the posterior's side, the decoder takes z_p itself. Where there is a refiner, it makes z
        of the prior's mean, in `n_steps` steps from noise of `noise_scale`.)

        Durations, where not given, are `whole_frames` of the predicted ones; `speed` does not change given ones.
        `speakers`, of a model that knows some: by number, or weights for a mixture of voices. Same keys, same audio, in
        any batch. ValueError as `check` and `whole_frames` have it. Waits for the device, to learn the output's length.
        """
        check(speed, noise_scale, duration_noise_scale, n_steps)
        token_mask = sequence_mask(token_lengths, tokens.shape[1])
        g = self._condition(speakers)
        h, p_text = self.text_encoder(tokens, token_mask, g=g.text_encoder)
        if durations is None:
            log_durations = self.duration_predictor.predict(h, token_mask, keys, duration_noise_scale, g.duration)
            durations = whole_frames(log_durations, speed, self.settings.duration.rounding)
        durations = prior.to_multiple(durations * token_mask[:, 0], token_lengths, self.flow.multiple)
        frame_lengths = durations.sum(1)
        n_frames = int(frame_lengths.max())
        frame_mask = sequence_mask(frame_lengths, n_frames)

        p = self._limited(prior.expand(p_text, durations, frame_mask), frame_mask)
        if self.refiner is not None:
            z = self.refiner.sample(p.mean, frame_mask, keys, noise_scale, n_steps, g.refiner)
        else:
            z = p.sample(noise_scale * randomness.normal(keys, "prior", *p.mean.shape[1:])) * frame_mask
        if self.settings.flow.side == "prior":
            z = self.flow.inverse(z, frame_mask, g.flow)
        audio = self.decoder(z, frame_mask, keys, g=g.decoder).audio
        return Synthesis(audio, frame_lengths * self.hop_length, durations, z)

    def _frame_mask(self, batch: Batch) -> Bool[Tensor, "B 1 T"]:
        return sequence_mask(batch.frame_lengths, batch.audio.shape[2] // self.hop_length)

    def _condition(self, speakers: Int[Tensor, " B"] | Float[Tensor, "B K"] | None) -> Condition:
        """The speakers' vectors, by the part that hears them; none for a model of one voice, whoever speaks."""
        if self.speakers is None:
            return Condition()
        assert speakers is not None, "a model of several speakers has to be told which"
        return self.speakers(speakers)

    def _sample(
        self, batch: Batch, mask: Bool[Tensor, "B 1 T"], g: Condition, p: Prior | None = None
    ) -> tuple[Gaussian | None, Float[Tensor, "B D T"]]:
        """q and a sample z of it, zero on padding; of a recording no q, and z is its log-mel."""
        s = self.settings.posterior
        if self.posterior_encoder is None:
            return None, recording(batch.mel, mask, s, batch.keys)
        assert not isinstance(p, SoftGaussian)  # config/rules.py: a residual posterior has one prior per frame
        x = batch.mel if s.input == "mel" else batch.spec
        assert x is not None, "the batch has no features yet: see audio.Features"
        q = self.posterior_encoder.posterior(self.posterior_encoder(x, mask, g.posterior), mask, p)
        return q, q.sample(randomness.normal(batch.keys, "posterior", *q.mean.shape[1:])) * mask

    def _limited(self, p: Gaussian, mask: Bool[Tensor, "B 1 N"]) -> Gaussian:
        """The prior that q is compared with, as the posterior's `clamp` has it."""
        return p if self.posterior_encoder is None else self.posterior_encoder.prior(p, mask)

    def _scaled(self, log_det: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"]) -> Float[Tensor, "B D T"]:
        """log |df/dz|; of a recording log |df/d(log-mel)|, its scale included."""
        is_recording = self.posterior_encoder is None
        return log_det - math.log(self.settings.posterior.recording_std) * mask if is_recording else log_det

    def _decoder_input(
        self, batch: Batch, z: Float[Tensor, "B D T"], z_p: Float[Tensor, "B D T"], mask: Bool[Tensor, "B 1 T"]
    ) -> Float[Tensor, "B D T"]:
        """z; or f(z), where the flow is part of the posterior; or the recording without noise."""
        if self.posterior_encoder is None:
            return recording(batch.mel, mask, self.settings.posterior)
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
