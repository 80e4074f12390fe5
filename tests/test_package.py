"""The package as it is installed: built from its source archive, in an environment of its own, in an empty folder."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import soundfile
from common import ROOT

import vitslite
from vitslite.commands.main import main
from vitslite.training import checkpoint

BUILD = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
FOLDERS = ("vitslite", "configs", "data", "docs", "scripts", "tests")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
ALONE = ["--quiet", "--no-deps", "--no-index", "--no-cache-dir"]


def run(*command: str | Path, cwd: Path, code: int = 0) -> str:
    """What a command says, outputs and errors, in an environment that knows nothing of this checkout."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"WANDB_MODE": "offline"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> tuple[Path, Path]:
    """The source archive, made of a copy of the checkout, and the wheel, made of what is in that archive."""
    folder = tmp_path_factory.mktemp("package")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / "copy" / name, ignore=shutil.ignore_patterns("__pycache__", "*.wav"))
    for path in filter(Path.is_file, ROOT.iterdir()):
        shutil.copy(path, folder / "copy")
    run(sys.executable, "-c", BUILD, folder, cwd=folder / "copy")
    (source,) = folder.glob("*.tar.gz")
    run(*PIP, "wheel", *ALONE, "--no-build-isolation", "-w", folder, source, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return source, wheel


@pytest.fixture(scope="module")
def bin_folder(archives, tmp_path_factory) -> Path:
    """The commands of a fresh environment with the wheel, which sees the installed dependencies, but not vitslite."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    run(*PIP, "--python", folder / "bin" / "python", "install", *ALONE, archives[1], cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    seen = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (packages / "dependencies.pth").write_text("\n".join(seen))
    where = run(folder / "bin" / "python", "-c", "import vitslite; print(vitslite.__file__)", cwd=folder)
    assert where.startswith(str(packages))
    return folder / "bin"


def test_the_archives_hold_everything(archives):
    found = (path.relative_to(ROOT) for path in (ROOT / "vitslite").rglob("*") if path.is_file())
    modules = {path for path in found if "__pycache__" not in path.parts}
    configs = {p.relative_to(ROOT) for p in (ROOT / "configs").rglob("*.yaml")} | {Path("data/demo_grammar.txt")}
    installed = modules | {"vitslite" / path for path in configs}
    with zipfile.ZipFile(archives[1]) as wheel:
        assert {Path(name) for name in wheel.namelist() if ".dist-info/" not in name} == installed
    scripts = {p.relative_to(ROOT) for p in ROOT.glob("scripts/*.py")} | {Path("train.py"), Path("README.md")}
    with tarfile.open(archives[0]) as source:
        assert modules | configs | scripts < {Path(*Path(name).parts[1:]) for name in source.getnames()}


def test_an_installed_package_trains_and_speaks(bin_folder, tmp_path):
    """Two steps, on a corpus of its own, then one sentence, in a folder with nothing in it."""
    small = ["experiment=smoke", "name=two", "trainer.steps=2", "data.n_sentences=60", "data.cache=cache", "threads=1"]
    small += ["trainer.sample_every_steps=0", "trainer.diagnose_every_steps=0", "validation.n_heard=0"]
    said = run(bin_folder / "vitslite", "train", *small, cwd=tmp_path)
    assert "checkpoints:  runs/two/checkpoints/" in said
    stored = checkpoint.read(tmp_path / "runs" / "two" / "checkpoints" / "last.pt")
    assert (stored["step"], stored["version"], stored["commit"]) == (2, vitslite.__version__, None)
    assert "out.wav: " in run(bin_folder / "vitslite", "synthesize", "runs/two", "Beth saw a fox.", cwd=tmp_path)
    assert len(soundfile.read(tmp_path / "out.wav")[0]) > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out.wav", "runs"]


def test_the_command_says_what_it_can_do(bin_folder, tmp_path):
    assert run(bin_folder / "vitslite", "--version", cwd=tmp_path) == f"vitslite {vitslite.__version__}\n"
    usage = run(bin_folder / "vitslite", cwd=tmp_path)
    assert all(f"vitslite {name} " in usage for name in ("train", "check-data", "synthesize", "evaluate", "compare"))
    trian = run(bin_folder / "vitslite", "trian", cwd=tmp_path, code=2)
    assert trian == "vitslite: error: no command trian: did you mean train?\n"
    assert "choose one of train, " in run(bin_folder / "vitslite", "x", cwd=tmp_path, code=2)


@pytest.mark.parametrize("name", ["check-data", "synthesize", "evaluate", "compare"])  # of train the help is Hydra's
def test_every_command_has_its_usage(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/somewhere/vitslite", name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        main()
    said = capsys.readouterr().out
    assert said.startswith(f"usage: vitslite {name} ") and f"    vitslite {name} " in said


def test_importing_the_package_imports_nothing_else():
    code = "import sys; before = set(sys.modules); import vitslite; print(*set(sys.modules) - before)"
    assert run(sys.executable, "-c", code, cwd=ROOT) == "vitslite\n"
