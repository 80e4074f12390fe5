"""Speaking: a page as its sentences alone, in bounded memory; a voice that is not finite speaks nothing."""

import dataclasses

import numpy as np
import pytest
import torch

from vitslite import build
from vitslite.synthesis import PAUSE_SECONDS, Synthesizer
from vitslite.text.frontend import TextSettings, build_frontend
from vitslite.training import checkpoint

SHORT = "The young fox painted a golden bridge."
LONG = "The young fox painted a golden bridge and " * 8 + "the king was heavy."


@pytest.fixture
def voice_file(compose, tmp_path):
    """An untrained voice."""
    config = build.parse(compose(), [])
    frontend = build_frontend(TextSettings(version=2), [SHORT, LONG])
    model = build.model(config, frontend.n_symbols)
    path = tmp_path / "voice.pt"
    content = {
        "config": dataclasses.asdict(config),
        "frontend": frontend.state(),
        "model": model.state_dict(),
        "step": 1,
    }
    checkpoint.write(path, content)
    return path


def test_a_page_is_its_sentences_alone(voice_file, monkeypatch):
    voice = Synthesizer(voice_file)
    settings = voice.speak_settings()
    spoken = []
    infer = voice.model.infer
    monkeypatch.setattr(
        voice.model, "infer", lambda tokens, *a, **k: spoken.append(tokens.shape) or infer(tokens, *a, **k)
    )
    page = voice.speak(f"{SHORT} {LONG}\n\n{SHORT}", settings)
    assert [shape[0] for shape in spoken] == [1, 1, 1]  # one at once: no padding, the memory of the longest
    pause = np.zeros(int(PAUSE_SECONDS * voice.sample_rate), np.float32)
    short, long = voice.speak(SHORT, settings), voice.speak(LONG, settings)
    assert np.array_equal(page, np.concatenate([short, pause, long, pause, short]))


def test_weights_that_are_not_finite_speak_nothing(voice_file):
    content = torch.load(voice_file, weights_only=True)
    name = next(n for n in content["model"] if n.startswith("decoder"))
    content["model"][name].view(-1)[0] = torch.nan
    checkpoint.write(voice_file, content)
    with pytest.raises(ValueError, match=rf"voice.pt: 1 of \d+ weights are not finite \({name}"):
        Synthesizer(voice_file)


def test_sound_that_is_not_finite_is_not_given(voice_file):
    voice = Synthesizer(voice_file)
    with torch.no_grad():
        for parameter in voice.model.decoder.parameters():
            parameter.fill_(torch.inf)
    with pytest.raises(ValueError, match="as sound that is not finite"):
        voice.speak(SHORT, voice.speak_settings())
