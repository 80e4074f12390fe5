"""Gradient norms by loss term and by module."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def matrix(model: nn.Module, terms: dict[str, Float[Tensor, ""]]) -> dict[str, float]:
    """The norm of the gradient of every term to every top-level module: "grad/<term>/<module>".

    Exactly 0.0 where a term does not reach a module: in VITS the KL alone trains the text encoder and the flow, and it
    does not depend on the decoder (docs/identities.md, T39). A module without parameters, as the flow is with
    model/flow=none, has no entry. The graph stays, and `.grad` is not touched.
    """
    modules = {name: [p for p in m.parameters() if p.requires_grad] for name, m in model.named_children()}
    modules = {name: group for name, group in modules.items() if group}
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
