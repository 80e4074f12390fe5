"""Benchmarks: statistics on clocks of our own, agreement with the peers, what is counted, the command. No speeds."""

import importlib.util
import json
import statistics
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from common import ROOT
from matplotlib.image import imread

from vitslite import build
from vitslite.audio import AudioSettings, Features
from vitslite.benchmarks import corpus, data, diagnostics, infer, learn, mas, result, step, timing
from vitslite.benchmarks.mas import Peer, Shape
from vitslite.benchmarks.timing import Call, Settings, Timings, count_operations, measure
from vitslite.commands import console
from vitslite.datasets.corpus import DataSettings
from vitslite.datasets.loader import Loader
from vitslite.model import alignment
from vitslite.tensors import Batch
from vitslite.training.trainer import Trainer

spec = importlib.util.spec_from_file_location("benchmark", ROOT / "scripts" / "benchmark.py")
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)

CPU = torch.device("cpu")
ONCE = Settings(script.compose, CPU, 1, ROOT, ROOT)
AUDIO = AudioSettings()
NARROW = ["discriminator.period_channels=[4,4,4,4,4]", "discriminator.resolution_channels=4"]
needs_peer = pytest.mark.skipif(mas.find_peer() is None, reason="monotonic-alignment-search is not installed")


# ---------------------------------------------------------------------------------------------------------- clocks


def test_everything_runs_in_every_round_in_rotated_order_and_only_runs_are_timed():
    now, log = [0.0], []

    def call(name: str, seconds: float) -> Call:
        def prepare() -> tuple:
            now[0] += 1000
            return (name,)

        def run(argument: str) -> None:
            now[0] += seconds
            log.append(argument)

        return Call(run, prepare)

    def stopwatch(function):
        begin = now[0]
        function()
        return {"fake": now[0] - begin}

    timings = measure({"a": call("a", 1.0), "b": call("b", 2.0), "c": call("c", 4.0)}, 4, stopwatch, warm_up=2)
    assert "".join(log) == "aabbcc" + "abc" + "bca" + "cab" + "abc"
    assert timings.seconds == {"a": {"fake": [1.0] * 4}, "b": {"fake": [2.0] * 4}, "c": {"fake": [4.0] * 4}}


def test_ratios_are_taken_within_rounds():
    """The machine slows down tenfold in the third round: the times see it, the ratio does not."""
    timings = Timings({"ours": {"cpu": [1.0, 1.0, 10.0, 2.0]}, "peer": {"cpu": [3.0, 2.0, 40.0, 10.0]}})
    assert timings.ratio("ours", "peer", "cpu") == (3.5, 2.75, 4.25)  # of 3, 2, 4, 5
    assert timings.median("peer", "cpu") / timings.median("ours", "cpu") != 3.5
    assert (timings.median("ours", "cpu"), timings.least("ours", "cpu")) == (1.5, 1.0)
    assert Timings({"x": {"cpu": [2.0]}}).ratio("x", "x", "cpu") == (1, 1, 1)


def test_the_host_has_two_clocks(monkeypatch):
    processor, wall = iter([10.0, 10.5]), iter([50.0, 52.0])
    monkeypatch.setattr(time, "process_time", lambda: next(processor))
    monkeypatch.setattr(time, "perf_counter", lambda: next(wall))
    assert timing.on_host(lambda: None) == {"cpu": 0.5, "wall": 2.0}


# --------------------------------------------------------------------------------------------------------- counting


def test_operations_are_counted_forward_and_backward():
    x = torch.ones(3, requires_grad=True)
    assert count_operations(lambda: x.detach() * 2) == (2, 1)  # a view and a product
    # mul, sum; ones_like, expand, mul: and what reaches .grad is detached.
    n, n_views = count_operations(lambda: (x * 2).sum().backward())
    assert (n, n_views) == (6, 2)


def test_of_a_fused_optimiser_fewer_operations_are_counted():
    parameters = [torch.ones(2, requires_grad=True) for _ in range(5)]
    for p in parameters:
        p.grad = torch.ones(2)
    counts = {}
    for name in ("fused", "foreach"):
        optimizer = torch.optim.AdamW(parameters, **{name: True})
        optimizer.step()
        counts[name], _ = count_operations(optimizer.step)
    assert 0 < counts["fused"] < counts["foreach"]


