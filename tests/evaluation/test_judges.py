"""Judges: models whose score is known in closed form, what cannot be judged, and the packages where installed."""

import json
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from common import SHARED
from torch import nn

from vitslite.audio import read_wav
from vitslite.evaluation import folder
from vitslite.evaluation.judges import Judge, build_judges, judged
from vitslite.evaluation.result import Scored, collect
from vitslite.evaluation.scoring import Scorer, table

SR = 22050


class Power(nn.Module):
    """The mean square: of a tone of amplitude a, a^2 / 2. Needs 100 samples."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] < 100:
            raise RuntimeError("needs 100 samples")
        return x.square().mean(1)


class Two(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(1, 2)


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


class NotANumber(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum() / 0 * 0


def tone(hertz, seconds=1.0, amplitude=0.5, rate=SR):
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def model_folder(path, module, file="model.pt", **settings):
    path.mkdir(exist_ok=True)
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        torch.jit.script(module).save(str(path / file))
    if settings:
        (path / "judge.json").write_text(json.dumps(settings))
    return path


# ---------------------------------------------------------------------------------------------- a model in a folder


def test_a_model_is_given_samples_at_its_own_rate(tmp_path):
    """Power of tones: what lies above half the model's rate is gone, and nothing is added when the rate goes up."""
    slow = model_folder(tmp_path / "slow", Power(), sample_rate=8000, name="Slow power")
    plain = model_folder(tmp_path / "My model", Power(), "power.jit")
    low, high, sum_of_both = tone(1000), tone(6000), tone(1000) + tone(6000)
    at_8k, at_16k = build_judges([f"mos:{slow}", f"mos:{plain}"])
    assert isinstance(at_8k, Judge) and (at_8k.name, at_8k.label) == ("mos_slow_power", "Slow power")
    assert (at_16k.name, at_16k.label, at_16k.sample_rate) == ("mos_my_model", "My model", 16000)
    for wav, wanted_8k, wanted_16k in ((low, 0.125, 0.125), (high, 0.0, 0.125), (sum_of_both, 0.125, 0.25)):
        assert judged(at_8k, wav, None, SR) == pytest.approx(wanted_8k, abs=2e-3)
        assert judged(at_16k, wav, None, SR) == pytest.approx(wanted_16k, abs=2e-3)
    assert judged(at_16k, tone(1000, rate=8000), None, 8000) == pytest.approx(0.125, abs=1e-3)
    assert judged(at_16k, low, None, 2 * SR) == pytest.approx(0.125, abs=2e-3)  # 2000 Hz then
    assert judged(at_16k, low, None, SR) == judged(at_16k, low, None, SR)


