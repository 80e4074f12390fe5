"""Runs side by side: figures held against numpy and scipy, the page against an HTML parser, W&B against a stand-in."""

import base64
import json
import math
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import scipy.stats
import wandb
import yaml
from logged import STEPS, settings, write

from vitslite.commands import compare as compare_command
from vitslite.config import families
from vitslite.experiments import atlas, page, sources, variants, wandb_report, wandb_runs
from vitslite.metrics.statistics import difference_in_words, needed_seeds, plus_minus
from vitslite.monitoring import curves
from vitslite.monitoring import panels as drawn

VOID = {"meta", "link", "img", "input", "br", "wbr"}
# Final val/loss/mel of the seeds 0, 1, 2: the seed moves both by far more than the variant does.
MEL = {"half_analytic": [1.0, 3.0, 6.0], "monte_carlo": [0.9, 2.95, 5.8]}


class Page(HTMLParser):
    """The page as a browser would see it: sections, tables, ids, links; an AssertionError where tags do not match."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tables: dict[str, list[list[tuple[str, str | None]]]] = {}  # title -> rows of (text, value to sort by)
        self.row_classes: dict[str, list[str | None]] = {}
        self.heading = ""
        self._open: list[str] = []
        self._notes: list[str] = []
        self.text = text
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values[name] for name in ("src", "href", "xlink:href") if name in values]
        if tag not in VOID:
            self._open.append(tag)
        if tag == "h2":
            self.heading = ""
        elif tag == "table":
            self.tables[self.heading], self.row_classes[self.heading] = [], []
        elif tag == "tr":
            self.tables[self.heading].append([])
            self.row_classes[self.heading].append(values.get("class"))
        elif tag in ("td", "th"):
            self.tables[self.heading][-1].append(("", values.get("data-value")))
        elif tag == "small":
            self.handle_data(" | ")

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] == "h2":
            self.heading += data
        elif {"td", "th"} & set(self._open):
            text, value = self.tables[self.heading][-1][-1]
            self.tables[self.heading][-1][-1] = (text + data, value)

    def row(self, title: str, *words: str) -> dict[str, tuple[str, str | None]]:
        """The row whose texts have all of `words`, by the heads of the columns."""
        head, *rows = self.tables[title]
        found = [row for row in rows if all(any(word == text.split(" | ")[0] for text, _ in row) for word in words)]
        assert len(found) == 1, (words, rows)
        return dict(zip([text for text, _ in head], found[0], strict=True))


def rows_of(mel, reached=STEPS):
    """A line at every 10th step, at 2 steps per second and then 4; validations at 0, 20, where it is best, and 40."""
    rows = [{"step": 0, "val/loss/mel": 9.0, "val/mas/within_50ms": 0.0, "val/mas/error_ms": 50.0}]
    for step in range(10, reached + 1, 10):
        rate = 2.0 if step <= 20 else 4.0
        speed = {"time/steps_per_second": rate, "time/audio_seconds_per_second": 8 * rate}
        rows.append({"step": step, "loss/mel": mel + 1 / step, "grad/norm": 1.0, "grad/kl/flow": 2.0, **speed})
        if step in (20, STEPS):
            end = step == STEPS
            validation = {"val/loss/mel": mel if end else mel - 0.25, "val/mas/within_50ms": 0.5 if end else 0.75}
            rows.append({"step": step, **validation, "val/mas/error_ms": 30.0, "val/wer/spoken": 0.4})
    return rows


@pytest.fixture
def runs(tmp_path):
    """Two variants, three seeds each."""
    for kl, values in MEL.items():
        for seed, mel in enumerate(values):
            write(tmp_path / "runs" / f"{kl}-{seed}", settings(kl, seed), rows_of(mel))
    return tmp_path / "runs"


def compare(*places, **choices):
    return variants.compare(sources.read([str(place) for place in places]), "a title", "a command", **choices)


def page_of(*places, n_sentences=0, draw=False, **choices):
    """The page, without the curves unless they are asked for: drawing them takes longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        if not draw:
            patch.setattr(curves, "block", lambda *_: "")
            patch.setattr(curves, "script", lambda: "")
        return Page(page.page(compare(*places, **choices), Path("/out"), n_sentences, everything=False))


def run_command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["compare_runs.py", *map(str, arguments)])
    return compare_command.command()


# Figures over seeds


@pytest.mark.parametrize(
    ("mean", "half", "signed", "text"),
    [
        (17.845, 1.234, False, "17.8 ± 1.2"),
        (0.03, 0.2, True, "+0.03 ± 0.20"),
        (-0.12345, 0.0456, True, "-0.123 ± 0.046"),
        (12345.0, 1234.0, False, "12300 ± 1200"),
        (2.5, 0.0, False, "2.5 ± 0"),
        (math.nan, math.nan, False, "nan ± nan"),
    ],
)
def test_mean_and_interval_have_the_same_digits(mean, half, signed, text):
    assert plus_minus(mean, half, signed) == text


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        ([], "no common seed"),
        ([0.03], "1 common seed: no interval, +0.03"),
        ([-0.03], "1 common seed: no interval, -0.03"),
        ([0.0, 0.0, 0.0], "equal in every seed (3 seeds)"),
        ([math.nan, 1.0], "not finite in 1 of 2 seeds"),
        ([math.inf], "not finite in 1 of 1 seed"),
        ([0.2, 0.2], "higher: +0.2 ± 0 (2 seeds)"),
        ([-1.0, 1.0], "not resolved: 0 ± 13 (2 seeds); more than 100 seeds would be needed"),
    ],
)
def test_differences_in_words(differences, words):
    assert difference_in_words(differences) == words


