"""The prior of each frame: the Gaussians of the tokens, brought to the frames by an alignment."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitslite.model import alignment, forward_sum
from vitslite.model.alignment import AlignmentSettings, Items
from vitslite.model.posterior_encoder import LOG_MEL_MEAN
from vitslite.tensors import Batch, Gaussian, Prior, SoftGaussian


def align(
    settings: AlignmentSettings,
    batch: Batch,
    p_text: Gaussian,
    mask: Bool[Tensor, "B 1 T"],
    z_p: Float[Tensor, "B D T"] | None,
    mel_text: Float[Tensor, "B M L"] | None,
    training: bool,
) -> tuple[Int[Tensor, "B L"], Prior]:
    """Frames per token, and the prior of each frame. In fp32: half precision loses the path.

    Penalty and noise help training alone: what is judged under `eval()` is the alignment of the model itself.
    """
    lengths = batch.token_lengths, batch.frame_lengths
    if settings.kind == "uniform":
        durations = alignment.uniform(*lengths, p_text.mean.shape[2])
        return durations, expand(p_text, durations, mask)
    if settings.kind == "given":
        if batch.durations is None:
            raise ValueError("model.alignment.kind=given: the corpus knows no durations; use mas or forward_sum")
        return batch.durations, expand(p_text, batch.durations, mask)
    x, tokens = z_p, p_text
    if settings.score == "mel":
        assert batch.mel is not None and mel_text is not None
        # Centred, so that the expanded square of the score does not cancel in fp32.
        x, tokens = batch.mel - LOG_MEL_MEAN, Gaussian(mel_text - LOG_MEL_MEAN, torch.zeros_like(mel_text))
    assert x is not None
    items, step = Items(batch.ids, *lengths, batch.keys), batch.step if training else None
    if settings.kind == "mas":
        durations = alignment.scored_search(x, tokens, items, settings, step)
        return durations, expand(p_text, durations, mask)
    with torch.no_grad():
        log_lik = alignment.log_likelihood(x, tokens)
        durations = alignment.search(log_lik, items, settings, step, x.shape[1])
        aided = log_lik if step is None else alignment.penalised(log_lik, items, settings, step, x.shape[1])
        weight = forward_sum.posterior(aided, *lengths)
    return durations, SoftGaussian(p_text, weight)


def expand(p_text: Gaussian, durations: Int[Tensor, "B L"], mask: Bool[Tensor, "B 1 T"]) -> Gaussian:
    """The prior of each frame: that of the token it belongs to. Zeros on padding, as everywhere."""
    mean, log_std = (alignment.expand(x, durations, mask.shape[2]) * mask for x in p_text)
    return Gaussian(mean, log_std)


def to_multiple(durations: Int[Tensor, "B L"], token_lengths: Int[Tensor, " B"], multiple: int) -> Int[Tensor, "B L"]:
    """The last token longer by what its utterance lacks to a multiple of `multiple` frames: a flow may squeeze them."""
    if multiple == 1:
        return durations
    missing = -durations.sum(1, keepdim=True) % multiple
    return durations.scatter_add(1, token_lengths[:, None] - 1, missing)
