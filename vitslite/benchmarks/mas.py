"""Monotonic alignment search: ours beside the package monotonic-alignment-search of PyPI, on the same scores.

The package holds the Cython programme of Glow-TTS that VITS and most of its descendants have, under the call that they
make: scores and mask in as tensors, the path out as a matrix. Timed as called, and its compiled kernel alone, arrays
ready. The score is timed with the search, too: our single matrix product against the four published terms.

Before any clock runs, all must have found the same durations, or paths of equal worth in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from vitslite.benchmarks.result import Row, Section, draw_growth, ratio, times
from vitslite.benchmarks.timing import Call, Settings, Timings, once, refuse_waits, timed
from vitslite.model import alignment
from vitslite.model.alignment import AlignmentSettings, Items
from vitslite.tensors import LOG_2PI, Gaussian, sequence_mask

N_LATENT = 192  # channels, as VITS has
TOLERANCE = 1e-6  # by which the worth of two best paths may differ, relative: fp32 rounding
GROWTH = (0.25, 0.5, 1, 2)  # times the shape that the others keep

SEARCH = "vitslite: search"
CALLED = "monotonic-alignment-search: as called"
KERNEL = "monotonic-alignment-search: its kernel alone"
SCORED = "vitslite: score and search"
SCORED_CALLED = "four-term score, monotonic-alignment-search"
SCORED_KERNEL = "four-term score, its kernel alone"
FLOOR = "torch.sum of the scores"
RATIOS = [(SEARCH, CALLED), (SEARCH, KERNEL), (SCORED, SCORED_CALLED), (SCORED, SCORED_KERNEL), (SEARCH, FLOOR)]
INSTALL = "monotonic-alignment-search is not installed, so its rows are missing: pip install monotonic-alignment-search"


class Shape(NamedTuple):
    """Of a padded batch."""

    n_items: int
    n_tokens: int
    n_frames: int

    def __str__(self) -> str:
        return f"{self.n_items} utterances, {self.n_tokens} tokens, {self.n_frames} frames"


DEFAULT_SHAPES = [Shape(16, 100, 500), Shape(32, 200, 1000), Shape(64, 200, 1000), Shape(16, 400, 2000)]


class Peer(NamedTuple):
    """What the package offers: its public call, and the kernel behind it, which overwrites paths and scores."""

    maximum_path: Callable[..., Tensor]
    kernel: Callable[..., None]


@dataclass(frozen=True)
class Problem:
    """A random batch to align, and the score of its cells."""

    z: Float[Tensor, "B D T"]
    p_text: Gaussian
    lengths: tuple[Int[Tensor, " B"], Int[Tensor, " B"]]  # tokens, frames
    mask: Float[Tensor, "B L T"]
    score: Float[Tensor, "B L T"]  # frames outermost in memory, as `log_likelihood` gives it

    @property
    def ids(self) -> list[str]:
        return [str(i) for i in range(len(self.z))]


def find_peer() -> Peer | None:
    """The package, where it is installed."""
    try:
        from monotonic_alignment_search import maximum_path
        from monotonic_alignment_search.core import maximum_path_c
    except ImportError:
        return None
    return Peer(maximum_path, maximum_path_c)


def run(settings: Settings, shapes: list[Shape], growth: bool) -> list[Section]:
    """A section per shape. ValueError for a shape that has no path, or where somebody's path is not a best one."""
    sections: list[Section] = []
    untraced = replace(settings, trace=None)
    for shape in shapes:
        timings, notes = compare(shape, untraced if sections else settings)  # the trace is of the first shape
        ratios = [ratio(timings, a, b) for a, b in RATIOS if b in timings.seconds]
        sections.append(Section(f"alignment search, {shape}, ragged", times(timings), ratios, notes))
    return [*sections, growing(shapes[0], untraced)] if growth else sections