def test_lower_higher_and_not_resolved_are_what_a_t_test_says():
    rng = np.random.default_rng(0)
    seen = set()
    for n in (2, 3, 5, 8):
        for shift in (-2.0, 0.0, 0.7, 2.0):
            values = rng.normal(shift, 1, n)
            words = difference_in_words(values.tolist())
            significant = scipy.stats.ttest_1samp(values, 0).pvalue < 0.05
            expected = "not resolved" if not significant else "lower" if values.mean() < 0 else "higher"
            assert words.startswith(f"{expected}: ")
            seen.add(expected)
    assert seen == {"lower", "higher", "not resolved"}


def test_needed_seeds_against_a_search_by_hand():
    values = np.array([0.5, -0.3, 0.4])
    s = values.std(ddof=1)
    halves = {n: scipy.stats.t.interval(0.95, n - 1, loc=0, scale=s / n**0.5)[1] for n in range(2, 101)}
    expected = min(n for n, half in halves.items() if half < values.mean())
    assert needed_seeds(values.tolist()) == expected == 21
    assert f"about {expected} seeds would be needed" in difference_in_words(values.tolist())
    normal = min(n for n in halves if 1.96 * s / n**0.5 < values.mean())  # planted: without Student's tails it is less
    assert normal < expected
    assert needed_seeds([1.0, -0.99]) is None


# The tables


def test_final_figures_are_means_with_student_intervals(runs):
    page = page_of(runs)
    for kl, values in MEL.items():
        row = page.row("Final metrics", f"objective.kl={kl}")
        half = scipy.stats.t.ppf(0.975, 2) * scipy.stats.sem(values)
        text, value = row["val/loss/mel"]
        assert float(value) == pytest.approx(np.mean(values))
        assert text == plus_minus(float(np.mean(values)), half) and float(text.split(" ± ")[1]) == pytest.approx(
            half, 0.05
        )
        assert row["seeds"][0] == "3"
        assert row["val/mas/error_ms"][0] == "30 ± 0"
    assert page.row_classes["Final metrics"] == [None, "v0", "v1"]


def of_family(posterior, flow, refiner="none", **more):
    kinds = {"model.posterior": {"kind": posterior}, "model.flow": {"kind": flow}, "model.refiner": {"kind": refiner}}
    return settings("half_analytic" if posterior == "gaussian" else "likelihood", **kinds, **more)


def test_families_side_by_side(tmp_path):
    """Labels are their names; what one lacks is a dash, never 0; and the page says what can be compared."""
    rows = {
        "VITS": {"val/loss/kl": 1.5, "val/kl/half_analytic": 1.25, "val/mas/error_ms": 20.0},
        "Glow-TTS": {"val/loss/prior": 0.5, "val/nll/per_frame": -40.0, "val/mas/error_ms": 30.0},
        "Grad-TTS": {"val/loss/prior": 1.0, "val/nll/per_frame": 80.0, "val/loss/diffusion": 0.25},
    }
    kinds = {
        "VITS": ("gaussian", "mean_only"),
        "Glow-TTS": ("recording", "glow"),
        "Grad-TTS": ("recording", "none", "diffusion"),
    }
    for name, row in rows.items():
        write(tmp_path / "runs" / name, of_family(*kinds[name]), [{"step": STEPS, **row}])
    page = page_of(tmp_path / "runs")
    logged = dict.fromkeys(key for row in rows.values() for key in row)
    for name, row in rows.items():
        found = page.row("Final metrics", name)
        for key in logged:
            assert (found[key][0] == "–") == (key not in row), (name, key)
            assert key not in row or float(found[key][1]) == row[key]
    for words in (
        "Several families: ",
        "None is better for being the lower one",
        "nll/per_frame is in nats per frame of log-mel in every family",
        "loss/mel and loss/energy are the decoder&#39;s",
    ):
        assert words in page.text, words
    assert "no common seed" in page.text  # of figures that the baseline has not, rather than a difference from 0

    write(tmp_path / "runs" / "other", of_family("recording", "glow", **{"trainer.steps": 80}), rows_of(1.0))
    labels = {variant.label for variant in compare(tmp_path / "runs").variants}
    assert labels == {"VITS", "Grad-TTS", f"Glow-TTS: trainer.steps={STEPS}", "Glow-TTS: trainer.steps=80"}


@pytest.mark.parametrize(
    ("found", "said", "unsaid"),
    [
        (["VITS", "VITS"], (), ("Several",)),
        (["Glow-TTS"], (), ("Several",)),
        (["VITS", "Glow-TTS", "VITS"], ("families: VITS, Glow-TTS.", "loss/kl", "loss/mel"), ("nll/per_frame",)),
        (["Glow-TTS", "Grad-TTS"], ("nll/per_frame", "recording_noise", "audio.*"), ("KL of latents", "loss/mel")),
        (["VITS", "regression", "flow matching"], ("KL of latents", "loss/mel", "nll/per_frame"), ()),
    ],
)
def test_what_can_be_compared_in_words(found, said, unsaid):
    text = " ".join(families.in_words(found))
    assert [words for words in said if words not in text] == []
    assert [words for words in unsaid if words in text] == []


def test_the_family_of_settings():
    assert families.family("gaussian", "glow", "none") == families.family("residual", "none", "none") == "VITS"
    assert families.family("recording", "none", "none") == "regression"
    assert families.family("recording", "mean_only", "none") == families.family("recording", "glow", "none")
    kinds = [families.family("recording", "none", refiner) for refiner in ("diffusion", "flow_matching")]
    assert kinds == ["Grad-TTS", "flow matching"]
    assert variants.family_of({"objective.kl": "monte_carlo"}) == "VITS"  # a run of before there were others


