"""The loop: exact resume, accumulation, EMA, non-finite losses, interruption."""

import copy
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from common import differences, losses, without_header
from families import FAMILIES, REFINED
from lifecycle import DISCRIMINATOR, run

import train
from vitslite import build, runs
from vitslite.monitoring.observer import RunObserver
from vitslite.training import checkpoint, optimization
from vitslite.training.nonfinite import Guard
from vitslite.training.trainer import Trainer


def logged_steps(path) -> list[dict]:
    """The rows of training steps, without those of validation and probes."""
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss/total" in row]


@pytest.mark.parametrize("workers", [0, 2])
def test_20_and_20_steps_are_40_bit_for_bit(compose, tmp_path, workers):
    base = ["trainer.steps=40", "trainer.validate_every_steps=10", *DISCRIMINATOR]
    base += ["model.text_encoder.dropout=0.1", f"data.n_workers={workers}"]
    whole = run(compose, tmp_path, "whole", *base)
    run(compose, tmp_path, "parts", *base, "trainer.stop_after_step=20")
    parts = run(compose, tmp_path, "parts", *base)
    assert parts["step"] == 40
    assert differences(without_header(whole), without_header(parts)) == []
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


@pytest.mark.parametrize("own", ["trainer.accumulate=2", "trainer.precision=bf16", "data.n_workers=1"])
def test_3_and_3_steps_are_6_elsewhere_bit_for_bit(compose, tmp_path, monkeypatch, own):
    """The run is moved before it goes on, and so are its data."""
    monkeypatch.setattr(RunObserver, "sample", lambda self, step, model: {})  # no pictures
    build.corpus(build.parse(compose(), []))  # makes the demo
    root = next(Path(compose().data.cache).glob("demo-*-60-*"))
    base = ["trainer.steps=6", "trainer.diagnose_every_steps=2", *DISCRIMINATOR, "discriminator.start_step=2"]
    base += ["data.kind=ljspeech", own]
    whole = run(compose, tmp_path, "whole", *base, f"data.root={root}")
    moved = shutil.copytree(root, tmp_path / "data")
    run(compose, tmp_path, "half", *base, f"data.root={moved}", "trainer.stop_after_step=3")
    (tmp_path / "half").rename(tmp_path / "elsewhere")
    moved = moved.rename(tmp_path / "other data")
    parts = run(compose, tmp_path, "elsewhere", *base, f"data.root={moved}")
    assert differences(without_header(whole), without_header(parts)) == []
    assert losses(tmp_path / "whole") == losses(tmp_path / "elsewhere")


def test_the_number_of_workers_changes_nothing(compose, tmp_path):
    states = [run(compose, tmp_path, f"w{n}", "trainer.steps=6", f"data.n_workers={n}") for n in (0, 2)]
    assert differences(without_header(states[0]), without_header(states[1])) == []


MOMENTS = ("exp_avg", "exp_avg_sq", "step")
FORGOTTEN = ["model", "ema", "discriminator", "step", "best", "probed"]
FORGOTTEN += [f"{optimizer}/{moment}" for optimizer in ("optimizer", "optimizer_d") for moment in MOMENTS]


def test_a_forgotten_part_of_the_state_is_noticed(compose, tmp_path, monkeypatch):
    """The resume test can fail: leave out one part of the state at a time, and the runs differ."""
    base = ["trainer.steps=12", "trainer.validate_every_steps=3", *DISCRIMINATOR, "discriminator.start_step=2"]
    base += ["trainer.diagnose_every_steps=4", "trainer.keep_checkpoints=1"]
    base += ["trainer.best_metric=val/kl/negative_elements"]  # lowest at step 3, so that forgetting it shows
    monkeypatch.setattr(RunObserver, "sample", lambda self, step, model: {})  # no pictures
    whole = run(compose, tmp_path, "whole", *base)
    run(compose, tmp_path, "half", *base, "trainer.stop_after_step=6")
    resume, state_of = Trainer.resume, Trainer.state
    for forgotten in FORGOTTEN:
        part, _, moment = forgotten.partition("/")

        def forgetful(self, part=part, moment=moment):
            found = self.checkpoints.found
            if moment:
                for state in found[part]["state"].values():
                    state[moment].zero_()
            else:
                found[part] = copy.deepcopy(state_of(self)[part])
            resume(self)

        copied = shutil.copytree(tmp_path / "half", tmp_path / forgotten.replace("/", "_"))
        monkeypatch.setattr(Trainer, "resume", forgetful)
        parts = run(compose, tmp_path, copied.name, *base)
        is_noticed = differences(without_header(whole), without_header(parts))
        assert is_noticed or losses(copied) != losses(tmp_path / "whole"), f"{forgotten}: went unseen"