def compare(shape: Shape, settings: Settings) -> tuple[Timings, list[str]]:
    """Check that all agree on a random problem of this shape, then time them. Also what to say beside the times."""
    problem, peer = make_problem(shape, settings.device), find_peer()
    calls = searches(problem, peer)
    notes = agreement(problem, {name: durations_of(once(call)) for name, call in calls.items()})
    if settings.device.type == "cuda":
        for name in (SEARCH, SCORED):
            refuse_waits(name, calls[name].run)
        notes.append("On the GPU ours never makes the host wait.")
    calls[FLOOR] = Call(problem.score.sum)
    timings = timed(calls, settings)
    return timings, [*notes, floor(problem, timings), *([INSTALL] if peer is None else [])]


def make_problem(shape: Shape, device: torch.device) -> Problem:
    """Normal latents, lengths uniform from half of the shape to all of it; the first utterance is as long as that."""
    if min(shape) < 1 or shape.n_tokens > shape.n_frames:
        raise ValueError(
            f"--shapes {','.join(map(str, shape))}: give B,L,T of at least 1, with no more tokens than frames"
        )
    n, n_tokens, n_frames = shape
    random = torch.Generator().manual_seed(0)
    shares = torch.rand(2, n, generator=random) / 2 + 0.5
    shares[:, 0] = 1
    token_lengths = (shares[0] * n_tokens).ceil().long()
    frame_lengths = (shares[1] * n_frames).ceil().long().maximum(token_lengths)
    token_mask, frame_mask = sequence_mask(token_lengths, n_tokens), sequence_mask(frame_lengths, n_frames)
    mask = (token_mask.transpose(1, 2) & frame_mask).float().to(device)
    z, mean = (torch.randn(n, N_LATENT, length, generator=random).to(device) for length in (n_frames, n_tokens))
    log_std = (0.3 * torch.randn(n, N_LATENT, n_tokens, generator=random)).to(device)
    lengths, p_text = (token_lengths.to(device), frame_lengths.to(device)), Gaussian(mean, log_std)
    return Problem(z, p_text, lengths, mask, alignment.log_likelihood(z, p_text))


def searches(problem: Problem, peer: Peer | None) -> dict[str, Call]:
    """What is compared. Ours give durations, the package's a path [B, L, T]; its kernel runs on a CPU alone."""
    p, off = problem, AlignmentSettings()
    items = Items(p.ids, *p.lengths, torch.zeros_like(p.lengths[0]))  # without a step nothing is random
    calls = {
        SEARCH: Call(lambda: alignment.monotonic_alignment(p.score, *p.lengths, p.ids)),
        SCORED: Call(lambda: alignment.scored_search(p.z, p.p_text, items, off, None)),
    }
    if peer is None:
        return calls
    text_first = p.score.contiguous()
    calls[CALLED] = Call(lambda: peer.maximum_path(text_first, p.mask))
    calls[SCORED_CALLED] = Call(lambda: peer.maximum_path(four_term_score(p.z, p.p_text), p.mask))
    if p.z.device.type == "cpu":
        lengths = [length.numpy().astype(np.int32) for length in p.lengths]
        touched = np.full(p.score.shape, 0, np.int32)  # full, not zeros: its pages are there before the clock runs

        def kernel(paths: np.ndarray, scores: np.ndarray) -> np.ndarray:
            peer.kernel(paths, scores, *lengths)
            return paths

        calls[KERNEL] = Call(kernel, lambda: (touched.copy(), text_first.numpy().copy()))
        calls[SCORED_KERNEL] = Call(
            lambda paths: kernel(paths, four_term_score(p.z, p.p_text).numpy()), lambda: (touched.copy(),)
        )
    return calls


def four_term_score(z_p: Float[Tensor, "B D T"], p_text: Gaussian) -> Float[Tensor, "B L T"]:
    """log N(z_p[:, t]; mean[:, l], std[:, l]^2) as usually published: two matrix products, three additions.

        sum_d (-1/2 log 2 pi - log_std) + r^T (-z^2 / 2) + (m r)^T z + sum_d (-m^2 r / 2),      r = 1 / std^2

    Source: Kim et al. 2020 (Glow-TTS), eq. 6, with the square expanded.
    """
    mean, log_std = p_text
    precision = torch.exp(-2 * log_std)
    constant = (-0.5 * LOG_2PI - log_std).sum(1)[:, :, None]
    squares = precision.transpose(1, 2) @ (-0.5 * z_p**2)
    products = (mean * precision).transpose(1, 2) @ z_p
    means = (-0.5 * mean**2 * precision).sum(1)[:, :, None]
    return constant + squares + products + means