def test_a_legend_of_long_labels_stays_in_the_picture(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(
        drawn, "save", lambda figure, path, **_: (shown.append(figure), PIL.Image.new("RGB", (1, 1)).save(path))
    )
    labels = [" ".join(f"model.part{i}.setting{j}=value" for j in range(20)) for i in range(3)]
    drawn.variant_curves(tmp_path / "c.png", {"loss/mel": {label: [[(0, 1.0), (1, 2.0)]] for label in labels}})
    shown[0].canvas.draw()
    (legend,) = shown[0].legends
    box, whole = legend.get_window_extent(), shown[0].bbox
    assert whole.x0 <= box.x0 and box.x1 <= whole.x1


def test_best_is_the_lowest_or_highest_of_each_run(runs):
    page = page_of(runs, metrics=["val/loss/mel", "val/mas/*", "loss/mel"])
    row = page.row("Best metrics", "objective.kl=half_analytic")
    assert float(row["val/loss/mel"][1]) == pytest.approx(np.mean(MEL["half_analytic"]) - 0.25)
    assert float(row["val/mas/within_50ms"][1]) == 0.75
    assert "loss/mel" not in row  # of a training loss nothing is chosen
    final = page.row("Final metrics", "objective.kl=half_analytic")
    assert float(final["val/mas/within_50ms"][1]) == 0.5 and "loss/mel" in final


def test_differences_are_paired(runs):
    page = page_of(runs)
    assert {text for row in page.tables["Differences, seed by seed"][1:] for text, _ in row[1:2]} == {
        "objective.kl=monte_carlo"
    }
    row = page.row("Differences, seed by seed", "val/loss/mel")
    paired = np.subtract(MEL["monte_carlo"], MEL["half_analytic"])
    half = scipy.stats.t.ppf(0.975, 2) * scipy.stats.sem(paired)
    text, value = row["variant - baseline"]
    assert float(value) == pytest.approx(paired.mean()) and row["pairs"][0] == "3"
    shown = re.fullmatch(r"not resolved: (-[\d.]+) ± ([\d.]+) \(3 seeds\); about (\d+) seeds would be needed", text)
    assert float(shown[1]) == pytest.approx(paired.mean(), abs=0.005) and float(shown[2]) == pytest.approx(
        half, abs=0.005
    )
    # Planted: by the difference of two independent means the interval would be more than ten times as wide.
    apart = scipy.stats.ttest_ind(MEL["monte_carlo"], MEL["half_analytic"]).confidence_interval()
    assert (apart.high - apart.low) / 2 > 10 * half


def test_differences_use_common_seeds_only(runs):
    (runs / "monte_carlo-1" / "config.yaml").write_text(yaml.safe_dump(settings("monte_carlo", 7)))
    (runs / "monte_carlo-2" / "config.yaml").write_text(yaml.safe_dump(settings("monte_carlo", 8)))
    row = page_of(runs).row("Differences, seed by seed", "val/loss/mel")
    assert row["variant - baseline"][0] == "1 common seed: no interval, -0.1" and row["pairs"][0] == "1"
    (runs / "monte_carlo-0" / "config.yaml").write_text(yaml.safe_dump(settings("monte_carlo", 9)))
    row = page_of(runs).row("Differences, seed by seed", "val/loss/mel")
    assert row["variant - baseline"] == ("no common seed", None)


def test_training_time_is_summed_over_the_log(runs):
    row = page_of(runs).row("Runs", "half_analytic-0")
    assert float(row["training time, s"][1]) == pytest.approx(20 / 2 + 20 / 4)
    assert float(row["steps/s"][1]) == pytest.approx(40 / 15)
    assert float(row["audio s/s"][1]) == pytest.approx((16 * 10 + 32 * 5) / 15, rel=1e-6)
    assert row["state"][0] == "finished" and row["steps"][0] == "40"


def test_a_single_seed_has_no_interval(runs):
    for seed in (1, 2):
        (runs / f"monte_carlo-{seed}" / "config.yaml").unlink()
    page = page_of(runs)
    for title in ("Final metrics", "Best metrics"):
        row = page.row(title, "objective.kl=monte_carlo")
        assert row["seeds"][0] == "1 seed: no interval" and not any("±" in text for text, _ in row.values())
        assert any("±" in text for text, _ in page.row(title, "objective.kl=half_analytic").values())


def test_a_value_that_is_not_a_number_is_shown_and_spreads(runs):
    path = runs / "monte_carlo-1" / "metrics.jsonl"
    path.write_text(path.read_text().replace('"val/loss/mel": 2.95', '"val/loss/mel": NaN'))
    page = page_of(runs)
    assert page.row("Final metrics", "objective.kl=monte_carlo")["val/loss/mel"] == ("nan", None)
    best = float(page.row("Best metrics", "objective.kl=monte_carlo")["val/loss/mel"][1])
    assert best == pytest.approx(np.mean([0.9, 2.95, 5.8]) - 0.25)  # before it broke
    words = page.row("Differences, seed by seed", "val/loss/mel")["variant - baseline"]
    assert words == ("not finite in 1 of 3 seeds", None)


# Variants


def test_only_what_differs_is_shown_and_named(runs):
    for seed in range(3):
        path = runs / f"monte_carlo-{seed}" / "config.yaml"
        path.write_text(yaml.safe_dump(settings("monte_carlo", seed, **{"trainer.log_every_steps": 5 + seed})))
    compared = compare(runs)
    assert [v.label for v in compared.variants] == ["objective.kl=half_analytic", "objective.kl=monte_carlo"]
    assert compared.differing == ["objective.kl"] and compared.remarks == []
    assert page_of(runs).tables["What differs"][1:] == [
        [("objective.kl", "objective.kl"), ("half_analytic", "half_analytic"), ("monte_carlo", "monte_carlo")]
    ]


def test_other_steps_are_another_variant(tmp_path):
    write(tmp_path / "a", settings(), rows_of(1.0))
    write(tmp_path / "b", settings(**{"trainer.steps": 20}), rows_of(1.0))
    assert [v.label for v in compare(tmp_path).variants] == ["trainer.steps=40", "trainer.steps=20"]


def test_one_variant_is_all(runs):
    compared = compare(*runs.glob("half*"))
    assert [v.label for v in compared.variants] == ["all"]
    page = page_of(*runs.glob("half*"))
    assert "What differs" not in page.tables and "Differences, seed by seed" not in page.tables


def test_of_many_keys_a_label_has_those_that_are_not_as_in_most(tmp_path):
    changes = {
        "a": {},
        "b": {"objective.kl": "monte_carlo"},
        "c": {"model.flow.kind": "affine", "objective.weights.mel": 0},
        "d": {"model.flow.hidden": 96},
    }
    for name, change in changes.items():
        write(tmp_path / name, settings(**change), rows_of(1.0))
    labels = [v.label for v in compare(tmp_path).variants]
    words = [{f"{k}={v}" for k, v in change.items()} for change in changes.values()]
    assert [set(label.split()) for label in labels[1:]] == words[1:] and labels[0] == variants.COMMON


def test_whole_numbers_are_the_same_however_they_are_written(tmp_path):
    write(tmp_path / "a", settings(**{"objective.weights.mel": 45.0}), rows_of(1.0))
    write(tmp_path / "b", settings(seed=1, **{"objective.weights.mel": 45}), rows_of(1.0))
    assert len(compare(tmp_path).variants) == 1


def test_runs_of_another_version_are_called_out(runs):
    for seed in range(3):
        path = runs / f"monte_carlo-{seed}" / "config.yaml"
        path.write_text(yaml.safe_dump(settings("monte_carlo", seed, **{"model.flow.hidden": None})))
    compared = compare(runs)
    assert compared.remarks == ["3 runs were made by another version: keys model.flow.hidden missing"]
    assert [v.label for v in compared.variants] == ["objective.kl=half_analytic", "objective.kl=monte_carlo"]
    assert [text for text, _ in page_of(runs).row("What differs", "model.flow.hidden").values()] == [
        "model.flow.hidden",
        "48",
        "–",
    ]
    # Where nothing else differs, they are two variants all the same, and have names of their own.
    write(runs / "old", settings(seed=4, **{"model.flow.hidden": None}), rows_of(1.0))
    labels = [v.label for v in compare(*runs.glob("half*"), runs / "old").variants]
    assert len(set(labels)) == 2 and all("version" in label for label in labels)


def test_unfinished_runs_are_counted_apart(runs):
    path = runs / "monte_carlo-2" / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(100.0, reached=30)))
    row = page_of(runs).row("Final metrics", "objective.kl=monte_carlo")
    assert float(row["val/loss/mel"][1]) == pytest.approx(np.mean([0.9, 2.95]))
    assert row["variant"][0].endswith("unfinished, left out: seed 2 (30 of 40)") and row["seeds"][0] == "2"
    assert page_of(runs).row("Runs", "monte_carlo-2")["state"][0] == "unfinished (30 of 40)"
    for seed in (0, 1):  # nothing else there: used, and marked
        (runs / f"monte_carlo-{seed}" / "config.yaml").unlink()
    row = page_of(runs).row("Final metrics", "objective.kl=monte_carlo")
    assert row["variant"][0].endswith("unfinished (30 of 40)")
    assert float(row["val/loss/mel"][1]) == pytest.approx(99.75)  # its last validation


