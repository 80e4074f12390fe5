"""Pictures over the time of an utterance, in seconds: where the KL is, the alignment, spectrograms.

Panels of one picture share the time axis. Where a sound is drawn stands in the PNG itself, so that a page can lay a
play-head over it (html.PLACES).
"""

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.colors import CenteredNorm

from vitslite.audio import AudioSettings, mel_filters
from vitslite.metrics.catalogue import find
from vitslite.monitoring.figures import INK, drawing, save
from vitslite.monitoring.html import PLACES
from vitslite.monitoring.views import Alignment, View
from vitslite.text.frontend import BLANK

WIDTH, WIDEST, INCHES_PER_SECOND = 10.0, 40.0, 2.2
LEFT, RIGHT, TOP, GAP, BOTTOM = 0.75, 1.1, 0.65, 0.4, 0.5  # inches round and between the panels
NAMES = 0.32  # inches that the tokens take above an alignment
BLUE, ORANGE = "#0072B2", "#D55E00"  # of Okabe and Ito


@drawing
def nats_map(path: Path, view: View, audio: AudioSettings, title: str) -> Path:
    """Where the KL is: spectrogram, contribution of each channel and frame, their sum with its noise, the alignment.

    The band is two standard deviations of one sample's estimate on either side: inside it a frame below 0 means
    nothing. Behind couplings a channel's part is a contribution, no KL of its own.
    """
    spec, nats, found = view
    seconds = spec.shape[1] / audio.frames_per_second
    figure, (sound, elements, frames, path_axes) = _panels([1.5, 1.6, 1.2, 2.6], seconds, title, NAMES)
    extent = (0.0, seconds)
    level = 20 * np.log10(np.maximum(spec, 1e-5))
    image = _image(sound, level, (*extent, 0, audio.sample_rate / 2000), cmap="viridis", vmin=level.max() - 80)
    sound.set(ylabel="kHz", title="spectrogram of the recording")
    _bar(image, "dB")

    what = "KL" if nats.noise is not None else find("nll/per_frame").title
    order = np.argsort(nats.elements.sum(1))  # the channel that costs most on top
    half = max(float(np.percentile(np.abs(nats.elements), 99.5)), 1e-6)
    image = _image(
        elements, nats.elements[order], (*extent, 0, len(order)), cmap="RdBu_r", norm=CenteredNorm(0, halfrange=half)
    )
    elements.set(ylabel="channel, by sum", yticks=[], title=f"{what}: contribution of each channel and frame")
    _bar(image, "nats")

    times = (np.arange(spec.shape[1]) + 0.5) / audio.frames_per_second
    if nats.noise is not None:
        band = nats.frames - 2 * nats.noise, nats.frames + 2 * nats.noise
        frames.fill_between(times, *band, color=ORANGE, alpha=0.35, linewidth=0, label="two standard deviations")
    frames.plot(times, nats.frames, color=BLUE, linewidth=1.2, label="on the path found")
    frames.axhline(0, color=INK, linewidth=0.8, linestyle="--")
    frames.set(ylabel="nats/frame", title=f"{what} of each frame, mean {nats.frames.mean():.2f}")
    frames.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2, frameon=False)

    boundaries = np.concatenate([[0], found.durations.cumsum()]) / audio.frames_per_second
    for axes in (elements, frames):
        axes.vlines(boundaries[1:-1], *axes.get_ylim(), color=INK, linewidth=0.5, alpha=0.5)
    _alignment(path_axes, found, audio)
    return _save(path, dict.fromkeys(("recording", "copy"), (sound, path_axes)))


@drawing
def alignment(path: Path, found: Alignment, audio: AudioSettings, title: str) -> Path:
    """The token-frame log-likelihood, the path that the search found, and onsets where known."""
    figure, (axes,) = _panels([4.0], found.log_lik.shape[1] / audio.frames_per_second, title, NAMES)
    _alignment(axes, found, audio)
    return _save(path, dict.fromkeys(("recording", "copy"), (axes, axes)))


@drawing
def spectrograms(path: Path, mels: Mapping[str, Float[np.ndarray, "M _"]], audio: AudioSettings, title: str) -> Path:
    """Log-mel spectrograms below each other on one colour scale, named by what comes before a comma."""
    longest = max(mel.shape[1] for mel in mels.values()) / audio.frames_per_second
    figure, panels = _panels([1.5] * len(mels), longest, title)
    centres = mel_filters(audio.sample_rate, audio.n_fft, audio.n_mels, audio.f_min, audio.f_max).argmax(1)
    khz = centres.numpy() * audio.sample_rate / audio.n_fft / 1000
    marks = [mark for mark in (0.5, 1, 2, 4, 8) if mark <= khz[-1] * 1.1]
    for axes, (name, mel) in zip(panels, mels.items(), strict=True):
        extent = (0, mel.shape[1] / audio.frames_per_second, -0.5, len(mel) - 0.5)
        image = _image(axes, mel, extent, vmin=-10, vmax=2, cmap="viridis")
        axes.set(xlim=(0, longest), ylabel="kHz")
        axes.set_title(textwrap.shorten(name, 90), parse_math=False)
        axes.set_yticks([int(np.abs(khz - mark).argmin()) for mark in marks], [f"{mark:g}" for mark in marks])
        _bar(image, "log mel")
    return _save(path, {name.partition(",")[0]: (axes, axes) for name, axes in zip(mels, panels, strict=True)})