# ------------------------------------------------------------------------------------------------- alignment search


def numpy_path(scores, mask):
    """A peer of our own, in float64 and on whole rows: path [B, L, T]."""
    paths = torch.zeros_like(scores)
    for b in range(len(scores)):
        n_l, n_t = int(mask[b, :, 0].sum()), int(mask[b, 0].sum())
        score = scores[b, :n_l, :n_t].double().numpy()
        best = np.full((n_t, n_l), -np.inf)
        best[0, 0] = score[0, 0]
        for t in range(1, n_t):
            best[t] = score[:, t] + np.maximum(best[t - 1], np.concatenate([[-np.inf], best[t - 1, :-1]]))
        token = n_l - 1
        for t in reversed(range(n_t)):
            paths[b, token, t] = 1
            token -= t > 0 and token > 0 and best[t - 1, token - 1] > best[t - 1, token]
    return paths


def numpy_kernel(paths, scores, token_lengths, frame_lengths):
    mask = np.zeros(scores.shape, np.float32)
    for row, n_l, n_t in zip(mask, token_lengths, frame_lengths, strict=True):
        row[:n_l, :n_t] = 1
    paths[:] = numpy_path(torch.from_numpy(scores), torch.from_numpy(mask)).numpy()
    scores[:] = np.nan  # a kernel may do that


PEER = Peer(numpy_path, numpy_kernel)


@pytest.fixture
def problem():
    return mas.make_problem(Shape(5, 12, 40), CPU)


def test_problems_are_ragged_and_have_paths(problem):
    lengths = list(zip(*(x.tolist() for x in problem.lengths), strict=True))
    assert lengths[0] == (12, 40)
    assert all(6 <= n_l <= 12 and 20 <= n_t <= 40 for n_l, n_t in lengths) and len(set(lengths)) == 5
    assert problem.mask.sum() == sum(n_l * n_t for n_l, n_t in lengths)
    square = mas.make_problem(Shape(20, 9, 9), CPU)
    assert (square.lengths[0] <= square.lengths[1]).all()
    with pytest.raises(ValueError, match="no more tokens than frames"):
        mas.make_problem(Shape(2, 10, 9), CPU)


