"""Runs as they would have been left by training: settings and logged rows, written to a folder."""

import json
import os

import yaml

STEPS = 40


def settings(kl="half_analytic", seed=0, **more):
    """The config of a run; dotted keys in `more` are put in, None takes one away."""
    config = {
        "seed": seed,
        "name": f"{kl}-{seed}",
        "objective": {"kl": kl, "weights": {"mel": 45.0}},
        "model": {"flow": {"kind": "mean_only", "hidden": 48}},
        "trainer": {"steps": STEPS, "log_every_steps": 10, "optimizer": {"learning_rate": 1e-3}},
        "tracking": {"wandb": "disabled", "project": "vitslite", "entity": None},
    }
    for key, value in more.items():
        *parts, last = key.split(".")
        place = config
        for part in parts:
            place = place[part]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return config


def write(folder, config, rows, end="\n", modified=1_000_000_000):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + end)
    os.utime(folder / "metrics.jsonl", (modified, modified))
    return folder