def test_of_two_runs_of_one_seed_the_newest_counts(runs):
    write(runs / "again", settings("monte_carlo", 1), rows_of(50.0), modified=2_000_000_000)
    compared = compare(runs)
    assert compared.remarks == ["again, monte_carlo-1: same settings, same seed; again, the newest, is used"]
    monte_carlo = variants.find_baseline(compared.variants, "objective.kl=monte_carlo")
    assert monte_carlo.values("val/loss/mel") == {"0": 0.9, "1": 50.0, "2": 5.8}
    write(runs / "begun", settings("monte_carlo", 1), rows_of(70.0, reached=10), modified=2_100_000_000)
    compared = compare(runs)
    assert "again, the newest that is finished, is used" in compared.remarks[0]
    monte_carlo = variants.find_baseline(compared.variants, "objective.kl=monte_carlo")
    assert monte_carlo.values("val/loss/mel")["1"] == 50.0
    assert len(compare(runs, runs / "again").runs) == len(compared.runs)  # given twice, read once


# Baselines and metrics


@pytest.mark.parametrize(
    "words", ["objective.kl=monte_carlo", "monte_carlo-1", "objective.kl=monte_carlo objective.weights.mel=45.0"]
)
def test_a_baseline_is_named_by_its_words_or_a_run(runs, words):
    assert compare(runs, baseline=words).baseline.label == "objective.kl=monte_carlo"
    assert compare(runs).baseline.label == "objective.kl=half_analytic"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("objective.kl=monte_carl", "no such variant.*nearest is 'objective.kl=monte_carlo'"),
        ("objective.weights.mel=nan", "no such variant"),
        ("objective.weights.mel=45", "fits 2 variants: objective.kl=half_analytic; objective.kl=monte_carlo;"),
    ],
)
def test_a_baseline_that_is_not_one_is_one_line(runs, words, message):
    with pytest.raises(ValueError, match=message) as error:
        compare(runs, baseline=words)
    assert "\n" not in str(error.value)


