"""Ragged utterances whose frames several tokens can explain, for the tests of what is said of all alignments."""

import torch
from lab import F64

from vitslite.model import alignment, forward_sum
from vitslite.tensors import Gaussian, Latents, Outputs, SoftGaussian, sequence_mask

B, D, L, T = 3, 4, 3, 7
TOKENS, FRAMES = torch.tensor([3, 2, 1]), torch.tensor([7, 4, 5])


class Bent:
    """A nonlinear affine flow: the first half stays, the second is shifted and scaled by functions of the first."""

    def __call__(self, z, mask):
        z0, z1 = z.chunk(2, 1)
        log_scale = (0.5 * torch.tanh(z0) - 0.3) * mask
        z_p = torch.cat([z0, (torch.sin(2 * z0) + z1 * torch.exp(log_scale)) * mask], 1)
        return z_p, torch.cat([torch.zeros_like(z0), log_scale], 1)


def normal(*shape, seed):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def outputs_of(kind: str, recording=False, padding=0.0, spread=1.0, seed=0) -> Outputs:
    """Ragged utterances behind a nonlinear flow, aligned as `kind` has it."""
    mask, token_mask = sequence_mask(FRAMES, T), sequence_mask(TOKENS, L)
    q = Gaussian(spread * normal(B, D, T, seed=seed + 1), 0.3 * normal(B, D, T, seed=seed + 2) - 0.2)
    p_text = Gaussian(spread * normal(B, D, L, seed=seed + 3), 0.2 * normal(B, D, L, seed=seed + 4))
    z = q.sample(normal(B, D, T, seed=seed + 5)) * mask
    z_p, log_det = Bent()(z, mask)
    items = alignment.Items(["a", "b", "c"], TOKENS, FRAMES, torch.arange(B))
    log_lik = alignment.log_likelihood(z_p, p_text)
    durations = alignment.uniform(TOKENS, FRAMES, L)
    if kind in ("mas", "forward_sum"):
        durations = alignment.search(log_lik, items, alignment.AlignmentSettings(), None, D)
    elif kind == "given":
        durations = torch.tensor([[4, 1, 2], [1, 3, 0], [5, 0, 0]])
    if kind == "forward_sum":
        p = SoftGaussian(p_text, forward_sum.posterior(log_lik.double(), TOKENS, FRAMES))
    else:
        p = Gaussian(*(alignment.expand(v, durations, T) * mask for v in p_text))
    spoilt = (
        [Gaussian(*(v.masked_fill(~mask, padding) for v in g)) for g in (q, p)] if kind != "forward_sum" else [q, p]
    )
    p_text = Gaussian(*(v.masked_fill(~token_mask, padding) for v in p_text))
    x = Latents(spoilt[0], spoilt[1], z, z_p, log_det, mask, Bent(), torch.arange(B) + 10 * seed)
    if recording:
        x = x._replace(posterior=None)
    return outputs_with(x, p_text, durations)


def outputs_with(x: Latents, p_text: Gaussian, durations: torch.Tensor) -> Outputs:
    """Outputs where nothing else means anything."""
    audio = torch.zeros(len(durations), 1, 1)
    return Outputs(x, p_text, durations, torch.zeros(durations.shape), audio, audio, x.mask.sum((1, 2)))