def test_the_four_terms_are_the_log_likelihood(problem):
    z, (mean, log_std) = problem.z.double(), (x.double() for x in problem.p_text)
    true = torch.distributions.Normal(mean[:, :, :, None], log_std.exp()[:, :, :, None]).log_prob(z[:, :, None])
    torch.testing.assert_close(mas.four_term_score(z, mas.Gaussian(mean, log_std)), true.sum(1), rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(mas.four_term_score(problem.z, problem.p_text), problem.score, rtol=1e-5, atol=1e-3)


def test_the_worth_of_a_path_is_the_sum_of_its_scores(problem):
    durations = alignment.monotonic_alignment(problem.score, *problem.lengths, problem.ids)
    path = alignment.dense(durations, 40)
    of_scores = (
        mas.four_term_score(problem.z.double(), mas.Gaussian(*(x.double() for x in problem.p_text))) * path
    ).sum((1, 2))
    torch.testing.assert_close(mas.path_worth(problem, durations), of_scores, rtol=1e-12, atol=0)


def found(problem, peer):
    return {name: mas.durations_of(timing.once(call)) for name, call in mas.searches(problem, peer).items()}


def test_all_find_the_same_as_an_independent_search(problem):
    durations = found(problem, PEER)
    assert list(durations) == [mas.SEARCH, mas.SCORED, mas.CALLED, mas.SCORED_CALLED, mas.KERNEL, mas.SCORED_KERNEL]
    assert mas.agreement(problem, durations) == ["All find the same durations."]
    assert all(torch.equal(d, durations[mas.SEARCH]) for d in durations.values())
    assert found(problem, PEER).keys() == durations.keys()  # again: no call has spoilt what the next one is given
    assert all(torch.equal(d, durations[name]) for name, d in found(problem, PEER).items())


@needs_peer
def test_the_package_agrees_with_the_independent_search(problem):
    theirs, ours = found(problem, mas.find_peer()), found(problem, PEER)
    assert all(torch.equal(d, ours[name]) for name, d in theirs.items())


def test_a_worse_path_is_named(problem):
    def lazy(paths, scores, token_lengths, frame_lengths):
        numpy_kernel(paths, scores, token_lengths, frame_lengths)
        n_l, n_t = token_lengths[3], frame_lengths[3]
        paths[3] = 0
        paths[3, np.minimum(np.arange(n_t), n_l - 1), np.arange(n_t)] = 1  # a frame each, the last token has the rest

    with pytest.raises(ValueError, match=rf"^{mas.KERNEL}: utterance 3: its path is worth"):
        mas.agreement(problem, found(problem, Peer(numpy_path, lazy)))


def test_what_is_no_path_is_named(problem):
    def short(scores, mask):
        path = numpy_path(scores, mask)
        path[2, :, 0] = 0
        return path

    with pytest.raises(ValueError, match=rf"^{mas.CALLED}: utterance 2: what it found is not a path"):
        mas.agreement(problem, found(problem, Peer(short, numpy_kernel)))


def test_our_own_fault_is_named(problem, monkeypatch):
    even = lambda score, *lengths_and_ids: alignment.uniform(*lengths_and_ids[:2], score.shape[1])  # noqa: E731
    monkeypatch.setattr(alignment, "monotonic_alignment", even)
    with pytest.raises(ValueError, match=rf"^{mas.SEARCH}: utterance"):
        mas.agreement(problem, found(problem, PEER))


def test_paths_of_equal_worth_are_said_and_accepted(problem):
    """Of the first utterance all tokens are the same, so that every path is worth as much; of the second not."""
    for x in problem.p_text:
        x[0] = x[0, :, :1]
    problem = replace(problem, score=alignment.log_likelihood(problem.z, problem.p_text))
    ours = alignment.monotonic_alignment(problem.score, *problem.lengths, problem.ids)
    even = alignment.uniform(*problem.lengths, 12)
    (said,) = mas.agreement(problem, {mas.SEARCH: ours, mas.CALLED: torch.cat([even[:1], ours[1:]])})
    assert said.endswith(f": {mas.CALLED} (1) of 5.")
    with pytest.raises(ValueError, match=f"^{mas.CALLED}: utterance 1"):
        mas.agreement(problem, {mas.SEARCH: ours, mas.CALLED: torch.cat([even[:2], ours[2:]])})


def test_without_the_package_its_rows_are_missing_and_it_says_why(monkeypatch):
    monkeypatch.setitem(sys.modules, "monotonic_alignment_search", None)
    (section,) = mas.run(ONCE, [Shape(2, 5, 9)], growth=False)
    assert [row["what"] for row in section.rows] == [mas.SEARCH, mas.SCORED, mas.FLOOR]
    assert section.notes[-1] == mas.INSTALL


# ---------------------------------------------------------------------------------------------------- training step


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    return corpus.write_corpus(tmp_path_factory.mktemp("noise"), [44, 40], AUDIO)


def trained(noise, folder, kind, n_steps=3):
    overrides = [*step.BASE, "model=nano", "discriminator=vits", *NARROW, "data.batch_size=2", "trainer.device=cpu"]
    more = ["trainer.precision=fp32", "trainer.optimizer.warmup_steps=0"]
    more += [f"trainer.optimizer.{k}learning_rate=1e-2" for k in ("", "discriminator_")]
    more += ["trainer.optimizer.eps=1e-2"]  # so that what is zero but for rounding is not blown up to a full step
    trainer = step.build_trainer(script.compose([*overrides, *more]), noise, CPU, folder, kind)
    take = step.step_of(trainer)
    metrics = [take() for _ in range(n_steps)]
    return trainer, metrics


def distance(a: torch.nn.Module, b: torch.nn.Module) -> float:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return max(float((x - y).abs().max()) for x, y in pairs)


def test_the_published_step_gives_the_gradients_of_ours(noise, tmp_path):
    (ours, _), (published, _) = (trained(noise, tmp_path / k.__name__, k, 1) for k in (Trainer, step.PublishedTrainer))
    for a, b in zip(ours.model.parameters(), published.model.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-6 * float(a.grad.abs().max()))
    # What it costs: the discriminators have gradients of the model's loss that nobody wants.
    assert all(p.grad is None for p in ours.adversary.discriminator.parameters())
    assert all(p.grad is not None for p in published.adversary.discriminator.parameters())
    for trainer, fused in ((ours, True), (published, False)):
        for optimizer in (trainer.optimizer, trainer.adversary.optimizer):
            assert bool(optimizer.defaults["fused"]) is fused and bool(optimizer.defaults["foreach"]) is not fused


def test_the_published_step_trains_as_ours_does(noise, tmp_path, monkeypatch):
    (ours, a), (published, b) = (trained(noise, tmp_path / k.__name__, k) for k in (Trainer, step.PublishedTrainer))
    assert distance(ours.model, published.model) < 1e-4  # three steps of 1e-2: rounding alone
    assert distance(ours.adversary.discriminator, published.adversary.discriminator) < 1e-5
    ours_last, published_last = (x[-1].terms | {"grad_norm": x[-1].grad_norm} for x in (a, b))
    for key, value in ours_last.items():
        assert float(published_last[key]) == pytest.approx(float(value), rel=1e-3), key

    # A published adversary that forgets to throw the unwanted gradients away trains something else.
    monkeypatch.delattr(step.PublishedAdversary, "loss")
    forgetful, _ = trained(noise, tmp_path / "forgetful", step.PublishedTrainer)
    assert distance(ours.adversary.discriminator, forgetful.adversary.discriminator) > 1e-4


def test_variants_differ_where_they_say():
    published, same, bare, judged, alone = step.variants("vits", ["small"])
    assert published.trainer is step.PublishedTrainer and same.trainer is bare.trainer is Trainer
    configs = [script.compose([*step.BASE, *v.overrides]) for v in (published, same, bare, judged, alone)]
    norms = [(c.model.posterior.weight_norm, c.discriminator.weight_norm) for c in configs]
    assert norms[:3] == [(True, True), (True, True), (False, False)]
    assert [c.discriminator.kind for c in configs] == ["vits", "vits", "vits", "mpd_mrd", "none"]
    assert [c.model.segment_frames for c in configs] == [32, 32, 32, None, None]
    assert [c.model.decoder.kind for c in configs] == ["hifigan"] * 3 + ["istft"] * 2
    assert configs[0].model == configs[1].model and configs[0].objective == configs[1].objective


# ------------------------------------------------------------------------------------------------------------- data


def test_simulated_lengths_are_like_those_of_ljspeech():
    seconds = corpus.speech_lengths(13_100)
    assert statistics.mean(seconds) == pytest.approx(6.57, abs=0.05)
    assert statistics.stdev(seconds) == pytest.approx(2.19, abs=0.05)
    assert 1.11 <= min(seconds) < 1.2 and 10.0 < max(seconds) <= 10.1


def test_the_share_of_valid_frames_by_hand():
    assert data.valid_share([2, 4, 6, 6], [[0, 1], [2, 3]]) == 18 / (8 + 12)
    assert data.valid_share([2, 4, 6, 6], [[0, 2], [1, 3]]) == 18 / 24


def test_the_published_loader_gives_what_ours_gives_in_another_order(noise):
    loader = Loader(noise.train, DataSettings(batch_size=2), AUDIO, seed=0)
    ours = Features(AUDIO)(Batch(**loader.make(0)))
    published = data.PublishedLoader(noise.train, AUDIO).make(loader.sampler.batch(0))
    tokens, token_lengths, specs, frame_lengths, audio, sample_lengths = published
    order = ours.frame_lengths.argsort(descending=True)
    assert frame_lengths.tolist() == [44, 40] and sample_lengths.tolist() == [44 * 256, 40 * 256]
    assert torch.equal(tokens, ours.tokens[order]) and torch.equal(token_lengths, ours.token_lengths[order])
    assert torch.equal(audio, ours.audio[order])
    torch.testing.assert_close(specs, ours.spec[order], rtol=1e-4, atol=1e-4)
    n_bytes = 513 * 2 * 44 * 4 + 2 * 44 * 256 * 4
    assert data.megabytes(published) == pytest.approx((n_bytes + tokens.nbytes + 3 * 2 * 8) / 1e6)


# -------------------------------------------------------------------------------------------------------- synthesis


@pytest.mark.parametrize("rounding", ["ceil", "nearest"])
@pytest.mark.parametrize("n_frames", [3, 50, 101])
def test_a_sentence_has_the_length_that_was_asked_for(n_frames, rounding):
    config = script.compose([*step.BASE, "model=nano", f"model.duration.rounding={rounding}"])
    model = script.build.model(config, corpus.N_SYMBOLS)
    asked = []
    predict = model.duration_predictor.predict
    model.duration_predictor.predict = lambda *a: asked.append(1) or predict(*a)
    spoken = infer.speaker(model, n_frames, CPU)()
    assert spoken.audio_lengths.tolist() == [n_frames * 256] and asked == [1]  # the predictor has done its work


# ------------------------------------------------------------------------------------------------------ what is said


def test_tables_as_text_and_as_markdown():
    timings = Timings({"ours": {"cpu": [0.001, 0.002, 0.003]}, "peer": {"cpu": [0.004, 0.004, 0.004]}})
    section = result.Section("speed", result.times(timings), [result.ratio(timings, "ours", "peer")], ["A note."])
    about = result.machine()
    text = result.as_text(about, [section], markdown=False).splitlines()
    assert about["torch"] in text[0] and about["date"] in text[0] and f"{about['threads']} of" in text[0]
    assert text[2:7] == [
        "speed",
        "",
        "what      cpu ms    cpu ms, least",
        "ours           2                1",
        "peer           4                4",
    ]
    assert text[-3].split() == ["ours", "peer", "cpu", "2", "1.67", "3"] and text[-1] == "A note."
    markdown = result.as_text(about, [section], markdown=True)
    assert "### speed\n\n| what   |   cpu ms |   cpu ms, least |\n|:-------|---------:|----------------:|\n" in markdown
    assert "\n| ours   |        2 |               1 |\n" in markdown
    stored = json.loads(result.as_json(about, [section]))
    assert stored["sections"][0]["ratios"][0]["times as fast"] == pytest.approx(2)


TINY = {
    "mas": (["--shapes", "2,5,12", "3,6,20"], [mas.SEARCH, mas.SCORED, mas.FLOOR, "Floor:", "3 utterances"]),
    "step": (
        ["--batch", "2", "--frames", "34", "--published", "nano", "--models", "nano", "--", *NARROW],
        ["model=nano, as published", "no weight norm", "mpd_mrd", "aten operations", step.SPEED_ONLY],
    ),
    "infer": (["--frames", "20", "--model", "nano"], ["hifigan", "istft", "real-time factor", "0.23 s"]),
    "data": (
        ["--batch", "3", "--batches", "2", "--model", "nano", "--step-batch", "2"],
        [data.PUBLISHED, data.CACHED, "valid / padded", "share"],
    ),
}


def run_command(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, arguments)])
    return console.run_script(script.main, script.parser())


