"""Gradients by module: norms, by loss term too, and the gradient-noise scale."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


def matrix(model: nn.Module, terms: dict[str, Float[Tensor, ""]]) -> dict[str, float]:
    """The norm of the gradient of every term to every top-level module: "grad/<term>/<module>".

    Exactly 0.0 where a term does not reach a module: in VITS the KL alone trains the text encoder and the flow, and it
    does not depend on the decoder (docs/identities.md, T39). A module without parameters, as the flow is with
    model/flow=none, has no entry. The graph stays, and `.grad` is not touched.
    """
    modules = _trained(model)
    parameters = [p for group in modules.values() for p in group]
    norms = {}
    for term, value in terms.items():
        gradients: tuple[Tensor | None, ...] = (None,) * len(parameters)  # of a term that nothing here can change
        if value.requires_grad:
            gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        found = iter(gradients)
        for name, group in modules.items():
            used = [g for g in (next(found) for _ in group) if g is not None]
            norms[f"grad/{term}/{name}"] = torch.nn.utils.get_total_norm(used).item() if used else 0.0
    return norms


def noise_scale(model: nn.Module, shares: Iterable[Float[Tensor, ""]], batch_size: int) -> dict[str, float]:
    """Gradient-noise scale and signal-to-noise ratio by top-level module, and of all of them.

    `shares` of n independent utterances add up to the loss, so n times the gradient of one is a sample g_i of the
    gradient of the loss. With the mean G of the g_i, unbiased for the covariance S of one and the true gradient:

        tr S = n / (n - 1) (mean |g_i|^2 - |G|^2)       |true gradient|^2 = |G|^2 - tr S / n

    noise/scale/<module>    tr S / |true gradient|^2, in utterances: the batch at which signal and noise are equal, and
                            beyond which more utterances help little; absent where n are too few to see a gradient
    noise/snr/<module>      batch_size |true gradient|^2 / tr S: of the batch that is trained with. It may be averaged
                            over steps, where it is negative because n are too few as well

    McCandlish et al. 2018, "An empirical model of large-batch training", eq. 2.9, and A.2 and A.3 with batches of 1 and
    n. {} for fewer than two; a module that no share reaches has no entry. `.grad` is not touched.
    """
    modules = _trained(model)
    parameters = [p for group in modules.values() for p in group]
    sums, squares, n = [torch.zeros_like(p) for p in parameters], dict.fromkeys(modules, 0.0), 0
    for share in shares:
        found = torch.autograd.grad(share, parameters, allow_unused=True, materialize_grads=True)
        n += 1
        for total, gradient in zip(sums, found, strict=True):
            total += gradient
        for name, square in _squares(modules, found).items():
            squares[name] += square
    if n < 2:
        return {}
    of_mean = _squares(modules, sums)
    traces = {name: n / (n - 1) * (n * squares[name] - of_mean[name]) for name in modules}
    signals = {name: of_mean[name] - traces[name] / n for name in modules}
    row: dict[str, float] = {}
    for name in [*modules, "total"]:
        trace, signal = (sum(v.values()) if name == "total" else v[name] for v in (traces, signals))
        if trace > 0:
            row |= {f"noise/scale/{name}": trace / signal} if signal > 0 else {}
            row[f"noise/snr/{name}"] = batch_size * signal / trace
    return row


@torch.no_grad()
def gradient_norms(model: nn.Module, scale: float = 1.0) -> dict[str, float]:
    """The norm of the last gradient by top-level module, times `scale` (what clipping divided it by): "grad/<module>".

    What clipping by value cut off, `scale` does not bring back.

    Which loss feeds which module: `matrix`, and tests/model/test_routing.py.
    """
    norms = {}
    for name, module in model.named_children():
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        if gradients:
            norms[f"grad/{name}"] = scale * torch.nn.utils.get_total_norm(gradients).item()
    return norms


def _trained(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The parameters of the top-level modules that have any to train."""
    modules = {name: [p for p in m.parameters() if p.requires_grad] for name, m in model.named_children()}
    return {name: group for name, group in modules.items() if group}


def _squares(modules: dict[str, list[nn.Parameter]], gradients: Sequence[Tensor]) -> dict[str, float]:
    """The squared norm of each module's part of `gradients`, which are in the order of the parameters."""
    rest = iter(gradients)
    return {
        name: torch.nn.utils.get_total_norm([next(rest) for _ in group]).item() ** 2 for name, group in modules.items()
    }
