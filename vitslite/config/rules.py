"""Rules across settings: combinations that cannot work or have no meaning.

`check` refuses them, naming the settings and the nearest that do. What runs and is wrong, or no negative ELBO, is
named in remarks.py. The limits of each setting alone stand at its field (declared.py);
what the sizes of the networks ask of one another stands in network_rules.py.
"""

import itertools
from collections.abc import Iterator

from vitslite import distributed
from vitslite.config.network_rules import networks
from vitslite.config.settings import Config
from vitslite.model.alignment import SEARCHES
from vitslite.model.flows import COUPLING_KINDS, LINEAR_KINDS
from vitslite.objectives.proposed import DISTANCES
from vitslite.text.frontend import BLANK, END, START, listed_symbols


def check(config: Config) -> None:
    """ValueError for combinations that cannot work, of values that alone are fine."""
    for fault in itertools.chain(_run(config), _data(config), networks(config), _families(config), _laboratory(config)):
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


def _families(config: Config) -> Iterator[str]:
    """What goes with a z that is the recording (Glow-TTS, Grad-TTS), and what with a latent that has a posterior."""
    model, objective = config.model, config.objective
    if model.text_encoder.prior_std == "standard" and model.alignment.kind in SEARCHES:
        yield (
            "model.text_encoder.prior_std=standard knows no text, so there is nothing to align by: "
            "add model.alignment.kind=uniform, or given"
        )
    if model.posterior.kind == "recording":
        yield from _recording(config)
        return
    if model.refiner.kind != "none":
        yield (
            f"model.refiner.kind={model.refiner.kind} makes log-mel spectrograms, and model.posterior.kind="
            f"{model.posterior.kind} has a latent of its own: use model=grad_tts, or model/refiner=none"
        )
    if model.posterior.recording_noise > 0:
        yield "model.posterior.recording_noise is of model.posterior.kind=recording: leave it at 0"
    if objective.kl in DISTANCES:
        yield (
            f"objective.kl={objective.kl} is a distance of the recording from the prior's mean: add "
            "model.posterior.kind=recording (model=grad_tts, glow_tts), or use objective.kl=half_analytic"
        )


def _recording(config: Config) -> Iterator[str]:
    """z is the log-mel spectrogram: no posterior, no entropy, no KL."""
    model, objective, n_mels = config.model, config.objective, config.audio.n_mels
    at = "model.posterior.kind=recording"
    if model.n_latent != n_mels:
        yield f"{at} has audio.n_mels={n_mels} for its latent: model.n_latent={n_mels}, not {model.n_latent}"
    if objective.kl != "likelihood" and objective.kl not in DISTANCES:
        yield f"{at} has no density of q, which objective.kl={objective.kl} needs: use objective=likelihood"
    if model.flow.side == "posterior":
        yield f"{at} has no posterior for model.flow.side=posterior to be part of: use model.flow.side=prior"
    if model.alignment.score == "mel":
        yield f"{at} has the log-mel for its latent, so the alignment looks at it already: model.alignment.score=latent"
    if objective.weights.prior_mel > 0:
        yield f"{at} has no mel head to weigh: objective.weights.prior_mel=0; its likelihood is objective.weights.prior"
    if model.mel_head:
        yield f"{at} has a prior whose mean is a log-mel spectrogram already: model.mel_head=false"
    if objective.detach_posterior:
        yield f"{at} has no posterior: objective.detach_posterior=false"
    regulariser = objective.regulariser
    if regulariser.free_bits > 0 or regulariser.balance != "none" or regulariser.schedule != "constant":
        yield (
            f"{at} has no KL: leave objective.regulariser at free_bits=0 balance=none schedule=constant; the weight of "
            "its likelihood is objective.weights.prior"
        )
    if model.refiner.kind != "none" and getattr(objective.weights, model.refiner.kind) == 0:
        yield (
            f"objective.weights.{model.refiner.kind}=0: nothing would train model.refiner.kind={model.refiner.kind}; "
            "make it 1, or use model/refiner=none"
        )
    if model.refiner.kind != "none" and model.flow.kind != "none":
        yield (
            f"model.refiner.kind={model.refiner.kind} begins at the prior's mean, which behind model.flow.kind="
            f"{model.flow.kind} is no spectrogram: use model/flow=none, or model/refiner=none"
        )


def _laboratory(config: Config) -> Iterator[str]:
    model, objective = config.model, config.objective
    alignment, flow, kl, regulariser = model.alignment, model.flow.kind, objective.kl, objective.regulariser
    balance, prior_mel = regulariser.balance, objective.weights.prior_mel
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
    if kl == "exact_linear" and flow not in (*LINEAR_KINDS, "none"):
        yield (
            f"objective.kl=exact_linear is exact behind linear flows alone, and model.flow.kind={flow} is not: "
            "use model/flow=householder, linear_iaf or none, or objective.kl=half_analytic"
        )
    if alignment.kind == "forward_sum" and kl in ("closed_form", "pushed_mean", "carried_mean", "exact_linear"):
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
    if alignment.kind in SEARCHES and alignment.score == "mel" and not model.mel_head:
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
    if alignment.kind in SEARCHES and alignment.score == "latent":
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
