"""Rules across settings: combinations that cannot work, and those that are wrong on purpose.

`check` refuses a configuration that cannot work or has no meaning, naming the settings and the nearest that do. What
runs and is wrong, because someone proposed it and one should see what it does, is named by `wrong_on_purpose`: the run
is marked. The limits of each setting alone stand at its field (declared.py).
"""

import itertools
import math
from collections.abc import Iterator

from vitslite import distributed
from vitslite.config.settings import Config
from vitslite.model.decoders import HiFiGANSettings
from vitslite.model.discriminators import DiscriminatorSettings
from vitslite.model.flows import COUPLING_KINDS, VOLUME_PRESERVING, FlowSettings
from vitslite.objectives.proposed import PROPOSED, WHY_WRONG
from vitslite.text.frontend import BLANK, END, START, listed_symbols


def check(config: Config) -> None:
    """ValueError for combinations that cannot work, of values that alone are fine."""
    for fault in itertools.chain(_run(config), _data(config), _networks(config), _laboratory(config)):
        raise ValueError(fault)


def _run(config: Config) -> Iterator[str]:
    batch_size, accumulate, n_ranks = config.data.batch_size, config.trainer.accumulate, distributed.world_size()
    assert config.name is not None, "build.parse sets it"
    if ".." in config.name or config.name.startswith("/"):
        yield f"name={config.name}: a name, not a path; run_dir=... says where a run lies"
    if config.directory.exists() and not config.directory.is_dir():
        yield f"run_dir={config.run_dir} is a file: give a directory"
    if config.trainer.optimizer.schedule == "noam" and config.trainer.optimizer.warmup_steps == 0:
        yield "trainer.optimizer.schedule=noam needs trainer.optimizer.warmup_steps=...; published 4000"
    if batch_size % (accumulate * n_ranks):
        yield f"data.batch_size={batch_size}: make it a multiple of trainer.accumulate={accumulate} x {n_ranks} ranks"


def _data(config: Config) -> Iterator[str]:
    data, text, audio = config.data, config.text, config.audio
    fractions = data.validation_fraction, data.test_fraction
    if sum(fractions) >= 1:
        yield "data.validation_fraction={:g} and data.test_fraction={:g} leave nothing to train on".format(*fractions)
    if text.symbols is not None:
        symbols = listed_symbols(text)
        if symbols[:1] != [BLANK]:
            yield f"text.symbols must start with {BLANK!r}, the blank, not {''.join(symbols[:1])!r}"
        if text.edges and not {START, END} <= set(symbols):
            yield f"text.symbols lacks {START!r} or {END!r}: add them, or type text.edges=false"
    hop, window, n_fft = audio.hop_length, audio.win_length, audio.n_fft
    if not hop <= window <= n_fft or (n_fft - hop) % 2:
        yield f"need audio.hop_length={hop} <= win_length={window} <= n_fft={n_fft}, and n_fft - hop_length even"
    nyquist = audio.sample_rate / 2
    if not audio.f_min < (audio.f_max or nyquist) <= nyquist:
        yield f"audio.f_min={audio.f_min}, audio.f_max={audio.f_max}: must rise, from 0 to half the sample rate"


def _networks(config: Config) -> Iterator[str]:
    model, hop_length = config.model, config.audio.hop_length
    encoder = model.text_encoder
    if model.flow.kind in COUPLING_KINDS and model.flow.n_couplings > 0 and model.n_latent % 2:
        yield f"model.n_latent={model.n_latent} does not split into halves: make it even, or model.flow.kind=none"
    if model.flow.kind == "glow":
        yield from _glow(model.flow, model.n_latent)
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


def _glow(s: FlowSettings, n_latent: int) -> Iterator[str]:
    n_channels = n_latent * s.n_squeeze
    if s.n_split % 2:
        yield f"model.flow.n_split={s.n_split} takes half of its channels from each half: make it even, published 4"
    elif n_channels % s.n_split:
        yield (
            f"model.n_latent={n_latent} x model.flow.n_squeeze={s.n_squeeze} = {n_channels} channels do not split into "
            f"groups of model.flow.n_split={s.n_split}: change one of the three"
        )


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


