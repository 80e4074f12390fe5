"""The architecture: imports point strictly down, and each third-party library has its owners."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vitslite"

LAYERS = [  # lowest first; a module may import from its own entry and from those above it in this list
    ["tensors", "randomness", "distributed", "files", "audio_files", "runs", "kernels"],
    ["audio", "text"],
    ["datasets", "model"],
    ["interop"],
    ["objectives"],
    ["metrics"],
    ["training"],
    ["monitoring"],
    ["config"],
    ["build"],
    ["synthesis"],
    ["experiments", "evaluation", "benchmarks"],
    ["commands"],
    ["__main__"],
]
ALLOWED_BESIDE = {"model": {"tensors", "randomness", "kernels"}}  # a model can be used without data, hydra or wandb
OWNERS = {  # of a third-party library: the modules that may import it, by name or by folder
    "hydra": {"build", "commands.check_data", "commands.console", "commands.train", "config.naming"},
    "omegaconf": {"build", "runs", "commands.console", "commands.train"},
    "wandb": {"monitoring.wandb_mirror", "experiments.wandb_runs"},
    "yaml": {"runs"},
    "wandb_workspaces": {"experiments.wandb_runs", "experiments.wandb_report"},
    "jinja2": {"monitoring.html"},
    "bokeh": {"monitoring.curves"},
    "matplotlib": {"monitoring.figures", "monitoring.panels", "monitoring.timelines", "benchmarks"},
    "numba": {"kernels"},
    "triton": {"kernels"},
    "monotonic_alignment_search": {"benchmarks"},
    "soundfile": {"audio", "audio_files"},
    "librosa": {"metrics.acoustics"},
    "scipy": {"metrics.acoustics", "metrics.sound", "metrics.statistics"},
    "tabulate": {"benchmarks", "evaluation", "experiments"},
    "filelock": {"files"},
    "torchaudio": {"audio", "evaluation.griffin_lim", "metrics.recognisers"},
    "pocketsphinx": {"metrics.recognition"},
    "jiwer": {"metrics.recognition"},
    "transformers": {"metrics.recognisers"},
    "faster_whisper": {"metrics.recognisers"},
    "speechmos": {"evaluation.judges"},
    "resemblyzer": {"evaluation.judges"},
    "espeakng_loader": {"text"},
    "sentencex": {"text.sentences"},
    "onnx": {"interop"},
    "onnxscript": {"interop"},
    "onnxruntime": {"interop"},
    "safetensors": {"interop"},
    "tqdm": {"training.progress", "datasets", "commands.evaluate"},
}


def name_of(path: Path) -> str:
    """vitslite/model/flows.py -> model.flows, vitslite/audio.py -> audio."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def part(name: str) -> str:
    """model.flows -> model."""
    return name.split(".")[0]


def imports(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            if node.module == "vitslite":
                yield from (f"vitslite.{name.name}" for name in node.names)
            else:
                yield node.module


def violations(name: str, source: str) -> list[str]:
    level = {part: i for i, parts in enumerate(LAYERS) for part in parts}
    here, found = part(name), []
    for module in imports(ast.parse(source)):
        top, *rest = module.split(".")
        if top == "vitslite" and rest != ["__version__"]:
            other = rest[0]
            if other == here:
                continue
            if level[other] >= level[here] and not (level[other] == level[here] == 0):
                found.append(f"{name} imports {module}, which is not below it")
            elif here in ALLOWED_BESIDE and other not in ALLOWED_BESIDE[here]:
                found.append(f"{name} may import only {ALLOWED_BESIDE[here]}, not {module}")
        elif top in OWNERS and not {name, here} & OWNERS[top]:
            found.append(f"{name} imports {module}, which belongs to {OWNERS[top]}")
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    assert violations(name_of(path), path.read_text()) == []


def test_every_part_has_a_layer():
    assert {part(name_of(p)) for p in PACKAGE.rglob("*.py")} - {"__init__"} == {
        name for parts in LAYERS for name in parts
    }


def test_init_files_are_empty():
    contents = {name_of(path): path.read_text() for path in PACKAGE.rglob("__init__.py")}
    assert re.fullmatch(r'__version__ = "\d+\.\d+\.\d+"\n', contents.pop("__init__"))
    assert set(contents.values()) == {""}


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("model", "from vitslite.objectives import kl"),
        ("model", "from vitslite import audio"),
        ("tensors", "import vitslite.audio"),
        ("training.trainer", "from vitslite import build"),
        ("training.trainer", "import wandb"),
        ("objectives", "def f():\n    import hydra"),
        ("training.checkpoint", "from transformers import VitsModel"),
    ],
)
def test_a_planted_import_is_caught(name, source):
    assert violations(name, source)


def test_reading_runs_imports_no_model():
    """Seconds of processor time, of every command that only looks at what runs have left."""
    code = "import sys, vitslite.experiments.page as _; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "vitslite.experiments.page" in loaded
    assert not loaded & {"torch", "wandb", "scipy.stats", "scipy.special", "matplotlib.pyplot", "numba", "librosa"}
