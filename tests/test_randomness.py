"""Keyed randomness: the right distributions, and nothing but (key, purpose, index) matters."""

import math

import pytest
import torch

from vitslite import randomness

KEYS = torch.tensor([randomness.key(0, step, name) for step in range(4) for name in ("a", "b")])


def test_key_is_the_same_everywhere():
    assert randomness.key(0, 1, "a") == -6146543976120010583
    assert randomness.key(1, 23) != randomness.key(12, 3)
    assert -(2**63) <= randomness.key("x") < 2**63


def test_normal_has_normal_moments():
    x = randomness.normal(KEYS, "posterior", 64, 2000).double()
    n = x.numel()
    assert float(x.mean()) == pytest.approx(0, abs=5 / math.sqrt(n))
    assert float(x.var()) == pytest.approx(1, abs=5 * math.sqrt(2 / n))
    assert float((x**4).mean()) == pytest.approx(3, abs=5 * math.sqrt(96 / n))
    share_beyond_3 = float((x.abs() > 3).double().mean())
    assert share_beyond_3 == pytest.approx(0.0026998, rel=0.05)


def test_uniform_is_flat_and_open():
    u = randomness.uniform(KEYS, "segment", 100_000).double()
    assert float(u.min()) > 0 and float(u.max()) < 1
    share = torch.histc(u, bins=20, min=0, max=1) / u.numel()
    torch.testing.assert_close(share, torch.full_like(share, 0.05), atol=1e-3, rtol=0)


def test_padding_and_company_do_not_matter():
    alone = randomness.normal(KEYS[3:4], "posterior", 8, 50)
    together = randomness.normal(KEYS, "posterior", 16, 80)
    assert torch.equal(alone[0], together[3, :8, :50])


def test_keys_purposes_and_places_are_independent():
    x = randomness.normal(KEYS, "posterior", 64, 500).flatten(1)
    y = randomness.normal(KEYS, "prior", 64, 500).flatten(1)
    correlation = torch.corrcoef(torch.cat([x, y])) - torch.eye(2 * len(KEYS))
    assert float(correlation.abs().max()) < 5 / math.sqrt(x.shape[1])
    neighbours = torch.corrcoef(torch.stack([x[:, 1:].flatten(), x[:, :-1].flatten()]))[0, 1]
    assert abs(float(neighbours)) < 5 / math.sqrt(x.numel())


def test_no_global_state():
    torch.manual_seed(1)
    a = randomness.normal(KEYS, "posterior", 4, 4)
    torch.manual_seed(2)
    assert torch.equal(a, randomness.normal(KEYS, "posterior", 4, 4))