@pytest.mark.parametrize("family", ["vits", *FAMILIES])
def test_accumulation_is_a_big_batch(compose, tmp_path, monkeypatch, family):
    """2 x 2 utterances or 4 at once: the same terms, and gradients to rounding."""
    monkeypatch.setattr(RunObserver, "sample", lambda self, step, model: {})  # no pictures
    judged, rows = [*DISCRIMINATOR, "discriminator.start_step=0"], {}
    segments = ["model.refiner.segment_frames=100"]  # longer than some utterances: other counts in the two halves
    own = judged if family == "vits" else [*FAMILIES[family], *segments]
    for accumulate in (1, 2):
        name = f"a{accumulate}"
        more = [f"trainer.accumulate={accumulate}", *own]
        run(compose, tmp_path, name, "trainer.steps=2", "trainer.validate_every_steps=0", *more)
        rows[accumulate] = logged_steps(tmp_path / name)[0]
    assert family not in REFINED or f"loss/{REFINED[family]}" in rows[1]
    for key, value in rows[1].items():
        if key.startswith(("loss/", "grad/")):
            assert rows[2][key] == pytest.approx(value, rel=1e-5), key


def test_bf16_stays_close_to_fp32(compose, tmp_path):
    """Half precision in the networks alone: the first losses agree to a few per cent, and it trains on."""
    rows = {}
    for precision in ("fp32", "bf16"):
        more = [f"trainer.precision={precision}", *DISCRIMINATOR, "discriminator.start_step=0"]
        state = run(compose, tmp_path, precision, "trainer.steps=3", "trainer.validate_every_steps=0", *more)
        assert all(value.dtype == torch.float32 for value in state["model"].values())
        rows[precision] = logged_steps(tmp_path / precision)[0]
    for name in ("loss/kl", "loss/mel", "loss/duration"):
        assert rows["bf16"][name] == pytest.approx(rows["fp32"][name], rel=0.05), name
        assert rows["bf16"][name] != rows["fp32"][name], name


def test_observing_changes_nothing(compose, tmp_path):
    """Weights, moments and logged numbers are those of a run that nobody looks at, bit for bit."""
    silent = ["trainer.validate_every_steps=0", "trainer.diagnose_every_steps=0", "trainer.log_every_steps=1"]
    quiet = run(compose, tmp_path, "quiet", "trainer.steps=4", *silent)
    nosy = run(
        compose,
        tmp_path,
        "nosy",
        "trainer.steps=4",
        "trainer.validate_every_steps=1",
        "trainer.diagnose_every_steps=1",
        "trainer.sample_every_steps=2",
        "trainer.checkpoint_every_steps=1",
        "trainer.log_every_steps=1",
        "validation.n_heard=2",
    )
    assert differences(quiet["model"], nosy["model"]) == []
    assert differences(quiet["optimizer"], nosy["optimizer"]) == []
    logged = [[row for row in losses(tmp_path / name) if "loss/total" in dict(row)] for name in ("quiet", "nosy")]
    assert logged[0] == logged[1] and len(logged[0]) == 4
    left = {path.name for path in (tmp_path / "nosy").rglob("*.*")}
    assert {"index.html", "validation.json", "ratios.png", "gradients.png", "curves.png", "words.json"} <= left
    assert any(name.endswith("_nats.png") for name in left), "planted: all of it was on"