@pytest.mark.parametrize("command", TINY)
def test_commands_print_their_tables(command, monkeypatch, tmp_path, capsys):
    arguments, expected = TINY[command]
    left = ["--json", tmp_path / "new" / "all.json", "--profile", tmp_path / "trace.json", "-o", tmp_path]
    if command == "mas":
        left.append("--growth")
    assert run_command(monkeypatch, command, "--rounds", 2, *left, *arguments) == 0
    said = capsys.readouterr().out
    assert all(words in said for words in expected), said
    stored = json.loads((tmp_path / "new" / "all.json").read_text())
    assert set(stored) == {"machine", "sections"} and all(s["rows"] for s in stored["sections"])
    traced = {event.get("name") for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]}
    timed = [row["what"] for section in stored["sections"] for row in section["rows"] if "cpu ms" in row]
    assert timed and set(timed) <= traced
    if command == "mas":
        growth = stored["sections"][-1]["rows"]
        assert [(row["grows"], row["B"], row["L"], row["T"]) for row in growth[:4]] == [
            ("B", n, 5, 12) for n in (1, 1, 2, 4)
        ]
        assert imread(tmp_path / "mas.png").shape[1] == 1000


def test_what_looking_costs_is_clocked_apart(compose, tmp_path):
    looked = ["trainer.diagnose_every_steps=2", "trainer.log_every_steps=1"]
    settings = replace(ONCE, compose=lambda o: build.parse(compose(*o), o), folder=tmp_path)
    (section,) = diagnostics.run(settings, 3, looked)
    seconds = {row["what"].split(":")[0]: row["cpu s"] for row in section.rows}
    assert set(seconds) == {"3 training steps", "probe", "observe_step", "log_step", "together"}
    assert all(value > 0 for value in seconds.values())
    assert seconds["together"] == pytest.approx(seconds["probe"] + seconds["observe_step"] + seconds["log_step"])


