"""The whole model: published size, what goes where, one utterance alone against the same in a batch."""

import itertools

import pytest
import torch
from common import defaults_with
from small_model import CLOSE, HOP, make, make_batch, single, small
from torch import nn

from vitslite import randomness
from vitslite.model.alignment import AlignmentSettings
from vitslite.model.durations import DurationSettings
from vitslite.model.flows import KINDS
from vitslite.model.istft import Decoded
from vitslite.model.segments import segment_starts
from vitslite.model.vits import VITS, ModelSettings
from vitslite.tensors import sequence_mask, slice_segments


@pytest.mark.parametrize("duration, total", [("stochastic", 36_321_072), ("deterministic", 35_349_761)])
def test_published_size(duration, total):
    settings = ModelSettings(duration=DurationSettings(duration, filters=192 if duration == "stochastic" else 256))
    with torch.device("meta"):
        model = VITS(settings, 178, n_fft=1024, n_mels=80, hop_length=256, sample_rate=22050)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert sizes == {
        "text_encoder": 6_326_784,
        "posterior_encoder": 7_238_016,
        "flow": 7_102_080,
        "duration_predictor": 1_317_168 if duration == "stochastic" else 345_857,
        "decoder": 14_337_024,
    }
    assert sum(sizes.values()) == sum(p.numel() for p in model.parameters()) == total


@pytest.mark.parametrize("segment_frames", [None, 8])
@pytest.mark.parametrize("posterior", ["linear", "mel"])
def test_outputs_fit_together(posterior, segment_frames):
    batch, model = make_batch(), make(small("affine", posterior=posterior, segment_frames=segment_frames))
    out = model(batch)
    q, p, z, z_p, log_det, mask = out.latents[:6]
    assert torch.equal(mask, sequence_mask(batch.frame_lengths, 40))
    noise = randomness.normal(batch.keys, "posterior", 6, 40)
    torch.testing.assert_close(z, (q.mean + q.log_std.exp() * noise) * mask)
    torch.testing.assert_close(model.flow.inverse(z_p, mask), z, **CLOSE)
    for x in (*q, *p, z, z_p, log_det):
        assert x.dtype == torch.float32 and (x * ~mask == 0).all()

    assert torch.equal(out.durations.sum(1), batch.frame_lengths)
    assert torch.equal(out.durations > 0, batch.token_mask[:, 0])
    for b in range(3):
        repeated = out.p_text.mean[b].repeat_interleave(out.durations[b], dim=1)
        assert torch.equal(p.mean[b, :, : repeated.shape[1]], repeated)

    if segment_frames is None:
        assert torch.equal(out.audio_frames, batch.frame_lengths)
        audio_mask = sequence_mask(batch.frame_lengths * HOP, 40 * HOP)
        assert torch.equal(out.audio, batch.audio * audio_mask)
        assert (out.audio_hat * ~audio_mask == 0).all()
        torch.testing.assert_close(out.audio_hat, model.reconstruct(batch))
    else:
        assert out.audio_frames.tolist() == [8, 8, 8]
        starts = segment_starts(batch.keys, batch.frame_lengths, 8)
        assert torch.equal(out.audio, slice_segments(batch.audio, starts * HOP, 8 * HOP))
        expected = model.decoder(slice_segments(z, starts, 8), sequence_mask(out.audio_frames, 8)).audio
        torch.testing.assert_close(out.audio_hat, expected)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("duration", ["deterministic", "stochastic"])
