"""Pictures over time: what they show lies where they say, also of long sentences, and no label is cut."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread

from vitslite.audio import AudioSettings
from vitslite.monitoring import figures, html, timelines
from vitslite.monitoring.views import Alignment, Nats, View

AUDIO = AudioSettings(16000, 1024, 320, 1024, n_mels=40)


def view(n_frames: int, bright: int = 0, noise: bool = True) -> View:
    """A spectrogram of silence but for one frame."""
    spec = np.full((513, n_frames), 1e-4, np.float32)
    spec[:, bright] = 1.0
    elements = np.zeros((8, n_frames), np.float32)
    nats = Nats(elements, elements.sum(0), np.ones(n_frames, np.float32) if noise else None)
    durations = np.diff(np.linspace(0, n_frames, 21).round().astype(int))
    found = Alignment(np.zeros((20, n_frames), np.float32), durations, [*"^$ðəˈɪŋ_æ", *"abcdefghijk"], [(3, 4.5)])
    return View(spec, nats, found)


@pytest.mark.parametrize(("n_frames", "bright"), [(60, 13), (400, 391)])
def test_a_sound_is_drawn_where_the_picture_says(tmp_path, n_frames, bright):
    path = timelines.nats_map(tmp_path / "x.png", view(n_frames, bright), AUDIO, "title")
    seen = html.picture(path)
    assert seen.places.keys() == {"recording", "copy"}
    left, top, width, height, seconds = seen.places["recording"]
    assert seconds == pytest.approx(n_frames / AUDIO.frames_per_second, abs=1e-4)
    pixels = imread(path)
    assert pixels.shape[1] == seen.width and (pixels[0, 0, 3], pixels[-1, -1, 3]) == (0, 0), "paper is transparent"
    row = pixels[round((top + 0.02) * pixels.shape[0])]
    yellow = np.flatnonzero((row[:, 0] > 0.8) & (row[:, 1] > 0.8) & (row[:, 2] < 0.4))
    expected = (left + width * (bright + 0.5) / n_frames) * seen.width
    yellow = yellow[yellow < (left + width) * seen.width]  # not the colour bar
    assert abs(yellow.mean() - expected) < 2
    assert abs(yellow.mean() - (left + width * (bright + 3) / n_frames) * seen.width) > 2, "planted: frames further"


def test_spectrograms_have_a_place_for_each_sound(tmp_path):
    mels = {f"{kind}, 1 s": np.zeros((40, n), np.float32) for kind, n in (("recording", 60), ("spoken", 80))}
    places = html.picture(timelines.spectrograms(tmp_path / "x.png", mels, AUDIO, "$")).places
    (_, top, _, height, seconds), (_, below, *_) = places["recording"], places["spoken"]
    assert top + height < below and seconds == pytest.approx(80 / AUDIO.frames_per_second, abs=1e-4)


def drawings(monkeypatch) -> list:
    drawn: list = []
    for module in (figures, timelines):
        monkeypatch.setattr(module, "save", lambda figure, path, **_: drawn.append(figure) or path)
    return drawn


def is_cut(figure) -> bool:
    """Whether something drawn reaches beyond the picture; a twentieth of an inch is the edge of a glyph."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box, (width, height) = figure.get_tightbbox(canvas.get_renderer()), figure.get_size_inches()
    return min(box.x0, box.y0) < -0.05 or box.x1 > width + 0.05 or box.y1 > height + 0.05


def test_no_label_is_cut_and_a_picture_without_a_posterior_has_no_band(tmp_path, monkeypatch):
    drawn, path = drawings(monkeypatch), tmp_path / "x.png"
    timelines.nats_map(path, view(120), AUDIO, "A sentence of $5.")
    timelines.nats_map(path, view(120, noise=False), AUDIO, "x " * 500)
    timelines.alignment(path, view(120).alignment, AUDIO, "title")
    wavs = {"recording": np.ones(16000, np.float32), "spoken": np.ones(9000, np.float32)}
    timelines.high_bands(path, wavs, 16000, "title")
    figures.gradient_matrix(path, {"grad/kl/posterior_encoder": 3.0, "grad/mel/duration_predictor": 2.0}, {"kl": 0.2})
    figures.ratios(path, {0: [1.0, 1.1], 200: [0.5, 0.01], 100: [0.7, 0.9]})
    assert [is_cut(figure) for figure in drawn] == [False] * 6
    labels = [[text.get_text() for text in figure.axes[2].get_legend().get_texts()] for figure in drawn[:2]]
    assert labels == [["two standard deviations", "on the path found"], ["on the path found"]]
    titles = [figure.axes[1].get_title("left") for figure in drawn[:2]]
    assert titles[0].startswith("KL: ") and titles[1].startswith("-log p(log-mel | text): ")
    drawn[0].axes[0].set_ylabel("a label that is too long\n\n\n\nfor its margin")
    assert is_cut(drawn[0]), "planted"


def test_weights_stand_beside_the_unweighted_gradients(tmp_path, monkeypatch):
    drawn = drawings(monkeypatch)
    values = {"grad/kl/flow": 3.0, "grad/kl/decoder": 0.0, "grad/mel/flow": 0.0, "grad/mel/decoder": 0.02}
    figures.gradient_matrix(tmp_path / "x.png", values, {"kl": 0.5, "mel": 45.0})
    numbers = [[text.get_text() for text in axes.texts] for axes in drawn[0].axes[:2]]
    assert numbers == [["3", "0", "0", "0.02"], ["1.5", "0", "0", "0.9"]]
    assert [label.get_text() for label in drawn[0].axes[1].get_yticklabels()] == ["times 0.5", "times 45"]
