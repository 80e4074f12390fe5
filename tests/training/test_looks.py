"""What a run does when a look fails, is interrupted, or ends the process; what it goes on with; a step not finite."""

import math
import os
import signal
import time

import pytest
import torch
from common import differences, losses, without_header
from lifecycle import run

import train
from vitslite import build, runs
from vitslite.audio import Features
from vitslite.monitoring.observer import RunObserver
from vitslite.tensors import Batch
from vitslite.training import checkpoint, looks
from vitslite.training.trainer import Trainer

FEW = ["trainer.validate_every_steps=2", "trainer.sample_every_steps=2", "trainer.diagnose_every_steps=0"]
QUIET = ["trainer.validate_every_steps=0", "trainer.diagnose_every_steps=0", "trainer.sample_every_steps=0"]


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr(RunObserver, "sample", lambda self, step, model: {})


def test_a_failed_look_costs_nothing_that_was_trained(compose, tmp_path, monkeypatch, capsys, no_pictures):
    """Every look fails: lines once, a count at the end, and the same weights."""
    whole = run(compose, tmp_path, "whole", "trainer.steps=4", *FEW)

    def broken(self, *arguments):
        raise OSError(28, "No space left on device", "samples/0.wav")

    for name in ("sample", "validate", "log_step", "conclude"):
        monkeypatch.setattr(RunObserver, name, broken)
    broken = run(compose, tmp_path, "broken", "trainer.steps=4", *FEW)
    said = capsys.readouterr()
    assert differences(whole["model"], broken["model"]) == [] and broken["best"] == float("inf")
    assert (
        said.err.count("warning") == 4 and "step 2, sample: [Errno 28] No space left on device: 'samples/0" in said.err
    )
    assert "10 looks failed" in said.out and runs.finished_step(tmp_path / "broken") == 4


def test_a_look_is_taken_again_after_a_kill_and_left_out_after_three(
    compose, tmp_path, monkeypatch, capsys, no_pictures
):
    """Of a process that is killed while it samples; what is trained before is not trained again."""
    whole = run(compose, tmp_path, "whole", "trainer.steps=4", *FEW)
    sample, step = RunObserver.sample, Trainer.step
    trained = []

    def counted(self, micro_batches):
        trained.append(self.completed_steps + 1)
        return step(self, micro_batches)

    def killed(self, step, model):
        if step == 2:
            raise SystemExit  # no Exception: as if there were no more process
        return sample(self, step, model)

    monkeypatch.setattr(Trainer, "step", counted)
    for kills in (1, 3):
        name, trained[:] = f"killed{kills}", []
        monkeypatch.setattr(RunObserver, "sample", killed)
        for _ in range(kills):
            with pytest.raises(SystemExit):
                run(compose, tmp_path, name, "trainer.steps=4", *FEW)
        monkeypatch.setattr(RunObserver, "sample", sample if kills < 3 else killed)
        state = run(compose, tmp_path, name, "trainer.steps=4", *FEW)
        assert trained == [1, 2, 3, 4]
        assert differences(whole["model"], state["model"]) == []
        if kills == 1:
            assert losses(tmp_path / "whole") == losses(tmp_path / name)
            assert differences(without_header(whole), without_header(state)) == []
    assert "step 2, all: they have ended the process 3 times" in capsys.readouterr().err
    assert looks.MAX_ENDS == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_look_at_once(compose, tmp_path, monkeypatch, no_pictures, number):
    """Saved before; the next start takes the look again, and ends as if nothing had been."""
    whole = run(compose, tmp_path, "whole", "trainer.steps=4", *FEW)
    validate = RunObserver.validate

    def slow(self, step, model):
        if step == 2:
            os.kill(os.getpid(), number)
            time.sleep(20)
        return validate(self, step, model)

    monkeypatch.setattr(RunObserver, "validate", slow)
    started = time.monotonic()
    cfg = compose("trainer.log_every_steps=1", "trainer.ema_decay=0.9", "trainer.steps=4", *FEW)
    cfg.run_dir = str(tmp_path / "stopped")
    trainer = train.train(build.parse(cfg, []), [])
    assert time.monotonic() - started < 20 and trainer.interrupted and trainer.completed_steps == 2
    assert trainer.terminated == (number == signal.SIGTERM) and trainer.looks.failures == []
    monkeypatch.setattr(RunObserver, "validate", validate)
    state = run(compose, tmp_path, "stopped", "trainer.steps=4", *FEW)
    assert losses(tmp_path / "whole") == losses(tmp_path / "stopped")
    assert differences(without_header(whole), without_header(state)) == []


CHANGES = {
    "trainer.optimizer.learning_rate=1e-4": "trainer.optimizer.learning_rate=0.003 (now 0.0001)",
    "trainer.optimizer.beta1=0.5": "trainer.optimizer.beta1=0.8 (now 0.5)",
    "trainer.precision=bf16": "trainer.precision=fp32 (now bf16)",
    "trainer.accumulate=2": "trainer.accumulate=1 (now 2)",
    "threads=2": "threads=1 (now 2)",
    "data.n_workers=1": None,
}


