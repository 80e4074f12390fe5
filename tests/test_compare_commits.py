"""The proof of sameness between two commits sees the last bit of a number and of a weight, and what is missing."""

import json
import math

import compare_commits
import pytest
import torch

ROWS = [{"step": 1, "loss/kl": 0.1 + 0.2, "time/s": 1.0}, {"step": 2, "loss/kl": math.nan, "loss/mel": 1.0}]


def leave(run_dir, rows=ROWS, weight=1.0, momentum=0.5):
    (run_dir / "checkpoints").mkdir(parents=True)
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    state = dict.fromkeys(compare_commits.STATE) | {"step": 2, "model": {"w": torch.full((3,), weight)}}
    state["optimizer"] = {"state": {0: {"exp_avg": torch.full((3,), momentum)}}, "param_groups": [{"lr": 0.1}]}
    torch.save(state | {"config": {"anything": str(run_dir)}}, run_dir / "checkpoints" / "last.pt")
    return run_dir


def planted(key, value, row=0):
    return [*ROWS[:row], {**ROWS[row], key: value}, *ROWS[row + 1 :]]


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({}, []),
        ({"rows": planted("time/s", 2.0)}, []),
        ({"rows": planted("loss/kl", 0.3)}, ["step 1: loss/kl = 0.30000000000000004 and 0.3"]),
        ({"rows": planted("loss/kl", 0.0, row=1)}, ["step 2: loss/kl = nan and 0.0"]),
        ({"rows": planted("loss/new", 1.0)}, ["step 1: loss/new = None and 1.0"]),
        ({"rows": ROWS[:1]}, ["2 rows logged and 1"]),
        ({"weight": 1 + 2**-23}, ["weights: /model/w"]),
        ({"momentum": 0.5 + 2**-24}, ["weights: /optimizer/state/0/exp_avg"]),
    ],
)
def test_what_differs_is_named(tmp_path, changed, found):
    assert compare_commits.differences(leave(tmp_path / "a"), leave(tmp_path / "b", **changed)) == found


def test_an_unknown_commit_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="no-such-commit: cannot be checked out"):
        compare_commits.checked_out("no-such-commit", tmp_path / "tree")
