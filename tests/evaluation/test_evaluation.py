"""Evaluation against what must come out: a recording is at distance zero from itself, noise is understood by nobody."""

import dataclasses
import json
import re
import shutil
import sys
import warnings

import numpy as np
import pytest
import soundfile
import torch

from vitslite import audio, build
from vitslite.commands import evaluate as evaluate_command
from vitslite.datasets.demo import make_demo_corpus
from vitslite.evaluation import folder
from vitslite.evaluation.result import collect
from vitslite.evaluation.scoring import Scorer, estimate, summarise, table
from vitslite.evaluation.voice import VoiceEvaluator
from vitslite.metrics.recognition import build_recogniser
from vitslite.monitoring.validation import Validator
from vitslite.synthesis import Synthesizer
from vitslite.training import checkpoint

RATE = 22050  # of the demo corpus
DISTANCES = ("mel_cepstral_distortion", "log_f0_error", "voicing_error", "length_error")


@pytest.fixture(scope="module")
def corpus_root(cache):
    return make_demo_corpus(cache, 60)


@pytest.fixture(scope="module")
def recogniser():
    return build_recogniser("grammar")


@pytest.fixture
def voice_path(compose, tmp_path):
    """A checkpoint of random weights, as a run would leave it."""
    config = build.parse(compose("validation.n_heard=5"), [])
    corpus = build.corpus(config)
    model = build.model(config, corpus.frontend.n_symbols)
    header = {"config": dataclasses.asdict(config), "frontend": corpus.frontend.state(), "step": 0}
    checkpoint.write(tmp_path / "run" / "checkpoints" / "best.pt", header | {"model": model.state_dict()})
    return tmp_path / "run"


def given_folder(tmp_path, corpus_root, change):
    """A folder with the first clips of the corpus after `change(samples, next clip's samples)`."""
    paths = sorted((corpus_root / "wavs").glob("*.wav"))[:6]
    clips = [soundfile.read(path, dtype="float32")[0] for path in paths]
    for path, clip, other in zip(paths, clips, clips[1:] + clips[:1], strict=True):
        audio.write_wav(tmp_path / "given" / path.name, change(clip, other), RATE)
    return tmp_path / "given"


def compared(tmp_path, corpus_root, recogniser, change):
    pairs = folder.find_pairs(given_folder(tmp_path, corpus_root, change), corpus_root)
    scorer = Scorer(folder.comparison_audio(folder.common_sample_rate(pairs)), recogniser)
    return collect(folder.score_pairs(pairs, scorer), {}).estimates


def test_recordings_against_themselves_are_at_distance_zero(tmp_path, corpus_root, recogniser):
    found = compared(tmp_path, corpus_root, recogniser, lambda clip, other: clip)
    assert all(found["given"][name] == (0.0, 0.0, 0.0, 6) for name in DISTANCES)
    assert found["given"] == found["recording"]
    assert found["given"]["word_error_rate"].value < 0.05


def test_noise_is_understood_by_nobody(tmp_path, corpus_root, recogniser):
    rng = np.random.default_rng(0)
    found = compared(tmp_path, corpus_root, recogniser, lambda clip, other: rng.normal(0, 0.1, len(clip)))
    assert found["given"]["word_error_rate"].value > 0.85
    assert found["given"]["character_error_rate"].value > 0.6
    assert found["given"]["mel_cepstral_distortion"].value > 6
    assert found["recording"]["word_error_rate"].value < 0.05


@pytest.mark.parametrize(
    ("change", "measures"),
    [
        (lambda clip, other: other, {"word_error_rate": 0.6, "mel_cepstral_distortion": 4, "length_error": 0.03}),
        (lambda clip, other: clip[::-1], {"word_error_rate": 0.8, "mel_cepstral_distortion": 4}),
        (lambda clip, other: np.repeat(clip, 2)[: len(clip)], {"log_f0_error": 7}),
        (lambda clip, other: np.clip(clip * 50, -1, 1), {"clipped": 0.2}),
        (lambda clip, other: np.concatenate([clip, np.zeros(len(clip))]), {"silent": 0.4, "length_error": 0.99}),
    ],
    ids=["another sentence", "backwards", "an octave lower", "clipped", "followed by silence"],
)
def test_planted_faults_show(tmp_path, corpus_root, recogniser, change, measures):
    found = compared(tmp_path, corpus_root, recogniser, change)
    for name, least in measures.items():
        assert found["given"][name].value > least, (name, found["given"][name])
        assert found["recording"][name].value < least / 2