@drawing
def high_bands(path: Path, wavs: Mapping[str, Float[np.ndarray, " _"]], sample_rate: int, title: str) -> Path:
    """Spectrograms of 16 ms above 4 kHz, dB: noise is grainy there, a buzz at the frame rate is horizontal stripes."""
    longest = max(map(len, wavs.values())) / sample_rate
    figure, panels = _panels([1.2] * len(wavs), longest, title)
    n_fft = sample_rate // 60
    for axes, (name, wav) in zip(panels, wavs.items(), strict=True):
        *_, image = axes.specgram(wav + 1e-9, n_fft, sample_rate / 1000, noverlap=n_fft * 3 // 4, vmin=-90, vmax=-30)
        image.set_extent((0, len(wav) / sample_rate, 0, sample_rate / 2000))
        axes.set(xlim=(0, longest), ylim=(4, sample_rate / 2000), ylabel="kHz", title=name)
    return _save(path, {name: (axes, axes) for name, axes in zip(wavs, panels, strict=True)})


# ---------------------------------------------------------------------------------------------------------- panels


def _panels(
    heights: list[float], seconds: float, title: str, above_last: float = 0.0
) -> "tuple[matplotlib.figure.Figure, list]":
    """Panels of these heights in inches below each other, from 0 to `seconds`; longer utterances are wider."""
    from matplotlib.figure import Figure

    width = min(max(WIDTH, LEFT + RIGHT + INCHES_PER_SECOND * seconds), WIDEST)
    height = TOP + sum(heights) + GAP * (len(heights) - 1) + above_last + BOTTOM
    figure, panels, y = Figure(figsize=(width, height)), [], height - TOP
    for i, inches in enumerate(heights):
        is_last = i == len(heights) - 1
        y -= inches + above_last * is_last
        place = (LEFT / width, y / height, 1 - (LEFT + RIGHT) / width, inches / height)
        axes = figure.add_axes(place, xlim=(0, seconds))
        axes.tick_params(labelbottom=is_last)
        panels.append(axes)
        y -= GAP
    panels[-1].set_xlabel("seconds")
    shown = textwrap.shorten(title, int(9 * width))
    figure.text(LEFT / width, 1 - 0.12 / height, shown, va="top", fontsize=11, parse_math=False)
    return figure, panels


def _image(axes: "matplotlib.axes.Axes", values: np.ndarray, extent: tuple, **look) -> "matplotlib.image.AxesImage":
    return axes.imshow(values, origin="lower", aspect="auto", interpolation="nearest", extent=extent, **look)


def _bar(image: "matplotlib.image.AxesImage", label: str) -> None:
    """A colour bar in the right margin, as high as the panel."""
    axes = image.axes
    x, y, width, height = axes.get_position().bounds
    figure = axes.get_figure(root=True)
    assert figure is not None
    margin = RIGHT / figure.get_figwidth()
    place = figure.add_axes((x + width + 0.12 * margin, y, 0.1 * margin, height))
    figure.colorbar(image, cax=place, label=label)


def _alignment(axes: "matplotlib.axes.Axes", found: Alignment, audio: AudioSettings) -> None:
    """Scores of every frame relative to its best token (constant along a path), the path with its tokens, onsets."""
    scores, per_second = found.log_lik - found.log_lik.max(0, keepdims=True), audio.frames_per_second
    n_tokens, n_frames = scores.shape
    low = max(float(np.percentile(scores, 10)), -400.0)
    extent = (0, n_frames / per_second, -0.5, n_tokens - 0.5)
    image = _image(axes, scores, extent, vmin=low, vmax=0, cmap="magma")
    boundaries = np.concatenate([[0], found.durations.cumsum()]) / per_second
    axes.stairs(np.arange(n_tokens), boundaries, baseline=None, color="cyan", label="alignment found")
    if found.onsets:
        tokens, starts = zip(*found.onsets, strict=True)
        axes.plot(np.array(starts) / per_second, tokens, "w+", markersize=6, label=found.onsets_label)
    _names(axes, boundaries, found.symbols)
    axes.set(ylabel="token")
    axes.set_title("alignment, on the log-likelihood of each token in each frame", pad=28)
    axes.legend(loc="upper left", facecolor="black", framealpha=0.7, edgecolor="none", labelcolor="white")
    _bar(image, "nats below the best")


def _names(axes: "matplotlib.axes.Axes", boundaries: np.ndarray, symbols: list[str]) -> None:
    """The tokens above a panel, in two rows in turn so that short ones do not run into each other."""
    shown = [(i, symbol) for i, symbol in enumerate(symbols) if symbol != BLANK]
    for turn, (i, symbol) in enumerate(shown):
        place, offset = ((boundaries[i] + boundaries[i + 1]) / 2, 1), (0, 6 + 11 * (turn % 2))
        look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "parse_math": False}
        axes.annotate(symbol, place, offset, ("data", "axes fraction"), "offset points", **look)


def _save(path: Path, panels: "Mapping[str, tuple[matplotlib.axes.Axes, matplotlib.axes.Axes]]") -> Path:
    """`panels`: of each sound the uppermost and the lowest of the panels that show it."""
    noted = {}
    for name, (first, last) in panels.items():
        (x, top, width, height), (_, bottom, *_) = first.get_position().bounds, last.get_position().bounds
        box = [x, 1 - top - height, width, top + height - bottom]
        noted[name] = [round(float(v), 4) for v in (*box, first.get_xlim()[1])]
    figure = first.get_figure(root=True)
    assert figure is not None
    return save(figure, path, notes={PLACES: json.dumps(noted)})
