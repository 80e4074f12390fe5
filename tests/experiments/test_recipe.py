"""scripts/make_recipe.py: steps that fit a time, and what came of them in a document."""

import argparse
import importlib.util
import json

import pytest
from common import ROOT

spec = importlib.util.spec_from_file_location("make_recipe", ROOT / "scripts" / "make_recipe.py")
make_recipe = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_recipe)

ESTIMATE = {"unit": "fraction", "value": 0.125, "low": 0.1, "high": 0.15, "n": 7}
FOUND = {
    "recogniser": "none",
    "n_utterances": 7,
    "estimates": {
        "copy": {"word_error_rate": ESTIMATE},
        "model": {"kl": ESTIMATE | {"unit": "nats/frame", "low": None}},
    },
}


@pytest.fixture
def typed(tmp_path):
    document = tmp_path / "recipes.md"
    document.write_text("# Recipes\n\nBefore.\n")
    return argparse.Namespace(
        overrides=["experiment=demo", "seed=1"],
        minutes=10.0,
        name=None,
        evaluate="--limit 7",
        runs=tmp_path,
        document=document,
    )


@pytest.fixture
def called(monkeypatch, tmp_path):
    """What is called in the place of training at 2.5 steps a second, and of evaluating."""
    calls = []

    def call(script, *words):
        calls.append((script, *words))
        if script == "scripts/evaluate.py":
            folder = tmp_path / "recipe-demo" / "evaluation" / "test"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "evaluation.json").write_text(json.dumps(FOUND))
            return
        folder = tmp_path / next(word for word in words if word.startswith("name=")).removeprefix("name=")
        folder.mkdir(exist_ok=True)
        rows = [{"step": 10 * i, "time/steps_per_second": speed} for i, speed in enumerate((0.1, 2.5, 2.5), 1)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        steps = next(word for word in words if word.startswith("trainer.steps=")).removeprefix("trainer.steps=")
        (folder / "config.yaml").write_text(f"trainer: {{steps: {steps}}}\n")

    monkeypatch.setattr(make_recipe, "call", call)
    return calls


def test_as_many_steps_as_fit_are_trained_and_written_down(typed, called):
    make_recipe.main(typed)
    trial, trained, evaluated = called
    assert "trainer.steps=60" in trial and "trainer.sample_every_steps=0" in trial
    assert "trainer.steps=1200" in trained and trained[1:3] == ("experiment=demo", "seed=1")  # 85 % of 1,500
    assert evaluated[0] == "scripts/evaluate.py" and evaluated[2:] == ("--limit", "7")
    text = typed.document.read_text()
    assert text.startswith("# Recipes\n\nBefore.\n\n## recipe-demo: 10 minutes\n")
    assert "--evaluate '--limit 7' experiment=demo seed=1" in text and "1,200 steps" in text
    assert "| 12.5 [10, 15] | -" in text and "| -" in text and "0.125" in text


def test_the_same_again_keeps_the_steps_and_replaces_the_section(typed, called):
    make_recipe.main(typed)
    typed.document.write_text(typed.document.read_text() + "\nAfter.\n")
    called.clear()
    make_recipe.main(typed)
    assert [words[0] for words in called] == ["train.py", "scripts/evaluate.py"]  # no trial
    text = typed.document.read_text()
    assert text.count("recipe-demo: 10 minutes") == 1 and text.endswith("\nAfter.\n")
