"""The networks against an independent implementation with the same weights: transformers.VitsModel."""

import pytest
import torch
from torch import nn

from vitslite.model.flows import Flow, FlowSettings
from vitslite.model.posterior_encoder import PosteriorEncoder, PosteriorEncoderSettings
from vitslite.model.text_encoder import TextEncoder, TextEncoderSettings
from vitslite.tensors import sequence_mask

transformers = pytest.importorskip("transformers")

N_SYMBOLS, N_BINS, N_LATENT, HIDDEN = 20, 33, 12, 16
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    config = transformers.VitsConfig(
        vocab_size=N_SYMBOLS,
        hidden_size=HIDDEN,
        ffn_dim=40,
        num_hidden_layers=3,
        num_attention_heads=2,
        window_size=4,
        layerdrop=0.0,
        flow_size=N_LATENT,
        spectrogram_bins=N_BINS,
        prior_encoder_num_flows=4,
        prior_encoder_num_wavenet_layers=3,
        posterior_encoder_num_wavenet_layers=5,
        wavenet_kernel_size=5,
        wavenet_dilation_rate=2,
        upsample_initial_channel=16,
        upsample_rates=[2, 2],
        upsample_kernel_sizes=[4, 4],
        use_stochastic_duration_prediction=False,
    )
    model = transformers.VitsModel(config).eval()
    for p in model.parameters():  # biases and norms, too, away from where they start
        nn.init.normal_(p, std=0.3)
    return model


def copy(ours, theirs, names):
    """Give `ours` the weights of `theirs`: every parameter by its name, each of theirs used once."""
    source, state = theirs.state_dict(), {}
    for key, value in ours.state_dict().items():
        name = key
        for mine, other in names:
            name = name.replace(mine, other)
        state[key] = source.pop(name).view_as(value)
    assert not source, f"not used: {list(source)}"
    ours.load_state_dict(state)
    return ours


TEXT_ENCODER = [
    ("proj.", "project."),
    ("embedding", "embed_tokens"),
    ("layers.", "encoder.layers."),
    ("attention.query", "attention.q_proj"),
    ("attention.key", "attention.k_proj"),
    ("attention.value", "attention.v_proj"),
    ("attention.out", "attention.out_proj"),
    ("relative_key", "emb_rel_k"),
    ("relative_value", "emb_rel_v"),
    ("attention_norm", "layer_norm"),
    ("feed_forward_norm", "final_layer_norm"),
]
WAVENET = [("convs.", "in_layers."), ("res_skips.", "res_skip_layers.")]
POSTERIOR = [("pre.", "conv_pre."), ("proj.", "conv_proj."), *WAVENET]
FLOW = [("couplings.", "flows."), ("pre.", "conv_pre."), ("post.", "conv_post."), *WAVENET]


def our_text_encoder(theirs):
    settings = TextEncoderSettings(hidden=HIDDEN, filters=40, n_layers=3)
    ours = TextEncoder(settings, N_SYMBOLS, N_LATENT)
    return copy(ours, theirs.text_encoder, TEXT_ENCODER)


def our_posterior_encoder(theirs):
    ours = PosteriorEncoder(PosteriorEncoderSettings(hidden=HIDDEN, n_layers=5, dilation_rate=2), N_BINS, N_LATENT)
    return copy(ours, theirs.posterior_encoder, POSTERIOR)


def our_flow(theirs):
    ours = Flow(FlowSettings(hidden=HIDDEN, n_layers=3, dilation_rate=2), N_LATENT)
    return copy(ours, theirs.flow, FLOW)


@torch.no_grad()
@pytest.mark.parametrize("n", [2, 5, 30])
def test_text_encoder(theirs, n):
    tokens, mask = torch.randint(N_SYMBOLS, (2, n)), sequence_mask(torch.tensor([n, (n + 1) // 2]), n)
    h, p_text = our_text_encoder(theirs)(tokens, mask)
    expected = theirs.text_encoder(tokens, mask.transpose(1, 2).float(), attention_mask=mask[:, 0].long())
    torch.testing.assert_close(h.transpose(1, 2), expected.last_hidden_state, **CLOSE)
    torch.testing.assert_close(p_text.mean.transpose(1, 2), expected.prior_means, **CLOSE)
    torch.testing.assert_close(p_text.log_std.transpose(1, 2), expected.prior_log_variances, **CLOSE)


@torch.no_grad()
def test_posterior_encoder(theirs):
    spec, mask = torch.rand(2, N_BINS, 50), sequence_mask(torch.tensor([50, 31]), 50)
    q = our_posterior_encoder(theirs)(spec, mask)
    _, mean, log_std = theirs.posterior_encoder(spec, mask.float())
    torch.testing.assert_close(q.mean, mean, **CLOSE)
    torch.testing.assert_close(q.log_std, log_std, **CLOSE)


@torch.no_grad()
def test_flow(theirs):
    mask = sequence_mask(torch.tensor([50, 31]), 50)
    z = torch.randn(2, N_LATENT, 50) * mask
    flow = our_flow(theirs)
    torch.testing.assert_close(flow(z, mask)[0], theirs.flow(z, mask.float()), **CLOSE)
    torch.testing.assert_close(flow.inverse(z, mask), theirs.flow(z, mask.float(), reverse=True), **CLOSE)


@torch.no_grad()
def test_two_swapped_couplings_would_be_noticed(theirs):
    mask = torch.ones(1, 1, 50, dtype=torch.bool)
    z, flow = torch.randn(1, N_LATENT, 50), our_flow(theirs)
    flow.couplings = nn.ModuleList([flow.couplings[i] for i in (0, 2, 1, 3)])
    assert (flow(z, mask)[0] - theirs.flow(z, mask.float())).abs().max() > 1e-2
