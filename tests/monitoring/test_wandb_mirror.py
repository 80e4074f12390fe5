"""The mirror in W&B, read back from the files of offline runs: what a run leaves there, and that it ends no run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from common import ROOT, read_back

import train
from vitslite import build
from vitslite.config import remarks
from vitslite.monitoring import wandb_mirror
from vitslite.monitoring.observer import RunObserver
from vitslite.monitoring.tracking import Tracker, TrackingSettings


def tracker(path: Path, **settings) -> Tracker:
    return Tracker(TrackingSettings(**settings), path, "demo-seed=0", [], {"seed": 0})


def records(run_dir: Path) -> list[dict]:
    return read_back(next((run_dir / "wandb").glob("offline-run-*")))


def of_kind(found: list[dict], kind: str) -> list[dict]:
    return [record[kind] for record in found if record["type"] == kind]


def history(found: list[dict]) -> list[dict]:
    return [record["item"] for record in of_kind(found, "history")]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory, cache) -> Path:
    """A short run of an experiment that asks a question, with all that it leaves in W&B; in a process of its own."""
    folder = tmp_path_factory.mktemp("mirrored") / "run"
    overrides = ["experiment=abs_and_clamp", "model=nano", "data.n_sentences=60", "data.batch_size=4", "threads=1"]
    overrides += ["trainer.device=cpu", "trainer.steps=4", "trainer.log_every_steps=2", "trainer.sample_every_steps=4"]
    overrides += ["trainer.diagnose_every_steps=2", "trainer.validate_every_steps=2", "validation.n_heard=1"]
    overrides += ["tracking.checkpoints=both", f"data.cache={cache}", f"run_dir={folder}"]
    environment = os.environ | {"WANDB_CONSOLE": "auto", "WANDB_X_DISABLE_STATS": "false", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, ROOT / "train.py", *overrides], check=True, env=environment, cwd=folder.parent)
    return folder


@pytest.fixture(scope="module")
def left(run_dir) -> list[dict]:
    return records(run_dir)


def test_one_row_a_step_with_all_that_the_step_has(run_dir, left):
    rows = history(left)
    assert [row["step"] for row in rows] == [0, 1, 2, 4]
    logged: dict[int, dict] = {}
    for line in (run_dir / "metrics.jsonl").read_text().splitlines():
        logged.setdefault(json.loads(line)["step"], {}).update(json.loads(line))
    for row in rows:
        assert {key: row[key] for key in logged[row["step"]]} == pytest.approx(logged[row["step"]], nan_ok=True)
    assert {"loss/kl", "val/loss/kl", "grad/kl/flow", "noise/snr/total"} <= rows[2].keys()
    assert any(key.startswith("alignment/0") for key in rows[3])


def test_histograms_are_of_the_validation(left):
    for row in history(left)[::2]:
        for name in ("ratio", "posterior_log_std", "frame_nats", "durations"):
            key = f"val/histogram/{name}"
            assert row[f"{key}._type"] == "histogram"
            bins, counts = np.array(row[f"{key}.bins"]), np.array(row[f"{key}.values"])
            assert len(bins) == len(counts) + 1 and counts.sum() > 0
            if name == "posterior_log_std":
                mean = (counts * (bins[1:] + bins[:-1]) / 2).sum() / counts.sum()
                assert mean == pytest.approx(row["val/latent/posterior_log_std"], abs=0.02)


def test_the_table_of_utterances(run_dir, left):
    folder = next((run_dir / "wandb").glob("offline-run-*"))
    (path,) = folder.rglob("utterances_*.table.json")
    table = json.loads(path.read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    validation = json.loads((run_dir / "validation.json").read_text())
    for row, known in zip(rows, validation["utterances"], strict=True):
        assert row["step"] == 4 and {key: row[key] for key in known} == known
    assert {"id", "text", "frames", "kl", "kl_over_paths", "mel_l1", "alignment_error_ms"} <= rows[0].keys()
    assert sum(row["wer_spoken"] is not None for row in rows) == 1  # validation.n_heard
    assert sum(row["spoken"] is not None for row in rows) == build.N_SAMPLES


def test_question_variant_code_and_verdict(left):
    (run,) = of_kind(left, "run")
    assert run["notes"].startswith("Question: My KL is negative") and "\n\nExpected: They never show" in run["notes"]
    config = json.dumps(run["config"])
    assert "trainer.steps=4" in config and '"version' in config and '"commit' in config
    summary = json.dumps(of_kind(left, "summary"))
    assert '"verdict/kl": "' in summary and "KL over all paths" in summary and '"final/step": 4' in summary


def test_artifacts_and_their_lineage(run_dir, left):
    found = {(a["type"], a["aliases"][0]): a for a in of_kind(left, "artifact") if a["type"] != "run_table"}
    assert sorted(found) == [("dataset", "latest"), ("model", "best"), ("model", "last"), ("settings", "latest")]
    about = {kind: json.loads(artifact["metadata"]) for kind, artifact in found.items()}
    corpus = about["dataset", "latest"]
    assert corpus["train"] + corpus["validation"] + corpus["test"] + corpus["skipped"] == 60
    assert found["dataset", "latest"]["name"] == f"corpus-{corpus['digest'][:12]}"
    assert all(a["corpus"] == corpus["digest"] for (kind, _), a in about.items() if kind != "dataset")
    assert about["model", "best"]["step"] == 4 and about["settings", "latest"]["version"]
    for kind, files in {("settings", "latest"): ["config.yaml", "skipped.tsv"], ("model", "best"): ["best.pt"]}.items():
        contents = found[kind]["manifest"]["contents"]
        assert [entry["path"] for entry in contents] == files
        original = run_dir / ("checkpoints/best.pt" if kind[0] == "model" else "config.yaml")
        assert Path(contents[0]["local_path"]).read_bytes() == original.read_bytes()
        assert Path(contents[0]["local_path"]).is_relative_to(run_dir)


def test_console_and_system_charts_are_there_without_a_network(run_dir, left):
    assert of_kind(left, "stats"), "no system charts"
    log = next((run_dir / "wandb").glob("offline-run-*/files/output.log")).read_text()
    assert "step 4/4" in log


def test_checkpoints_go_nowhere_unless_asked_for(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.pt").write_bytes(b"weights")
    with tracker(tmp_path) as t:
        t.checkpoint_artifacts({})
    assert of_kind(records(tmp_path), "artifact") == []


def test_a_run_that_is_not_finite_says_so(tmp_path):
    with pytest.raises(FloatingPointError), tracker(tmp_path / "a") as t:
        t.log(1, {"loss/kl": 1.0})
        raise FloatingPointError("step 2: not finite: kl")
    found = records(tmp_path / "a")
    (alert,) = of_kind(found, "alert")
    assert (alert["title"], alert["text"], alert["level"]) == ("not finite", "step 2: not finite: kl", "ERROR")
    assert [row["step"] for row in history(found)] == [1]
    assert of_kind(found, "exit")[0]["exit_code"] == 1
    with pytest.raises(KeyError), tracker(tmp_path / "b"):
        raise KeyError("a mistake is no alert")
    assert of_kind(records(tmp_path / "b"), "alert") == []


GOOD = {"val/loss/kl": 2.0, "val/kl/half_analytic": 2.0, "val/kl/error_half_analytic": 0.1}
GOOD |= {"val/kl/monte_carlo": 2.0}


@pytest.mark.parametrize(
    ("words", "planted", "by_design", "titles"),
    [
        ("positive and resolved: KL", {}, [], []),
        ("bug: KL over all paths -3", {}, [], ["the KL is negative"]),
        ("positive and resolved: KL", {"val/loss/kl": 5.0}, [], ["loss/kl is not the KL"]),
        ("positive and resolved: KL", {"val/loss/kl": 5.0}, ["objective.kl=abs is wrong"], []),
    ],
)
def test_alerts_are_of_what_nobody_has_asked_for(compose, words, planted, by_design, titles):
    alerts, told = [], {}

    class Ear:
        alert = staticmethod(lambda title, text, is_error=False: alerts.append(title))
        summary = staticmethod(told.update)

    observer = object.__new__(RunObserver)
    observer.tracker, observer.no_kl_by_design = Ear, by_design
    observer._tell(words, GOOD | planted, build.parse(compose(), []).model)
    assert alerts == titles and told == {"verdict/kl": words}


def test_what_parts_by_design(compose):
    def reasons(*overrides):
        return remarks.no_kl_by_design(build.parse(compose(*overrides), list(overrides)))

    assert reasons("objective.weights.kl=0.1") == [] == reasons("objective.kl=monte_carlo")
    assert len(reasons("objective.kl=abs_elementwise")) == 1
    assert len(reasons("objective.regulariser.free_bits=0.5")) == 1


def test_an_alert_comes_once(tmp_path):
    with tracker(tmp_path) as t:
        for text in ("first", "again"):
            t.alert("the KL is negative", text)
    assert [alert["text"] for alert in of_kind(records(tmp_path), "alert")] == ["first"]


def test_variants_of_other_lengths_are_other_variants(compose, tmp_path, monkeypatch):
    seen = []

    def made(*arguments):
        seen.append(arguments[4]["variant"])
        return Tracker(*arguments[:5], enabled=False)

    monkeypatch.setattr(build, "Tracker", made)
    for overrides in (
        ["trainer.steps=100", "seed=0"],
        ["trainer.steps=100", "seed=1"],
        ["trainer.steps=400", "seed=1"],
    ):
        build.tracker(build.parse(compose(*overrides), overrides), tmp_path, overrides)
    assert seen[0] == seen[1] != seen[2] and seen[2].endswith("trainer.steps=400")


def test_a_failure_of_wandb_ends_nothing(tmp_path, capsys):
    """What fails is said, the numbers are in metrics.jsonl; after three failures W&B is asked for nothing."""
    with tracker(tmp_path / "run") as t:
        asked = []

        def broken(*arguments, **options):
            asked.append(arguments)
            raise ConnectionResetError("wandb-core has died\nmore")

        t.mirror._run.log = broken
        for step in range(5):
            t.log(step, {"loss/kl": 1.0})
        t.media(5, {"alignment/0": tmp_path / "missing.png"})
    assert len(asked) == wandb_mirror.MOST_FAILURES == 3 and len(t.rows()) == 5
    said = capsys.readouterr().out
    assert said.count("W&B: a row is missing") == 3 and said.count("gets nothing more") == 1 and "more\n" not in said


def test_a_missing_picture_is_the_only_thing_that_is_missing(tmp_path, capsys):
    with tracker(tmp_path / "run") as t:
        t.media(1, {"alignment/0": tmp_path / "missing.png"})
        t.log(2, {"loss/kl": 1.0})
    assert "W&B: media is missing" in capsys.readouterr().out
    assert [row["step"] for row in history(records(tmp_path / "run"))] == [2]


def test_where_wandb_cannot_start_the_run_goes_on(tmp_path, monkeypatch, capsys):
    def broken(**_):
        raise RuntimeError("no wandb-core for this machine")

    monkeypatch.setattr(wandb_mirror.wandb, "init", broken)
    with tracker(tmp_path / "run") as t:
        t.log(1, {"loss/kl": 1.0})
    assert len(t.rows()) == 1 and "it did not start" in t.place
    assert "W&B: not started (no wandb-core" in capsys.readouterr().out


def test_histograms_are_of_finite_values(tmp_path):
    with tracker(tmp_path / "run") as t:
        t.histograms(1, {"a": np.array([0.0, 1.0, np.inf, np.nan]), "b": np.array([np.nan])})
    (row,) = history(records(tmp_path / "run"))
    assert sum(row["a.values"]) == 2 and not any(key.startswith("b") for key in row)


def test_a_run_is_the_same_with_wandb_and_without(compose, tmp_path):
    """Bit for bit; every look at every step."""
    from common import differences

    from vitslite.training import checkpoint

    states = []
    for name, tracked in {"off": "disabled", "on": "offline"}.items():
        every = [f"trainer.{what}_every_steps={int(name == 'on')}" for what in ("diagnose", "validate")]
        overrides = ["trainer.steps=3", "trainer.sample_every_steps=0", f"tracking.wandb={tracked}", *every]
        overrides += [f"run_dir={tmp_path / name}"]
        train.train(build.parse(compose(*overrides), overrides), overrides)
        states.append(checkpoint.read(tmp_path / name / "checkpoints" / "last.pt"))
    assert differences(states[0]["model"], states[1]["model"]) == []
    assert differences(states[0]["optimizer"], states[1]["optimizer"]) == []