def _laboratory(config: Config) -> Iterator[str]:
    model, objective = config.model, config.objective
    alignment, flow, kl, regulariser = model.alignment, model.flow.kind, objective.kl, objective.regulariser
    balance, prior_mel, searches = regulariser.balance, objective.weights.prior_mel, ("mas", "forward_sum")
    splits = regulariser.free_bits > 0 or balance != "none"
    for row in objective.extra_resolutions:
        if len(row) != 3 or row[1] > row[0] or (row[0] - row[1]) % 2:
            yield f"objective.extra_resolutions: {row} is not [n_fft,hop_length,n_mels], n_fft - hop_length even, >= 0"
    if objective.extra_resolutions and objective.mel_target == "utterance" and model.segment_frames is not None:
        yield (
            "objective.mel_target=utterance has the utterance's log-mel at the resolution of audio.* alone: add "
            "objective.extra_resolutions=[], or use objective.mel_target=segment"
        )
    if regulariser.balance_until == "full_weight" and (balance != "channels" or regulariser.schedule == "constant"):
        yield (
            "objective.regulariser.balance_until=full_weight ends a balance once the weight has risen: add "
            "objective.regulariser.balance=channels and .schedule=warmup, or use .balance_until=always"
        )
    if regulariser.schedule != "constant" and regulariser.steps < 1:
        yield f"objective.regulariser.schedule={regulariser.schedule} needs objective.regulariser.steps=..."
    if regulariser.free_bits > 0 and balance != "none":
        yield f"objective.regulariser.free_bits and .balance={balance} both divide the KL: choose one of them"
    if kl == "carried_mean":
        if flow not in COUPLING_KINDS:
            yield (
                f"objective.kl=carried_mean is carried by couplings alone, and model.flow.kind={flow} is not that: "
                "use model/flow=mean_only or affine, or objective.kl=half_analytic"
            )
        if objective.log_det == "drop":
            yield (
                "objective.kl=carried_mean holds the log-determinant in the std that it carries: "
                "objective.log_det=drop cannot drop it there; use objective.kl=half_analytic"
            )
        if splits:
            yield (
                "objective.kl=carried_mean goes through the flow by another way than objective.regulariser.free_bits "
                "and .balance can split: use objective.kl=half_analytic"
            )
    if alignment.kind == "forward_sum" and kl in ("closed_form", "pushed_mean", "carried_mean"):
        yield (
            f"objective.kl={kl} needs one Gaussian per frame, and model.alignment.kind=forward_sum gives each frame "
            "several: use objective.kl=half_analytic, or model.alignment.kind=mas"
        )
    if model.posterior.kind == "residual":
        yield from _residual(config)
    elif model.posterior.clamp:
        yield (
            f"model.posterior.clamp=true is for model.posterior.kind=residual, not {model.posterior.kind}: use that, "
            "or model.posterior.kind=clamped, which limits the posterior alone"
        )
    if alignment.kind in searches and alignment.score == "mel" and not model.mel_head:
        yield "model.alignment.score=mel looks at the mel head: add model.mel_head=true objective.weights.prior_mel=1"
    if alignment.score == "mel" and prior_mel == 0:
        yield "model.alignment.score=mel, objective.weights.prior_mel=0: nothing would train the mel head; make it 1"
    if prior_mel > 0 and not model.mel_head:
        yield f"objective.weights.prior_mel={prior_mel} weighs what the mel head says: add model.mel_head=true"
    if alignment.kind == "given" and (config.data.kind != "demo" or config.text.frontend != "phonemes"):
        yield (
            "model.alignment.kind=given needs known durations, which only data=demo with text=phonemes has: "
            "use model.alignment.kind=mas, forward_sum or uniform"
        )
    if splits and balance != "sides" and config.trainer.accumulate * distributed.world_size() > 1:
        yield (
            "objective.regulariser.free_bits and .balance=channels need the whole batch in one place: "
            "trainer.accumulate=1 and one process"
        )


def _residual(config: Config) -> Iterator[str]:
    """The posterior that is relative to its prior."""
    alignment, flow, regulariser = config.model.alignment, config.model.flow.kind, config.objective.regulariser
    if flow != "none":
        yield f"model.posterior.kind=residual relates to a prior behind the flow: add model/flow=none (it is {flow})"
    if alignment.kind in ("mas", "forward_sum") and alignment.score == "latent":
        yield (
            "model.posterior.kind=residual needs the alignment before there is a latent to align, and "
            f"model.alignment.kind={alignment.kind} looks at the latent: add model.alignment.score=mel "
            "model.mel_head=true objective.weights.prior_mel=1, or model.alignment.kind=given or uniform"
        )
    if alignment.kind == "forward_sum":
        yield "model.posterior.kind=residual needs one prior per frame: use model.alignment.kind=mas, not forward_sum"
    if config.objective.detach_posterior or regulariser.balance == "sides" or regulariser.free_bits > 0:
        yield (
            "model.posterior.kind=residual contains the prior, so the KL has no two sides to tell apart: go without "
            "objective.detach_posterior, objective.regulariser.free_bits and .balance=sides, or use "
            "model.posterior.kind=gaussian"
        )


def wrong_on_purpose(config: Config) -> list[str]:
    """Why the number in loss/kl is not an estimate of the KL; [] if it is one."""
    model, objective = config.model, config.objective
    kl, flow = objective.kl, model.flow.kind
    found = []
    if kl in PROPOSED:
        found.append(f"objective.kl={kl} {WHY_WRONG[kl]}")
    if kl == "closed_form" and flow != "none":
        found.append(f"objective.kl=closed_form ignores model.flow.kind={flow}: the flow gets no gradient at all")
    if kl == "pushed_mean" and flow != "none":
        found.append("objective.kl=pushed_mean misses the variance that the flow's shift adds")
    if kl == "carried_mean" and model.flow.n_couplings > 1:
        found.append(f"objective.kl=carried_mean is biased behind {model.flow.n_couplings} couplings; behind one not")
    if objective.log_det == "drop" and flow not in VOLUME_PRESERVING:
        found.append(f"objective.log_det=drop with model.flow.kind={flow}: shrinking z_p lowers the loss without bound")
    if kl == "likelihood" and not objective.detach_posterior:
        found.append("objective.kl=likelihood lacks the entropy of q: nothing keeps the posterior wide")
    return found


def departures(config: Config) -> Iterator[str]:
    """Losses that are sound, but no negative ELBO."""
    weights, regulariser = config.objective.weights, config.objective.regulariser
    if weights.kl < 1:
        yield (
            f"objective.weights.kl={weights.kl} is below 1: more goes through z than an ELBO would let through, and "
            "the decoder learns sooner; objective=vits has weight 1"
        )
    if config.objective.detach_posterior:
        yield "objective.detach_posterior=true: nothing pulls the posterior to the prior"
    if config.objective.reduction == "per_element":
        yield f"objective.reduction=per_element weighs the KL 1/{config.model.n_latent} of per_frame"
    if regulariser.balance == "channels":
        while_ = " until the weight of the KL is full" if regulariser.balance_until == "full_weight" else ""
        yield f"objective.regulariser.balance=channels: loss/kl is a weighted sum{while_}; kl/half_analytic is the KL"
    if regulariser.free_bits:
        yield f"objective.regulariser.free_bits={regulariser.free_bits}: loss/kl is at least that per channel"
