"""Probe: diagnostics on one small fixed batch that are too expensive to be measured at every logged step."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from vitslite.metrics import gradients
from vitslite.metrics.alignment import score_statistics
from vitslite.metrics.latents import in_float64, is_flow
from vitslite.model.alignment import log_likelihood
from vitslite.model.vits import VITS
from vitslite.objectives import kl
from vitslite.objectives.objective import Counts, Objective
from vitslite.tensors import Batch, Latents

N_SAMPLES = 16
N_UTTERANCES = 8  # of `gradient_noise`


def probe(
    model: VITS,
    objective: Objective,
    batch: Batch,
    counts: Counts,
    previous: Int[Tensor, "B L"] | None,
) -> tuple[dict[str, float], Int[Tensor, "B L"]]:
    """The figures of `gradients.matrix`, `sampling_variance`, `score_statistics` and the error of the flow's inverse.

    grad/<term>/<module>        of every unweighted term; without the discriminator, whose terms are not here
    latent/inverse_error        max |f^-1(f(z)) - z| over valid elements; absent of a recording without flow

    Also the durations, to be handed in as `previous` the next time. The caller puts the model into the mode it wants.
    Parameters, their `.grad` and the global random state stay as they are.
    """
    with torch.enable_grad():
        outputs = model(batch)
        row = gradients.matrix(model, objective(outputs, counts).terms)
    with torch.no_grad():
        x = outputs.latents
        row |= sampling_variance(x) if x.posterior else {}
        if x.posterior or is_flow(model.flow):
            error = (model.flow.inverse(x.z_p, x.mask) - x.z).abs()
            row["latent/inverse_error"] = error.masked_fill(~x.mask, 0).max().item()
        log_lik = log_likelihood(x.z_p, outputs.p_text)
    row |= score_statistics(log_lik, outputs.durations, batch.token_lengths, batch.frame_lengths, previous)
    return row, outputs.durations


def gradient_noise(
    model: VITS, objective: Objective, batches: Sequence[Batch], step: int, batch_size: int
) -> dict[str, float]:
    """`gradients.noise_scale` of the weighted loss, without the discriminator's terms; `batches` of one utterance each.

    With the noise, the segments and the dropout that they would have at `step`. The model is in the mode of training.
    """
    counts = Counts.from_flat(sum((objective.counts(b).flat() for b in batches), torch.zeros(())))
    with torch.enable_grad():
        shares = (objective(model(batch), counts, step=step).total for batch in batches)
        return gradients.noise_scale(model, shares, batch_size)


@torch.no_grad()
def sampling_variance(x: Latents) -> dict[str, float]:
    """The variance of two estimators over N_SAMPLES more samples of q, per element, averaged over valid elements.

    kl/variance_half_analytic, kl/variance_monte_carlo      nats^2 per element, as found (unbiased: over K - 1)
    kl/variance_half_analytic_theory                        mean of d^2 r^2 + r^4 / 2
    kl/variance_monte_carlo_theory                          mean of d^2 r^2 + (r^2 - 1)^2 / 2

    with r = std_q / std_p, d = (f(mean_q) - mean_p) / std_p. The theory is exact only per element and without a flow:
    behind one, r is not that of f(z), elements of a frame depend on each other, and the two part.
    half_analytic is the quieter one where r < 1 / sqrt 2.
    """
    samples = [in_float64(kl.redrawn(x, k)) for k in range(1, N_SAMPLES + 1)]
    pushed = in_float64(x.at(x.q.mean)).z_p
    x = in_float64(x)
    ratio = torch.exp(2 * (x.q.log_std - x.p.log_std))
    shift = (pushed - x.p.mean) ** 2 * torch.exp(-2 * x.p.log_std) * ratio
    variances = {
        "half_analytic": torch.stack([kl.half_analytic(sample) for sample in samples]).var(0),
        "monte_carlo": torch.stack([kl.monte_carlo(sample) for sample in samples]).var(0),
        "half_analytic_theory": shift + 0.5 * ratio**2,
        "monte_carlo_theory": shift + 0.5 * (ratio - 1) ** 2,
    }
    n_elements = x.mask.sum() * x.z.shape[1]
    return {
        f"kl/variance_{name}": (value.masked_fill(~x.mask, 0).sum() / n_elements).item()
        for name, value in variances.items()
    }