def test_rates_are_what_the_definitions_say(corpus_root):
    wav = np.full(32000, 0.5, np.float32)
    wav[:8000] = 0
    rows, heard = Scorer(folder.comparison_audio(16000), None).score("Two words here.", {"given": wav})
    values = {name: n / d for name, (n, d) in rows["given"].items()}
    assert heard == {}
    assert values["words_per_minute"] == pytest.approx(90)
    assert values["silent"] == 0.25 and values["clipped"] == 0
    assert values["rms_db"] == pytest.approx(20 * np.log10(0.5 * np.sqrt(0.75)))
    assert not set(DISTANCES) & set(values)  # nothing to compare with


def test_the_excess_over_the_recording_is_paired():
    """Two errors of three words, one of them heard in the recording, too: the excess is a third."""

    class Recogniser:
        name = "scripted"

        def transcribe(self, wav, sample_rate):
            return {0.5: "two words there", 0.25: "to words there"}[float(wav[0])]

    wavs = {"recording": np.full(8000, 0.5, np.float32), "given": np.full(8000, 0.25, np.float32)}
    rows, _ = Scorer(folder.comparison_audio(16000), Recogniser()).score("Two words here.", wavs)
    assert rows["given"]["word_error_rate"] == (2, 3)
    assert rows["given"]["excess_word_error_rate"] == (1, 3)
    assert rows["recording"]["excess_word_error_rate"] == (0, 3)


def test_silence_has_no_level_and_no_pitch_but_is_counted(tmp_path, corpus_root, recogniser):
    found = compared(tmp_path, corpus_root, recogniser, lambda clip, other: np.zeros(len(clip)))
    assert found["given"]["word_error_rate"].value == 1 and found["given"]["silent"].value == 1
    assert "rms_db" not in found["given"] and "log_f0_error" not in found["given"]


# ------------------------------------------------------------------------------------------------------- intervals