def test_a_page_that_cannot_be_made_is_a_line_and_costs_no_validation(compose, tmp_path, capsys):
    old = tmp_path / "broken/samples/step_000000"
    old.mkdir(parents=True)
    (old / "samples.json").write_text("[3]")
    every = ["trainer.validate_every_steps=1", "trainer.sample_every_steps=0"]
    run(compose, tmp_path, "broken", "trainer.steps=2", *every)
    said = capsys.readouterr().out
    assert "page of the run was not made: " in said and "samples.json: damaged" in said
    assert (tmp_path / "broken/checkpoints/best.pt").is_file() and not (tmp_path / "broken/index.html").exists()


def test_a_nan_stops_before_the_weights_are_touched(compose, tmp_path, monkeypatch):
    step = Trainer.step
    seen = {}

    def poisoned(self, micro_batches):
        if self.completed_steps == 3:
            seen["before"] = copy.deepcopy(self.model.state_dict())
            seen["trainer"] = self
            with torch.no_grad():
                original = self.objective.estimator
                self.objective.estimator = lambda x: original(x) * float("nan")
        return step(self, micro_batches)

    monkeypatch.setattr(Trainer, "step", poisoned)
    with pytest.raises(FloatingPointError, match=r"step 4: not finite: kl.*demo-"):
        run(compose, tmp_path, "nan", "trainer.steps=6", "trainer.checkpoint_every_steps=2")
    assert differences(seen["before"], seen["trainer"].model.state_dict()) == []
    assert checkpoint.read(tmp_path / "nan" / "checkpoints" / "last.pt")["step"] == 3
    assert (tmp_path / "nan" / "checkpoints" / "step_000002.pt").exists()


def test_where_nobody_waits_a_nan_still_stops_before_anything_is_kept(compose, tmp_path, monkeypatch):
    """As on a GPU: the host looks at the guard only when it logs, validates or saves."""
    step, seen, guard = Trainer.step, [], Guard.__init__

    def lazy_guard(self, device):
        guard(self, device)
        self.checks_at_once = False

    def poisoned(self, micro_batches):
        if self.completed_steps == 2:
            self.objective.estimator = lambda x, original=self.objective.estimator: original(x) * float("nan")
        found = step(self, micro_batches)
        seen.append(copy.deepcopy(self.model.state_dict()))
        return found

    monkeypatch.setattr(Trainer, "step", poisoned)
    monkeypatch.setattr(Guard, "__init__", lazy_guard)
    lazy = ["trainer.log_every_steps=5", "trainer.checkpoint_every_steps=1000", "trainer.validate_every_steps=1000"]
    cfg = compose("trainer.steps=20", "trainer.best_metric=val/loss/mel", *lazy)
    with pytest.raises(FloatingPointError, match=r"step 3: not finite: kl.*demo-.*weights are those of step 2"):
        train.train(build.parse(cfg, []), [])
    assert len(seen) == 5 and differences(seen[1], seen[4]) == [] != differences(seen[0], seen[1])
    saved = checkpoint.read(tmp_path / "run" / "checkpoints" / "last.pt")
    assert saved["step"] == 2 and differences(saved["model"], seen[1]) == []
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_speed_is_that_of_the_steps_since_the_last_log(compose, tmp_path, monkeypatch):
    ticks = iter(range(1000))
    monkeypatch.setattr("vitslite.training.trainer.time.perf_counter", lambda: float(next(ticks)))
    cfg = compose("trainer.steps=7", "trainer.log_every_steps=3", "trainer.validate_every_steps=0")
    train.train(build.parse(cfg, []), [])
    rows = logged_steps(tmp_path / "run")
    # A second per step, and one to wait for the device before a log; step 1 is always logged.
    assert [(row["step"], row["time/steps_per_second"]) for row in rows] == [(1, 1 / 2), (3, 2 / 3), (6, 3 / 4)]


def test_weights_of_other_shapes_are_refused_in_one_line(compose, tmp_path):
    """Say, of discriminators as an older code made them."""
    overrides = ["trainer.steps=2", *DISCRIMINATOR]
    run(compose, tmp_path, "run", *overrides)
    path = tmp_path / "run" / "checkpoints" / "last.pt"
    stored = checkpoint.read(path)
    name = next(key for key in stored["discriminator"] if key.endswith("original1"))
    stored["discriminator"][name] = stored["discriminator"][name].transpose(2, 3).contiguous()
    checkpoint.write(path, stored)
    more = ["trainer.steps=3", *DISCRIMINATOR]
    with pytest.raises(
        ValueError, match=r"last\.pt: the discriminator in it has other shapes.*name=\.\.\..*size mismatch"
    ):
        run(compose, tmp_path, "run", *more)


