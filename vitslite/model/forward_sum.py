"""Forward-sum alignment: the sum over all monotonic paths, of which the search (alignment.py) keeps the best one.

A path A starts in token 0, ends in token L - 1, and each frame stays in its token or goes on to the next, C(T-1, L-1)
ways in all. With the score log_lik[l, t] = log N(z_p[:, t]; mean[:, l], std[:, l]^2),

    log_sum = log sum_A exp( sum_t log_lik[A(t), t] )

It is the forward algorithm of hidden Markov models (Baum et al. 1970) without transition probabilities; that of CTC
(Graves et al. 2006) without blanks; and that of the forward-sum loss (Badlani et al. 2022, "One TTS alignment to rule
them all"), whose scores are normalised over the tokens of a frame first. Its derivative is the posterior of the
alignment, the E step of Baum and Welch:

    d log_sum / d log_lik[l, t] = P(frame t belongs to token l | z)

How much the search leaves out is known: with max the score of the best path,

    max <= log_sum <= max + ln N_paths,     ln N_paths = ln C(T-1, L-1)

A prior that plugs in the best path is no density, its integral may be as large as N_paths. So a KL made with it may
stay below zero by up to ln N_paths / T nats per frame: 0.65 for an average utterance of LJSpeech with blanks.
`log_sum - ln N_paths` is the log of a density, the mixture of all paths with equal weights.

In float64: sums over an utterance reach 1e5 nats and are compared with each other. Lengths are those that the search
has checked: with fewer frames than tokens there is no path, `log_sum` and `log_n_paths` are -inf, `posterior` is NaN.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitslite.tensors import sequence_mask, wide


def log_sum(
    log_lik: Float[Tensor, "B L T"], token_lengths: Int[Tensor, " B"], frame_lengths: Int[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """log sum_A exp(sum_t log_lik[A(t), t]) over all monotonic paths: nats per utterance, float64, with gradient.

    What lies beyond the lengths has no influence, and gets a gradient of zero.
    """
    score = _valid_score(log_lik, _valid(log_lik, token_lengths, frame_lengths))
    return _last(_partial_sums(score), token_lengths, frame_lengths)


def posterior(
    log_lik: Float[Tensor, "B L T"], token_lengths: Int[Tensor, " B"], frame_lengths: Int[Tensor, " B"]
) -> Float[Tensor, "B L T"]:
    """P(frame t belongs to token l | z) = d log_sum / d log_lik[l, t], without gradient.

    Sums to 1 over tokens on valid frames and is 0 on padding; in the precision of `log_lik`. By the forward-backward
    algorithm: a path through a cell is a beginning that ends there and an end that begins there. The ends of an
    utterance are the beginnings of its reverse, so that one sweep over the frames makes both.
    """
    with torch.no_grad():
        valid = _valid(log_lik, token_lengths, frame_lengths)
        score = _valid_score(log_lik, valid)
        sums = _partial_sums(torch.cat([score, _reversed(score, token_lengths, frame_lengths)]))
        beginnings, reversed_ends = sums.chunk(2)
        ends = _reversed(reversed_ends, token_lengths, frame_lengths)
        total = _last(beginnings, token_lengths, frame_lengths)[:, None, None]
        share = torch.exp(beginnings + ends - score - total)  # the score of the cell itself is in both
        return share.masked_fill(~valid, 0).transpose(1, 2).to(log_lik.dtype)


def log_n_paths(token_lengths: Int[Tensor, " B"], frame_lengths: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """ln C(T-1, L-1): the log of the number of monotonic paths, in float64."""
    n_tokens, n_frames = wide(token_lengths), wide(frame_lengths)
    return torch.lgamma(n_frames) - torch.lgamma(n_tokens) - torch.lgamma(n_frames - n_tokens + 1)


def _partial_sums(score: Float[Tensor, "B T L"]) -> Float[Tensor, "B T L"]:
    """log of the sum over all beginnings of paths that are in token l at frame t; -inf where there is none (l > t).

        sums[t, l] = score[t, l] + log(exp(sums[t - 1, l]) + exp(sums[t - 1, l - 1]))

    Only tokens that can be reached take part, one more with each frame: the gradient of logaddexp(-inf, -inf) is NaN.
    """
    n_tokens = score.shape[2]
    frames = score.unbind(1)
    sums = frames[0][:, :1]
    columns = [sums]
    for frame in frames[1:]:
        either = torch.logaddexp(sums[:, 1:], sums[:, :-1])  # stayed, or came from the token before
        sums = torch.cat([sums[:, :1], either, sums[:, -1:]], 1)[:, :n_tokens]
        sums = sums + frame[:, : sums.shape[1]]
        columns.append(sums)
    return torch.stack([F.pad(column, (0, n_tokens - column.shape[1]), value=-torch.inf) for column in columns], 1)


def _last(
    sums: Float[Tensor, "B T L"], token_lengths: Int[Tensor, " B"], frame_lengths: Int[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """The sum in the last token at the last frame of each utterance: over whole paths."""
    items = torch.arange(len(sums), device=sums.device)
    return sums[items, frame_lengths - 1, token_lengths - 1]


def _reversed(
    x: Float[Tensor, "B T L"], token_lengths: Int[Tensor, " B"], frame_lengths: Int[Tensor, " B"]
) -> Float[Tensor, "B T L"]:
    """Each utterance from its last frame and token to its first. Padding stays padding, of no meaning."""
    for dim, lengths in ((1, frame_lengths), (2, token_lengths)):
        shape = [len(x), 1, 1]
        shape[dim] = x.shape[dim]
        index = lengths[:, None] - 1 - torch.arange(x.shape[dim], device=x.device)
        x = x.gather(dim, index.clamp(min=0).view(shape).expand_as(x))
    return x


def _valid(
    log_lik: Float[Tensor, "B L T"], token_lengths: Int[Tensor, " B"], frame_lengths: Int[Tensor, " B"]
) -> Bool[Tensor, "B T L"]:
    _, n_tokens, n_frames = log_lik.shape
    return sequence_mask(frame_lengths, n_frames).transpose(1, 2) & sequence_mask(token_lengths, n_tokens)


def _valid_score(log_lik: Float[Tensor, "B L T"], valid: Bool[Tensor, "B T L"]) -> Float[Tensor, "B T L"]:
    """In float64, 0 on padding: NaN there would come back through the gradient."""
    return wide(log_lik.transpose(1, 2)).masked_fill(~valid, 0)
