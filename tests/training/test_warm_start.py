"""Warm start: the other voice as it was, symbol by symbol; what cannot be taken is named; its end is not needed."""

import dataclasses
import shutil

import pytest
import torch
from common import differences, losses, without_header
from omegaconf import open_dict

import train
from vitslite import build, runs
from vitslite.text.frontend import Frontend, TextSettings
from vitslite.training import checkpoint, warm_start
from vitslite.training.warm_start import WarmStart

DISCRIMINATOR = ["discriminator=mpd", "discriminator.period_channels=[4,4,4,4,4]", "discriminator.segment_frames=32"]
QUIET = ["trainer.log_every_steps=1", "trainer.sample_every_steps=0", "trainer.diagnose_every_steps=0"]


def parsed(compose, folder, *overrides):
    cfg = compose(*QUIET, *overrides)
    with open_dict(cfg):
        cfg.run_dir = str(folder)
    return build.parse(cfg, list(overrides))


def run(compose, folder, *overrides) -> dict:
    """Train and give the last checkpoint."""
    train.train(parsed(compose, folder, *overrides), list(overrides))
    return checkpoint.read(folder / "checkpoints" / "last.pt")


def last_validation(folder, step: int) -> dict[str, float]:
    rows = [row for row in runs.read_rows(folder) if row["step"] == step]
    return {key: value for row in rows for key, value in row.items() if key.startswith("val/")}


@pytest.fixture
def voice(compose, tmp_path):
    """A run of three steps, with an average and a discriminator, and its settings."""
    settings = ["trainer.ema_decay=0.9", "trainer.optimizer.warmup_steps=0", *DISCRIMINATOR]
    return run(compose, tmp_path / "voice", "trainer.steps=3", *settings), settings


# ------------------------------------------------------------------------------------------------------ a whole run


def test_a_run_from_itself_begins_where_it_ended(compose, tmp_path, voice, capsys):
    """The validation at step 0 is that at the end, of the average; all else begins anew, and needs no voice."""
    stored, settings = voice
    last = tmp_path / "voice" / "checkpoints" / "last.pt"
    capsys.readouterr()
    begun = [*settings, "trainer.steps=4", f"trainer.init_from={last}"]
    whole = run(compose, tmp_path / "whole", *begun)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("begun")]
    assert len(said) == 1 and f"averaged weights of {last}, step 3: " in said[0] and "not taken" not in said[0]
    assert said[0].count("(100 %)") == 2
    assert last_validation(tmp_path / "whole", 0) == last_validation(tmp_path / "voice", 3) != {}
    assert [row["step"] for row in runs.read_rows(tmp_path / "whole") if "loss/kl" in row] == [1, 2, 3, 4]
    assert whole["optimizer"]["state"][0]["step"] == 4
    assert whole["changes"] == said  # and so it stays, also where the run goes on: below

    parts = [*begun, "trainer.stop_after_step=2"]
    run(compose, tmp_path / "parts", *parts)
    shutil.rmtree(tmp_path / "voice")
    assert differences(without_header(whole), without_header(run(compose, tmp_path / "parts", *begun))) == []
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    with pytest.raises(ValueError, match=r"other settings: trainer\.init_from=.*last\.pt \(now None\)"):
        run(compose, tmp_path / "parts", *settings, "trainer.steps=5")
    with pytest.raises(ValueError, match=r"trainer\.init_from: .*last\.pt: no such"):
        run(compose, tmp_path / "new", *begun)
    assert not (tmp_path / "new").exists()


def test_weights_that_are_no_average_show(compose, tmp_path, voice):
    """Planted: the weights as they were trained, which no validation has seen."""
    stored, settings = voice
    path = tmp_path / "trained.pt"
    checkpoint.write(path, stored | {"ema": None})
    run(compose, tmp_path / "new", *settings, "trainer.steps=1", f"trainer.init_from={path}")
    assert last_validation(tmp_path / "new", 0) != last_validation(tmp_path / "voice", 3)


# ------------------------------------------------------------------------------------------------------ symbols

THERE = ["_", "^", "$", " ", *"abcde"]
HERE = ["_", *"edzcba", " ", "^", "q", "$"]  # in another order; z and q are new


def with_vocabulary(vocabulary):
    return Frontend(TextSettings(frontend="characters", blanks=True), vocabulary)


def written(path, config, frontend, model, discriminator=None):
    header = {"config": dataclasses.asdict(config), "frontend": frontend.state(), "step": 7}
    judges = discriminator.state_dict() if discriminator else None
    checkpoint.write(path, header | {"model": model.state_dict(), "discriminator": judges})
    return str(path)


def spoken(model, frontend, text):
    tokens = torch.tensor([frontend.encode(text)])
    return model.eval().infer(tokens, torch.tensor([tokens.shape[1]]), torch.tensor([5])).audio


