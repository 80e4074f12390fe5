"""Rules within the networks: sizes that do not fit together."""

import math
from collections.abc import Iterator

from vitslite.config.settings import Config
from vitslite.model.decoders import HiFiGANSettings
from vitslite.model.discriminators import DiscriminatorSettings
from vitslite.model.flows import COUPLING_KINDS, FlowSettings
from vitslite.model.refiner import RefinerSettings


def networks(config: Config) -> Iterator[str]:
    """The faults, each as one line."""
    model, hop_length = config.model, config.audio.hop_length
    encoder = model.text_encoder
    if model.flow.kind in COUPLING_KINDS and model.flow.n_couplings > 0 and model.n_latent % 2:
        yield f"model.n_latent={model.n_latent} does not split into halves: make it even, or model.flow.kind=none"
    if model.flow.kind == "glow":
        yield from _glow(model.flow, model.n_latent, config.data.pad_multiple)
    if model.refiner.kind != "none":
        yield from _refiner(model.refiner, config.audio.n_mels)
    if encoder.hidden % encoder.n_heads:
        yield f"model.text_encoder.n_heads={encoder.n_heads} does not divide model.text_encoder.hidden={encoder.hidden}"
    if encoder.mean_only and encoder.prior_std == "learned":
        yield (
            "model.text_encoder.mean_only=true leaves model.text_encoder.prior_std=learned nothing to learn with: "
            "add model.text_encoder.prior_std=unit"
        )
    if model.decoder.kind == "istft":
        yield from _istft(config)
    if model.decoder.kind == "hifigan":
        yield from _hifigan(model.decoder.hifigan, hop_length)
    if config.discriminator.kind != "none":
        yield from _discriminators(config.discriminator, model.segment_frames)


def _glow(s: FlowSettings, n_latent: int, pad_multiple: int) -> Iterator[str]:
    if pad_multiple > 1 and pad_multiple % s.n_squeeze:
        yield (
            f"data.pad_multiple={pad_multiple} pads to frames that model.flow.n_squeeze={s.n_squeeze} cannot put side "
            f"by side: make it 1 or a multiple of {s.n_squeeze}"
        )
    n_channels = n_latent * s.n_squeeze
    if s.n_split % 2:
        yield f"model.flow.n_split={s.n_split} takes half of its channels from each half: make it even, published 4"
    elif n_channels % s.n_split:
        yield (
            f"model.n_latent={n_latent} x model.flow.n_squeeze={s.n_squeeze} = {n_channels} channels do not split into "
            f"groups of model.flow.n_split={s.n_split}: change one of the three"
        )


def _refiner(s: RefinerSettings, n_mels: int) -> Iterator[str]:
    at, u = f"model.refiner.{s.network}", s.unet2d
    name, channels = ("channels", u.channels) if s.network == "unet2d" else ("hidden", s.conv1d.hidden)
    if channels % 2:
        yield f"{at}.{name}={channels} splits into sines and cosines of the time: make it even"
    if s.network == "unet2d":
        n_halvings = len(u.multipliers) - 1
        if n_halvings < 0:
            yield f"{at}.multipliers=[]: give one positive number for each level, published [1,2,4]"
        elif n_mels % 2**n_halvings:
            yield (
                f"model.refiner.network=unet2d halves the mel bins {n_halvings} times: audio.n_mels={n_mels} must be a "
                f"multiple of {2**n_halvings}; or type model.refiner.network=conv1d"
            )
        if channels % u.groups:
            yield f"{at}.groups={u.groups} does not divide {at}.channels={channels}"


def _istft(config: Config) -> Iterator[str]:
    s, hop_length = config.model.decoder.istft, config.audio.hop_length
    at = "model.decoder.istft"
    if hop_length % (2 * s.subframes):
        yield (
            f"{at}.subframes={s.subframes} centres spectra of audio.hop_length={hop_length} / {s.subframes} samples: "
            "that must be a whole and even number"
        )
    if s.harmonics and config.objective.weights.pitch == 0:
        yield f"{at}.harmonics=true, objective.weights.pitch=0: nothing would train the pitch; make it 10"


def _hifigan(s: HiFiGANSettings, hop_length: int) -> Iterator[str]:
    at, rates, kernels = "model.decoder.hifigan", s.upsample_rates, s.upsample_kernels
    if math.prod(rates) != hop_length:
        yield f"{at}.upsample_rates={rates}: their product, {math.prod(rates)}, must be audio.hop_length={hop_length}"
    fits = [kernel >= rate and (kernel - rate) % 2 == 0 for rate, kernel in zip(rates, kernels, strict=False)]
    if len(rates) != len(kernels) or not all(fits):
        yield (
            f"{at}.upsample_kernels={kernels}: give one for each of upsample_rates={rates}, at least as large and "
            "larger by an even number; twice the rate is usual"
        )
    n_kernels, n_lists = len(s.resblock_kernels), len(s.resblock_dilations)
    if n_kernels != n_lists:
        yield f"{at}.resblock_dilations has {n_lists} lists: give one for each of the {n_kernels} resblock_kernels"
    if s.channels % 2 ** len(rates):
        yield f"{at}.channels={s.channels} cannot be halved {len(rates)} times, once per upsampling"


def _discriminators(s: DiscriminatorSettings, decoded: int | None) -> Iterator[str]:
    if not s.periods:
        yield "discriminator.periods=[]: give at least one, in samples, such as [2, 3, 5]"
    if not s.period_channels:
        yield "discriminator.period_channels=[]: give at least one positive number"
    if not s.resolutions or any(n_fft % 4 for n_fft in s.resolutions):
        yield f"discriminator.resolutions={s.resolutions}: give transform sizes that divide by 4"
    if decoded is not None and decoded < s.segment_frames:
        yield f"discriminator.segment_frames={s.segment_frames} is above model.segment_frames={decoded}: lower it"