def durations_of(found: Tensor | np.ndarray) -> Int[Tensor, "B L"]:
    """Frames per token, of durations or of a path [B, L, T], on the CPU."""
    found = torch.as_tensor(found).cpu()
    return (found if found.ndim == 2 else found.sum(2)).long()


def agreement(problem: Problem, found: dict[str, Int[Tensor, "B L"]]) -> list[str]:
    """Who found the same as ours. ValueError naming who has no path, or not one that is worth as much as another's."""
    token_lengths, frame_lengths = (lengths.cpu() for lengths in problem.lengths)
    token_mask = sequence_mask(token_lengths, problem.score.shape[1])[:, 0]
    for name, durations in found.items():
        is_path = ((durations > 0) == token_mask).all(1) & (durations.sum(1) == frame_lengths)
        if not is_path.all():
            raise ValueError(f"{name}: utterance {int(is_path.long().argmin())}: what it found is not a path")
    worth = {name: path_worth(problem, durations) for name, durations in found.items()}
    best = torch.stack(list(worth.values())).amax(0)
    for name, value in worth.items():
        gap = (best - value) / best.abs()
        if gap.max() > TOLERANCE:
            i = int(gap.argmax())
            raise ValueError(f"{name}: utterance {i}: its path is worth {value[i]:.9g} nats, the best {best[i]:.9g}")
    others = {name: int((d != found[SEARCH]).any(1).sum()) for name, d in found.items()}
    differing = [f"{name} ({n})" for name, n in others.items() if n]
    if not differing:
        return ["All find the same durations."]
    return [
        f"All find the same durations, but for utterances where two paths are worth the same to {TOLERANCE:g} "
        f"(in float64; fp32 rounds the scores of each differently): {', '.join(differing)} of {len(best)}."
    ]


def path_worth(problem: Problem, durations: Int[Tensor, "B L"]) -> Float64[Tensor, " B"]:
    """The log-likelihood of the frames along a path, in float64 and without a score matrix; nats per utterance."""
    z, mean, log_std = (x.double().cpu() for x in (problem.z, *problem.p_text))
    of_frames = Gaussian(*(alignment.expand(x, durations, z.shape[2]) for x in (mean, log_std)))
    return (of_frames.log_prob(z) * sequence_mask(problem.lengths[1].cpu(), z.shape[2])).sum((1, 2))


def floor(problem: Problem, timings: Timings) -> str:
    """What reading the scores costs, at the speed at which torch.sum reads them here."""
    seconds, n_bytes = timings.median(FLOOR, timings.clock), problem.score.nbytes
    valid = float(problem.mask.mean())
    return (
        f"Floor: {n_bytes / 1e6:.3g} MB of scores, {100 * valid:.0f} % of them valid, at {n_bytes / seconds / 1e9:.3g} "
        f"GB/s (torch.sum): {1000 * seconds:.3g} ms to read all of them once, {1000 * valid * seconds:.3g} ms for the "
        "valid ones."
    )


def growing(base: Shape, settings: Settings) -> Section:
    """The time of a search as one side of the shape grows and the others stay; also drawn."""
    rows: list[Row] = []
    for side, name in zip(base._fields, ("B", "L", "T"), strict=True):
        for factor in GROWTH:
            shape = base._replace(**{side: max(1, round(factor * getattr(base, side)))})
            shape = shape._replace(n_tokens=min(shape.n_tokens, shape.n_frames))
            timings, _ = compare(shape, settings)
            clock, shown = timings.clock, [call for call in (SEARCH, CALLED, KERNEL) if call in timings.seconds]
            taken = {f"{call}, {clock} ms": 1000 * timings.median(call, clock) for call in shown}
            rows.append({"grows": name, **dict(zip("BLT", shape, strict=True)), **taken})
    picture = settings.output / "mas.png"
    draw_growth(picture, rows)
    return Section(f"alignment search as the shape grows from {base}", rows, notes=[f"Drawn in {picture}"])