def test_a_start_that_died_before_its_first_checkpoint_leaves_no_rows(compose, tmp_path):
    run(compose, tmp_path, "run", "trainer.steps=3")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    run(compose, tmp_path, "run", "trainer.steps=3")
    steps = [dict(row)["step"] for row in losses(tmp_path / "run")]
    assert steps == [float(n).hex() for n in (0, 0, 1, 2, 3, 3)]


def test_other_data_is_not_continued_on(compose, tmp_path):
    run(compose, tmp_path, "run", "trainer.steps=2")
    rows = losses(tmp_path / "run")
    cfg = compose("trainer.steps=4", "trainer.ema_decay=0.9", "trainer.log_every_steps=1", "data.n_sentences=60")
    root = next(Path(cfg.data.cache).glob("demo-*-60-*"))
    copy_of = shutil.copytree(root, tmp_path / "corpus")
    lines = (copy_of / "metadata.csv").read_text().splitlines(keepends=True)
    (copy_of / "metadata.csv").write_text("".join(lines[1:]))
    settings = ["data.kind=ljspeech", f"data.root={root}"]
    run(compose, tmp_path, "other", "trainer.steps=2", *settings)
    with pytest.raises(ValueError, match=r"other data \(1 clip \(\S+\) gone\).*name="):
        run(compose, tmp_path, "other", "trainer.steps=4", settings[0], f"data.root={copy_of}")
    assert losses(tmp_path / "run") == rows


def test_clipping_is_told_by_the_norms(compose, tmp_path):
    run(compose, tmp_path, "clipped", "trainer.steps=1", "trainer.optimizer.max_grad_norm=0.1")
    row = logged_steps(tmp_path / "clipped")[0]
    norms = [value for key, value in row.items() if key.startswith("grad/") and key != "grad/norm"]
    assert sum(n**2 for n in norms) ** 0.5 == pytest.approx(row["grad/norm"], rel=1e-3) and row["grad/norm"] > 1


def test_a_finished_run_is_left_alone(compose, tmp_path):
    first = run(compose, tmp_path, "done", "trainer.steps=3")
    rows = losses(tmp_path / "done")
    assert differences(first, run(compose, tmp_path, "done", "trainer.steps=3")) == []
    assert losses(tmp_path / "done") == rows


def test_a_run_of_other_settings_is_not_continued(compose, tmp_path):
    run(compose, tmp_path, "a", "trainer.steps=2")
    with pytest.raises(ValueError, match=r"objective\.kl=half_analytic \(now monte_carlo\).*name="):
        run(compose, tmp_path, "a", "trainer.steps=4", "objective.kl=monte_carlo")


def test_a_run_from_before_a_setting_goes_on(compose, tmp_path, monkeypatch):
    """Settings taken out of what a run has left: where its default is typed it is the same run, else another one."""
    first = ["trainer.steps=2", "trainer.sample_every_steps=0"]
    run(compose, tmp_path, "old", *first)
    path = tmp_path / "old" / "checkpoints" / "last.pt"
    stored, config = checkpoint.read(path), runs.stored_config(tmp_path / "old")
    for settings in (stored["config"], config):
        del settings["objective"]["log_det"], settings["text"]["edges"]
    del stored["frontend"]["settings"]["edges"]
    checkpoint.write(path, stored)
    runs.write_config(tmp_path / "old", config)

    def parsed(*overrides):
        return build.parse(compose("trainer.ema_decay=0.9", f"run_dir={tmp_path / 'old'}", *overrides), [])

    assert build.is_trained(parsed(*first)) and not build.is_trained(parsed(*first, "text.edges=false"))
    with pytest.raises(ValueError, match=r"objective\.log_det=include \(now drop\)"):
        run(compose, tmp_path, "old", "trainer.steps=3", "objective.log_det=drop")
    assert run(compose, tmp_path, "old", "trainer.steps=3")["step"] == 3
    checkpoint.write(path, stored)
    monkeypatch.setattr(build, "defaults", dict)  # planted: what a run lacks counts as changed
    with pytest.raises(ValueError, match=r"objective\.log_det=unknown"):
        run(compose, tmp_path, "old", "trainer.steps=3")


