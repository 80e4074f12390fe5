"""The refiner with its networks: padding, gradients, keys, half precision, and the parts of the published U-Net."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitslite.model.refiner import RefinerSettings, build_refiner
from vitslite.model.refiner_networks import (
    ConvStack,
    ConvStackSettings,
    LinearAttention,
    NormedConv,
    TimeEmbedding,
    UNet2d,
    UNet2dSettings,
)
from vitslite.tensors import sequence_mask

N_MELS = 8
EVERY_KIND = pytest.mark.parametrize("kind", ["diffusion", "flow_matching"])
EVERY_NETWORK = pytest.mark.parametrize("network", ["conv1d", "unet2d"])


def network_refiner(kind, network, **changes):
    """With a small network whose weights are all large enough to matter; the attentions square, and so need less."""
    sizes = {"unet2d": UNet2dSettings(8, [1, 2, 4], 4), "conv1d": ConvStackSettings(8, 2)}
    torch.manual_seed(0)
    settings = RefinerSettings(kind=kind, network=network, **{"segment_frames": None, **sizes, **changes})
    module = build_refiner(settings, N_MELS)
    with torch.no_grad():
        for p in module.parameters():
            p.add_({"unet2d": 0.03, "conv1d": 0.2}[network] * torch.randn_like(p))
    return module


def a_batch(lengths=(21, 7, 10)):
    torch.manual_seed(1)
    mask = sequence_mask(torch.tensor(lengths), max(lengths))
    x, mu = (torch.randn(len(lengths), N_MELS, max(lengths)) * mask for _ in range(2))
    return x, mu, mask, torch.arange(len(lengths)) + 100


def n_parameters(module):
    return sum(p.numel() for p in module.parameters())


def padding_error(module) -> float:
    """The largest difference between an utterance alone and in a batch, in losses and samples."""
    x, mu, mask, keys = a_batch()
    loss, loss_mask = module.loss(x, mu, mask, keys)
    sample = module.sample(mu, mask, keys, 0.667, 3)
    assert not (loss * ~loss_mask).any() and not (sample * ~mask).any()
    worst = 0.0
    for i, n in enumerate(mask.sum((1, 2)).tolist()):
        alone = (x[i : i + 1, :, :n], mu[i : i + 1, :, :n], mask[i : i + 1, :, :n], keys[i : i + 1])
        own, own_mask = module.loss(*alone)
        n_own = own_mask.sum()
        differences = (own[0, :, :n_own] - loss[i, :, :n_own], module.sample(*alone[1:], 0.667, 3) - sample[i, :, :n])
        worst = max(worst, *(d.abs().max().item() for d in differences))
    return worst


@EVERY_KIND
@EVERY_NETWORK
@pytest.mark.parametrize("segment_frames", [None, 8])
def test_an_utterance_gives_the_same_numbers_in_any_batch(kind, network, segment_frames):
    with torch.no_grad():
        assert padding_error(network_refiner(kind, network, segment_frames=segment_frames)) < 2e-4


def test_norms_over_padding_would_be_seen(monkeypatch):
    monkeypatch.setattr(NormedConv, "_normalise", lambda self, x, mask: self.norm(x))
    with torch.no_grad():
        assert padding_error(network_refiner("diffusion", "unet2d")) > 1e-2


@EVERY_KIND
@EVERY_NETWORK
def test_the_gradient_reaches_mu_and_every_weight(kind, network):
    module = network_refiner(kind, network)
    x, mu, mask, keys = a_batch()
    loss, _ = module.loss(x, mu.requires_grad_(), mask, keys)
    loss.sum().backward()
    assert (mu.grad.abs().sum((1, 2)) > 0).all() and not (mu.grad * ~mask).any()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


@EVERY_KIND
@EVERY_NETWORK
def test_numbers_are_a_function_of_the_keys(kind, network):
    module = network_refiner(kind, network)
    x, mu, mask, keys = a_batch()
    with torch.no_grad():
        assert torch.equal(module.loss(x, mu, mask, keys)[0], module.loss(x, mu, mask, keys)[0])
        assert not torch.allclose(module.loss(x, mu, mask, keys)[0], module.loss(x, mu, mask, keys + 1)[0])
        for scale, differs in ((1.0, True), (0.0, False)):
            a, b = (module.sample(mu, mask, k, scale, 2) for k in (keys, keys + 1))
            assert torch.equal(a, module.sample(mu, mask, keys, scale, 2)) and differs != torch.equal(a, b)


@EVERY_NETWORK
def test_half_precision_stays_inside_the_network(network):
    module = network_refiner("diffusion", network)
    x, mu, mask, keys = a_batch()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half, _ = module.loss(x, mu, mask, keys)
        assert half.dtype == module.sample(mu, mask, keys, 1.0, 2).dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(half.mean(), module.loss(x, mu, mask, keys)[0].mean(), rtol=0.03, atol=0)


# ------------------------------------------------------------------------------------ networks


def test_published_parameter_counts():
    with torch.device("meta"):
        unet, stack = UNet2d(UNet2dSettings(), 80), ConvStack(ConvStackSettings(), 80)
    parts = [n_parameters(part) for part in (unet, unet.downs, unet.mid, unet.ups)]
    assert parts == [7_634_887, 3_211_715, 2_526_977, 1_825_986]
    assert n_parameters(stack) == 498_000


def test_norm_attention_and_time_of_the_unet_where_all_is_valid():
    torch.manual_seed(0)
    x, mask = torch.randn(2, 8, 4, 6, dtype=torch.float64), torch.ones(2, 1, 1, 6, dtype=torch.bool)
    conv = NormedConv(8, 8, 4).double()
    nn.init.normal_(conv.norm.weight)
    expected = F.mish(F.group_norm(conv.conv(x), 4, conv.norm.weight, conv.norm.bias))
    torch.testing.assert_close(conv(x, mask), expected)

    attention = LinearAttention(8).double()
    nn.init.ones_(attention.gain)
    q, k, v = attention.to_qkv(x).flatten(2).unflatten(1, (3, 4, 32)).unbind(1)
    weight = torch.einsum("bhdm,bhdn->bhnm", k.softmax(3), q)  # what place n takes from place m
    y = torch.einsum("bhnm,bhem->bhen", weight, v).flatten(1, 2).unflatten(2, (4, 6))
    torch.testing.assert_close(attention(x, mask), x + attention.out(y))

    embedding = TimeEmbedding(8)
    embedding.layers = nn.Identity()
    angles = [250 * 10_000 ** (-i / 3) for i in range(4)]
    expected = torch.tensor([[*map(math.sin, angles), *map(math.cos, angles)]])
    torch.testing.assert_close(embedding(torch.tensor([0.25])), expected, atol=2e-5, rtol=0)


def test_the_unet_is_the_published_picture():
    """Levels at 1, 1/2 and 1/4, joined across at the lower two; written out for frames that are all valid."""
    net = network_refiner("diffusion", "unet2d").network.double()
    torch.manual_seed(0)
    x, mu = torch.randn(2, 2, N_MELS, 12, dtype=torch.float64)
    t, mask, every = torch.tensor([0.2, 0.9]).double(), torch.ones(2, 1, 12, dtype=torch.bool), torch.tensor(True)

    def conv(part, h):
        return F.mish(part.norm(part.conv(h)))

    def block(part, h):
        return conv(part.conv_2, conv(part.conv_1, h) + part.time(F.mish(net.time(t)))[..., None, None]) + part.across(
            h
        )

    def attend(part, h):
        return part.attention(h, every.expand(2, 1, 1, h.shape[3]))

    def level(part, h):
        return attend(part, block(part.block_2, block(part.block_1, h)))

    one = level(net.downs[0], torch.stack([mu, x], dim=1))
    two = level(net.downs[1], net.downs[0].resample(one))
    four = level(net.downs[2], net.downs[1].resample(two))
    h = block(net.mid.block_2, attend(net.mid, block(net.mid.block_1, four)))
    h = net.ups[0].resample(level(net.ups[0], torch.cat([h, four], dim=1)))
    h = net.ups[1].resample(level(net.ups[1], torch.cat([h, two], dim=1)))
    torch.testing.assert_close(net(x, mu, mask, t), net.out(conv(net.final, h))[:, 0])
