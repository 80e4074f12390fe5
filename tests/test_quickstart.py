"""The Python of docs/api.md and the notebook run as they stand; the notebook is small and stored as it says."""

import contextlib
import io
import json
import os
import re

import matplotlib.pyplot as plt
import pytest
from common import ROOT
from hydra.core.global_hydra import GlobalHydra

from vitslite.objectives import kl

NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]
LINE = re.compile(r"(\w+) +(-?[\d.]+) \+- ([\d.]+)")  # an estimator, its mean and standard error


@pytest.fixture(scope="module")
def ten_lines(cache, tmp_path_factory):
    """The folder in which the Python of docs/api.md ran, with the settings of a small run in the place of its own, and
    the last line that it printed.
    """
    folder = tmp_path_factory.mktemp("api")
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text(), re.DOTALL)[1]
    small = ["experiment=smoke", "threads=1", "data.n_sentences=60", "validation.n_heard=0", "tracking=local"]
    small += ["trainer.steps=2", "trainer.sample_every_steps=0", f"data.cache={cache}", f"run_dir={folder / 'run'}"]
    code, n = re.subn(r"(?m)^overrides = .*$", f"overrides = {small!r}", code)
    assert n == 1
    GlobalHydra.instance().clear()
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        exec(compile(code, "docs/api.md", "exec"), {})
    return folder, printed.getvalue().splitlines()[-1]


def run_all(run_dir) -> str:
    """What the code cells print, run one after the other in one namespace; pictures are drawn and thrown away."""
    printed, space = io.StringIO(), {}
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setitem(os.environ, "RUN", str(run_dir))
        patch.chdir(NOTEBOOK.parent)  # where Jupyter starts
        for cell in CELLS:
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), cell["id"], "exec"), space)
    plt.close("all")
    return printed.getvalue()


def test_the_python_of_the_document_runs(ten_lines):
    folder, last = ten_lines
    assert (folder / "first.wav").stat().st_size > 1000
    assert re.findall(r"'(\w+)':", last) == [e.__name__ for e in kl.UNBIASED] and "nan" not in last


def test_the_notebook_on_a_run(ten_lines):
    toys, _, voice = run_all(ten_lines[0] / "run").partition("step 2: ")
    found = [(name, float(value), float(bar)) for name, value, bar in LINE.findall(toys)]
    truths = {"half_analytic": [0.3079, 0.2838], "monte_carlo": [0.3079, 0.2838], "closed_form": [0.3079, 0.0]}
    for name, expected in truths.items():
        values = [(value, bar) for this, value, bar in found if this == name]
        assert len(values) == len(expected)
        assert all(abs(v - t) <= 3 * bar + 1e-4 for (v, bar), t in zip(values, expected, strict=True)), name
    of_the_run = {name: float(value) for name, value, _ in LINE.findall(voice)}
    assert of_the_run.keys() == {e.__name__ for e in (*kl.UNBIASED, kl.closed_form, kl.pushed_mean)}
    assert of_the_run["monte_carlo"] == pytest.approx(of_the_run["sticking_the_landing"])


def test_without_a_run_the_notebook_says_what_to_type(tmp_path):
    last = run_all(tmp_path / "none").splitlines()[-1]
    assert last.startswith(f"no run in {tmp_path / 'none'}: type `vitslite train`")


def test_the_notebook_is_stored_with_two_pictures_and_no_more():
    outputs = [output for cell in CELLS for output in cell.get("outputs", [])]
    assert [output["data"].keys() for output in outputs] == [{"image/png", "text/plain"}] * 2
    assert all(cell["execution_count"] is None for cell in CELLS if cell["cell_type"] == "code")
    assert NOTEBOOK.stat().st_size < 200_000