def test_learning_is_clocked_until_targets_are_reached(compose, tmp_path, monkeypatch):
    """With a clock of a second per step, and looks of 2 s: one target is reached at the first look, one never."""
    monkeypatch.setattr(learn, "on_host", lambda step: step() and {"cpu": 1.0})
    monkeypatch.setattr(learn, "N_LOOKS", 3)
    monkeypatch.setattr(learn, "TARGETS", {"val/loss/mel": 100.0, "val/mas/error_ms": 0.0})
    monkeypatch.setattr(learn, "DEMO", [])
    published = step.Variant("published", ["trainer.ema_decay=0"], step.PublishedTrainer)
    monkeypatch.setattr(learn, "VARIANTS", [step.Variant("nano", []), published])
    settings = replace(ONCE, compose=lambda o: build.parse(compose(*o), o), folder=tmp_path)
    (section,) = learn.run(settings, 6, [])
    assert [row["what"] for row in section.rows] == ["nano", "published"]
    for row in section.rows:
        assert (row["steps"], row["s"]) == (6, 6.0)
        assert (row["s to loss/mel 100"], row["s to mas/error_ms 0"]) == (2.0, None)
        assert 0 < row["last loss/mel"] < 100 and row["last mas/error_ms"] > 0
    monkeypatch.setattr(learn, "TARGETS", {"val/loss/mel": 100.0})
    (section,) = learn.run(settings, 6, [])
    assert [row["steps"] for row in section.rows] == [2, 2]