@pytest.mark.parametrize("segment_frames", [None, 8])
def test_an_utterance_gives_the_same_outputs_in_any_batch(training, duration, segment_frames):
    batch = make_batch()
    model = make(small("affine", duration, posterior="mel", segment_frames=segment_frames)).train(training)
    out = model(batch)
    for i in range(3):
        n, t = batch.token_lengths[i], batch.frame_lengths[i]
        alone = model(single(batch, i))
        assert torch.equal(out.durations[i, :n], alone.durations[0])
        assert torch.equal(out.audio_frames[i], alone.audio_frames[0])
        torch.testing.assert_close(out.duration_loss[i, :n], alone.duration_loss[0], atol=1e-4, rtol=1e-4)
        for x, x_1 in zip(out.latents[2:5], alone.latents[2:5], strict=True):
            torch.testing.assert_close(x[i, :, :t], x_1[0], **CLOSE)
        s = alone.audio.shape[2]
        torch.testing.assert_close(out.audio_hat[i, :, :s], alone.audio_hat[0], **CLOSE)
        assert torch.equal(out.audio[i, :, :s], alone.audio[0])


def check_synthesis_alone_and_in_a_batch(model, batch):
    out = model.infer(batch.tokens, batch.token_lengths, batch.keys)
    assert out.audio.isfinite().all() and out.audio.std() > 1e-2
    for i in range(3):
        n = batch.token_lengths[i : i + 1]
        alone = model.infer(batch.tokens[i : i + 1, : n[0]], n, batch.keys[i : i + 1])
        s = alone.audio.shape[2]
        assert s == alone.audio_lengths[0] == out.audio_lengths[i] == HOP * out.durations[i].sum()
        assert torch.equal(out.durations[i, : n[0]], alone.durations[0])
        assert (out.audio[i, :, :s] - alone.audio[0]).abs().max() <= 1e-5
        assert (out.audio[i, :, s:] == 0).all()


@pytest.mark.parametrize(
    "flow, duration, decoder", itertools.product(KINDS, ["deterministic", "stochastic"], ["hifigan", "istft"])
)
def test_an_utterance_sounds_the_same_in_any_batch(flow, duration, decoder):
    check_synthesis_alone_and_in_a_batch(make(small(flow, duration, decoder)), make_batch())


@pytest.mark.parametrize("decoder", ["hifigan", "istft"])
def test_the_batch_check_finds_a_decoder_without_mask(decoder, monkeypatch):
    model = make(small(decoder=decoder))
    forward = model.decoder.forward

    def careless(z, mask, keys, g=None):
        return Decoded(forward(z, None, keys).audio * mask.repeat_interleave(HOP, dim=2))

    monkeypatch.setattr(model.decoder, "forward", careless)
    with pytest.raises(AssertionError):
        check_synthesis_alone_and_in_a_batch(model, make_batch())


def test_synthesis_inverts_the_flow_of_the_prior():
    model, batch = make(small("affine")), make_batch()
    durations = torch.randint(1, 5, (3, 9))
    out = model.infer(batch.tokens, batch.token_lengths, batch.keys, noise_scale=0.0, speed=2.0, durations=durations)
    assert torch.equal(out.durations, durations * batch.token_mask[:, 0])  # given durations ignore the speed
    _, p_text = model.text_encoder(batch.tokens, batch.token_mask)
    for b in range(3):
        mean = p_text.mean[b].repeat_interleave(out.durations[b], dim=1)
        n = mean.shape[1]
        z_p, _ = model.flow(out.z[b : b + 1, :, :n], torch.ones(1, 1, n, dtype=torch.bool))
        torch.testing.assert_close(z_p[0], mean, **CLOSE)


def test_noise_keys_and_speed_of_synthesis():
    model, batch = make(small(duration="stochastic")), make_batch()
    speak = lambda keys=batch.keys, **kwargs: model.infer(batch.tokens, batch.token_lengths, keys, **kwargs)  # noqa: E731
    assert torch.equal(speak().audio, speak().audio)
    durations = torch.full((3, 9), 2)
    assert not torch.equal(speak(durations=durations).z, speak(batch.keys + 1, durations=durations).z)
    slow, fast = speak(speed=0.25).durations, speak(speed=4.0).durations
    assert slow.sum() > 2 * fast.sum()
    assert torch.equal(fast > 0, batch.token_mask[:, 0])
    for speed in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="speed="):
            speak(speed=speed)


