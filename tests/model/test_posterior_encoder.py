"""The posterior encoder: published size, padding, the mel and skip variants."""

import pytest
import torch
from common import defaults_with

from vitslite.model.posterior_encoder import PosteriorEncoder, PosteriorEncoderSettings
from vitslite.tensors import sequence_mask

VARIANTS = [
    PosteriorEncoderSettings(hidden=8, n_layers=3),
    PosteriorEncoderSettings(input="mel", hidden=8, n_layers=3, skip=True, weight_norm=False),
]


def test_published_size():
    encoder = PosteriorEncoder(PosteriorEncoderSettings(), n_bins=513, n_latent=192)
    assert sum(p.numel() for p in encoder.parameters()) == 7_238_016


@pytest.mark.parametrize("settings", VARIANTS, ids=lambda s: s.input)
def test_padding_invariance(settings):
    torch.manual_seed(0)
    encoder = PosteriorEncoder(settings, n_bins=10, n_latent=6)
    x, lengths = torch.randn(2, 10, 40), torch.tensor([40, 23])  # what stands on padding is not zero
    q = encoder(x, sequence_mask(lengths, 40))
    alone = encoder(x[1:, :, :23], torch.ones(1, 1, 23, dtype=torch.bool))
    for y, y_1 in zip(q, alone, strict=True):
        torch.testing.assert_close(y[1:, :, :23], y_1, atol=1e-6, rtol=1e-5)
        assert (y[1, :, 23:] == 0).all()


def test_skip_is_linear_in_the_scaled_log_mel():
    encoder = PosteriorEncoder(VARIANTS[1], n_bins=10, n_latent=6)
    torch.nn.init.zeros_(encoder.proj.weight)
    x, mask = -5 + 2.5 * torch.randn(1, 10, 30), torch.ones(1, 1, 30, dtype=torch.bool)
    q = encoder(x, mask)
    torch.testing.assert_close(q.mean, encoder.skip((x + 5) / 2.5), atol=1e-6, rtol=1e-5)
    assert (q.log_std == 0).all()


def test_with_a_skip_the_noise_starts_near_one():
    torch.manual_seed(0)
    x, mask = torch.randn(2, 10, 30), torch.ones(2, 1, 30, dtype=torch.bool)
    spread = [
        PosteriorEncoder(PosteriorEncoderSettings(hidden=8, n_layers=3, skip=skip), 10, 6)(x, mask).log_std.abs().mean()
        for skip in (False, True)
    ]
    assert spread[1] < 0.05 < spread[0]


def test_unknown_input_is_an_error():
    with pytest.raises(ValueError, match="model.posterior.input=log.* linear, mel"):
        defaults_with("model.posterior.input=log")


def test_the_posterior_is_fp32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        q = PosteriorEncoder(VARIANTS[1], 10, 6)(torch.randn(1, 10, 9), torch.ones(1, 1, 9, dtype=torch.bool))
    assert q.mean.dtype == q.log_std.dtype == torch.float32
