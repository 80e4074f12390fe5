"""Synthesis as people use it: from arguments, files, JSON lines and pipes, into files, folders and pipes."""

import io
import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from common import defaults_with

from vitslite import audio, build
from vitslite.commands import synthesize
from vitslite.commands.utterances import Utterance, read_lines
from vitslite.synthesis import Synthesizer
from vitslite.text.frontend import TextSettings, build_frontend
from vitslite.training import checkpoint

NANO = [
    "model.n_latent=8",
    "model.text_encoder.hidden=8",
    "model.text_encoder.filters=8",
    "model.text_encoder.n_layers=1",
    "model.posterior.hidden=8",
    "model.posterior.n_layers=1",
    "model.flow.hidden=8",
    "model.flow.n_layers=1",
    "model.flow.n_couplings=2",
    "model.duration.kind=deterministic",
    "model.decoder.kind=istft",
    "model.decoder.istft.channels=8",
    "model.decoder.istft.n_layers=1",
    "text.frontend=characters",
]
TEXT = "abc def ghi jkl mno pqr stu vwx yz."


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    """A voice that has learnt nothing, and reads small letters."""
    config = defaults_with(*NANO)
    frontend = build_frontend(TextSettings(frontend="characters"), [TEXT])
    torch.manual_seed(0)
    model = build.model(config, frontend.n_symbols)
    path = tmp_path_factory.mktemp("voice") / "checkpoints" / "last.pt"
    content = {"config": asdict(config), "frontend": frontend.state(), "model": model.state_dict(), "step": 0}
    checkpoint.write(path, content)
    return path


def run(voice, *options):
    synthesize.main(synthesize.parser().parse_args([str(voice), *map(str, options)]))


def test_three_lines_of_python(voice):
    spoken = Synthesizer(voice)
    assert np.array_equal(spoken.speak("abc."), spoken.speak("abc.", spoken.speak_settings()))


def test_a_line_of_a_file_is_an_utterance(voice, tmp_path):
    (tmp_path / "lines.txt").write_text("abc def.\n\n  ghi.  \n", encoding="utf-8")
    run(voice, "-i", tmp_path / "lines.txt", "-d", tmp_path / "out", "--format", "flac")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["0001.flac", "0002.flac"]
    wav, rate = soundfile.read(tmp_path / "out" / "0002.flac", dtype="int16")
    spoken = Synthesizer(voice)
    assert rate == spoken.sample_rate
    assert np.array_equal(wav, audio.to_int16(spoken.speak("ghi.")))


def test_json_lines_have_names_seeds_and_speeds(voice, tmp_path):
    lines = [{"text": "abc.", "id": "first", "seed": 3}, {"text": "abc.", "id": "second", "seed": 3, "speed": 0.5}]
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    run(voice, "-i", tmp_path / "lines.jsonl", "-d", tmp_path)
    first, second = (soundfile.read(tmp_path / f"{name}.wav", dtype="int16")[0] for name in ("first", "second"))
    spoken = Synthesizer(voice)
    assert np.array_equal(first, audio.to_int16(spoken.speak("abc.", spoken.speak_settings(seed=3))))
    assert len(second) > len(first)


def test_a_pipe_gets_what_a_file_gets(voice, tmp_path, monkeypatch):
    piped = io.BytesIO()
    stdout = io.TextIOWrapper(piped, write_through=True)
    monkeypatch.setattr(sys, "stdin", io.StringIO("Abc def ghi. Jkl mno pqr.\n"))
    monkeypatch.setattr(sys, "stdout", stdout)
    run(voice, "-o", "-", "--sentence-silence", "0.5")
    monkeypatch.undo()
    run(voice, "Abc def ghi. Jkl mno pqr.", "-o", tmp_path / "a.wav", "--sentence-silence", "0.5")
    samples, rate = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert len(samples) > rate // 2
    found = np.frombuffer(piped.getvalue(), np.int16)
    assert np.array_equal(found[: len(samples)], samples)
    assert not found[len(samples) :].any() and len(found) == len(samples) + rate // 2


def test_unknown_symbols_are_named_with_their_line_or_left_out(voice, tmp_path, capsys):
    (tmp_path / "lines.txt").write_text("abc.\nab% c%.\na%.\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"lines.txt:2: .*'%'.*--skip-unknown"):
        run(voice, "-i", tmp_path / "lines.txt", "-d", tmp_path / "out")
    assert not (tmp_path / "out").exists()  # nothing is spoken before all is looked at
    run(voice, "-i", tmp_path / "lines.txt", "-d", tmp_path / "out", "--skip-unknown")
    assert len([*(tmp_path / "out").iterdir()]) == 3
    assert capsys.readouterr().err.count("left out '%'") == 1


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"text": "a"', "a.jsonl:2: not JSON"),
        ('{"txt": "a"}', "a.jsonl:2: unknown key txt"),
        ('{"id": "a"}', "a.jsonl:2: no text"),
        ('{"text": "a", "seed": "1"}', "a.jsonl:2: seed='1' is not a number"),
        ('{"text": "a", "id": "../a"}', "a.jsonl:2: id '../a' is no name"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(line, fault):
    with pytest.raises(ValueError, match=fault):
        read_lines(f"fine\n{line}\n", "a.jsonl")


def test_lines_are_read_as_they_stand():
    assert read_lines(" a \n\n{b\n"[:4], "x") == [Utterance("a", "x:1")]


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["a", "b"], "2 texts for -o out.wav"),
        (["a", "-o", "out.mp3"], "-o out.wav"),
        (["a", "--sentence-silence", "-1"], "0 or a positive number"),
        (["a", "-i", "x.txt"], "not both"),
        (["-i", "missing.txt"], "missing.txt"),
    ],
)
def test_options_that_cannot_be(voice, options, fault, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match=fault):
        run(voice, *options)
    assert not [*Path().iterdir()]
