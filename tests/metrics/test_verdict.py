"""The verdict: its boundaries, which readout it judges, and what it tells of runs whose KL is none."""

import math

import pytest

from vitslite.metrics.verdict import quieter, verdict

REASON = "objective.kl=abs_elementwise folds the noise"


def figures(**changed: float) -> dict[str, float]:
    """Of a sound run with errors of 1/8, so that the boundaries are exact in floating point."""
    return {
        "loss/kl": 2.0,
        "kl/half_analytic": 2.0,
        "kl/monte_carlo": 2.0,
        "kl/over_paths": 2.25,
        "kl/over_paths_monte_carlo": 2.25,
        **{f"kl/error_{name}": 0.125 for name in ("half_analytic", "over_paths")},
        **{f"kl/error_{name}": 0.25 for name in ("monte_carlo", "over_paths_monte_carlo")},
        "mas/log_paths_per_frame": 0.5,
        "mas/error_ms": 20.0,
        "mas/even_error_ms": 400.0,
        "latent/active_units": 3.0,
    } | {key.replace("__", "/"): value for key, value in changed.items()}


def said(searched=True, wrong=(), **changed: float) -> str:
    return verdict(figures(**changed), 16, searched, wrong)


@pytest.mark.parametrize(
    ("kl", "start"),
    [
        (2.0, "positive and resolved"),
        (0.3750001, "positive and resolved"),
        (0.375, "noise"),
        (0.0, "noise"),
        (-0.375, "noise"),
        (-0.3750001, "bug"),
        (-96.0, "bug"),
        (math.nan, "bug"),
    ],
)
def test_every_verdict_and_its_boundaries(kl, start):
    sentence = said(kl__over_paths=kl)
    assert sentence.startswith(start) and f"{kl:.4g} +- 0.12 nats per frame" in sentence
    assert ("loss/kl" in sentence, "collapse" in sentence, ";" in sentence) == (False, False, start == "bug")
    collapsed = said(kl__over_paths=kl, latent__active_units=0.0)
    assert collapsed.startswith(start) and "collapse: none of the 16" in collapsed


def test_the_quieter_readout_is_judged():
    """Near q = p the sampled entropy is the quieter one, and resolves what the other calls noise."""
    near = {"kl__over_paths": -0.2, "kl__over_paths_monte_carlo": 0.06}
    assert said(**near).startswith("noise: KL over all paths -0.2 +-")
    sentence = said(**near, kl__error_over_paths_monte_carlo=0.007)
    assert sentence.startswith("positive and resolved: KL over all paths 0.06 +- 0.007")
    alone = {key: value for key, value in figures().items() if "error_" not in key}
    assert quieter(alone, "over_paths") == (2.25, math.inf), "a single utterance has no error"
    assert verdict(alone, 16, True).startswith("noise")


def test_what_the_search_lowers_is_told_and_excuses_nothing_else():
    below = {"loss__kl": -0.5, "kl__half_analytic": -0.5, "kl__over_paths": 0.0}
    assert (
        "bias of the alignment search: on the path that was found it reads -0.5 +- 0.12, loose downward by up to 0.5"
        in (said(**below))
    )
    assert said(**below).startswith("noise: KL over all paths 0 +-")
    assert "bias" not in said(searched=False, **below), "a given path excuses nothing"
    assert "bias" not in said(loss__kl=-0.375, kl__half_analytic=-0.375)
    assert said(kl__over_paths=-1.0, kl__half_analytic=-0.5).startswith("bug"), "nor does a search of all paths"


def test_a_run_whose_phonemes_are_lost_is_never_positive_and_resolved():
    lost = said(kl__over_paths=86.6, mas__error_ms=565.0)
    assert "positive" not in lost and "phonemes lost: onsets are 565 ms off, even spacing 400 ms" in lost
    assert said(mas__error_ms=399.0).startswith("positive and resolved")
    assert "lost" in said(mas__error_ms=math.nan)
    even = said(searched=False, mas__error_ms=400.0)
    assert even.startswith("positive and resolved"), "even durations are as even as they were asked to be"
    unknown = {key: value for key, value in figures().items() if not key.startswith("mas/e")}
    assert verdict(unknown, 16, True).startswith("positive and resolved"), "the truth is not known of every voice"


def test_a_wrong_loss_is_named_and_laid_beside_the_kl():
    sentence = said(wrong=[REASON], loss__kl=-146.0)
    assert "positive" not in sentence and f"wrong on purpose: {REASON}" in sentence
    assert "loss/kl is -146 where the KL on the path is 2 +- 0.12" in sentence
    assert "loss/kl is 3" in said(loss__kl=3.0), "nobody said it was wrong: free bits, k_sample under a search"
    assert "loss/kl" not in said(loss__kl=2.0 / 16), "nats per element"
    assert "loss/kl is nan" in said(loss__kl=math.nan)