def test_metrics_may_be_chosen(runs):
    assert compare(runs).metrics == ["val/loss/mel", "val/mas/error_ms", "val/wer/spoken"]
    assert compare(runs, metrics=["val/mas/*", "loss/mel"]).metrics == [
        "val/mas/error_ms",
        "val/mas/within_50ms",
        "loss/mel",
    ]
    with pytest.raises(ValueError, match="--metrics val/los/mel: never logged, did you mean val/loss/mel"):
        compare(runs, metrics=["val/los/mel"])


# Sources that are not as they should be


def test_damaged_and_empty_runs_are_named_and_left_out(runs):
    write(runs / "cut", settings("monte_carlo", 3), rows_of(4.0), end='\n{"step": 50, "val/lo')
    write(runs / "torn", settings("monte_carlo", 4), [{"step": 1}], end='\n{"step": 50, "val/lo\n{"step": 60}\n')
    write(runs / "stepless", settings("monte_carlo", 5), [{"loss/mel": 1.0}])
    write(runs / "fresh", settings("monte_carlo", 6), [], end="")
    (write(runs / "broken", {}, rows_of(1.0)) / "config.yaml").write_text("a: [1")
    (write(runs / "emptied", {}, rows_of(1.0)) / "config.yaml").write_text("")
    (write(runs / "binary", {}, rows_of(1.0)) / "config.yaml").write_bytes(b"\xff\xfe\x00a: 1")
    (runs / "no_run").mkdir()
    compared = compare(runs)
    monte_carlo = variants.find_baseline(compared.variants, "objective.kl=monte_carlo")
    assert set(monte_carlo.runs) == {"0", "1", "2", "3"}  # the one cut off in its last line is whole before it
    names = ("binary", "broken", "emptied", "stepless", "torn", "fresh")
    assert sorted(names) == sorted(remark.split(":")[0] for remark in compared.remarks)
    assert not any("\n" in remark for remark in compared.remarks)


def test_no_runs_at_all_is_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "fresh", settings(), [], end="")
    for source in (tmp_path / "empty", tmp_path / "missing", tmp_path / "fresh"):
        with pytest.raises(ValueError, match="give run directories") as error:
            sources.read([str(source)])
        assert "\n" not in str(error.value) and str(source) in str(error.value)


def test_a_sweep_names_its_runs_and_what_failed(runs, tmp_path):
    sweep = tmp_path / "sweeps" / "kl"
    (sweep / "jobs").mkdir(parents=True)
    (sweep / "sweep.json").write_text(json.dumps({"name": "kl", "overrides": [], "jobs": {}}))

    def job(name, **more):
        content = {
            "name": name,
            "run_dir": str(runs / name),
            "overrides": [],
            "state": "finished",
            "error": None,
        } | more
        (sweep / "jobs" / f"{name}.json").write_text(json.dumps(content))

    job("half_analytic-0")
    job("monte_carlo-0")
    job("gone")
    job("bad", state="failed", error="ValueError: <no> such estimator")
    (sweep / "jobs" / "torn.json").write_text("{")
    compared = compare(sweep)
    assert [run.name for run in compared.runs] == ["half_analytic-0", "monte_carlo-0"]
    assert compared.failed == {"bad": "ValueError: <no> such estimator"}
    assert len(compared.remarks) == 2 and "torn.json" in compared.remarks[0] and "gone" in compared.remarks[1]
    assert page_of(sweep).tables["Failed"][1][1][0] == "ValueError: <no> such estimator"


def test_a_sweep_is_whole_from_anywhere_and_before_all_jobs_have_begun(runs, tmp_path, monkeypatch):
    """Directories are relative to where it was started, and the plan knows those that this start has not reached."""
    sweep = tmp_path / "runs" / "sweeps" / "kl"
    (sweep / "jobs").mkdir(parents=True)
    places = {name: f"{runs.name}/{name}" for name in ("half_analytic-0", "monte_carlo-0")}
    (sweep / "sweep.json").write_text(json.dumps({"name": "kl", "overrides": [], "jobs": places}))
    begun = {"name": "monte_carlo-0", "run_dir": places["monte_carlo-0"], "state": "running"}
    (sweep / "jobs" / "monte_carlo-0.json").write_text(json.dumps(begun))
    for cwd in (tmp_path, sweep):
        monkeypatch.chdir(cwd)
        compared = compare(sweep)
        assert [run.name for run in compared.runs] == ["half_analytic-0", "monte_carlo-0"] and not compared.remarks
    (sweep / "sweep.json").write_text("{")
    assert [run.name for run in compare(sweep).runs] == ["monte_carlo-0"]
    assert "damaged" in compare(sweep).remarks[0]


# Curves


def test_curves_are_the_usual_keys_or_all(runs):
    compared = compare(runs).variants
    assert list(variants.curves(compared, everything=False)) == [
        "loss/mel",
        "mas/error_ms",
        "mas/within_50ms",
        "grad/norm",
        "wer/spoken",
    ]
    everything = variants.curves(compared, everything=True)
    assert {"grad/kl/flow", "time/steps_per_second"} < set(everything)
    training, validation = everything["loss/mel"]
    assert training[1][0] == [(step, 0.9 + 1 / step) for step in (10, 20, 30, 40)]
    assert validation[1][2] == [(0, 9.0), (20, 5.55), (40, 5.8)]


