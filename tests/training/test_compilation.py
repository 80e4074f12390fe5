"""torch.compile: the same numbers, and nothing compiled again once the first shapes have been seen.

In a process of its own, without the shape checks of the tests, which a compiler cannot look through.
"""

import json
import shutil
import subprocess
import sys

import pytest
from common import ROOT

WORKER = """
import json, sys, torch
from pathlib import Path
from hydra import compose, initialize_config_dir
from vitslite import build
from vitslite.benchmarks.step import build_trainer
from vitslite.tensors import Batch

def steps(run_dir, compiled):
    overrides = [*sys.argv[2:], f"trainer.compile={compiled}", f"run_dir={run_dir}", "tracking=local"]
    config = build.parse(compose("train", overrides), overrides)
    trainer = build_trainer(config, build.corpus(config), torch.device("cpu"), Path(run_dir))
    terms, lengths = [], []
    for k in [*range(4), *range(4)]:
        torch._dynamo.config.error_on_recompile = len(terms) >= 4
        batch = Batch(**trainer.data.loader.make(k))
        lengths.append(batch.audio.shape[2])
        terms.append({name: float(value) for name, value in trainer.step([batch]).terms.items()})
    trainer.looks.look("validate", 1)  # of other lengths: nothing compiled is used
    trainer.looks.look("diagnose", 1)
    return terms, lengths, torch._dynamo.utils.counters["stats"]["unique_graphs"]

build.register_schema()
torch.set_num_threads(1)
with initialize_config_dir(str(Path("configs").absolute()), version_base=None):
    eager, lengths, _ = steps(sys.argv[1] + "/eager", False)
    compiled, _, n_graphs = steps(sys.argv[1] + "/compiled", True)
print(json.dumps({"eager": eager, "compiled": compiled, "lengths": lengths, "n_graphs": n_graphs}))
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_compiled_steps_are_the_same_and_each_length_compiles_once(tmp_path, cache):
    overrides = ["experiment=smoke", f"data.cache={cache}", "data.pad_multiple=128", "trainer.ema_decay=0"]
    overrides += [
        "discriminator=mpd",
        "discriminator.periods=[2]",
        "discriminator.period_channels=[4,4]",
        "discriminator.segment_frames=16",
    ]
    command = [sys.executable, "-c", WORKER, str(tmp_path), *overrides]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["n_graphs"] > 4 and len(set(found["lengths"])) == 2
    for eager, compiled in zip(found["eager"], found["compiled"], strict=True):
        assert compiled == pytest.approx(eager, rel=1e-3), (eager, compiled)
