"""The text encoder: published size, padding, keyed dropout."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitslite.model.layers import Dropout
from vitslite.model.text_encoder import Prenet, TextEncoder, TextEncoderSettings
from vitslite.tensors import sequence_mask

SMALL = TextEncoderSettings(hidden=16, filters=32, n_layers=2, dropout=0.2)
GLOW = dataclasses.replace(SMALL, prenet=3, prior_std="unit", mean_only=True)


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_published_size():
    encoder = TextEncoder(TextEncoderSettings(), n_symbols=178, n_latent=192)
    parts = count(encoder.embedding), count(encoder.layers), count(encoder.proj)
    assert parts == (34_176, 6_218_496, 74_112)
    assert count(encoder) == 6_326_784


def test_published_size_of_glow_tts():
    settings = TextEncoderSettings(prenet=3, prior_std="unit", mean_only=True)
    encoder = TextEncoder(settings, n_symbols=148, n_latent=80)
    parts = count(encoder.embedding), count(encoder.prenet), count(encoder.layers), count(encoder.proj)
    assert parts == (28_416, 591_744, 6_218_496, 15_440)
    assert count(encoder) == sum(parts) == 6_854_096


def test_the_prenet_by_hand():
    """Kim et al. 2020, with torch's functions: three times convolution, norm, ReLU; then added to the input."""
    torch.manual_seed(0)
    prenet, x = Prenet(6, 3, 0.5, "test"), torch.randn(2, 6, 9)
    mask = torch.ones(2, 1, 9, dtype=torch.bool)
    assert torch.equal(prenet(x, mask, torch.tensor([1, 2])), x)  # a new one is the identity
    for p in prenet.parameters():
        nn.init.normal_(p, std=0.5)
    h = x
    for conv, norm in zip(prenet.convs, prenet.norms, strict=True):
        h = F.conv1d(h, conv.weight, conv.bias, padding=2)
        h = (h - h.mean(1, keepdim=True)) / (h.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
        h = (h * norm.weight[:, None] + norm.bias[:, None]).clamp(min=0)
    expected = x + torch.einsum("oi,bin->bon", prenet.proj.weight[:, :, 0], h) + prenet.proj.bias[:, None]
    torch.testing.assert_close(prenet(x, mask, None), expected, atol=1e-5, rtol=1e-5)
    h = prenet.dropouts[2](torch.ones(2, 6, 2000), torch.tensor([1, 2]))
    assert (h == 0).float().mean() == pytest.approx(0.5, abs=0.02) and h.max() == 2


def test_a_mean_without_std_is_that_of_unit_prior_std():
    """The same weights for the mean give the same prior; those of the std are what mean_only leaves out."""
    full, lean = (TextEncoder(dataclasses.replace(GLOW, mean_only=only), 20, 6) for only in (False, True))
    state = full.state_dict()
    lean.load_state_dict(state | {name: state[name][:6] for name in ("proj.weight", "proj.bias")})
    tokens, mask = torch.randint(20, (2, 9)), sequence_mask(torch.tensor([9, 5]), 9)
    for x, y in zip(full(tokens, mask)[1], lean(tokens, mask)[1], strict=True):
        torch.testing.assert_close(x, y, atol=1e-6, rtol=1e-6)
    assert (lean(tokens, mask)[1].log_std == 0).all() and lean(tokens, mask)[1].mean.shape == (2, 6, 9)


def scattered(settings):
    """An encoder whose prenet has something to say: it starts as the identity."""
    torch.manual_seed(0)
    encoder = TextEncoder(settings, n_symbols=20, n_latent=6)
    if encoder.prenet is not None:
        nn.init.normal_(encoder.prenet.proj.weight, std=0.5)
    return encoder


@pytest.mark.parametrize("settings", [SMALL, GLOW], ids=["vits", "glow"])
def test_padding_invariance_with_and_without_dropout(settings):
    encoder = scattered(settings)
    tokens, lengths, keys = torch.randint(20, (3, 12)), torch.tensor([12, 7, 1]), torch.tensor([1, 2, 3])
    for k in (None, keys):
        h, p_text = encoder(tokens, sequence_mask(lengths, 12), k)
        for i, n in enumerate(lengths.tolist()):
            alone = None if k is None else k[i : i + 1]
            h_1, p_1 = encoder(tokens[i : i + 1, :n], sequence_mask(lengths[i : i + 1], n), alone)
            for x, x_1 in ((h, h_1), (p_text.mean, p_1.mean), (p_text.log_std, p_1.log_std)):
                torch.testing.assert_close(x[i : i + 1, :, :n], x_1, atol=1e-5, rtol=1e-5)
                assert (x[i, :, n:] == 0).all()


@pytest.mark.parametrize("settings", [SMALL, dataclasses.replace(GLOW, dropout=0.0)], ids=["vits", "prenet alone"])
def test_dropout_is_a_function_of_the_keys(settings):
    encoder = scattered(settings)
    tokens, mask = torch.randint(20, (1, 9)), torch.ones(1, 1, 9, dtype=torch.bool)
    h = [encoder(tokens, mask, None if k is None else torch.tensor([k]))[0] for k in (None, 1, 1, 2)]
    assert torch.equal(h[1], h[2])
    assert not torch.equal(h[0], h[1]) and not torch.equal(h[1], h[3])


def test_no_two_dropouts_share_their_purpose():
    purposes = [m.purpose for m in TextEncoder(GLOW, 20, 6).modules() if isinstance(m, Dropout)]
    assert len(purposes) == 4 * GLOW.n_layers + GLOW.prenet == len(set(purposes))


def test_embedding_starts_with_unit_variance():
    encoder = TextEncoder(TextEncoderSettings(n_layers=0), n_symbols=178, n_latent=2)
    h, _ = encoder(torch.arange(178)[None], torch.ones(1, 1, 178, dtype=torch.bool))
    assert abs(h.std() - 1) < 0.02


def test_the_prior_is_fp32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        _, p_text = TextEncoder(SMALL, 20, 6)(torch.randint(20, (1, 9)), torch.ones(1, 1, 9, dtype=torch.bool))
    assert p_text.mean.dtype == p_text.log_std.dtype == torch.float32
