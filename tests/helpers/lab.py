"""Small exact worlds for the tests of the objectives: latents from given noise in float64, Gauss-Hermite quadrature."""

import numpy as np
import torch

from vitslite.tensors import Gaussian, Latents

F64 = torch.float64
ONE_D = {"q": (0.5, 0.8), "p": (-0.2, 1.25)}  # (mean, std); the running example T1
ONE_D_KL = 0.30788710262841945


class FlowOf:
    """A function z -> (z_p, log_det) with the interface of model/flows.py."""

    def __init__(self, function=lambda z: (z, torch.zeros_like(z))):
        self.function = function

    def __call__(self, z, mask):
        return self.function(z)


def latents(eps, q=ONE_D["q"], p=ONE_D["p"], flow=None, leaves=None) -> Latents:
    """Latents [1, D, T] from noise eps [D, T] through `flow`; of the parameters of `leaves_of`, if they are given."""
    eps = torch.as_tensor(eps, dtype=F64)[None]
    if leaves is None:
        leaves = [torch.as_tensor(v, dtype=F64).reshape(1, -1, 1) for v in (q[0], np.log(q[1]), p[0], np.log(p[1]))]
    wide = [v + torch.zeros_like(eps) for v in leaves]
    q, p = Gaussian(*wide[:2]), Gaussian(*wide[2:])
    z = q.sample(eps)
    mask = torch.ones(1, 1, eps.shape[2], dtype=torch.bool)
    flow = FlowOf(*([flow] if flow else []))
    z_p, log_det = flow(z, mask)
    return Latents(q, p, z, z_p, log_det, mask, flow, torch.tensor([7]))


def leaves_of(q=ONE_D["q"], p=ONE_D["p"]) -> list[torch.Tensor]:
    """mean_q, log_std_q, mean_p, log_std_p as parameters [1, D, 1]."""
    values = (q[0], np.log(q[1]), p[0], np.log(p[1]))
    return [torch.as_tensor(v, dtype=F64).reshape(1, -1, 1).clone().requires_grad_() for v in values]


def quadrature(n_nodes: int, n_dims: int = 1):
    """Tensor-product Gauss-Hermite nodes [n_dims, n] and weights [n] for standard normals."""
    x, w = np.polynomial.hermite_e.hermegauss(n_nodes)
    nodes = np.stack([g.ravel() for g in np.meshgrid(*[x] * n_dims, indexing="ij")])
    weights = np.prod(np.stack([g.ravel() for g in np.meshgrid(*[w] * n_dims, indexing="ij")]), 0)
    return torch.tensor(nodes), torch.tensor(weights / weights.sum())


def line(n: int = 400_001, end: float = 9.0):
    """A fine grid [1, n] on [-end, end] and the normal weights [n]: for integrands with kinks."""
    x = torch.linspace(-end, end, n, dtype=F64)
    w = torch.exp(-0.5 * x**2)
    return x[None], w / w.sum()


def moments(estimator, n_nodes=60, n_dims=1, **case) -> tuple[float, float]:
    """Mean and variance of an estimator (summed over channels) over the noise, exactly for polynomials."""
    nodes, weights = quadrature(n_nodes, n_dims)
    values = estimator(latents(nodes, **case)).sum(1)[0].detach()
    mean = (values * weights).sum()
    return float(mean), float(((values - mean) ** 2 * weights).sum())


def cosine_shift(z):
    return torch.cat([z[:, :1], z[:, 1:] + torch.cos(z[:, :1])], 1), torch.zeros_like(z)


def bent(z):
    """A nonlinear affine flow on two channels: z0 stays, z1 is shifted and scaled by functions of z0."""
    log_scale = 0.5 * torch.tanh(z[:, :1])
    z_p = torch.cat([z[:, :1], torch.sin(z[:, :1]) + z[:, 1:] * torch.exp(log_scale)], 1)
    return z_p, torch.cat([torch.zeros_like(log_scale), log_scale], 1)