def test_a_run_goes_on_with_what_it_was_advised_to_change(compose, tmp_path, capsys, no_pictures):
    """Each change alone, and all at once, named key by key; what an optimiser stores is changed as well."""
    state = run(compose, tmp_path, "run", "trainer.steps=8", "trainer.stop_after_step=1", *QUIET)
    assert state["optimizer"]["param_groups"][0]["betas"] == (0.8, 0.99)
    for step, changes in enumerate([[change] for change in CHANGES] + [list(CHANGES)], start=2):
        capsys.readouterr()
        stop = f"trainer.stop_after_step={step}"
        state = run(compose, tmp_path, "run", "trainer.steps=8", stop, *QUIET, *changes)
        said = capsys.readouterr().out
        assert state["step"] == step
        if changes == ["data.n_workers=1"]:
            assert "not bit for bit" in said and "data.n_workers" not in said  # the others are back to what they were
        for change in changes:
            assert CHANGES[change] is None or len(changes) > 1 or f"{CHANGES[change]}" in said, said
        if "trainer.optimizer.beta1=0.5" in changes:
            assert state["optimizer"]["param_groups"][0]["betas"] == (0.5, 0.99)
    assert all(f"{change.split('=')[0]}=" in said for change, line in CHANGES.items() if line), said
    with pytest.raises(ValueError, match=r"text_encoder.hidden.*; seed=0 \(now 1\)\. .*trainer\.init_from=\S+last\.pt"):
        run(compose, tmp_path, "run", "trainer.steps=8", *QUIET, "seed=1", "model.text_encoder.hidden=32")


def test_a_step_that_is_not_finite_can_be_reproduced(compose, tmp_path, monkeypatch, no_pictures):
    """From the record alone, which is a checkpoint: the same terms, of the weights before that step."""
    step = Trainer.step

    def struck(self, micro_batches):
        if self.completed_steps == 2:  # as by a fault of the memory
            with torch.no_grad():
                next(self.model.decoder.parameters()).view(-1)[0] = torch.nan
        return step(self, micro_batches)

    monkeypatch.setattr(Trainer, "step", struck)
    said = r"step 3: not finite: .*mel.* reproduces it; go on with run_dir=\S+ trainer\.optimizer\.learning_rate=0\.00"
    with pytest.raises(FloatingPointError, match=said) as error:
        run(compose, tmp_path, "run", "trainer.steps=6", *QUIET)
    (path,) = (tmp_path / "run" / "nonfinite").iterdir()
    assert str(path) in str(error.value)
    assert path.stat().st_size < (tmp_path / "run" / "checkpoints" / "last.pt").stat().st_size
    stored = checkpoint.read(path)
    config = build.parse(stored["config"], [])
    model = build.model(config, len(stored["frontend"]["vocabulary"]))
    model.load_state_dict(stored["model"])
    objective = build.objective(config)
    batch = Features(config.audio)(Batch(**stored["batches"][0]))
    assert batch.step == stored["step"] == 2 and batch.ids == stored["utterances"]
    terms = objective(model(batch), objective.counts(batch), step=batch.step).terms
    assert stored["terms"].keys() == terms.keys() and not math.isfinite(stored["terms"]["mel"])
    for name, value in stored["terms"].items():
        assert repr(float(terms[name])) == repr(value), name


def test_weights_that_have_run_away_are_not_what_a_run_goes_on_from(compose, tmp_path, no_pictures):
    """Finite, but the alignment finds nothing finite in what they make: a record, and the checkpoint before."""
    run(compose, tmp_path, "run", "trainer.steps=6", "trainer.stop_after_step=1", *QUIET)
    wild = "trainer.optimizer.learning_rate=1e30"
    with pytest.raises(
        FloatingPointError, match=r"step 3: not finite: utterance .* has diverged.*learning_rate=5e\+29"
    ):
        run(compose, tmp_path, "run", "trainer.steps=6", *QUIET, wild)
    assert (tmp_path / "run" / "nonfinite" / "step_000003.pt").exists()
    assert run(compose, tmp_path, "run", "trainer.steps=6", "trainer.stop_after_step=2", *QUIET)["step"] == 2


def test_a_signal_in_a_step_ends_after_it(compose, tmp_path, monkeypatch, no_pictures):
    """Logged, saved, not looked at: the step was due for that, and the next start does it."""
    step = Trainer.step

    def signalled(self, micro_batches):
        if self.completed_steps == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, micro_batches)

    monkeypatch.setattr(Trainer, "step", signalled)
    state = run(compose, tmp_path, "run", "trainer.steps=4", *FEW)
    assert (state["step"], state["looked"]) == (2, False)
    assert [row["step"] for row in runs.read_rows(tmp_path / "run") if "loss/total" in row] == [1, 2]