def test_ema_is_the_weighted_mean_of_the_past():
    model = torch.nn.Linear(1, 1)
    average = optimization.EMA(model, 0.5)
    expected = model.weight.detach().clone()
    for n in range(1, 6):
        with torch.no_grad():
            model.weight.fill_(n)
        average.update(model, n)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
    torch.testing.assert_close(average.model.weight, expected)


@pytest.mark.parametrize(
    ("schedule", "step", "factor"),
    [
        ("constant", 50, 1.0),
        ("cosine", 0, 0.1),
        ("cosine", 9, 1.0),
        ("cosine", 40, 1.0),
        ("cosine", 70, 0.05 + 0.95 * 0.5),
        ("cosine", 100, 0.05),
        ("exponential", 200, 0.25),
    ],
)
def test_learning_rate_is_a_function_of_the_step(schedule, step, factor):
    settings = optimization.OptimizerSettings(warmup_steps=10, schedule=schedule, half_life_steps=100)
    assert optimization.rate_factor(settings, step, 100) == pytest.approx(factor)


def test_noam_is_that_of_glow_tts():
    """Rises by the same amount for 4000 steps, then falls as 1 / sqrt(step); no warm-up on top of it."""
    settings = optimization.OptimizerSettings(learning_rate=1.0, schedule="noam", warmup_steps=4000)
    rates = [optimization.rate_factor(settings, step, 10) for step in (0, 1, 1999, 3999, 15999)]
    peak = 1 / math.sqrt(192 * 4000)
    assert rates == pytest.approx([peak / 4000, peak / 2000, peak / 2, peak, peak / 2])
    assert peak == pytest.approx(0.00114, rel=1e-2)
    for n in (1, 500, 4001, 100_000):
        published = 192**-0.5 * min(n**-0.5, n * 4000**-1.5)
        assert optimization.rate_factor(settings, n - 1, n) == pytest.approx(published, rel=1e-12)


@pytest.mark.parametrize(
    ("schedule", "note"), [("noam", "goes on as it was"), ("cosine", "at 0.75 of the full one, not 0.19")]
)
def test_the_note_on_another_number_of_steps(schedule, note):
    settings = optimization.OptimizerSettings(schedule=schedule, warmup_steps=10)
    assert optimization.rate_note(settings, 85, 100, 140).endswith(note)


@pytest.mark.parametrize(
    ("max_norm", "max_value", "clipped"),
    [
        (0.0, 0.0, [30.0, -4.0, 0.1]),
        (0.0, 5.0, [5.0, -4.0, 0.1]),
        (0.0, 3.0, [3.0, -3.0, 0.1]),
        (15.133, 0.0, [15.0, -2.0, 0.05]),
        (15.133, 5.0, [5.0, -2.0, 0.05]),
    ],
)
def test_clipping_by_norm_and_by_value(max_norm, max_value, clipped):
    """The norm that is given is that before either."""
    layer = torch.nn.Linear(3, 1, bias=False)
    layer.weight.grad = torch.tensor([[30.0, -4.0, 0.1]])
    settings = optimization.OptimizerSettings(max_grad_norm=max_norm, max_grad_value=max_value)
    assert optimization.clip(layer, settings).item() == pytest.approx(math.sqrt(916.01))
    assert layer.weight.grad[0].tolist() == pytest.approx(clipped, rel=1e-4)


def test_a_gradient_that_is_not_finite_is_seen_behind_clipping_by_value():
    layer = torch.nn.Linear(2, 1, bias=False)
    layer.weight.grad = torch.tensor([[math.inf, 1.0]])
    norm = optimization.clip(layer, optimization.OptimizerSettings(max_grad_value=5.0))
    assert not norm.isfinite()