def test_images_above_the_old_band_are_not_heard(tmp_path):
    """Upsampling: of a tone at 0.9 of the old band, less than 1e-5 of the power comes out above that band."""

    class Above(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            n = x.shape[1]
            power = torch.fft.rfft(x[0] * torch.hann_window(n)).abs().square()
            return power[int(n * 4400 / 16000) :].sum() / power.sum()

    (judge,) = build_judges([f"mos:{model_folder(tmp_path / 'm', Above())}"])
    assert judged(judge, tone(3600, rate=8000), None, 8000) < 1e-5
    assert judged(judge, tone(5000, rate=16000), None, 16000) > 0.9  # the check can fail


@pytest.mark.parametrize(
    ("wav", "reason"),
    [
        (np.zeros(SR, np.float32), "^silent$"),
        (np.full(SR, 5e-5, np.float32), "^silent$"),
        (tone(1000, 0.2), r"^0.20 s long, 0.5 s needed$"),
        (np.zeros(0, np.float32), "^0.00 s long"),
    ],
)
def test_what_no_judge_is_asked(tmp_path, wav, reason):
    (judge,) = build_judges([f"mos:{model_folder(tmp_path / 'm', Power(), shortest_seconds=0.5)}"])
    with pytest.raises(ValueError, match=reason):
        judged(judge, wav, None, SR)
    with pytest.raises(ValueError, match="^the recording is " + reason.strip("^$")):
        judged(judge, tone(1000), wav, SR)
    assert judged(judge, tone(1000), tone(500), SR) == pytest.approx(0.125, abs=2e-3)


def test_what_a_model_says_and_no_number_are_reasons(tmp_path):
    (power,) = build_judges([f"mos:{model_folder(tmp_path / 'm', Power())}"])
    with pytest.raises(ValueError, match="^its model says .*needs 100 samples$"):
        judged(power, tone(1000, 0.005), None, SR)
    (nan,) = build_judges([f"mos:{model_folder(tmp_path / 'n', NotANumber())}"])
    with pytest.raises(ValueError, match="^its score is nan$"):
        judged(nan, tone(1000), None, SR)


def test_bad_folders_are_one_line_before_any_work(tmp_path):
    (tmp_path / "empty").mkdir()
    weights = tmp_path / "weights"
    weights.mkdir()
    torch.save({"a": torch.zeros(3)}, weights / "nisqa.pt")
    model_folder(tmp_path / "many", Power(), "a.pt")
    model_folder(tmp_path / "many", Power(), "b.jit")
    good = model_folder(tmp_path / "good", Power())
    for name, text in (("json", "{"), ("key", '{"rate": 8000}'), ("type", '{"sample_rate": "8000"}'), ("list", "[1]")):
        (model_folder(tmp_path / name, Power()) / "judge.json").write_text(text)
    for place, message in (
        ("absent", "no model (.pt, .jit) there; give a folder with one TorchScript model"),
        ("empty", "no model (.pt, .jit) there"),
        ("weights", "nisqa.pt is not a TorchScript model; a checkpoint of weights has to be exported"),
        ("many", "2 models, a.pt and b.jit there"),
        (model_folder(tmp_path / "two", Two()), "of 3 s of noise: its model gives 2 numbers, not one score"),
        (model_folder(tmp_path / "pair", Pair()), "its model gives tuple, not one score"),
        (model_folder(tmp_path / "zero", Power(), sample_rate=0), "judge.json: sample_rate=0: must be at least 1000"),
        ("json", "judge.json: Expecting"),
        ("key", "judge.json: it may have name, sample_rate, shortest_seconds and nothing else"),
        ("type", "judge.json: sample_rate='8000' is of the wrong type"),
        ("list", "judge.json: it may have"),
        (f"{good},mos:{good}/../good", "there is a judge mos_good already"),
    ):
        with pytest.raises(ValueError) as error:
            build_judges([f"mos:{tmp_path / place}"])
        assert message in str(error.value) and "\n" not in str(error.value)


# ----------------------------------------------------------------------------------------------------------- names


def test_names_are_parted_by_commas_and_asked_once(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "speechmos", SimpleNamespace(dnsmos=SimpleNamespace(run=None)))
    m, n = (model_folder(tmp_path / name, Power()) for name in "mn")
    judges = build_judges([f"mos:{n}, dnsmos", f"mos:{m}", "dnsmos"])
    assert [judge.name for judge in judges] == ["mos_n", "dnsmos", "mos_m"]
    assert build_judges([]) == []


@pytest.mark.parametrize(
    ("name", "hidden", "message"),
    [
        ("utmos", None, "--judge 'utmos': type one of dnsmos, similarity, mos:FOLDER"),
        ("", None, "--judge '': type one of"),
        ("dnsmos", "speechmos", 'needs speechmos .*pip install "vitslite\\[judges\\]"'),
        ("similarity", "resemblyzer", 'needs resemblyzer .*pip install "vitslite\\[judges\\]"'),
    ],
)
def test_unknown_and_missing_judges_are_one_line(monkeypatch, name, hidden, message):
    if hidden:
        monkeypatch.setitem(sys.modules, hidden, None)
    with pytest.raises(ValueError, match=message) as error:
        build_judges([name])
    assert "\n" not in str(error.value)


def test_texts_have_no_similarity():
    with pytest.raises(ValueError, match="--judge similarity compares with the recording of the sentence"):
        build_judges(["similarity"], has_recordings=False)


# ----------------------------------------------------------------------------------------------------- in the table


def rows_of(judges, wavs):
    scorer = Scorer(folder.comparison_audio(SR), None, judges)
    rows, _ = scorer.score("Two words.", wavs, "clip-1")
    return rows, scorer


def test_every_column_has_the_figure_and_who_cannot_judge_is_told(tmp_path):
    patient = model_folder(tmp_path / "m", Power(), name="Patient", shortest_seconds=0.5)
    judges = build_judges([f"mos:{model_folder(tmp_path / 'n', Power())}", f"mos:{patient}"])
    wavs = {"recording": tone(200), "given": tone(200, 0.3, 0.25), "silent": np.zeros(SR, np.float32)}
    rows, scorer = rows_of(judges, wavs)
    assert rows["recording"]["mos_n"] == rows["recording"]["mos_patient"] == (pytest.approx(0.125, abs=2e-3), 1.0)
    assert rows["given"]["mos_n"] == (pytest.approx(0.25**2 / 2, abs=2e-3), 1.0)
    assert "mos_patient" not in rows["given"] and "mel_cepstral_distortion" in rows["given"]
    assert scorer.notes == [
        "clip-1, given: no figure of mos_patient: 0.30 s long, 0.5 s needed",
        "clip-1, silent: no figure of mos_n, mos_patient: silent",
    ]
    evaluation = collect([Scored("clip-1", "Two words.", wavs, {}, rows)], {}, scorer)
    stored = json.loads(json.dumps(evaluation.as_dict()))
    assert stored["notes"] == scorer.notes and stored["estimates"]["given"]["mos_n"]["unit"] == "MOS"
    lines = table(evaluation.estimates, evaluation.measures).splitlines()
    assert [line.split()[0] for line in lines if "MOS" in line] == ["n,", "Patient,"]
    assert next(line for line in lines if "Patient" in line).split()[2:] == ["0.125", "-", "-"]


def test_another_judge_changes_no_other_figure(tmp_path):
    wavs = {"recording": tone(200), "given": tone(210)}
    without, _ = rows_of([], wavs)
    beside, _ = rows_of(build_judges([f"mos:{model_folder(tmp_path / 'n', Power())}"]), wavs)
    assert {kind: {k: v for k, v in row.items() if k != "mos_n"} for kind, row in beside.items()} == without


# --------------------------------------------------------------------------------------------------------- packages


def test_dnsmos_is_given_what_it_was_made_for(monkeypatch):
    def run(sample, sr):
        assert sample.dtype == np.float32 and sr == 16000 and len(sample) == 16000
        assert np.abs(sample).max() <= 1  # it refuses anything else
        return {"ovrl_mos": np.float64(2.5), "sig_mos": 4.0, "bak_mos": 4.0, "p808_mos": 4.0}

    monkeypatch.setitem(sys.modules, "speechmos", SimpleNamespace(dnsmos=SimpleNamespace(run=run)))
    (judge,) = build_judges(["dnsmos"])
    assert judged(judge, np.sign(tone(300)), None, SR) == 2.5  # whose resampling overshoots
    with pytest.raises(ValueError, match="0.99 s long, 1 s needed"):
        judged(judge, tone(300, 0.99), None, SR)


def real_clips(n):
    wavs = sorted((SHARED / "kathleen" / "wavs").glob("*.flac"))[:n]
    if not wavs:
        pytest.skip("needs recordings of a real voice in ../shared/kathleen")
    return [read_wav(path, SR).astype(np.float32) / 32768 for path in wavs]


def noisy(wav, snr_db):
    scale = np.sqrt(np.square(wav).mean() / 10 ** (snr_db / 10))
    return (wav + np.random.default_rng(0).normal(0, scale, len(wav))).astype(np.float32)


def test_dnsmos_hears_noise():
    pytest.importorskip("speechmos", reason="needs speechmos: pip install 'vitslite[judges]'", exc_type=ImportError)
    (judge,) = build_judges(["dnsmos"])
    (wav,) = real_clips(1)
    clean, less, more = (judged(judge, x, None, SR) for x in (wav, noisy(wav, 20), noisy(wav, 5)))
    assert 5 > clean > less > more > 1
    assert clean == judged(judge, wav, None, SR)  # whatever came before


def test_similarity_knows_the_speaker():
    why = "needs resemblyzer: pip install 'vitslite[judges]'"
    pytest.importorskip("resemblyzer", reason=why, exc_type=ImportError)
    (judge,) = build_judges(["similarity"])
    first, second = real_clips(2)
    assert judged(judge, first, first, SR) == pytest.approx(1, abs=1e-5)
    same = judged(judge, first, second, SR)
    assert judged(judge, second, first, SR) == pytest.approx(same, abs=1e-5)
    assert judged(judge, 0.3 * first, second, SR) == pytest.approx(same, abs=0.02)  # the level does not matter
    deeper = np.interp(np.arange(0, len(first), 0.75), np.arange(len(first)), first).astype(np.float32)
    assert 0.95 > same > judged(judge, deeper, second, SR) + 0.1
    with pytest.raises(ValueError, match="no speech found"):
        judged(judge, tone(8000, 2.0, 0.001), first, SR)
