"""The architecture: imports point strictly down, and each third-party library has its owners."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vitslite"

LAYERS = [  # lowest first; a module may import from its own entry and from those above it in this list
    ["tensors", "randomness", "randomness_cpu", "randomness_triton", "kernels", "distributed", "files", "stylesheet"],
    ["audio", "text"],
    ["datasets", "model"],
    ["discriminators"],
    ["objectives"],
    [
        "acoustics",
        "recognition",
        "report",
        "diagnostics",
        "figures",
        "tracking",
        "tracking_remote",
        "comparison_template",
        "checkpoint",
        "ema",
        "optimization",
        "progress",
        "interrupt",
        "guard",
    ],
    ["adversary", "compilation", "trainer_settings"],
    ["validation"],
    ["observer"],
    ["trainer"],
    ["settings", "naming"],
    ["combinations"],
    ["build"],
    ["runs", "seeds", "timing"],
    ["sweeps", "comparison_runs"],
    ["synthesis", "command_line", "atlas", "comparison"],
    ["evaluation", "benchmarks", "comparison_report"],
    ["comparison_page"],
]
ALLOWED_BESIDE = {"model": {"tensors", "randomness", "kernels"}}  # a model can be used without data, hydra or wandb
OWNERS = {
    "hydra": {"build", "command_line", "naming"},
    "omegaconf": {"build", "command_line"},
    "wandb": {"tracking", "tracking_remote"},
    "wandb_workspaces": {"tracking_remote"},
    "yaml": {"comparison_runs"},
    "matplotlib": {"figures", "benchmarks"},
    "numba": {"model", "randomness_cpu"},
    "triton": {"model", "randomness_triton", "kernels"},
    "monotonic_alignment_search": {"benchmarks"},
    "soundfile": {"audio"},
    "librosa": {"acoustics"},
    "scipy": {"seeds"},
    "filelock": {"files"},
    "torchaudio": {"audio", "recognition"},
    "pocketsphinx": {"recognition"},
    "jiwer": {"recognition"},
    "transformers": {"recognition"},
    "espeakng_loader": {"text"},
    "tqdm": {"progress", "datasets"},
}


def part(path: Path) -> str:
    """vitslite/model/flows.py -> model, vitslite/audio.py -> audio."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


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
    found = []
    for module in imports(ast.parse(source)):
        top, *rest = module.split(".")
        if top == "vitslite":
            other = rest[0]
            if other == name:
                continue
            if level[other] >= level[name] and not (level[other] == level[name] == 0):
                found.append(f"{name} imports {module}, which is not below it")
            elif name in ALLOWED_BESIDE and other not in ALLOWED_BESIDE[name]:
                found.append(f"{name} may import only {ALLOWED_BESIDE[name]}, not {module}")
        elif top in OWNERS and name not in OWNERS[top]:
            found.append(f"{name} imports {module}, which belongs to {OWNERS[top]}")
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    if path == PACKAGE / "__init__.py":
        assert path.read_text() == ""
        return
    assert violations(part(path), path.read_text()) == []


def test_every_part_has_a_layer():
    assert {part(p) for p in PACKAGE.rglob("*.py")} - {"__init__"} == {name for parts in LAYERS for name in parts}


def test_init_files_are_empty():
    assert all(path.read_text() == "" for path in PACKAGE.rglob("__init__.py"))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("model", "from vitslite.objectives import kl"),
        ("model", "from vitslite import audio"),
        ("tensors", "import vitslite.audio"),
        ("trainer", "from vitslite import build"),
        ("trainer", "import wandb"),
        ("objectives", "def f():\n    import hydra"),
        ("checkpoint", "from transformers import VitsModel"),
    ],
)
def test_a_planted_import_is_caught(name, source):
    assert violations(name, source)
