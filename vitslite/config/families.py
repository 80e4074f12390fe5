"""Families of models by their settings, and which figures of two of them can be compared."""

from collections.abc import Iterable

VITS, GLOW_TTS, GRAD_TTS, FLOW_MATCHING, REGRESSION = "VITS", "Glow-TTS", "Grad-TTS", "flow matching", "regression"


def family(posterior: str, flow: str, refiner: str) -> str:
    """By the kinds of posterior, flow and refiner: VITS has a posterior, the others the log-mel itself as z."""
    if posterior != "recording":
        return VITS
    if refiner != "none":
        return GRAD_TTS if refiner == "diffusion" else FLOW_MATCHING
    return REGRESSION if flow == "none" else GLOW_TTS


def in_words(families: Iterable[str]) -> list[str]:
    """What can be compared between them, and what not; [] for one family."""
    found = list(dict.fromkeys(families))
    if len(found) < 2:
        return []
    lines = [
        f"Several families: {', '.join(found)}. Of all of them one can compare the alignment error, words and sound "
        "(wer/*, cer/*, sound/*), what evaluation measures of copies and speech, parameters, speed, and the time that "
        "they take to reach a figure."
    ]
    if VITS in found:
        lines.append(
            "loss/kl and kl/* of VITS are a KL of latents; loss/prior and nll/* of the others are the likelihood of a "
            "log-mel spectrogram, a density, whose zero depends on its units. None is better for being the lower one."
        )
        lines.append(
            "loss/mel and loss/energy are the decoder's, which in VITS hears a latent made for it, in the others the "
            "recording's log-mel."
        )
    if len(set(found) - {VITS}) > 1:
        lines.append(
            "nll/per_frame is in nats per frame of log-mel in every family, and may be compared where audio.* and "
            "model.posterior.recording_noise are the same; it is of the prior alone: no refiner has a part in it. "
            "loss/prior is of the scaled log-mel, and loss/diffusion and loss/flow_matching are no likelihoods."
        )
    return lines