def test_a_step_logged_twice_counts_once_and_long_curves_are_thinned(tmp_path):
    rows = [{"step": step, "loss/mel": float(step)} for step in range(1000)] + [{"step": 999, "loss/mel": -1.0}]
    write(tmp_path / "a", settings(), [*rows, {"step": 1000, "val/loss/mel": 1.0}])
    ((points,),) = variants.curves(compare(tmp_path).variants, everything=False)["loss/mel"][0].values()
    assert points == [(step, float(step)) for step in range(0, 1000, 4)] + [(999, -1.0)]
    assert len(points) <= variants.MAX_POINTS + 1


def test_everything_of_a_variant_on_the_plane_has_its_id():
    runs = {0: [([(100.0, 0.9), (120.0, 0.6)], False), ([(100.0, 0.9)], False)], 2: [([(2000.0, 0.5)], True)]}
    svg = drawn.plane_svg(runs, 3, "rate", "distortion")
    page = Page(f"<div>{svg}</div>")
    names = ("v0-plane-0", "v0-plane-1", "v2-plane-0")
    assert {f"{name}-{part}" for name in names for part in ("line", "end")} == {
        name for name in page.ids if name.startswith("v")
    }
    assert all(name.startswith(("v", "plane-")) for name in page.ids) and len(set(page.ids)) == len(page.ids)
    assert all(link.removeprefix("#") in page.ids for link in page.links)
    colours = drawn.palette(3)
    for i, expected in ((0, True), (1, False), (2, True)):
        assert (colours[i] in svg) == expected
    assert drawn.INK not in svg and "currentColor" in svg and "<!--" not in svg and "date" not in svg.lower()
    ends = [tag.split("</g>")[0] for tag in svg.split('-end">')[1:]]
    assert [f"fill: {colours[i]}" in end for i, end in zip((0, 0, 2), ends, strict=True)] == [True, True, False]
    sound = {**runs, 2: [([(2000.0, 0.5)], False)]}  # planted: a wrong loss that is drawn as a sound one
    assert svg == drawn.plane_svg(runs, 3, "rate", "distortion") != drawn.plane_svg(sound, 3, "rate", "distortion")
    assert ">200<" in svg and ">2000<" in svg  # numbers between tags keep their digits, on a logarithmic axis


# The page


def samples(folder, text="Is 2 < 3?", heard="is two"):
    for step in (20, 40):
        place = folder / "samples" / f"step_{step:06d}"
        place.mkdir(parents=True)
        (place / "samples.json").write_text(json.dumps([{"id": "a", "text": text, "heard": {"spoken": heard}}]))
        for kind in ("recording", "copy", "spoken"):
            (place / f"a_{kind}.wav").write_bytes(f"{folder.name} {kind} {step}".encode())
        (place / "a_alignment.png").write_bytes(b"picture of " + folder.name.encode())


def data_of(page, kind):
    start = f"data:{kind};base64,"
    return [base64.b64decode(link.removeprefix(start)).decode() for link in page.links if link.startswith(start)]


def test_the_page_is_well_formed_and_needs_nothing_else(runs):
    for name in ("half_analytic-0", "half_analytic-1", "monte_carlo-1"):
        samples(runs / name)
    page = page_of(runs, n_sentences=1, draw=True)
    assert len(set(page.ids)) == len(page.ids) and page.text.count('class="plot"') == 3
    assert not [link for link in page.links if re.match(r"(?i)(https?:)?//", link)]
    assert not re.search(r"@import|url\((?!#)", page.text.replace(curves.script(), ""))
    assert {link for link in page.links if not link.startswith(("data:", "#"))} == {
        os.path.relpath(runs / name, "/out") + "/" for name in (f"{kl}-{seed}" for kl in MEL for seed in range(3))
    }
    with pytest.raises(AssertionError):  # the check can fail
        Page(page.text.replace("</table>", "", 1))


def test_the_same_input_gives_the_same_page(runs):
    samples(runs / "half_analytic-0")
    assert page_of(runs, n_sentences=1, draw=True).text == page_of(runs, n_sentences=1, draw=True).text


def test_voices_are_of_all_seeds_and_the_newest_step(runs):
    for name in ("half_analytic-0", "half_analytic-1", "monte_carlo-1"):
        samples(runs / name)
    page = page_of(runs, n_sentences=1)
    assert data_of(page, "audio/wav") == [
        "half_analytic-0 recording 40",
        "half_analytic-0 spoken 40",
        "half_analytic-1 spoken 40",
        "half_analytic-0 copy 40",  # the first seed's alone
        *(f"monte_carlo-1 {kind} 40" for kind in ("spoken", "copy")),
    ]
    assert data_of(page, "image/png") == ["picture of half_analytic-0", "picture of monte_carlo-1"]
    assert "<h3>Is 2 &lt; 3?</h3>" in page.text and "is <mark>two</mark>" in page.text
    assert data_of(page_of(runs), "audio/wav") == []


def test_a_page_that_would_be_too_large_leaves_players_out(runs, monkeypatch):
    for name in ("half_analytic-0", "monte_carlo-0"):
        samples(runs / name)
    spoken, _ = page._voices(compare(runs).variants, 1)
    one = sum(page._size(spoken[0, "0"][0][kind]) for kind in ("spoken", "copy"))
    pictures = sum(page._size(voices[0]["alignment"]) for voices in spoken.values())
    monkeypatch.setattr(page, "MOST_BYTES", 1000 + pictures + one)
    assert page._within(spoken, 1000) == {(0, "0")} and page._within(spoken, 1001) == set()
    shown = page_of(runs, n_sentences=1)
    assert data_of(shown, "audio/wav") == [] and len(data_of(shown, "image/png")) == 2
    assert "Players of 2 variants are left out" in shown.text


