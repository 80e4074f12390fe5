"""The shared layers against naive implementations, and their keyed randomness."""

import math

import pytest
import torch
from common import defaults_with

from vitslite import randomness
from vitslite.model.layers import ChannelLayerNorm, Dropout, FeedForward, RelativeSelfAttention, WaveNet
from vitslite.tensors import sequence_mask

KEYS = torch.tensor([11, -5])


def test_dropout_scales_what_it_keeps():
    x = torch.ones(2, 64, 200)
    y = Dropout(0.3, "test")(x, KEYS)
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}
    assert abs((y == 0).float().mean() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / x.numel())
    assert not torch.equal(y[0], y[1])


def test_dropout_is_the_identity_without_keys_or_probability():
    x = torch.randn(2, 3, 4)
    assert Dropout(0.5, "test")(x, None) is x
    assert Dropout(0.0, "test")(x, KEYS) is x


def test_dropout_does_not_depend_on_the_batch_or_on_padding():
    x = torch.randn(2, 4, 50)
    dropout = Dropout(0.5, "test")
    assert torch.equal(dropout(x, KEYS)[1:, :, :20], dropout(x[1:, :, :20], KEYS[1:]))
    assert not torch.equal(dropout(x, KEYS), Dropout(0.5, "other")(x, KEYS))


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_dropout_outside_its_range_is_an_error(p):
    with pytest.raises(AssertionError, match="outside"):
        Dropout(p, "test")
    with pytest.raises(ValueError, match=f"model.text_encoder.dropout={p:g}: must be at least 0 and below 1"):
        defaults_with(f"model.text_encoder.dropout={p}")


def test_channel_layer_norm():
    norm, x = ChannelLayerNorm(5), 3 + 2 * torch.randn(2, 5, 7)
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    centred = x - x.mean(1, keepdim=True)
    expected = centred / torch.sqrt(x.var(1, keepdim=True, unbiased=False) + 1e-5)
    expected = expected * norm.weight[:, None] + norm.bias[:, None]
    torch.testing.assert_close(norm(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n", [1, 3, 4, 5, 12])  # shorter than, as long as and longer than the window
def test_attention_equals_the_sums_of_the_paper(n):
    torch.manual_seed(0)
    attention = RelativeSelfAttention(hidden=6, n_heads=2, window=4, dropout=0.0, purpose="test")
    x, length = torch.randn(1, 6, n), max(1, n - 2)
    y = attention(x, sequence_mask(torch.tensor([length]), n), None)

    q, k, v = (f(x)[0].view(2, 3, n) for f in (attention.query, attention.key, attention.value))
    heads = torch.zeros(2, 3, n)
    for head in range(2):
        for i in range(length):
            score, values = [], []
            for j in range(length):
                near = abs(j - i) <= 4
                r_key = attention.relative_key[j - i + 4] if near else 0
                r_value = attention.relative_value[j - i + 4] if near else 0
                score.append(q[head, :, i] @ (k[head, :, j] + r_key) / math.sqrt(3))
                values.append(v[head, :, j] + r_value)
            weights = torch.stack(score).softmax(0)
            heads[head, :, i] = sum(w * u for w, u in zip(weights, values, strict=True))
    expected = attention.out(heads.view(1, 6, n))
    torch.testing.assert_close(y[..., :length], expected[..., :length], atol=1e-6, rtol=1e-5)


def test_a_fault_in_the_relative_positions_shows():
    attention = RelativeSelfAttention(hidden=6, n_heads=2, window=4, dropout=0.0, purpose="test")
    x, mask = torch.randn(1, 6, 12), torch.ones(1, 1, 12, dtype=torch.bool)
    y = attention(x, mask, None)
    with torch.no_grad():
        attention.relative_value.copy_(attention.relative_value.flip(0))
    assert (attention(x, mask, None) - y).abs().max() > 1e-2


def test_attention_without_any_valid_token_is_finite():
    attention = RelativeSelfAttention(hidden=6, n_heads=2, window=4, dropout=0.0, purpose="test")
    assert attention(torch.randn(1, 6, 3), torch.zeros(1, 1, 3, dtype=torch.bool), None).isfinite().all()


def test_wavenet_receptive_field():
    net = WaveNet(hidden=4, kernel=3, dilation_rate=2, n_layers=3, weight_norm=True)
    x = torch.randn(1, 4, 41, requires_grad=True)
    net(x, torch.ones(1, 1, 41, dtype=torch.bool))[0, :, 20].sum().backward()
    reached = x.grad[0].abs().sum(0).nonzero()[:, 0]
    assert reached.min() == 20 - 7 and reached.max() == 20 + 7  # 1 + 2 + 4 to each side


def test_wavenet_drops_where_there_are_keys():
    torch.manual_seed(0)
    net, x = WaveNet(4, 5, 1, 2, False, 0.5, "test"), torch.randn(2, 4, 12)
    mask, keys = torch.ones(2, 1, 12, dtype=torch.bool), torch.tensor([1, 2])
    plain = WaveNet(4, 5, 1, 2, weight_norm=False)
    plain.load_state_dict(net.state_dict())  # a dropout has no parameters
    assert torch.equal(net(x, mask), plain(x, mask, keys)) and not torch.equal(net(x, mask), net(x, mask, keys))
    with pytest.raises(AssertionError, match="without a purpose"):
        WaveNet(4, 5, 1, 2, False, 0.5)


def test_wavenet_drops_before_the_gate():
    """One layer by hand: dropout of a and b, as in Glow-TTS, not of tanh(a) sigmoid(b)."""
    net, x, mask = (
        WaveNet(4, 5, 1, 1, False, 0.5, "test"),
        torch.randn(1, 4, 12),
        torch.ones(1, 1, 12, dtype=torch.bool),
    )
    keys = torch.tensor([3])
    keep = randomness.uniform(keys, "test.0", 8, 12) >= 0.5
    a, b = (2 * keep * net.convs[0](x)).chunk(2, dim=1)
    torch.testing.assert_close(net(x, mask, keys), net.res_skips[0](torch.tanh(a) * torch.sigmoid(b)))


@pytest.mark.parametrize(
    "layer",
    [WaveNet(4, 5, 1, 3, weight_norm=False), FeedForward(4, 8, 3, 0.0, "a"), RelativeSelfAttention(4, 2, 2, 0.0, "b")],
    ids=lambda layer: type(layer).__name__,
)
def test_padding_does_not_reach_valid_positions(layer):
    x, mask = torch.randn(2, 4, 30), sequence_mask(torch.tensor([17, 30]), 30)
    arguments = () if isinstance(layer, WaveNet) else (None,)
    if isinstance(layer, WaveNet):  # promises invariance for an input that is zero on padding
        x = x * mask
    y = layer(x, mask, *arguments)
    alone = layer(x[:1, :, :17], mask[:1, :, :17], *arguments)
    torch.testing.assert_close(y[:1, :, :17], alone, atol=1e-6, rtol=1e-5)


def test_bad_sizes_are_errors():
    with pytest.raises(AssertionError, match="has no middle"):
        WaveNet(4, 4, 1, 1, weight_norm=False)
    for part in ("text_encoder", "posterior", "flow"):
        with pytest.raises(ValueError, match=f"model.{part}.kernel=4: must be odd, say 5"):
            defaults_with(f"model.{part}.kernel=4")
    with pytest.raises(AssertionError, match="do not divide"):
        RelativeSelfAttention(4, 3, 4, 0.0, "test")
    with pytest.raises(ValueError, match="n_heads=5 does not divide model.text_encoder.hidden=192"):
        defaults_with("model.text_encoder.n_heads=5")