def test_the_variants_that_learn_are_what_they_are_called():
    kinds = [script.compose([*learn.DEMO, *variant.overrides]) for variant in learn.VARIANTS]
    assert [config.model.decoder.kind for config in kinds] == ["istft", "hifigan", "istft", "istft", "hifigan"]
    assert [config.discriminator.kind for config in kinds] == ["none", "none", "mpd_mrd", "none", "vits"]
    assert [config.model.n_latent for config in kinds] == [64, 64, 64, 96, 192]
    assert {config.audio.sample_rate for config in kinds} == {16000}


def test_the_last_override_wins(monkeypatch):
    seen = []
    monkeypatch.setattr(step, "write_corpus", lambda *_: (_ for _ in ()).throw(ValueError("enough")))
    compose = lambda overrides: seen.append(script.compose(overrides)) or seen[-1]  # noqa: E731
    with pytest.raises(ValueError, match="enough"):
        step.run(replace(ONCE, compose=compose), 2, 40, "nano", [], ["trainer.precision=bf16"])
    assert [config.trainer.precision for config in seen] == ["bf16"] * 3


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["mas", "--shapes", "2,9,5"], "--shapes 2,9,5: give B,L,T"),
        (["step", "--models", "nanoo"], "nanoo"),
        (["step", "model.n_latnt=3"], "did you mean model.n_latent"),
        (["infer", "model.n_latent=x"], "n_latent"),
        (["infer", "--device", "cuda"], "use --device cpu"),
        (["gpu"], "gpu needs a GPU"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_errors_are_one_line(arguments, complaint, monkeypatch, capsys):
    if torch.cuda.is_available():
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run_command(monkeypatch, *arguments) == console.EXIT_ERROR
    said = capsys.readouterr().err
    assert said.startswith("vitslite: error: ") and complaint in said and said.count("\n") == 1, said


@pytest.mark.parametrize("text", ["1,2", "a,2,3", "1,2,3,4", "-1,2,3"])
def test_shapes_that_are_none(text, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run_command(monkeypatch, "mas", f"--shapes={text}")
    assert f"{text}: give B,L,T" in capsys.readouterr().err