@pytest.mark.parametrize("fault", [False, True])
def test_the_same_text_sounds_the_same_with_permuted_symbols(compose, tmp_path, monkeypatch, fault):
    config, other = parsed(compose, tmp_path, "seed=1"), parsed(compose, tmp_path, "seed=2")
    there, here = with_vocabulary(THERE), with_vocabulary(HERE)
    model, new = build.model(config, there.n_symbols), build.model(other, here.n_symbols)
    fresh = new.text_encoder.embedding.weight.detach().clone()
    path = written(tmp_path / "voice.pt", config, there, model)
    if fault:  # planted: rows by place
        by_place = lambda symbols, known: [i if i < len(known) else None for i in range(len(symbols))]  # noqa: E731
        monkeypatch.setattr(warm_start, "by_symbol", by_place)
    line = WarmStart(path, config.audio).load_into(new, None, here)
    assert "text_encoder.embedding: 2 of 11 symbols are new" in line
    text = "abe cad dace"
    same = torch.equal(spoken(model, there, text), spoken(new, here, text))
    assert same is not fault
    if not fault:
        rows = new.text_encoder.embedding.weight
        assert all(torch.equal(rows[i], fresh[i]) for i, symbol in enumerate(HERE) if symbol in "zq")
        assert not any(torch.equal(rows[i], fresh[i]) for i, symbol in enumerate(HERE) if symbol not in "zq")


def test_of_a_symbol_that_is_listed_twice_the_last_row_is_taken():
    """As `Frontend` reads a vocabulary: the first one was never trained."""
    assert warm_start.by_symbol(["_", "x", "a"], ["_", "a", "b", "a"]) == [0, None, 3]


def test_a_phone_is_known_by_another_stress_and_the_blank_by_its_place():
    """The unstressed one first; a mark alone is no phone, a gap no symbol, and MMS has a letter for its blank."""
    known = ["_", "ˈiː", "", "ˈə", "ə"]
    assert warm_start.by_symbol(["_", "iː", "ˌiː", "ˈiː", "ˌə", "ˈ", "o"], known) == [0, 1, 1, 1, 4, None, None]
    assert warm_start.by_symbol(["_", "k", "a"], ["k", "a"]) == [0, 0, 1]


def test_the_report_names_symbols(compose, tmp_path):
    config = parsed(compose, tmp_path)
    there, here = with_vocabulary(["_", "^", "$", "ˈa", "x", "y"]), with_vocabulary(["_", "a", "x", "q", "^", "$"])
    model, new = build.model(config, there.n_symbols), build.model(config, here.n_symbols)
    path = written(tmp_path / "voice.pt", config, there, model)
    line = WarmStart(path, config.audio).load_into(new, None, here)
    assert " %), 1 symbols by another stress ('a'); not taken: " in line
    assert "text_encoder.embedding: 1 of 6 symbols are new ('q'); 1 symbols of the other voice ('y')" in line
    weight, given = new.text_encoder.embedding.weight, model.text_encoder.embedding.weight
    assert torch.equal(weight[1], given[3]) and torch.equal(weight[2], given[4])


@pytest.mark.parametrize("there", [False, True])
def test_weight_norm_is_made_or_folded(compose, tmp_path, there):
    """A voice without it begins a run with it, and the other way round, and says the same."""
    settings = [f"model.{part}.weight_norm={{}}" for part in ("flow", "posterior", "decoder.hifigan")]
    normed = lambda yes: [*(s.format(str(yes).lower()) for s in settings), "model/decoder=hifigan"]  # noqa: E731
    config, other = (parsed(compose, tmp_path, *normed(yes), f"seed={int(yes)}") for yes in (there, not there))
    frontend = with_vocabulary(THERE)
    model, new = (build.model(c, frontend.n_symbols) for c in (config, other))
    path = written(tmp_path / "voice.pt", config, frontend, model)
    line = WarmStart(path, config.audio).load_into(new, None, frontend)
    assert "(100 %)" in line and "not taken" not in line
    ours, theirs = (spoken(m, frontend, "abe cad dace") for m in (new, model))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)
    assert not torch.equal(spoken(build.model(other, frontend.n_symbols), frontend, "abe cad dace"), theirs)


def test_what_an_imported_file_did_not_hold_is_not_taken(compose, tmp_path):
    config, other = parsed(compose, tmp_path, "seed=1"), parsed(compose, tmp_path, "seed=2")
    frontend = with_vocabulary(THERE)
    model, new = (build.model(c, frontend.n_symbols) for c in (config, other))
    fresh = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    path = written(tmp_path / "voice.pt", config, frontend, model)
    absent = [name for name in fresh if name.startswith("posterior_encoder.")]
    checkpoint.write(tmp_path / "voice.pt", checkpoint.read(tmp_path / "voice.pt") | {"imported": {"absent": absent}})
    line = WarmStart(path, config.audio).load_into(new, None, frontend)
    assert line.endswith("not taken: posterior_encoder.*: not there")
    assert all(torch.equal(new.state_dict()[name], fresh[name]) for name in absent)


