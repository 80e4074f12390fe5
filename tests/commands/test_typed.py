"""What people type, and what is said: a table of command lines, each with what has to be in the one line."""

import re
import subprocess
import sys
import time

import pytest
from common import ROOT

from vitslite import __version__, build
from vitslite.commands import console, main, synthesize, train, typed
from vitslite.config import naming, suggestions
from vitslite.training import progress


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--lr 1e-3", "type trainer.optimizer.learning_rate=1e-3"),
        ("--lr=1e-3", "type trainer.optimizer.learning_rate=1e-3"),
        ("--batch-size 8", "type data.batch_size=8"),
        ("--resume", "the same command again goes on"),
        ("--config configs/x.yaml", "experiment=x"),
        ("--config-name experiment/laboratory", "experiment=laboratory"),
        ("-cn laboratory", "experiment=laboratory"),
        ("trainer.steps = 100", "type trainer.steps=100"),
        ("trainer.steps= 100", "type trainer.steps=100"),
        ("trainer.steps 100", "type trainer.steps=100"),
        ("steps 100", "type trainer.steps=100"),
        ("laboratory", "type experiment=laboratory"),
        ("experiment/laboratory", "type experiment=laboratory"),
        ("model/flow/affine", "type model/flow=affine"),
        ("runs/demo", "trainer.init_from=runs/demo"),
        ("docs", "data=ljspeech data.root=docs"),
        ("-m objective.kl=a, b", "type objective.kl=a,b"),
        ("something", "vitslite train --help"),
    ],
)
def test_what_is_no_setting(line, said, monkeypatch):
    monkeypatch.chdir(ROOT)
    fault = typed.fault(line.split())
    assert fault is not None and said in fault and "\n" not in fault


@pytest.mark.parametrize(
    "line", ["", "model=small seed=1", "-m seed=0,1", "--cfg job model=nano", "-c job", "~hydra.x", "+x=1 --multirun"]
)
def test_what_is_right_passes(line):
    assert typed.fault(line.split()) is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("modle=small", "did you mean model=small?"),
        ("model=smal", "did you mean small?"),
        ("kl=monte_carlo", "did you mean objective.kl?"),
        ("lr=1", "did you mean trainer.optimizer.learning_rate?"),
        ("trainer.lr=1", "did you mean trainer.optimizer.learning_rate?"),
        ("optimizer.learning_rate=1", "did you mean trainer.optimizer.learning_rate?"),
        ("steps=1", "did you mean trainer.steps?"),
        ("batch_sise=4", "did you mean data.batch_size?"),
        ("epochs=4", "there are no epochs: trainer.steps"),
        ("n_mels=4", "did you mean audio.n_mels?"),
        ("trainer.steps=1e3", "type trainer.steps=1000"),
        ("trainer.steps=", "give a value: trainer.steps=..."),
        ("flow=affine", "did you mean model/flow=affine?"),
        ("model.flow=affine", "type model/flow=affine, with a slash"),
        ("experiments=laboratory", "did you mean experiment=laboratory?"),
        ("experimnt=demo", "did you mean experiment=demo?"),
        ("experiment=lab", "did you mean laboratory?"),
        ("trainer=cuda", "did you mean gpu?"),
        ("tracking=none", "did you mean local?"),
        ("wandb=offline", "did you mean tracking.wandb?"),
        ("wandb_sweep=grid", "`wandb sweep`"),
        ("data=/my/corpus", "did you mean ljspeech data.root=/my/corpus?"),
        ("seed=0,1", "vitslite train -m seed=0,1"),
        ("seed=0..3", "type -m 'seed=range(0,4)'"),
        ("objective.kl=[l1,l2]", "type -m objective.kl=l1,l2, without brackets"),
        ("trainer.nonsense=1", "vitslite train --cfg job lists all"),
    ],
)
def test_settings_that_there_are_not(line, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["vitslite train", *line.split()])
    assert console.run(train.main) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_every_alias_leads_to_a_setting():
    assert set(suggestions.ALIASES.values()) <= set(build.known_keys())
    assert not set(suggestions.ALIASES) & set(build.known_keys())


@pytest.mark.parametrize(
    ("typed_value", "read"),
    [
        ("/data/tts (copy)", "/data/tts (copy)"),
        ("/data/Müller", "/data/Müller"),
        ("/data/[1] a=b", "/data/[1] a=b"),
        ("/it's here", "/it's here"),
        ("/plain/path-1.0", "/plain/path-1.0"),
        ("'/quoted (path)'", "/quoted (path)"),
    ],
)
def test_paths(typed_value, read, compose):
    (argument,) = naming.readable([f"data.root={typed_value}"])
    assert compose("data=ljspeech", argument).data.root == read


def test_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert naming.readable(["data.root=~/x", "~hydra.x", "-m"]) == ["data.root=/home/me/x", "~hydra.x", "-m"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["runs/x", "Hello", "there."], "needs quotes"),
        (["runs/x", "Hello.", "--sped", "2"], "did you mean --speed?"),
        (["runs/x", "Hello.", "-o", "x.mp3"], "type -o x.wav"),
        (["Hello there.", "docs"], "the run comes first"),
        (["runs/x"], "give a text in quotes"),
    ],
)
def test_speaking(arguments, said, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["vitslite synthesize", *arguments])
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    try:
        assert synthesize.command() == 2
    except SystemExit as stopped:
        assert stopped.code == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


# ----------------------------------------------------------------------------------------------------- not silent


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--version"], f"vitslite {__version__}"),
        (["--help"], "usage: vitslite train"),
        (["--lr", "1"], "type trainer"),
    ],
)
def test_an_answer_without_torch(arguments, said):
    """Processor seconds of a fresh process; torch alone takes 3."""
    code = "import sys; sys.argv[0] = 'train'; from vitslite.commands.main import call; call('train'); "
    code += "import time; print(time.process_time(), 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    seconds, has_torch = done.stdout.splitlines()[-1].split()
    assert said in done.stdout + done.stderr and float(seconds) < 2 and has_torch == "False"


def test_help_names_every_group():
    for group in suggestions.groups():
        assert re.search(rf"^  {group}=", typed.usage(), re.MULTILINE)


def test_ctrl_c_while_starting_is_one_line():
    code = "import sys, os, signal; sys.argv = ['train']; from vitslite.commands import main; "
    code += "main.importlib.import_module = lambda name: os.kill(os.getpid(), signal.SIGINT); main.call('train')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 130 and done.stderr == "vitslite: error: interrupted while starting; nothing was begun\n"
    assert next(iter(main.COMMANDS)) == "train"


@pytest.mark.parametrize(("room", "n"), [(5, 0), (20, 2), (40, 3), (60, 5)])
def test_the_progress_line_shows_whole_numbers(room, n):
    numbers = ["kl 5.69", "mel 1.01", "duration 0.844", "grad_norm 3.14", "1.6 s/step"]
    assert progress.that_fit(numbers, room) == " ".join(numbers[:n])
    assert len(progress.that_fit(numbers, room)) <= room


def test_what_takes_long_is_said(capsys, monkeypatch):
    monkeypatch.setattr(progress, "BUSY_SECONDS", 0.05)
    with progress.busy("validating 3 utterances"):
        time.sleep(0.3)
    with progress.busy("a moment"):
        pass
    time.sleep(0.2)
    assert capsys.readouterr().out == "validating 3 utterances ...\n"
