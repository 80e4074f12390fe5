"""Verdict on the KL: what its sign and size mean, in words.

A KL is never negative, its estimate may be, for three reasons (objectives/kl.py, metrics/over_paths.py):
  * noise: the sampled part scatters around the true value, by more than it where posterior and prior are alike;
  * the search: max_A p(z | A) is no density, its integral may be as large as the number of paths, so that even the
    expectation of the KL may be as low as -ln N_paths per utterance. The missing nats are those that it takes to say
    which path it was, and the duration loss pays for them;
  * a bug: a forgotten mask or log-determinant, q and p of different utterances.

The KL over all paths is to a density, so no search excuses it: it is what is judged, by the quieter of its two readouts
and its standard error, in which an utterance counts once. What the search lowers is told beside it.
"""

from collections.abc import Mapping, Sequence

KL_KEYS = ("kl/half_analytic", "kl/monte_carlo", "kl/over_paths", "kl/over_paths_monte_carlo")


def verdict(figures: Mapping[str, float], n_latent: int, searched: bool, wrong: Sequence[str] = ()) -> str:
    """A sentence on the KL over paths, nats per frame, of one validation, its `figures` by their keys without "val/".

        not finite, or kl < -3 se       bug
        |kl| <= 3 se                    noise
        kl > 3 se                       positive and resolved

    Then, where it applies: that the KL on the path reads less than 0, by the bias of the alignment search; that
    loss/kl is another number than the KL, with the reasons in `wrong` (config/remarks.py); that no channel is active.
    Of a run that is `wrong` on purpose, or that has lost its phonemes, nothing is called positive and resolved: the
    size of its KL then says nothing good. Lost: the alignment, where it is `searched` and the truth known, is no
    closer to it than even spacing.
    """
    kl, error = quieter(figures, "over_paths")
    bar, shown = 3 * error, f"KL over all paths {kl:.4g} +- {error:.2g} nats per frame"
    off, even = figures.get("mas/error_ms"), figures.get("mas/even_error_ms")
    lost = searched and off is not None and even is not None and not off < even
    if not kl >= -bar:
        sentence = f"bug: {shown}, and no alignment search can lower it; look for a forgotten mask or log-determinant"
    elif kl <= bar:
        sentence = f"noise: {shown} cannot be told from 0, more frames or samples would tell"
    elif wrong or lost:
        sentence = f"no verdict on the size: {shown}"
    else:
        sentence = f"positive and resolved: {shown}"
    parts = [sentence]
    if lost:
        parts.append(f"phonemes lost: onsets are {off:.3g} ms off, even spacing {even:.3g} ms")
    if searched:
        on_path, path_error = quieter(figures, "path")
        if on_path < -3 * path_error:
            parts.append(
                f"bias of the alignment search: on the path that was found it reads {on_path:.4g} +- {path_error:.2g}, "
                f"loose downward by up to {figures['mas/log_paths_per_frame']:.4g}, which the duration loss pays for"
            )
    parts += [f"wrong on purpose: {reason}" for reason in wrong]
    parts += apart(figures, n_latent)
    if figures["latent/active_units"] == 0:
        parts.append(f"collapse: none of the {n_latent} latent channels is active")
    return "; ".join(parts)


def quieter(figures: Mapping[str, float], of: str) -> tuple[float, float]:
    """The KL "over_paths" or on the "path", and its standard error: half analytic or Monte Carlo, by the lower one.

    The error is infinite where it is not known, of a single utterance.
    """
    names = ("over_paths", "over_paths_monte_carlo") if of == "over_paths" else ("half_analytic", "monte_carlo")
    errors = [figures.get(f"kl/error_{name}", float("inf")) for name in names]
    i = 1 if errors[1] < errors[0] else 0
    return figures[f"kl/{names[i]}"], errors[i]


def apart(figures: Mapping[str, float], n_latent: int) -> list[str]:
    """Whether loss/kl is the KL on the path that the run's own sample gives: [] where it is, within 3 errors.

    `loss/kl` of objective.reduction=per_element is in nats per element, and is compared as such.
    """
    loss, kl, error = figures["loss/kl"], *quieter(figures, "path")
    if min(abs(loss - kl), abs(loss * n_latent - kl)) <= 3 * error:
        return []
    return [f"loss/kl is {loss:.4g} where the KL on the path is {kl:.4g} +- {error:.2g}"]