# ------------------------------------------------------------------------------------------------------ what is left


@pytest.mark.parametrize(
    ("overrides", "notes"),
    [
        ([], []),
        (["model.decoder.istft.channels=24"], [" tensors of decoder: other shapes"]),
        (["model/flow=none"], ["flow.*: no place for it here"]),
        (["model.mel_head=true"], ["mel_head.*: not there"]),
        (["model.text_encoder.hidden=24"], ["19 of 21 tensors of text_encoder: o", "conv_1.weight: other shapes"]),
        (["discriminator=mrd", "discriminator.segment_frames=32"], ["trained with discriminator.kind=mpd (here mrd)"]),
        (["discriminator.periods=[3,2,5,7,11]"], ["trained with discriminator.periods=[2, 3, 5, 7, 11] (here [3, 2,"]),
        (["discriminator.period_channels=[4,4,4,4,8]"], [" of 90 tensors of discriminator: other shapes"]),
    ],
    ids=lambda x: " ".join(x),
)
def test_what_is_taken_and_what_is_not(compose, tmp_path, overrides, notes):
    """Tensor by tensor, and the counts of the line against those of the values that are now the other voice's."""
    frontend = with_vocabulary(THERE)
    config, other = (parsed(compose, tmp_path, *DISCRIMINATOR, *more) for more in (["seed=1"], ["seed=2", *overrides]))
    model, new = (build.model(c, frontend.n_symbols) for c in (config, other))
    judges, new_judges = build.discriminator(config), build.discriminator(other)
    with torch.no_grad():  # away from zeros and ones that all voices begin with
        for parameter in (*model.parameters(), *judges.parameters()):
            parameter.add_(torch.rand_like(parameter) + 0.1)
    before = {name: value.clone() for name, value in new.state_dict().items()}
    path = written(tmp_path / "voice.pt", config, frontend, model, judges)
    line = WarmStart(path, other.audio).load_into(new, new_judges, frontend)
    given, n_taken = model.state_dict(), 0
    for name, value in new.state_dict().items():
        fits = name in given and given[name].shape == value.shape
        assert torch.equal(value, given[name] if fits else before[name]), name
        n_taken += fits * value.numel()
    n = sum(value.numel() for value in before.values())
    assert f": {n_taken:,} of {n:,} parameters of the model ({100 * n_taken // n} %)" in line
    assert all(note in line for note in notes) and ("not taken" in line) is bool(notes), line
    equal = [torch.equal(a, b) for a, b in zip(judges.parameters(), new_judges.parameters(), strict=False)]
    assert all(equal) is not any("discriminator" in o for o in overrides)


def test_a_voice_without_a_discriminator(compose, tmp_path):
    frontend, config = with_vocabulary(THERE), parsed(compose, tmp_path, *DISCRIMINATOR)
    model, judges = build.model(config, frontend.n_symbols), build.discriminator(config)
    before = {name: value.clone() for name, value in judges.state_dict().items()}
    path = written(tmp_path / "voice.pt", config, frontend, model)
    line = WarmStart(path, config.audio).load_into(model, judges, frontend)
    assert line.endswith(" parameters of the discriminator (0 %); not taken: discriminator.*: not there")
    assert differences(before, judges.state_dict()) == []


# ------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("source", "overrides", "message"),
    [
        ("nowhere", [], r"trainer\.init_from: .*nowhere: no such run directory or checkpoint"),
        ("empty", [], r"trainer\.init_from: .*empty: no checkpoint in .*checkpoints; train first"),
        ("cut.pt", [], r"trainer\.init_from: .*cut\.pt: damaged or not a checkpoint"),
        ("voice.pt", ["audio.f_max=7000"], r"voice\.pt was trained with audio\.f_max=None \(here 7000\.0\), so its"),
        (
            "voice.pt",
            ["audio.sample_rate=22050", "audio.n_mels=40"],
            r"audio\.sample_rate=16000 \(here 22050\), audio\.n_mels=80 \(here 40\).*type its audio settings",
        ),
        ("voice.pt", ["model=tiny"], r"nothing of .*voice\.pt fits this model \(.*type the model settings"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_cannot_be_begun_from_is_one_line_and_leaves_nothing(compose, tmp_path, source, overrides, message):
    config, frontend = parsed(compose, tmp_path), with_vocabulary(THERE)
    path = tmp_path / "voice.pt"
    written(path, config, frontend, build.model(config, frontend.n_symbols))
    (tmp_path / "cut.pt").write_bytes(path.read_bytes()[:-100])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message) as error:
        run(compose, tmp_path / "new", f"trainer.init_from={tmp_path / source}", *overrides)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "new").exists()
