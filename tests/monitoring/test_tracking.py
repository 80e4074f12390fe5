"""Tracking: metrics.jsonl, and W&B without an account: what was logged is read back with its own tool."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from common import ROOT, read_back

from vitslite import audio
from vitslite.metrics.catalogue import best_values
from vitslite.monitoring.tracking import Tracker, TrackingSettings, add_evaluation

CONFIG = {"objective": {"kl": "half_analytic"}, "seed": 0}


def tracker(path, enabled=True, **settings) -> Tracker:
    return Tracker(TrackingSettings(**{"group": "demo", **settings}), path, "demo-seed=0", ["seed=0"], CONFIG, enabled)


def test_an_offline_run_holds_everything(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    png, wav = tmp_path / "alignment.png", tmp_path / "speech.wav"
    figure, _ = plt.subplots()
    figure.savefig(png)
    audio.write_wav(wav, np.zeros(1600, np.float32), 16000)
    with tracker(tmp_path / "run") as t:
        t.log(1, {"loss/kl": 2.5})
        t.log(2, {"loss/kl": 1.5})
        t.media(2, {"alignment/0": png, "audio/spoken_0": wav})
    assert "wandb sync" in t.place
    folder = next((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert f"{folder.parent}/offline-run-*" in t.place
    records = read_back(folder)
    run = next(r["run"] for r in records if r["type"] == "run")
    assert (run["display_name"], run["run_group"], run["tags"]) == ("demo-seed=0", "demo", ["seed=0"])
    assert "half_analytic" in json.dumps(run["config"])
    history = json.dumps([r["history"] for r in records if r["type"] == "history"])
    assert all(key in history for key in ("loss/kl", "alignment/0", "audio/spoken_0"))
    stored = [p.suffix for p in folder.rglob("media/**/*") if p.is_file()]
    assert sorted(stored) == [".png", ".wav"]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": 1, "loss/kl": 2.5}, {"step": 2, "loss/kl": 1.5}] == t.rows()


def test_a_table_of_samples_holds_text_pictures_and_sounds(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    wav = tmp_path / "speech.wav"
    audio.write_wav(wav, np.zeros(1600, np.float32), 16000)
    with tracker(tmp_path / "run") as t:
        t.table(2, "samples", [])
        t.table(4, "samples", [{"text": "A fox.", "step": s, "spoken": w} for s, w in ((2, wav), (4, None))])
    folder = next((tmp_path / "run" / "wandb").glob("offline-run-*"))
    stored = json.loads(next(folder.rglob("*.table.json")).read_text())
    assert stored["columns"] == ["text", "step", "spoken"]
    assert [row[:2] for row in stored["data"]] == [["A fox.", 2], ["A fox.", 4]]
    assert stored["data"][1][2] is None
    artifact = next(r["artifact"] for r in read_back(folder) if r["type"] == "artifact")
    places = {entry["path"]: entry["local_path"] for entry in artifact["manifest"]["contents"]}
    sound = next(place for name, place in places.items() if name.endswith(".wav"))
    assert Path(sound).read_bytes() == wav.read_bytes()
    assert all(Path(place).is_relative_to(tmp_path / "run") for place in places.values())
    assert "WANDB_DATA_DIR" not in os.environ


def test_figures_of_an_evaluation_go_into_the_summary_of_the_same_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    with tracker(tmp_path / "run") as t:
        t.log(1, {"loss/kl": 2.5})
    left, about = tmp_path / "evaluation.json", {"corpus": "abc", "split": "test"}
    left.write_text('{"figures": 1}')
    add_evaluation(TrackingSettings(), tmp_path / "run", {"test/spoken/word_error_rate": 0.25}, left, about)
    runs = [read_back(folder) for folder in sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))]
    described = [next(r["run"] for r in records if r["type"] == "run") for records in runs]
    assert len(described) == 2 and described[0]["run_id"] == described[1]["run_id"]
    assert "test/spoken/word_error_rate" in json.dumps(runs[1]) and "0.25" in json.dumps(runs[1])
    artifact = next(r["artifact"] for r in runs[1] if r["type"] == "artifact")
    assert artifact["type"] == "evaluation" and json.loads(artifact["metadata"]) == about
    (stored,) = artifact["manifest"]["contents"]
    assert (stored["path"], Path(stored["local_path"]).read_text()) == ("evaluation.json", '{"figures": 1}')


@pytest.mark.parametrize("settings", [{"wandb": "disabled"}, {}], ids=["W&B off", "never in W&B"])
def test_no_summary_without_a_run_in_wandb(tmp_path, settings):
    add_evaluation(TrackingSettings(**settings), tmp_path, {"x": 1.0}, tmp_path / "evaluation.json", {})
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_keeps_its_id_and_repeats_no_row(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    with tracker(tmp_path / "run") as first:
        for step in range(1, 6):
            first.log(step, {"loss/kl": float(step)})
    with open(first.metrics_path, "a") as file:
        file.write('{"step": 6, "loss/')  # killed while writing
    run_id = (tmp_path / "run" / "wandb_id").read_text()
    with tracker(tmp_path / "run") as second:
        second.rewind(3)
        second.log(4, {"loss/kl": 40.0})
    assert (tmp_path / "run" / "wandb_id").read_text() == run_id
    assert [row["loss/kl"] for row in second.rows()] == [1.0, 2.0, 3.0, 40.0]


def test_under_an_agent_of_wandb_the_run_is_the_agents(tmp_path):
    """In a process of its own: W&B reads its environment once."""
    code = (
        "import sys; from pathlib import Path; from vitslite.monitoring.tracking import Tracker, TrackingSettings\n"
        "with Tracker(TrackingSettings(), Path(sys.argv[1]), 'n', [], {}) as t: t.log(1, {'loss/kl': 1.0})"
    )
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_SWEEP_ID": "abc123", "WANDB_RUN_ID": "fromagent"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=environment | {"PYTHONPATH": str(ROOT)})
    assert (tmp_path / "wandb_id").read_text() == "fromagent"


def test_the_best_of_a_figure_is_the_lowest_error_or_the_largest_share():
    rows = [
        {"step": 0, "val/loss/mel": 0.1, "val/mas/within_50ms": 1.0},  # before the first step
        {"step": 5, "val/loss/mel": 3.0, "val/mas/within_50ms": 0.5, "val/kl/half_analytic": 1.0, "loss/mel": 0.2},
        {"step": 9, "val/loss/mel": 4.0, "val/mas/within_50ms": 0.7, "val/mas/error_ms": 20.0},
    ]
    assert best_values(rows) == {"val/loss/mel": 3.0, "val/mas/within_50ms": 0.7, "val/mas/error_ms": 20.0}


def test_jobs_of_a_sweep_do_not_mix(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("a", "b"):
        with pytest.raises(RuntimeError), tracker(tmp_path / name) as t:
            t.log(1, {"loss/kl": 1.0})
            raise RuntimeError("the job failed")
    ids = {(tmp_path / name / "wandb_id").read_text() for name in ("a", "b")}
    assert len(ids) == 2


def test_switched_off_or_not_the_main_rank(tmp_path):
    off = tracker(tmp_path / "off", wandb="disabled")
    off.log(1, {"loss/kl": 1.0})
    off.media(1, {"alignment/0": tmp_path / "none.png"})
    assert not (tmp_path / "off" / "wandb").exists() and len(off.rows()) == 1
    silent = tracker(tmp_path / "silent", enabled=False)
    silent.log(1, {"loss/kl": 1.0})
    silent.rewind(0)
    assert not (tmp_path / "silent").exists()


@pytest.mark.parametrize("key", [None, "0" * 40])
def test_without_key_or_network_it_goes_on_offline(tmp_path, key):
    """In a process of its own, with no terminal: no prompt, no long wait."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{s.getsockname()[1]}"
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path; "
        "from vitslite.monitoring.tracking import Tracker, TrackingSettings\n"
        "with Tracker(TrackingSettings(init_timeout=2), Path(sys.argv[1]), 'n', [], {}) as t: "
        "t.log(1, {'loss/kl': 1.0})\nprint(t.place)"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    environment |= {"WANDB_BASE_URL": dead, "HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    environment |= {"WANDB_API_KEY": key} if key else {}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run"), os.getcwd()],
        capture_output=True,
        text=True,
        env=environment,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "offline, `wandb sync" in done.stdout
    assert (key is None) or "cannot reach the server" in done.stdout
    assert time.monotonic() - started < 60
