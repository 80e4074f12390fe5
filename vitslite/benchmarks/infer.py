"""Synthesis: one sentence, from tokens to samples, by both decoders behind the same text encoder and flow."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitslite import build
from vitslite.benchmarks.corpus import N_SYMBOLS, n_tokens_of
from vitslite.benchmarks.measuring import Effort, timed
from vitslite.benchmarks.result import Section, ratio, times
from vitslite.benchmarks.step import BASE, NO_WEIGHT_NORM, Compose
from vitslite.benchmarks.timing import Call
from vitslite.model.vits import VITS, Synthesis


class Paced(nn.Module):
    """A duration predictor that does its work, and then answers with durations that were given."""

    def __init__(self, predictor: nn.Module, durations: Int[Tensor, "B L"]):
        super().__init__()
        self.predictor = predictor
        self.register_buffer("log_durations", torch.log(durations - 0.25))  # rounded up or to the nearest: the same

    def predict(self, *arguments: Tensor | float) -> Float[Tensor, "B L"]:
        self.predictor.predict(*arguments)
        return self.log_durations


def run(compose: Compose, effort: Effort, n_frames: int, model: str, overrides: list[str]) -> Section:
    """The real-time factor is the median time, over the seconds that were spoken: below 1 is faster than one speaks."""
    calls, seconds = {}, 0.0
    for kind in ("hifigan", "istft"):
        chosen = [f"model={model}", f"model.decoder.kind={kind}"]
        config = compose([*BASE, *NO_WEIGHT_NORM, "discriminator=none", *chosen, *overrides])
        seconds = n_frames / config.audio.frames_per_second
        calls[" ".join(chosen)] = Call(speaker(build.model(config, N_SYMBOLS), n_frames, effort.device))
    timings = timed(calls, effort)
    clock = "gpu" if effort.device.type == "cuda" else "cpu"
    rows = [
        row | {f"real-time factor, {clock}": timings.median(name, clock) / seconds}
        for name, row in zip(calls, times(timings), strict=True)
    ]
    published, ours = calls
    return Section(
        f"synthesis of {n_frames} frames, {seconds:.2f} s, from {n_tokens_of(n_frames)} tokens",
        rows,
        [ratio(timings, ours, published)],
        ["Weight norm is folded into the weights, as one does for synthesis. The voices are untrained."],
    )


def speaker(model: VITS, n_frames: int, device: torch.device) -> Callable[[], Synthesis]:
    """A function that speaks a sentence of so many frames: all of `VITS.infer`, the duration predictor included."""
    n_tokens = n_tokens_of(n_frames)
    durations = torch.full((1, n_tokens), n_frames // n_tokens)
    durations[:, : n_frames % n_tokens] += 1
    model.duration_predictor = Paced(model.duration_predictor, durations)
    model.eval().to(device)
    tokens = (torch.arange(n_tokens, device=device) % (N_SYMBOLS - 1) + 1)[None]
    lengths, keys = (torch.tensor([value], device=device) for value in (n_tokens, 1))
    return lambda: model.infer(tokens, lengths, keys)