def test_a_damaged_list_of_samples_is_named(runs):
    samples(runs / "half_analytic-0")
    samples(runs / "monte_carlo-0")
    (runs / "monte_carlo-0" / "samples" / "step_000040" / "samples.json").write_text("[3")
    page = page_of(runs, n_sentences=1)
    assert "step_000040/samples.json: damaged" in page.text and len(data_of(page, "image/png")) == 1


def test_a_variant_is_hidden_by_one_rule(runs):
    text = page_of(runs).text
    assert '.hide-v1 .v1, .hide-v1 [id^="v1-"] { display: none; }' in text
    assert text.count('<input type="checkbox"') == 2 and 'value="v1"' in text
    for i, colour in enumerate(drawn.palette(2)):
        assert f".v{i}, .c{i} {{ --colour: {colour}; }}" in text


# The command


def test_the_command_leaves_page_text_and_picture(runs, tmp_path, monkeypatch, capsys):
    write(runs / "fresh", settings("monte_carlo", 6), [], end="")
    assert run_command(monkeypatch, runs, "-o", tmp_path / "out", "--baseline", "monte_carlo-0") == 0
    said = capsys.readouterr()
    assert said.err.splitlines() == ["note: fresh: left out: nothing logged yet"]
    assert "6 runs, 2 variants, 3 seeds (0, 1, 2)" in said.out and "2001-09-09 01:46 UTC" in said.out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"index.html", "comparison.md", "curves.png"}
    text = (tmp_path / "out" / "comparison.md").read_text()
    page = Page((tmp_path / "out" / "index.html").read_text())
    for title, (head, *rows) in page.tables.items():
        assert f"## {title}" in text
        lines = [line for line in text.split(f"## {title}\n")[1].split("\n## ")[0].splitlines() if line[:1] == "|"]
        drawn_only = [text for text, _ in head].count("interval")
        assert len(lines) == len(rows) + 2 and lines[0].count("|") == len(head) + 1 - drawn_only
        for line, row in zip(lines[2:], rows, strict=True):
            assert all(part in line for cell, _ in row for part in cell.split(" | "))
    assert "](curves.png)" in text and "--baseline monte_carlo-0" in text and "fresh: left out" in text


