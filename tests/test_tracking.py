"""Tracking: metrics.jsonl, and W&B without an account: what was logged is read back with its own tool."""

import json
import os
import socket
import subprocess
import sys
import time

import matplotlib.pyplot as plt
import numpy as np
import pytest

from vitslite import audio
from vitslite.tracking import Tracker, TrackingSettings

CONFIG = {"objective": {"kl": "half_analytic"}, "seed": 0}


def tracker(path, enabled=True, **settings) -> Tracker:
    return Tracker(TrackingSettings(**settings), path, "demo-seed=0", "demo", ["seed=0"], CONFIG, enabled)


def read_back(folder, *options: str) -> list[dict]:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", *options, "--json", str(folder)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in out.splitlines()]


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
        "from vitslite.tracking import Tracker, TrackingSettings\n"
        "with Tracker(TrackingSettings(init_timeout=2), Path(sys.argv[1]), 'n', 'g', [], {}) as t: "
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
