"""The catalogue: every logged key has its entry, best is what it says, and a run keeps its best by it."""

import json
import math

import pytest
from families import FAMILIES

import train
from vitslite import build, runs
from vitslite.metrics.catalogue import CATALOGUE, axis_label, best_values, chosen, find, in_order, is_extra, is_known
from vitslite.monitoring.observer import RunObserver
from vitslite.training import checkpoint

SCHEDULE = ["trainer.steps=2", "trainer.log_every_steps=1", "trainer.diagnose_every_steps=1", "validation.n_heard=2"]
EVERYTHING = [  # every optional term and part that logs keys of its own
    *["model.mel_head=true", "objective.weights.prior_mel=1", "discriminator=mpd_mrd"],
    *["discriminator.period_channels=[4,4,4,4,4]", "discriminator.resolution_channels=4"],
    "model/decoder=source_filter",
    *SCHEDULE,
]


@pytest.fixture(scope="module")
def logged() -> dict[str, set[str]]:
    """The keys of a run of each family, as they come."""
    return {}


@pytest.mark.parametrize("family", ["vits", *FAMILIES])
def test_every_logged_key_is_in_the_catalogue(compose, tmp_path, monkeypatch, logged, family):
    """What has no meaning in a family is absent: never 0, and said in words where one looks for it."""
    monkeypatch.setattr(build, "N_SAMPLES", 1)  # fewer pictures
    overrides = EVERYTHING if family == "vits" else [*FAMILIES[family], *SCHEDULE]
    trainer = train.train(build.parse(compose(*overrides), overrides), overrides)
    keys = logged[family] = set().union(*runs.read_rows(tmp_path / "run")) - {"step"}
    assert [key for key in keys if not is_known(key)] == []
    for picture in ("gradients.png", "curves.png", "validation.json", "index.html"):
        assert (tmp_path / "run" / picture).is_file(), picture
    if family != "vits":
        assert {key for key in keys if "/kl" in key or key.startswith(("kl/", "latent/posterior"))} == set()
        assert trainer.observer.verdict(trainer.model.settings) == "no posterior, no KL"
        has_flow = {key for key in keys if key.endswith(("/flow", "flow_move", "inverse_error"))} != set()
        assert has_flow == (family == "glow_tts")
        modules = {name for name, module in trainer.model.named_children() if list(module.parameters())}
        matrix = {tuple(key.split("/")[1:]) for key in keys if key.startswith("grad/") and key.count("/") == 2}
        assert {module for _, module in matrix} == modules
        assert {term for term, _ in matrix} == {k.split("/")[2] for k in keys if k.startswith("val/loss/")}


def test_every_entry_of_the_catalogue_is_logged(logged):
    if logged.keys() != {"vits", *FAMILIES}:
        pytest.skip("the runs of the test above")
    patterns = {find(key).pattern for keys in logged.values() for key in keys}
    assert {metric.pattern for metric in CATALOGUE} - patterns == set()
    assert not is_known("kl/no_such_key") and find("kl/no_such_key").title == "kl/no_such_key"


def test_titles_units_and_order():
    assert axis_label("val/kl/half_analytic") == "KL, half analytic, nats/frame"
    assert axis_label("wer/copy") == "word error rate, copy, share"
    assert find("grad/kl/text_encoder").title == "gradient norm, kl to text encoder"
    assert find("latent/posterior_log_std_min").title == "log std of the posterior min"
    assert find("loss/total").better is None and find("val/mas/within_50ms").better == "higher"
    keys = ["val/wer/spoken", "new/metric", "val/loss/mel", "grad/flow", "val/loss/kl"]
    assert in_order(keys) == ["val/loss/kl", "val/loss/mel", "grad/flow", "val/wer/spoken", "new/metric"]
    assert chosen("headline", keys) == ["val/loss/kl", "val/loss/mel", "val/wer/spoken"]
    assert chosen("val/picture", keys) == ["val/loss/kl", "val/loss/mel"]
    assert [is_extra(key) for key in ("val/loss/kl", "grad/flow", "grad/kl/flow", "new/metric")] == [
        False,
        False,
        True,
        True,
    ]
    assert len({metric.pattern for metric in CATALOGUE}) == len(CATALOGUE)


def test_best_is_lowest_or_highest_after_the_first_step():
    rows = [
        {"step": 0, "val/loss/mel": 0.1, "val/mas/within_50ms": 0.9},
        {"step": 1, "val/loss/mel": 2.0, "val/mas/within_50ms": 0.2, "val/kl/half_analytic": 1.0, "loss/mel": 1.0},
        {"step": 2, "val/loss/mel": math.nan, "val/mas/within_50ms": 0.7},
        {"step": 3, "val/loss/mel": 3.0, "val/mas/within_50ms": 0.6},
    ]
    assert best_values(rows) == {"val/loss/mel": 2.0, "val/mas/within_50ms": 0.7}


@pytest.mark.parametrize(
    ("name", "values", "kept"),
    [
        ("val/mas/within_50ms", [0.2, 0.7, 0.5], 2),
        ("val/mas/error_ms", [9.0, 7.0, 8.0], 2),
        ("val/wer/spoken", [1.0, 0.5, 0.9], 2),  # sampled, not validated
        ("val/wer/spoken", [math.nan, math.nan, 0.9], 3),
        ("val/mas/within_50ms", [0.2, 0.1, math.nan], 1),
    ],
)
def test_best_pt_is_the_best_by_any_metric_in_its_direction(compose, tmp_path, monkeypatch, name, values, kept):
    validate = RunObserver.validate
    planted = {step: {name: value} for step, value in enumerate([-1.0, *values])}
    is_sampled = "wer" in name

    def validated(self, step, model):
        return validate(self, step, model) | ({} if is_sampled else planted[step])

    monkeypatch.setattr(RunObserver, "validate", validated)
    monkeypatch.setattr(RunObserver, "sample", lambda self, step, model: planted[step] if is_sampled else {})
    every = [f"trainer.{what}_every_steps=1" for what in ("validate", "sample")]
    overrides = [f"trainer.best_metric={name}", "trainer.steps=3", "validation.n_heard=1", *every]
    train.train(build.parse(compose(*overrides), overrides), overrides)
    assert checkpoint.read(tmp_path / "run" / "checkpoints" / "best.pt")["step"] == kept


def test_the_best_so_far_survives_a_resume(compose, tmp_path):
    """Also of a metric of which more is better: the second half must not begin from the worst again."""
    overrides = ["trainer.best_metric=val/mas/within_50ms", "trainer.validate_every_steps=1", "trainer.steps=6"]
    for stop in ("trainer.stop_after_step=3", "trainer.stop_after_step=6"):
        train.train(build.parse(compose(*overrides, stop), overrides), overrides)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    shares = [row["val/mas/within_50ms"] for row in rows if row["step"] > 0 and "val/mas/within_50ms" in row]
    best = checkpoint.read(tmp_path / "run" / "checkpoints" / "best.pt")
    assert (best["best"], best["step"]) == (max(shares), 1 + shares.index(max(shares)))


def test_a_metric_that_nothing_samples_is_refused_before_training(compose, tmp_path):
    overrides = ["trainer.best_metric=val/wer/spoken"]  # with validation.n_heard=0
    with pytest.raises(
        ValueError, match=r"trainer\.best_metric=val/wer/spoken is not measured; choose one of val/loss/kl"
    ):
        train.train(build.parse(compose(*overrides), overrides), overrides)
    assert not (tmp_path / "run" / "checkpoints").exists()
