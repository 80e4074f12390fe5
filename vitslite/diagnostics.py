"""What one sees beside the losses: figures read off the outputs of the model. Nothing here changes the training."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitslite.objectives import kl
from vitslite.tensors import Outputs


@torch.no_grad()
def latent_sums(outputs: Outputs) -> Float[Tensor, "8"]:
    """What `latent_statistics` needs of one batch: sums over its valid frames and channels, in float64."""
    x = outputs.latents
    half = (kl.half_analytic(x) * x.mask).double()
    sums = [
        x.mask.sum(),
        x.mask.sum() * x.z.shape[1],
        half.sum(),
        (half.sum(1) ** 2).sum(),
        (kl.monte_carlo(x) * x.mask).sum(),
        ((half < 0) & x.mask).sum(),
        (x.q.log_std * x.mask).sum(),
        (x.p.log_std * x.mask).sum(),
    ]
    return torch.stack([s.double() for s in sums])


def latent_statistics(sums: Float[Tensor, "8"]) -> dict[str, float]:
    """How wide posterior and prior are, and how far to trust the KL that is logged.

    kl/half_analytic, kl/monte_carlo    both estimators on the same sample, nats per frame
    kl/standard_error                   of the half-analytic mean over these frames, nats per frame
    kl/negative_elements                share; 0.683 is what q = p gives
    posterior/log_std, prior/log_std    means, nats
    """
    n_frames, n_elements, half, half_squared, monte_carlo, n_negative, q_log_std, p_log_std = sums.tolist()
    mean = half / n_frames
    variance = max(0.0, half_squared - n_frames * mean**2) / max(1.0, n_frames - 1)
    return {
        "kl/half_analytic": mean,
        "kl/monte_carlo": monte_carlo / n_frames,
        "kl/standard_error": (variance / n_frames) ** 0.5,
        "kl/negative_elements": n_negative / n_elements,
        "posterior/log_std": q_log_std / n_elements,
        "prior/log_std": p_log_std / n_elements,
    }


@torch.no_grad()
def gradient_norms(model: nn.Module, scale: float = 1.0) -> dict[str, float]:
    """The norm of the last gradient by top-level module, times `scale` (what clipping divided it by).

    Which loss feeds which module: tests/test_routing.py.
    """
    norms = {}
    for name, module in model.named_children():
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        if gradients:
            norms[f"grad_norm/{name}"] = scale * torch.nn.utils.get_total_norm(gradients).item()
    return norms


def onset_errors(
    durations: Int[Tensor, " L"], onsets: list[tuple[int, int]], hop_length: int, sample_rate: int, blanks: bool
) -> Float[np.ndarray, " N"]:
    """|found - true| onset of each token in `onsets` (token index, sample), milliseconds.

    Frame t begins at sample t * hop_length, so a token's onset is the sum of the durations before it. With blanks
    between tokens the boundary is put in the middle of the blank, which belongs to neither.
    """
    starts = np.concatenate([[0], durations.cpu().numpy().cumsum()])[:-1].astype(float)
    tokens = np.array([token for token, _ in onsets], dtype=int)
    found = starts[tokens]
    if blanks:
        found = (found + starts[np.maximum(tokens - 1, 0)]) / 2
    true = np.array([sample for _, sample in onsets], dtype=float)
    return np.abs(found * hop_length - true) * 1000 / sample_rate
