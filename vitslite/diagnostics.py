"""What one sees beside the losses: figures read off the outputs of the model. Nothing here changes the training."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitslite.objectives import kl
from vitslite.tensors import Outputs


@torch.no_grad()
def latent_statistics(outputs: Outputs) -> dict[str, float]:
    """How wide posterior and prior are, and how far to trust the KL that is logged.

    kl/half_analytic, kl/monte_carlo    both estimators on the same sample, nats per frame
    kl/standard_error                   of the half-analytic mean over these frames, nats per frame
    kl/negative_elements                share; 0.683 is what q = p gives
    posterior/log_std, prior/log_std    means, nats
    """
    x = outputs.latents
    n_frames = x.mask.sum()
    half = (kl.half_analytic(x) * x.mask).sum(1)
    mean = half.sum() / n_frames
    variance = ((half - mean) ** 2 * x.mask[:, 0]).sum() / (n_frames - 1).clamp(min=1)
    n_elements = n_frames * x.z.shape[1]
    return {
        "kl/half_analytic": mean.item(),
        "kl/monte_carlo": ((kl.monte_carlo(x) * x.mask).sum() / n_frames).item(),
        "kl/standard_error": (variance / n_frames).sqrt().item(),
        "kl/negative_elements": (((kl.half_analytic(x) < 0) & x.mask).sum() / n_elements).item(),
        "posterior/log_std": ((x.q.log_std * x.mask).sum() / n_elements).item(),
        "prior/log_std": ((x.p.log_std * x.mask).sum() / n_elements).item(),
    }


@torch.no_grad()
def gradient_norms(model: nn.Module) -> dict[str, float]:
    """The norm of the last gradient by top-level module. Which loss feeds which module: tests/test_routing.py."""
    norms = {}
    for name, module in model.named_children():
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        if gradients:
            norms[f"grad_norm/{name}"] = torch.nn.utils.get_total_norm(gradients).item()
    return norms


def onset_errors(
    durations: Int[Tensor, "L"], onsets: list[tuple[int, int]], hop_length: int, sample_rate: int, blanks: bool
) -> Float[np.ndarray, "N"]:
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
