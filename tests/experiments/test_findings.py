"""Findings of a comparison: what is wrong on purpose and its cost, what may be compared, the rate-distortion plane."""

import math

import numpy as np
import pytest
import scipy.stats
from logged import STEPS, settings, write

from vitslite.experiments import findings, plane, quantities, sources, variants
from vitslite.experiments.atlas import Experiment

AUDIO = {"audio": {"sample_rate": 12800, "hop_length": 256}}
# Of the seeds: KL over paths in nats per frame, log-mel L1.
HONEST = {
    "half_analytic": [(2.0, 0.50), (2.1, 0.52), (2.2, 0.51)],
    "abs_first_term": [(7.0, 0.45), (7.3, 0.46), (7.1, 0.47)],
}


def leave(folder, kl, seed, over_paths, mel, name=None, **more):
    config = settings(kl, seed, **more) | AUDIO
    rows = [
        {
            "step": step,
            "val/loss/kl": over_paths - 1,
            "val/kl/half_analytic": over_paths - 0.5,
            "val/kl/bits_per_second": (over_paths - 0.5) * 50 / math.log(2),
            "val/kl/over_paths": over_paths,
            "val/loss/mel": mel + 2 / (1 + step),
        }
        for step in (0, 20, STEPS)
    ]
    return write(folder / (name or f"abs_and_clamp-{kl}-{seed}"), config, rows)


@pytest.fixture
def compared(tmp_path):
    for kl, values in HONEST.items():
        for seed, (over_paths, mel) in enumerate(values):
            leave(tmp_path, kl, seed, over_paths, mel)
    return variants.compare(sources.read([str(tmp_path)]), "title", "command")


def test_the_wrong_one_is_named_with_its_reason_and_its_cost(compared):
    assert [bool(reasons) for reasons in compared.wrong] == [True, False]  # by name abs_first_term is the first
    wrong, sound = findings.findings(compared)
    assert wrong.role == "wrong on purpose" and "turns the gradient of the entropy round" in wrong.sentences[0]
    kl = np.subtract(*([v for v, _ in HONEST[name]] for name in ("abs_first_term", "half_analytic")))
    half = scipy.stats.t.ppf(0.975, 2) * scipy.stats.sem(kl)
    assert f"KL over all paths +{kl.mean():.2f} ± {half:.2f} nats/frame (higher)" in wrong.sentences[1]
    assert "log-mel L1 -0.050" in wrong.sentences[1] and "nats (better)" in wrong.sentences[1]
    assert "beside objective.kl=half_analytic" in wrong.sentences[1]  # the sound one, though it is not the baseline
    assert "Wrong on purpose: objective.kl=abs_first_term." in findings.opening(compared)
    assert "another quantity" not in str(sound) and sound.role == ""


def test_sound_losses_are_not_called_wrong_and_unknown_ones_are_said(tmp_path):
    for seed in (0, 1):
        leave(tmp_path, "half_analytic", seed, 2.0 + seed, 0.5)
        leave(tmp_path, "monte_carlo", seed, 2.0 + seed, 0.5)
        leave(tmp_path, "of_another_version", seed, 2.0, 0.5)
    c = variants.compare(sources.read([str(tmp_path)]), "title", "command")
    assert c.wrong == [[], [], []] and "Wrong" not in findings.opening(c)
    assert [line for line in c.remarks if "not known of" in line and line.endswith("objective.kl=of_another_version")]


def test_the_question_is_that_of_the_experiment_all_runs_are_of(compared):
    question, predicted = findings.question(compared.runs)
    assert question == "My KL is negative: what do abs() and clamp() do?" and "narrower than" in predicted
    other = sources.RunLog("beta-1", {}, [], 0.0)
    assert findings.question([*compared.runs, other]) is None and findings.question([other]) is not None
    assert findings.question([sources.RunLog("demo-1", {}, [], 0.0)]) is None  # it asks nothing


