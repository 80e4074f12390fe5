"""The commands a newcomer types, as processes: train, go on, interrupt, sweep, speak, and what they say in trouble."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from common import ROOT, read_back

import vitslite

SMOKE = ["experiment=smoke", "threads=1", "data.n_sentences=60", "validation.n_heard=2", "tracking=local"]

SMOKE_NAME = "smoke-data.n_sentences=60-threads=1"


def command(script: str, *arguments: str, cache: Path, **kwargs) -> subprocess.CompletedProcess:
    environment = os.environ | {"WANDB_MODE": "offline"}
    if script == "train.py":
        arguments = (*arguments, f"data.cache={cache}")
    return subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        stdin=subprocess.DEVNULL,
        check=False,
        **kwargs,
    )


@pytest.fixture(scope="module")
def trained(cache, tmp_path_factory) -> Path:
    """A run of the smoke experiment with W&B, in a folder that is not the project's."""
    folder = tmp_path_factory.mktemp("here")
    done = command("train.py", *SMOKE[:-1], "tracking=wandb", cache=cache, cwd=folder)
    assert done.returncode == 0, done.stderr
    for said in ("checkpoints/", "step_000004/", "index.html", "metrics.jsonl", "wandb sync", "kl=0.2", "wer/spoken"):
        assert said in done.stdout, said
    return folder / "runs" / "smoke-data.n_sentences=60-threads=1"


def test_a_run_leaves_everything_in_its_directory(trained):
    assert [p.name for p in trained.parent.parent.iterdir()] == ["runs"]
    names = {p.name for p in trained.iterdir()}
    assert {"checkpoints", "config.yaml", "curves.png", "metrics.jsonl", "samples", "skipped.tsv", "wandb"} <= names
    assert {"index.html", "validation.json", "ratios.png"} <= names
    assert sorted(p.name for p in (trained / "checkpoints").iterdir()) == [
        "best.pt",
        "finished",
        "last.pt",
        "step_000002.pt",
    ]
    samples = sorted((trained / "samples" / "step_000004").iterdir())
    assert sum(p.suffix == ".wav" for p in samples) == 9 and sum(p.suffix == ".png" for p in samples) == 9
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert {"loss/kl", "loss/mel", "loss/duration", "loss/total", "grad/norm", "learning_rate"} <= set().union(*rows)
    assert {"val/loss/kl", "val/mas/error_ms"} <= set().union(*rows)


def test_wandb_holds_every_logged_number(trained):
    """The offline files, read back, against metrics.jsonl; and what W&B groups, filters and sorts runs by."""
    records = read_back(next((trained / "wandb").glob("offline-run-*")))
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    mirrored = [{k: v for k, v in r["history"]["item"].items() if k[0] != "_"} for r in records if "history" in r]
    merged: dict[int, dict] = {}  # one row a step
    for row in rows:
        merged[row["step"]] = merged.get(row["step"], {}) | row
    numbers = [{k: v for k, v in row.items() if k in merged[row["step"]]} for row in mirrored]
    assert numbers == list(merged.values()) and len(rows) > 8
    planted = [{**row, "loss/kl": row["loss/kl"] * (1 + 1e-15)} if "loss/kl" in row else row for row in merged.values()]
    assert numbers != planted
    run = next(r["run"] for r in records if r["type"] == "run")
    config = run["config"]["update"]
    assert (run["run_group"], run["job_type"]) == (SMOKE_NAME, "train")
    assert config["variant"] == f"{SMOKE_NAME}-trainer.steps=4"
    assert config["objective"]["kl"] == "half_analytic" and config["seed"] == 0
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout
    for described in (config, torch.load(trained / "checkpoints" / "last.pt", weights_only=True)):
        assert described["version"] == vitslite.__version__
        assert (described["commit"] or "").removesuffix("-dirty") == head.strip()
    summary: dict = {}
    for r in records:
        summary |= r["summary"]["update"] if r["type"] == "summary" and "update" in r["summary"] else {}
    lowest = min(row["val/loss/mel"] for row in rows if row["step"] > 0 and "val/loss/mel" in row)
    assert summary["best/loss/mel"] == lowest and summary["final/step"] == 4
    assert "nats per frame" in summary["verdict/kl"]
    reference = {"kl/half_analytic", "kl/bits_per_second"}  # in every run, whatever it trains with
    assert reference | {f"val/{key}" for key in reference} <= set().union(*rows)


