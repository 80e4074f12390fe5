"""The guard: nothing is learnt from the first bad gradient on, whenever the host looks."""

import pytest
import torch
from torch import nn

from vitslite.training.nonfinite import Guard
from vitslite.training.optimization import OptimizerSettings, adamw, update

CPU = torch.device("cpu")


def train(norms, look_every=None):
    """A weight that gets a gradient of each norm in turn; its history."""
    weight = nn.Parameter(torch.ones(()))
    optimizer = adamw(nn.ParameterList([weight]), OptimizerSettings())
    guard, history = Guard(CPU), []
    guard.checks_at_once = False  # as on a GPU
    for step, norm in enumerate(norms, start=1):
        weight.grad = torch.tensor(norm)
        terms = {"kl": torch.tensor(norm), "mel": torch.tensor(1.0)}
        guard.begin_step(step, [f"utterance-{step}", "b", "c", "d", "e"])
        guard.watch(weight.grad, terms)
        update(optimizer, 0.1, guard.found_inf)
        history.append(weight.item())
        if look_every and step % look_every == 0:
            guard.check()
    return guard, history, optimizer.state_dict()["state"][0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_stay_those_of_the_last_good_step(bad):
    guard, history, state = train([1.0, 2.0, bad, 1.0, bad, 1.0])
    _, good, state_then = train([1.0, 2.0])
    assert history == good + 4 * good[-1:]
    assert all(torch.equal(state[name], state_then[name]) for name in ("step", "exp_avg", "exp_avg_sq"))
    with pytest.raises(FloatingPointError, match=r"step 3: not finite: kl, .* utterance-3, b, c, d\.\.\.; .* step 2$"):
        guard.check()


def test_it_is_the_guard_that_does_it(monkeypatch):
    monkeypatch.setattr(Guard, "watch", lambda self, *what: None)
    _, history, _ = train([1.0, float("nan")])
    assert history[1] != history[1]


def test_good_gradients_are_forgotten_once_looked_at():
    guard, _, _ = train([1.0] * 6, look_every=4)
    assert [seen.step for seen in guard.watched] == [5, 6]


def test_a_bad_gradient_of_good_losses():
    guard = Guard(CPU)
    guard.checks_at_once = False
    guard.begin_step(7, ["a"])
    guard.watch(torch.tensor(float("nan")), {"kl": torch.tensor(1.0)})
    with pytest.raises(FloatingPointError, match="step 7: not finite: the gradient alone"):
        guard.check()


def test_on_a_cpu_the_first_bad_gradient_stops_at_once():
    guard = Guard(CPU)
    guard.begin_step(7, ["a"])
    with pytest.raises(FloatingPointError, match="step 7: not finite: kl, in a batch of a"):
        guard.watch(torch.tensor(float("inf")), {"kl": torch.tensor(float("inf"))})