def test_a_predictor_that_returns_nan_is_an_error():
    model, batch = make(small()), make_batch()
    nn.init.constant_(next(model.duration_predictor.parameters()), float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        model.infer(batch.tokens, batch.token_lengths, batch.keys)


PARTS = ("text_encoder", "posterior_encoder", "flow", "duration_predictor", "decoder")


def trained_parts(model, loss):
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {n for n in PARTS if any(p.grad is not None and (p.grad != 0).any() for p in getattr(model, n).parameters())}


def kl(latents):
    element = latents.q.neg_entropy() - latents.p.log_prob(latents.z_p) - latents.log_det
    return (element * latents.mask).sum()


def check_routing(model, batch):
    """T39: which loss reaches which part."""
    assert trained_parts(model, kl(model(batch).latents)) == {"text_encoder", "posterior_encoder", "flow"}
    assert trained_parts(model, model(batch).duration_loss.sum()) == {"duration_predictor"}
    assert trained_parts(model, model(batch).audio_hat.square().sum()) == {"posterior_encoder", "decoder"}


@pytest.mark.parametrize("duration", ["deterministic", "stochastic"])
@pytest.mark.parametrize("segment_frames", [None, 8])
def test_gradient_routing(duration, segment_frames):
    check_routing(make(small("affine", duration, segment_frames=segment_frames)).train(), make_batch())


def test_the_routing_check_finds_a_forgotten_detach(monkeypatch):
    model = make(small("affine")).train()
    monkeypatch.setattr(torch.Tensor, "detach", lambda self: self)
    with pytest.raises(AssertionError):
        check_routing(model, make_batch())


def test_segments_start_uniformly_and_fit():
    keys, n = torch.arange(20_000), 8
    starts = segment_starts(keys, torch.full_like(keys, 12), n)
    counts = starts.bincount(minlength=5)
    assert len(counts) == 5 and (counts / len(keys) - 0.2).abs().max() < 0.015
    assert (segment_starts(keys, torch.full_like(keys, n), n) == 0).all()


def test_the_largest_uniform_number_stays_inside(monkeypatch):
    monkeypatch.setattr(randomness, "uniform", lambda keys, *_: torch.full((len(keys), 1), 1 - 2**-24))
    lengths = torch.arange(32, 20_000)
    assert torch.equal(segment_starts(lengths, lengths, 32), lengths - 32)


def test_an_utterance_shorter_than_the_segment_is_named():
    with pytest.raises(ValueError, match="utterance b has 23 frames.*segment_frames=24.*segment_frames=null"):
        make(small(segment_frames=24))(make_batch())


def test_bad_segment_is_an_error():
    with pytest.raises(ValueError, match="model.segment_frames=0: must be at least 1, or null"):
        defaults_with("model.segment_frames=0")


def test_under_autocast_the_latents_stay_fp32():
    model, batch = make(small("affine")), make_batch()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(batch)
    latents = (*out.latents.q, *out.latents.p, out.latents.z, out.latents.z_p, out.latents.log_det)
    assert {x.dtype for x in latents} == {torch.float32}
    assert torch.equal(out.durations.sum(1), batch.frame_lengths)


def test_rounding_of_durations():
    batch = make_batch()
    frames = {}
    for rounding in ("ceil", "nearest"):
        settings = small()
        settings.duration.rounding = rounding
        frames[rounding] = make(settings).infer(batch.tokens, batch.token_lengths, batch.keys, speed=0.11).durations
    difference = frames["ceil"] - frames["nearest"]
    assert set(difference.unique().tolist()) == {0, 1}


def test_the_diagonal_penalty_is_for_training_alone():
    """What validation reports is the model's own alignment."""
    batch, durations = make_batch(), {}
    for steps in (0, 100):
        settings = small()
        settings.alignment = AlignmentSettings(diagonal_steps=steps, diagonal_weight=1000.0)
        model = make(settings)
        durations[steps] = [model.train(training)(batch).durations for training in (True, False)]
    assert torch.equal(durations[0][1], durations[100][1])
    assert not torch.equal(durations[0][0], durations[100][0])