def test_speaking(trained, cache, tmp_path):
    text = "The young fox painted a bridge. Where did Ruth hide it?"
    wavs = []
    for name in ("a.wav", "b.wav"):
        done = command("scripts/synthesize.py", str(trained), text, "-o", str(tmp_path / name), cache=cache)
        assert done.returncode == 0, done.stderr
        wav, rate = soundfile.read(tmp_path / name)
        assert rate == 16000 and len(wav) > 8000 and np.abs(wav).max() > 0
        wavs.append((tmp_path / name).read_bytes())
    assert wavs[0] == wavs[1]
    other = tmp_path / "c.wav"
    command("scripts/synthesize.py", str(trained), text, "-o", str(other), "--seed", "1", cache=cache)
    assert other.read_bytes() != wavs[0]


def test_evaluating_twice_gives_the_same_figures(trained, cache, tmp_path):
    found = []
    for name in ("first", "second"):
        output = tmp_path / name
        done = command("scripts/evaluate.py", str(trained), "--limit", "2", "-o", str(output), cache=cache)
        assert done.returncode == 0, done.stderr
        assert "word error rate" in done.stdout
        stored = json.loads((output / "evaluation.json").read_text())
        del stored["speed"]  # the one thing that is not reproducible
        found.append(stored)
    assert found[0] == found[1] and found[0]["n_utterances"] == 2
    assert len(list((trained / "wandb").glob("offline-run-*"))) == 3  # the training, and each evaluation's summary


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN", ""], "nothing to speak"),
        (["RUN", "?!"], "nothing to speak"),
        (["no/such/run", "Hello."], "no/such/run: no such run"),
        (["RUN/samples", "Hello."], "no checkpoint"),
        (["RUN/config.yaml", "Hello."], "config.yaml: damaged or not a checkpoint"),
        (["RUN", "Hello.", "--speed", "0"], "speed=0"),
        (["RUN", "Hello.", "--noise-scale", "nan"], "noise_scale=nan"),
        (["RUN", "Hello.", "-o", "RUN/config.yaml"], "config.wav, and convert it"),
        (["RUN", "Hello.", "-o", "RUN/samples", "--overwrite"], "samples.wav, and convert it"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_speaking_says_what_is_wrong(trained, cache, tmp_path, arguments, message):
    arguments = [a.replace("RUN", str(trained)) for a in arguments]
    output = [] if "-o" in arguments else ["-o", str(tmp_path / "out.wav")]
    done = command("scripts/synthesize.py", *arguments, *output, cache=cache)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and message in done.stderr, done.stderr
    assert not (tmp_path / "out.wav").exists()


def test_ctrl_c_saves_and_the_same_command_goes_on(cache, tmp_path):
    arguments = [*SMOKE, "trainer.steps=100000", "trainer.checkpoint_every_steps=100000", f"data.cache={cache}"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = tmp_path / "runs" / "smoke-data.n_sentences=60-threads=1" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 5):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    assert "the same command goes on" in out
    steps = max(json.loads(line)["step"] for line in metrics.read_text().splitlines())
    again = command("train.py", *SMOKE, f"trainer.steps={steps + 3}", cache=cache, cwd=tmp_path)
    assert again.returncode == 0 and f"going on from step {steps}" in again.stdout, again.stdout


def test_two_processes_train_one_run(cache, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    arguments = [str(ROOT / "train.py"), *SMOKE, f"data.cache={cache}"]
    done = subprocess.run([*launcher, *arguments], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 ranks" in done.stdout and done.stdout.count("checkpoints:") == 1
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["smoke-data.n_sentences=60-threads=1"]
