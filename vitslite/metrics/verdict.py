"""Verdict on the KL: what its sign and size mean, in words.

A KL is never negative, its estimate may be, for three reasons (objectives/kl.py, model/forward_sum.py):
  * noise: the sampled part scatters around the true value, by more than it where posterior and prior are alike;
  * the search: max_A p(z | A) is no density, its integral may be as large as the number of paths, so that even the
    expectation of the KL may be as low as -ln N_paths per utterance. The missing nats are those that it takes to say
    which path it was, and the duration loss pays for them;
  * a bug: a forgotten mask or log-determinant, q and p of different utterances.
"""


def verdict(kl: float, standard_error: float, log_paths_per_frame: float, active_units: float, n_latent: int) -> str:
    """One sentence on `kl` (nats per frame) with its standard error, and on collapse where no channel is active.

        kl > 3 se                             positive
        |kl| <= 3 se                          noise
        -log_paths_per_frame - 3 se <= kl     bias of the alignment search
        below, or NaN                         bug

    `log_paths_per_frame` is 0 where no search picks the path (model.alignment.kind=uniform or given).
    """
    bar = 3 * standard_error
    shown = f"KL {kl:.4g} +- {standard_error:.2g} nats per frame"
    if kl > bar:
        sentence = f"positive and resolved: {shown}"
    elif abs(kl) <= bar:
        sentence = f"noise: {shown} cannot be told from 0, more frames or samples would tell"
    elif kl >= -log_paths_per_frame - bar:
        sentence = (
            f"bias of the alignment search: {shown}, and the bound is loose downward by up to "
            f"{log_paths_per_frame:.4g}, which the duration loss pays for"
        )
    else:
        sentence = (
            f"bug: {shown}, and no alignment search can lower it by more than {log_paths_per_frame:.4g}; look for "
            "a forgotten mask or log-determinant"
        )
    if active_units == 0:
        sentence += f"; collapse: none of the {n_latent} latent channels is active"
    return sentence