def test_the_output_has_the_name_of_the_sources(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command(monkeypatch, "runs/half_analytic-0", "runs/monte_carlo-0") == 0
    assert (tmp_path / "runs" / "comparisons" / "half_analytic-0-monte_carlo-0" / "index.html").is_file()
    assert compare_command.name_of(["wandb:me/project"]) == "me_project"
    assert len(compare_command.name_of([f"runs/{'x' * 30}{i}" for i in range(9)])) < 110


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["runs", "--baseline", "nobody"], "no such variant"),
        (["runs", "--samples", "-1"], "--samples -1"),
        (["runs", "-o", "runs/half_analytic-0/config.yaml"], "is a file"),
        (["wandb:me"], "wandb:ENTITY/PROJECT"),
    ],
)
def test_what_cannot_be_is_one_line(runs, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert run_command(monkeypatch, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


# Weights & Biases


class FakeApi:
    """wandb.Api as far as we use it, with two runs of one project."""

    default_entity = "somebody"

    def __init__(self, timeout):
        assert timeout

    def runs(self, path, order):
        if path != "me/project":
            raise ValueError(f"Could not find project {path}\nmore")
        return [self._run("half_analytic", 1.0), self._run("monte_carlo", math.nan)]

    @staticmethod
    def _run(kl, mel):
        history = [{"_step": i, "_runtime": 1.5, "_timestamp": 2.5, **row} for i, row in enumerate(rows_of(2.0))]
        history[-1] |= {"val/loss/mel": "NaN" if math.isnan(mel) else mel, "picture": {"_type": "image"}}
        history.append({"_step": 99, "samples": {"_type": "table"}})
        return SimpleNamespace(
            name=f"{kl}-run",
            url=f"https://wandb.ai/me/project/runs/{kl}",
            config=json.loads(json.dumps(settings(kl)).replace("45.0", "45"))
            | {"variant": kl, "version": "0.2.0", "commit": f"of {kl}"},
            state="finished",
            created_at="2026-01-02T03:04:05Z",
            scan_history=lambda: iter(history),
        )


@pytest.fixture
def fake_api(monkeypatch):
    monkeypatch.setattr(wandb, "login", lambda **_: True)
    monkeypatch.setattr(wandb, "Api", FakeApi)


@pytest.mark.parametrize(
    "source", ["wandb:me/project", "https://wandb.ai/me/project/workspace?nw=abc", "wandb:/me/project/"]
)
def test_runs_of_wandb_are_as_those_of_a_directory(fake_api, tmp_path, source):
    write(tmp_path / "local", settings("half_analytic", 1), rows_of(3.0))
    compared = compare(source, tmp_path / "local")
    assert [v.label for v in compared.variants] == ["objective.kl=half_analytic", "objective.kl=monte_carlo"]
    assert compared.variants[0].values("val/loss/mel") == {"0": 1.0, "1": 3.0}
    assert math.isnan(compared.variants[1].values("val/loss/mel")["0"])
    assert compared.runs[0].rows == rows_of(2.0)[:-1] + [rows_of(2.0)[-1] | {"val/loss/mel": 1.0}]
    shown = Page(page.page(compared, tmp_path, 1, everything=False))
    assert [link for link in shown.links if link.startswith("http")] == [run.url for run in compared.runs if run.url]


def test_without_a_key_or_a_project_there_is_one_line(monkeypatch, fake_api):
    with pytest.raises(ValueError, match=r"W&B cannot be read \(Could not find project me/other\): `wandb login`"):
        wandb_runs.fetch_runs("me/other")
    monkeypatch.setattr(wandb, "login", lambda **_: False)
    with pytest.raises(ValueError, match=r"W&B cannot be read \(no API key\): `wandb login`, or give run directories"):
        wandb_runs.fetch_runs("me/project")


def test_a_view_is_made_and_then_brought_up_to_date(monkeypatch, fake_api, tmp_path):
    workspaces = pytest.importorskip("wandb_workspaces.workspaces")
    saved = []
    address = "https://wandb.ai/somebody/project?nw=abc"
    monkeypatch.setattr(workspaces.Workspace, "save", lambda self: saved.append(self) or SimpleNamespace(url=address))
    keys = ["loss/kl", "val/loss/kl", "val/mas/error_ms", "time/steps_per_second", "learning_rate", "other/key"]
    stored = tmp_path / "wandb_workspace"
    assert wandb_runs.save_view("project", None, keys, ["objective.kl"], stored) == address
    assert stored.read_text() == f"{address}\n"
    (view,) = saved
    assert (view.entity, view.project, view.name) == ("somebody", "project", wandb_runs.VIEW)
    assert [section.name for section in view.sections] == ["settings", "loss", "mas", "time", "learning_rate"]
    spec = json.loads(view._to_model().model_dump_json(by_alias=True))["spec"]
    panels = [panel for section in spec["section"]["panelBankConfig"]["sections"] for panel in section["panels"]]
    assert panels[0]["viewType"] == "Run Comparer" and panels[0]["config"]["diffOnly"] == "split"
    assert panels[1]["config"]["metrics"] == ["loss/kl", "val/loss/kl"] and panels[1]["config"]["xAxis"] == "step"
    assert panels[1]["config"]["groupBy"] == "objective.value.kl"
    assert [group.name for group in view.runset_settings.groupby] == ["objective.kl"]

    asked = []
    monkeypatch.setattr(workspaces.Workspace, "from_url", lambda url: asked.append(url) or view)
    wandb_runs.save_view("project", None, ["kl/k3"], ["a.b", "c"], stored)
    assert asked == [address] and saved == [view, view]
    assert [section.name for section in view.sections] == ["settings", "kl"]
    assert view.sections[1].panels[0].groupby.name == "variant" and len(view.runset_settings.groupby) == 2


def test_a_report_asks_the_question_and_shows_its_curves(monkeypatch, fake_api, tmp_path):
    v2 = pytest.importorskip("wandb_workspaces.reports.v2")
    saved, address = [], "https://wandb.ai/somebody/project/reports/what--Vmlldzox"
    monkeypatch.setattr(v2.Report, "save", lambda self: saved.append(self))
    monkeypatch.setattr(v2.Report, "url", property(lambda _: address))
    asked = atlas.of_runs(["alignment-model.alignment.kind=mas-seed=0", "alignment-model.alignment.noise=0.01"])
    assert asked.name == "alignment" and atlas.of_runs(["alignment-seed=0", "beta-seed=0"]) is None
    assert atlas.of_runs(["laboratory-seed=0"]) is None and atlas.of_runs(["my-own"]) is None
    stored = tmp_path / "wandb_report"
    assert wandb_report.save_report("project", None, asked, "| a | b |", stored) == address
    (report,) = saved
    assert (report.entity, report.project, report.title) == ("somebody", "project", asked.question)
    assert stored.read_text() == f"{address}\n" and report.description == "experiment=alignment"
    (grid,) = (block for block in report.blocks if isinstance(block, v2.PanelGrid))
    assert [panel.y for panel in grid.panels] == [[key] for key in dict.fromkeys([*asked.curves, *asked.columns])]
    assert {panel.groupby.name for panel in grid.panels} == {"variant"} and {p.x for p in grid.panels} == {"step"}
    assert grid.runsets[0].query == "alignment"
    shown = [block.text for block in report.blocks if not isinstance(block, v2.PanelGrid)]
    assert asked.expected in shown and shown[-1] == "| a | b |"

    opened = []
    monkeypatch.setattr(v2.Report, "from_url", lambda url: opened.append(url) or report)
    wandb_report.save_report("project", None, asked, "newer", stored)
    assert opened == [address] and report.blocks[-1].text == "newer" and len(saved) == 2
    monkeypatch.setattr(wandb, "login", lambda **_: False)
    with pytest.raises(ValueError, match=r"no report was made \(no API key\)"):
        wandb_report.save_report("project", None, asked, "", tmp_path / "other")


def test_without_the_package_or_a_key_no_view(monkeypatch, fake_api, tmp_path):
    pytest.importorskip("wandb_workspaces.workspaces")
    monkeypatch.setattr(wandb, "login", lambda **_: False)
    with pytest.raises(ValueError, match=r"no API key.*`wandb login`.*`wandb sync runs/\*/wandb/offline-run-\*`"):
        wandb_runs.save_view("project", None, [], [], tmp_path / "x")
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(ValueError, match=r"pip install 'vitslite\[report\]'"):
        wandb_runs.save_view("project", None, [], [], tmp_path / "x")
    assert not (tmp_path / "x").exists()
