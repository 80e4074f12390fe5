"""The text encoder: published size, padding, keyed dropout."""

import torch

from vitslite.model.layers import Dropout
from vitslite.model.text_encoder import TextEncoder, TextEncoderSettings
from vitslite.tensors import sequence_mask

SMALL = TextEncoderSettings(hidden=16, filters=32, n_layers=2, dropout=0.2)


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_published_size():
    encoder = TextEncoder(TextEncoderSettings(), n_symbols=178, n_latent=192)
    parts = count(encoder.embedding), count(encoder.layers), count(encoder.proj)
    assert parts == (34_176, 6_218_496, 74_112)
    assert count(encoder) == 6_326_784


def test_padding_invariance_with_and_without_dropout():
    torch.manual_seed(0)
    encoder = TextEncoder(SMALL, n_symbols=20, n_latent=6)
    tokens, lengths, keys = torch.randint(20, (3, 12)), torch.tensor([12, 7, 1]), torch.tensor([1, 2, 3])
    for k in (None, keys):
        h, p_text = encoder(tokens, sequence_mask(lengths, 12), k)
        for i, n in enumerate(lengths.tolist()):
            alone = None if k is None else k[i : i + 1]
            h_1, p_1 = encoder(tokens[i : i + 1, :n], sequence_mask(lengths[i : i + 1], n), alone)
            for x, x_1 in ((h, h_1), (p_text.mean, p_1.mean), (p_text.log_std, p_1.log_std)):
                torch.testing.assert_close(x[i : i + 1, :, :n], x_1, atol=1e-5, rtol=1e-5)
                assert (x[i, :, n:] == 0).all()


def test_dropout_is_a_function_of_the_keys():
    encoder = TextEncoder(SMALL, n_symbols=20, n_latent=6)
    tokens, mask = torch.randint(20, (1, 9)), torch.ones(1, 1, 9, dtype=torch.bool)
    h = [encoder(tokens, mask, None if k is None else torch.tensor([k]))[0] for k in (None, 1, 1, 2)]
    assert torch.equal(h[1], h[2])
    assert not torch.equal(h[0], h[1]) and not torch.equal(h[1], h[3])


def test_no_two_dropouts_share_their_purpose():
    purposes = [m.purpose for m in TextEncoder(SMALL, 20, 6).modules() if isinstance(m, Dropout)]
    assert len(purposes) == 4 * SMALL.n_layers == len(set(purposes))


def test_embedding_starts_with_unit_variance():
    encoder = TextEncoder(TextEncoderSettings(n_layers=0), n_symbols=178, n_latent=2)
    h, _ = encoder(torch.arange(178)[None], torch.ones(1, 1, 178, dtype=torch.bool))
    assert abs(h.std() - 1) < 0.02


def test_the_prior_is_fp32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        _, p_text = TextEncoder(SMALL, 20, 6)(torch.randint(20, (1, 9)), torch.ones(1, 1, 9, dtype=torch.bool))
    assert p_text.mean.dtype == p_text.log_std.dtype == torch.float32