def test_intervals_are_those_of_the_normal_theory_where_it_holds():
    x = np.random.default_rng(1).normal(3, 1, 400)
    value, low, high, _ = estimate([(float(v), 1.0) for v in x])
    half = 1.96 * x.std() / np.sqrt(400)
    assert value == pytest.approx(x.mean())
    assert low == pytest.approx(x.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(x.mean() + half, abs=0.15 * half)


def test_a_set_is_a_ratio_of_sums_not_a_mean_of_ratios():
    assert estimate([(1, 1), (0, 9)]).value == 0.1
    assert estimate([(2.0, 8.0)]) == (0.25, None, None, 1)  # one utterance says nothing of others
    assert estimate([(1, 4)] * 5) == (0.25, 0.25, 0.25, 5)


def test_a_table_has_every_measure_once():
    rows = summarise([{"word_error_rate": (1, 8), "kl": (30.0, 10.0)}, {"word_error_rate": (1, 2)}])
    text = table({"spoken": rows, "model": {}})
    assert text.splitlines()[0].split() == ["spoken", "model"]
    assert "word error rate, %" in text and "20 [" in text
    assert text.splitlines()[2].split() == ["KL", "on", "the", "path", "found,", "nats/frame", "3", "n=1", "-"]


# ------------------------------------------------------------------------------------------------- a trained voice


def evaluated(voice_path, recogniser, n=5, split="validation", **settings):
    voice = Synthesizer(voice_path)
    corpus = build.corpus(voice.config, voice.frontend)
    evaluator = VoiceEvaluator(voice, recogniser, voice.speak_settings(**settings))
    return collect(evaluator.score(getattr(corpus, split)[:n]), {}), evaluator


def test_the_same_voice_gives_the_same_figures_in_any_company(voice_path, recogniser):
    first, _ = evaluated(voice_path, recogniser, split="test")
    again, _ = evaluated(voice_path, recogniser, split="test")
    assert first == again
    fewer, _ = evaluated(voice_path, recogniser, n=2, split="test")
    known = {u["id"]: u for u in first.utterances}
    assert all(known[u["id"]] == u for u in fewer.utterances)
    other, _ = evaluated(voice_path, None, split="test", seed=1)
    assert other.estimates["paced"]["log_mel_l1"] != first.estimates["paced"]["log_mel_l1"]


def test_columns_and_zeros(voice_path, recogniser):
    evaluation, evaluator = evaluated(voice_path, recogniser)
    assert list(evaluation.estimates) == ["recording", "Griffin-Lim", "copy", "paced", "spoken", "model"]
    recording, griffin_lim, copy, paced, spoken, model = evaluation.estimates.values()
    assert 0 < griffin_lim["log_mel_l1"].value < copy["log_mel_l1"].value  # of random weights
    assert all(recording[name].value == 0 for name in (*DISTANCES, "log_mel_l1"))
    assert copy["length_error"].value == paced["length_error"].value == 0
    assert copy["mel_cepstral_distortion"].value > 1  # of random weights
    assert spoken["diversity"].value > 0
    assert 0 < model["duration_error"].value < 2000
    assert json.loads(json.dumps(evaluation.as_dict()))["n_utterances"] == len(evaluation.utterances)
    assert evaluator.speed()["real_time_factor"] > 0


def test_without_noise_there_is_no_diversity(voice_path):
    evaluation, _ = evaluated(voice_path, None, noise_scale=0.0)
    assert evaluation.estimates["spoken"]["diversity"].value == 0


def test_alignment_and_kl_are_those_of_training_validation(voice_path):
    voice = Synthesizer(voice_path)
    corpus = build.corpus(voice.config, voice.frontend)
    data = build.data(voice.config, corpus)
    validator = Validator(
        data, build.objective(voice.config), None, voice.config.synthesis, torch.device("cpu"), voice_path
    )
    wanted = validator.validate(voice.model).metrics
    evaluation, _ = evaluated(voice_path, None, n=None, seed=voice.config.seed)
    model = evaluation.estimates["model"]
    assert model["alignment_error"].value == pytest.approx(wanted["val/mas/error_ms"], rel=1e-6)
    assert model["alignment_median"].value == pytest.approx(wanted["val/mas/error_median_ms"], rel=1e-6)
    assert model["alignment_within_50ms"].value == pytest.approx(wanted["val/mas/within_50ms"])
    assert model["kl"].value == pytest.approx(wanted["val/loss/kl"], rel=1e-4)
    assert model["kl_over_paths"].value == pytest.approx(wanted["val/kl/over_paths"], rel=1e-4)
    assert model["hindsight"].value == pytest.approx(wanted["val/mas/hindsight"], rel=1e-3)
    assert model["kl_over_paths"].value != pytest.approx(model["kl"].value, rel=1e-3)  # planted: the path's own


def test_validation_hears_what_evaluation_hears_in_the_recordings(voice_path, recogniser):
    voice = Synthesizer(voice_path)
    corpus = build.corpus(voice.config, voice.frontend)
    data = build.data(voice.config, corpus)
    validator = Validator(
        data, build.objective(voice.config), recogniser, voice.config.synthesis, torch.device("cpu"), voice_path
    )
    rates = validator.hearing(voice.model, 0)
    evaluation, _ = evaluated(voice_path, recogniser, n=voice.config.validation.n_heard)
    assert rates["val/wer/recording"] == evaluation.estimates["recording"]["word_error_rate"].value
    assert rates["val/cer/recording"] == evaluation.estimates["recording"]["character_error_rate"].value
    assert rates["val/wer/spoken"] > 0.5  # random weights
    validator.samples(voice.model, 0)
    shown = json.loads((voice_path / "samples" / "step_000000" / "samples.json").read_text())
    assert {s["text"] for s in shown} == {u.text for u in corpus.validation[: len(shown)]}
    assert all(set(s["heard"]) == {"recording", "copy", "spoken"} for s in shown)


# ------------------------------------------------------------------------------------------------- how a voice speaks


def with_settings(voice_path, **synthesis):
    """The voice as if trained with these; with none, as from before there were any."""
    path = voice_path / "checkpoints" / "best.pt"
    stored = checkpoint.read(path)
    stored["config"].pop("synthesis", None)
    stored["config"] |= {"synthesis": synthesis} if synthesis else {}
    checkpoint.write(path, stored)
    return Synthesizer(voice_path)


def test_a_voice_speaks_by_its_own_settings(voice_path):
    old = with_settings(voice_path).speak_settings()
    assert (old.seed, old.noise_scale, old.duration_noise_scale) == (0, 0.667, 0.8)
    voice = with_settings(voice_path, noise_scale=0.25, duration_noise_scale=0.5)
    own, asked = voice.speak_settings(1), voice.speak_settings(1, duration_noise_scale=0.0)
    assert (own.seed, own.noise_scale, own.duration_noise_scale) == (1, 0.25, 0.5)
    assert (asked.seed, asked.noise_scale, asked.duration_noise_scale) == (1, 0.25, 0.0)


def test_validation_speaks_by_the_settings_of_the_run(voice_path):
    """Its wavs against `VITS.infer` at these scales; at the default ones, planted, they are others."""
    voice = with_settings(voice_path, noise_scale=0.1, duration_noise_scale=0.0)
    data = build.data(voice.config, build.corpus(voice.config, voice.frontend))
    own = voice.config.synthesis
    validator = Validator(data, build.objective(voice.config), None, own, torch.device("cpu"), voice_path)
    validator.samples(voice.model, 0)
    batch = data.samples
    wanted = voice.model.infer(batch.tokens, batch.token_lengths, batch.keys, 0.1, 0.0)
    planted = voice.model.infer(batch.tokens, batch.token_lengths, batch.keys)
    for i, name in enumerate(batch.ids):
        found = (voice_path / "samples" / "step_000000" / f"{name}_spoken.wav").read_bytes()
        for spoken, is_same in ((wanted, True), (planted, False)):
            wav = spoken.audio[i, 0, : int(spoken.audio_lengths[i])].numpy()
            audio.write_wav(voice_path / "expected.wav", wav, voice.sample_rate)
            assert (found == (voice_path / "expected.wav").read_bytes()) is is_same


@pytest.mark.parametrize(("options", "scales"), [([], (0.25, 0.5)), (["--noise-scale", "0.5"], (0.5, 0.5))])
def test_an_evaluation_says_how_the_voice_spoke(monkeypatch, voice_path, options, scales):
    with_settings(voice_path, noise_scale=0.25, duration_noise_scale=0.5)
    common = (voice_path, "--limit", 1, "--examples", 0, "--recogniser", "none")
    assert command(monkeypatch, *common, *options) == 0
    stored = json.loads((voice_path / "evaluation" / "test" / "evaluation.json").read_text())
    assert (stored["noise_scale"], stored["duration_noise_scale"]) == scales


# ------------------------------------------------------------------------------------------------------ the command


def command(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
    return evaluate_command.command()


def test_the_command_leaves_json_wavs_and_figures(monkeypatch, voice_path, capsys):
    assert command(monkeypatch, voice_path, "--limit", 3, "--examples", 1, "--recogniser", "grammar") == 0
    said = capsys.readouterr().out
    assert "word error rate, %" in said and "real_time_factor" in said
    output = voice_path / "evaluation" / "test"
    names = {path.name.split("_")[-1] for path in output.iterdir()}
    wavs = {"recording.wav", "Griffin-Lim.wav", "copy.wav", "paced.wav", "spoken.wav"}
    pictures = {"durations.png", "alignment.png", "spectrograms.png", "high.png", "nats.png"}
    assert names == {"index.html", "evaluation.json"} | pictures | wavs
    assert len(list(output.glob("*_spoken.wav"))) == 2  # the first, and the one of the others that was heard worst
    stored = json.loads((output / "evaluation.json").read_text())
    assert stored["split"] == "test" and stored["n_utterances"] == 3 and "grammar" in stored["recogniser"]
    assert stored["estimates"]["recording"]["mel_cepstral_distortion"] == {
        "unit": "dB",
        "value": 0.0,
        "low": 0.0,
        "high": 0.0,
        "n": 3,
    }


def judge_folder(path):
    """A judge whose score is the loudest sample."""

    class Peak(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.abs().max()

    path.mkdir()
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        torch.jit.script(Peak()).save(str(path / "peak.pt"))
    return path


def test_judges_stand_in_every_column(monkeypatch, voice_path, tmp_path, capsys):
    judge = judge_folder(tmp_path / "peak")
    listed = ["--recogniser", "none", "--examples", 0, "--judge", f"mos:{judge}"]
    assert command(monkeypatch, voice_path, "--limit", 2, *listed) == 0
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("peak, MOS"))
    assert len(re.findall(r"\[", row)) == 5 and row.endswith(
        "-"
    )  # recording, Griffin-Lim, copy, paced, spoken, not the model
    stored = json.loads((voice_path / "evaluation" / "test" / "evaluation.json").read_text())
    assert stored["judges"] == ["mos_peak"] and stored["notes"] == []
    assert 0 < stored["estimates"]["copy"]["mos_peak"]["value"] <= 1
    (tmp_path / "texts.txt").write_text("The fox slept.\n")
    assert command(monkeypatch, voice_path, "--texts", tmp_path / "texts.txt", *listed) == 0
    assert "peak, MOS" in capsys.readouterr().out


def test_one_bad_clip_does_not_lose_the_others(monkeypatch, corpus_root, tmp_path, capsys):
    """Silent, shorter than a frame, unreadable, not a number: named, and the figures are those of the others."""
    given = given_folder(tmp_path, corpus_root, lambda clip, other: clip)
    judge = judge_folder(tmp_path / "peak")
    names = sorted(path.name for path in given.glob("*.wav"))
    listed = ["--reference", corpus_root, "--recogniser", "none", "--examples", 0, "--judge", f"mos:{judge}"]
    audio.write_wav(given / names[0], np.zeros(RATE, np.float32), RATE)
    audio.write_wav(given / names[1], np.full(100, 0.5, np.float32), RATE)
    (given / names[2]).write_bytes(b"no audio at all")
    soundfile.write(given / names[3], np.full(RATE, np.nan, np.float32), RATE, subtype="FLOAT")
    assert command(monkeypatch, given, *listed) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    stored = json.loads((given / "evaluation" / "evaluation.json").read_text())
    assert notes == [f"note: {note}" for note in stored["notes"]] and len(notes) == 4
    for name, what in zip(names, ("mos_peak: silent", "100 samples", "not an audio file", "NaN"), strict=False):
        assert [what in note for note in notes if name in note] == [True]
    assert stored["n_utterances"] == 3  # silence among them, which has everything but a score and a level
    assert {u["id"] + ".wav" for u in stored["utterances"]} == {names[0], names[4], names[5]}
    assert [stored["estimates"][kind]["mos_peak"]["n"] for kind in ("recording", "given")] == [3, 2]
    assert stored["estimates"]["given"]["log_f0_error"] == {**stored["estimates"]["given"]["log_f0_error"], "n": 2}


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no audio", "none of the 6 clips can be read; the first: "), (None, "none of the 6 clips can be measured; the")],
)
def test_no_clip_left_is_an_error(monkeypatch, corpus_root, tmp_path, capsys, content, message):
    given = given_folder(tmp_path, corpus_root, lambda clip, other: clip[:100])
    for path in given.glob("*.wav") if content else ():
        path.write_bytes(content)
    assert command(monkeypatch, given, "--reference", corpus_root, "--recogniser", "none") == 2
    (error,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("vitslite"))
    assert message in error and not list(tmp_path.rglob("evaluation.json"))


def test_another_evaluation_leaves_no_old_files(monkeypatch, voice_path, capsys):
    for n_examples in (2, 1):
        assert command(monkeypatch, voice_path, "--limit", 2, "--examples", n_examples, "--recogniser", "none") == 0
    assert len(list((voice_path / "evaluation" / "test").glob("*_spoken.wav"))) == 1
    said = capsys.readouterr().out
    assert "2 of " in said and "heard by nobody" in said  # the split has more


def test_a_text_without_words_has_no_error_rate_but_a_level(recogniser):
    rows, _ = Scorer(folder.comparison_audio(16000), recogniser).score(
        "& %", {"spoken": np.full(16000, 0.1, np.float32)}
    )
    assert "word_error_rate" not in rows["spoken"] and "words_per_minute" not in rows["spoken"]
    assert rows["spoken"]["rms_db"][0] == pytest.approx(-20, abs=0.01)


def test_the_command_compares_folders_and_speaks_texts(monkeypatch, voice_path, corpus_root, tmp_path, capsys):
    given = given_folder(tmp_path, corpus_root, lambda clip, other: clip)
    assert command(monkeypatch, given, "--reference", corpus_root, "--recogniser", "none", "--examples", 1) == 0
    stored = json.loads((given / "evaluation" / "evaluation.json").read_text())
    assert stored["estimates"]["given"]["mel_cepstral_distortion"]["value"] == 0
    (tmp_path / "texts.txt").write_text("The fox slept.\n\nYes, the bear sang slowly.\n")
    assert command(monkeypatch, voice_path, "--texts", tmp_path / "texts.txt") == 0
    stored = json.loads((voice_path / "evaluation" / "texts-texts" / "evaluation.json").read_text())
    assert [u["text"] for u in stored["utterances"]] == ["The fox slept.", "Yes, the bear sang slowly."]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/such/run"], "no/such/run: no such run directory"),
        (["RUN/samples"], "no checkpoint in"),
        (["RUN", "--recogniser", "whisper"], "recogniser 'whisper': type auto"),
        (["RUN", "--recogniser", "auto", "HIDE"], "pip install pocketsphinx"),
        (["RUN", "--texts", "TMP/silent.txt"], "silent.txt:2: text '?!': no words"),
        (["RUN", "--texts", "TMP/empty.txt"], "no text in it"),
        (["RUN", "--texts", "TMP/none.txt"], "none.txt: no such file"),
        (["RUN", "--data-root", "TMP/moved", "LJ"], "metadata.csv: no such file"),
        (["TMP/given", "--reference", "TMP/less"], "lacks 1 of the 6 clips, the first demo-00001"),
        (["TMP/given", "--reference", "TMP"], "no metadata.csv there"),
        (["TMP/slow", "--reference", "CORPUS"], "add --sample-rate 8000"),
        (["TMP/slow", "--reference", "CORPUS", "--sample-rate", "16000"], "8000 Hz; give that or less"),
        (["RUN/checkpoints", "--reference", "CORPUS"], "no .wav or .flac files"),
        (["TMP/given"], "add --reference CORPUS"),
        (["TMP/given", "--reference", "CORPUS", "--texts", "TMP/silent.txt"], "goes without --texts"),
        (["RUN", "--sample-rate", "16000"], "--sample-rate is for --reference"),
        (["RUN", "--texts", "TMP/foreign.txt"], "foreign.txt:1: text"),
        (["TMP/no", "--reference", "CORPUS"], "no such folder"),
        (["RUN", "--judge", "utmos"], "--judge 'utmos': type one of dnsmos, similarity, mos:FOLDER"),
        (["RUN", "--judge", "mos:TMP/given"], "no model (.pt, .jit) there"),
        (["RUN", "--texts", "TMP/foreign.txt", "--judge", "similarity"], "texts have none"),
        (["RUN", "--recogniser", "whisper:TMP/given", "NO_WHISPER"], 'pip install "vitslite[judges]"'),
        (["RUN", "--language", "de"], "--language is for --reference"),
        (["TMP/slow", "--reference", "CORPUS", "--judge", "utmos", "--sample-rate", "8000"], "type one of dnsmos"),
        (["RUN", "--noise-scale", "-1"], "noise_scale=-1"),
        (["RUN", "--n-steps", "4"], "--n-steps is of"),
        (["RUN", "--duration-noise-scale", "0"], "--duration-noise-scale is of stochastic durations"),
        (["RUN", "--device", "cuda"], "no GPU"),
        (["RUN", "-o", "TMP/silent.txt"], "silent.txt: is a file; name a folder"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_bad_input_is_one_line(monkeypatch, voice_path, corpus_root, tmp_path, capsys, arguments, message):
    (voice_path / "samples").mkdir()
    (tmp_path / "silent.txt").write_text("Hello.\n?!\n")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "foreign.txt").write_text("Привет, мир.\n")
    given_folder(tmp_path, corpus_root, lambda clip, other: clip)
    shutil.copytree(corpus_root, tmp_path / "less")
    (tmp_path / "less" / "wavs" / "demo-00001.wav").unlink()
    audio.write_wav(tmp_path / "slow" / "demo-00000.wav", np.zeros(8000, np.float32), 8000)
    if "HIDE" in arguments:
        monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    if "NO_WHISPER" in arguments:
        monkeypatch.setitem(sys.modules, "faster_whisper", None)
    if "LJ" in arguments:
        stored = checkpoint.read(voice_path / "checkpoints" / "best.pt")
        stored["config"]["data"]["kind"] = "ljspeech"
        checkpoint.write(voice_path / "checkpoints" / "best.pt", stored)
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    places = {"RUN": voice_path, "TMP": tmp_path, "CORPUS": corpus_root}
    typed = [a for a in arguments if a not in ("HIDE", "NO_WHISPER", "LJ")]
    for name, place in places.items():
        typed = [a.replace(name, str(place)) for a in typed]
    assert command(monkeypatch, *typed) == 2
    error = capsys.readouterr().err.splitlines()
    assert [line for line in error if message in line] == [line for line in error if line.startswith("vitslite")], error
    assert len([line for line in error if line.startswith("vitslite: error")]) == 1
    assert not list(tmp_path.rglob("evaluation.json"))


def test_a_wrong_option_is_one_line(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, "RUN", "--limit", "many")
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        stopped.value.code == 2 and line.startswith("vitslite: error: argument --limit: invalid") and "--help" in line
    )