@pytest.mark.parametrize(
    ("key", "changed", "found"),
    [
        ("val/loss/kl", {"objective.kl": "monte_carlo"}, True),
        ("val/loss/kl", {"objective.regulariser.free_bits": 0.5}, True),
        ("val/loss/kl", {"objective.weights.kl": 0.5}, False),
        ("val/kl/half_analytic", {"objective.kl": "monte_carlo"}, False),
        ("val/kl/half_analytic", {"model.alignment.kind": "given"}, True),
        ("val/kl/over_paths", {"model.alignment.kind": "given"}, False),
        ("val/loss/mel", {"model.posterior.kind": "recording"}, True),
        ("val/loss/mel", {"objective.weights.mel": 1.0}, False),
        ("val/loss/adversarial", {"trainer.optimizer.learning_rate": 1.0}, True),
        ("val/wer/spoken", {"validation.recogniser": "whisper:base"}, True),
        ("val/mas/error_ms", {"audio.hop_length": 1}, False),
    ],
)
def test_which_figures_are_the_same_quantity(key, changed, found):
    """Planted: without its setting in DEFINED_BY each True is a False, and a difference of two things is ranked."""
    base = dict.fromkeys(changed, "x")
    assert quantities.apart(key, base | changed, base) == (list(changed) if found else [])
    assert quantities.apart(key, base | changed, {}) == []  # what another version did not know


def test_a_kl_is_better_nowhere_for_being_low():
    down = quantities.Difference(-1.0, 0.1, 3)
    for key in ("val/loss/kl", "val/kl/over_paths", "val/kl/half_analytic", "val/kl/bits_per_second"):
        assert down.effect(key) == "lower"
    assert down.effect("val/loss/mel") == "better" and down.effect("val/mas/within_50ms") == "worse"
    assert quantities.Difference(-1.0, 1.1, 3).effect("val/loss/mel") == ""
    assert quantities.Difference(-1.0, math.nan, 1).effect("val/loss/mel") == ""


def test_the_plane_is_bits_per_second_against_the_mel_error(compared):
    found = plane.plane(compared.variants, compared.baseline)
    assert found.rate_label == "rate: KL over all paths, bit/s" and not found.left_out
    ends = {i: [run.trajectory[-1] for run in runs] for i, runs in found.runs.items()}
    for i, kl in enumerate(sorted(HONEST)):
        expected = [(nats * 50 / math.log(2), mel + 2 / (1 + STEPS)) for nats, mel in HONEST[kl]]
        assert np.allclose(ends[i], expected)
    assert [[run.is_wrong for run in runs] for runs in found.runs.values()] == [[True] * 3, [False] * 3]
    assert all(len(run.trajectory) == 2 for run in found.runs[0])  # the untrained one is far away


def test_on_the_plane_all_have_one_rate_and_one_distortion(tmp_path, compared):
    path = leave(tmp_path, "half_analytic", 9, 2.0, 0.5, name="older") / "metrics.jsonl"
    path.write_text(path.read_text().replace('"val/kl/over_paths": 2.0, ', ""))
    leave(
        tmp_path, "half_analytic", 9, 2.0, 0.5, name="other", **{"model.flow.kind": "none", "objective.weights.kl": 1.0}
    )
    c = variants.compare(sources.read([str(tmp_path)]), "title", "command")
    found = plane.plane(c.variants, c.baseline)
    assert "on the path found" in found.rate_label
    recording = [
        variants.Variant("glow", {"model.posterior.kind": "recording"}, {"0": sources.RunLog("g", {}, [], 0.0)})
    ]
    assert plane.plane(recording) is None
    assert plane.plane([*c.variants, *recording], c.baseline).left_out == ["glow"]


def test_the_front_of_the_atlas_has_every_question_with_runs(tmp_path):
    from vitslite.experiments import atlas

    command = "python train.py -m experiment=abs_and_clamp objective.kl=half_analytic,abs_first_term seed=0,1"
    texts = ("question", (command,), "cost", "expected", "measured", ("val/loss/mel",), ("loss/mel",))
    experiment = Experiment("abs_and_clamp", *texts)
    assert atlas.front(tmp_path / "plane.png", [experiment], tmp_path) is None
    for n, run in enumerate(atlas.runs_of(experiment)):
        kl = run.variant.removeprefix("objective.kl=")
        leave(tmp_path, kl, int(run.seed), 2.0 + n, 0.5, name=run.name)
    assert atlas.front(tmp_path / "plane.png", [experiment], tmp_path).stat().st_size > 5000
