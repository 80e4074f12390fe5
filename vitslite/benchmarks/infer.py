"""Synthesis: one sentence, from tokens to samples, by both decoders behind the same text encoder and flow."""

from collections.abc import Callable

import torch

from vitslite import build
from vitslite.benchmarks.corpus import N_SYMBOLS, n_tokens_of
from vitslite.benchmarks.result import Section, ratio, times
from vitslite.benchmarks.step import BASE, NO_WEIGHT_NORM
from vitslite.benchmarks.timing import Call, Settings, timed
from vitslite.model.synthesis import Synthesis
from vitslite.model.vits import VITS


def run(settings: Settings, frames: int, model: str, overrides: list[str]) -> list[Section]:
    """The real-time factor is the median time, over the seconds that were spoken: below 1 is faster than one speaks."""
    calls = {}
    for kind in ("hifigan", "istft"):
        chosen = [f"model={model}", f"model.decoder.kind={kind}"]
        config = settings.compose([*BASE, *NO_WEIGHT_NORM, "discriminator=none", *chosen, *overrides])
        seconds = frames / config.audio.frames_per_second
        calls[" ".join(chosen)] = Call(speaker(build.model(config, N_SYMBOLS), frames, settings.device))
    timings = timed(calls, settings)
    rows, clock = times(timings), timings.clock
    for name, row in zip(calls, rows, strict=True):
        row[f"real-time factor, {clock}"] = timings.median(name, clock) / seconds
    published, ours = calls
    title = f"synthesis of {frames} frames, {seconds:.2f} s, from {n_tokens_of(frames)} tokens"
    note = "Weight norm is folded into the weights, as one does for synthesis. The voices are untrained."
    return [Section(title, rows, [ratio(timings, ours, published)], [note])]


def speaker(model: VITS, n_frames: int, device: torch.device) -> Callable[[], Synthesis]:
    """A function that speaks a sentence of so many frames: all of `VITS.infer`, the duration predictor included."""
    n_tokens = n_tokens_of(n_frames)
    durations = torch.full((1, n_tokens), n_frames // n_tokens, device=device)
    durations[:, : n_frames % n_tokens] += 1
    log_durations = torch.log(durations - 0.25)  # rounded up or to the nearest: the same
    predict = model.duration_predictor.predict
    vars(model.duration_predictor)["predict"] = lambda *arguments: (predict(*arguments), log_durations)[
        1
    ]  # its work is done
    model.eval().to(device)
    tokens = (torch.arange(n_tokens, device=device) % (N_SYMBOLS - 1) + 1)[None]
    lengths, keys = (torch.tensor([value], device=device) for value in (n_tokens, 1))
    return lambda: model.infer(tokens, lengths, keys)
