"""Decoders against the published network, a known Fourier transform, and themselves in other batches."""

import math

import numpy as np
import pytest
import torch
from common import defaults_with
from torch import nn

from vitslite.model.decoders import (
    DecoderSettings,
    HiFiGAN,
    HiFiGANSettings,
    build_decoder,
)
from vitslite.model.istft import ISTFTSettings, overlap_add, pulse_train
from vitslite.tensors import sequence_mask

SMALL = {
    "hifigan": HiFiGANSettings(
        channels=16,
        upsample_rates=[4, 2],
        upsample_kernels=[8, 4],
        resblock_kernels=[3, 5],
        resblock_dilations=[[1, 3], [1, 2]],
    ),
    "light": HiFiGANSettings(
        channels=16,
        upsample_rates=[4, 2],
        upsample_kernels=[8, 6],
        resblock_kind="2",
        resblock_kernels=[3, 7],
        resblock_dilations=[[1, 2], [2, 6]],
        weight_norm=False,
    ),
    "istft": ISTFTSettings(channels=12, n_layers=2, kernel=5),
    "source_filter": ISTFTSettings(channels=12, n_layers=2, kernel=5, subframes=2, harmonics=True, noise=True),
    "subframes": ISTFTSettings(channels=12, n_layers=1, kernel=5, subframes=4),
}
KEYS = torch.tensor([11, 22, 33, 44])
RECORDINGS = 0.1 * torch.cos(2 * math.pi * torch.arange(96) / 20).expand(2, 1, 96)  # 200 Hz at 4 kHz


def small_decoder(name):
    """6 latent channels, 8 samples a frame; weights large enough that everything is heard."""
    torch.manual_seed(0)
    part = "istft" if isinstance(SMALL[name], ISTFTSettings) else "hifigan"
    decoder = build_decoder(
        DecoderSettings(kind=part, **{part: SMALL[name]}), n_latent=6, hop_length=8, sample_rate=4000
    )
    with torch.no_grad():
        for p in decoder.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return decoder


def n_parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_published_parameter_counts():
    assert n_parameters(build_decoder(DecoderSettings(), 192, 256, 16000)) == 14_337_024
    light = HiFiGANSettings(
        channels=256,
        upsample_rates=[8, 8, 4],
        upsample_kernels=[16, 16, 8],
        resblock_kind="2",
        resblock_kernels=[3, 5, 7],
        resblock_dilations=[[1, 2], [2, 6], [3, 12]],
    )
    assert n_parameters(HiFiGAN(light, 192, 256)) == 1_664_768  # Piper's "medium"


def test_hifigan_equals_the_independent_implementation():
    transformers = pytest.importorskip("transformers")
    from transformers.models.vits.modeling_vits import VitsHifiGan

    torch.manual_seed(0)
    config = transformers.VitsConfig(flow_size=8, upsample_initial_channel=32)  # the other sizes are those of VITS
    theirs = VitsHifiGan(config).eval()
    for p in theirs.parameters():
        nn.init.normal_(p, std=0.15)
    ours = HiFiGAN(HiFiGANSettings(channels=32, weight_norm=False), 8, 256)
    weights = {k.replace("upsampler.", "ups."): v for k, v in theirs.state_dict().items()}
    ours.load_state_dict(weights)
    z = torch.randn(2, 8, 11)
    with torch.no_grad():
        expected = theirs(z)
        assert 0.02 < expected.std() < 0.7  # heard, and not saturated
        torch.testing.assert_close(ours(z, None).audio, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours(z, torch.ones(2, 1, 11, dtype=torch.bool)).audio, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SMALL)
def test_a_ragged_batch_equals_single_runs_at_every_sample(name):
    decoder = small_decoder(name)
    lengths = torch.tensor([23, 9, 1, 16])
    mask = sequence_mask(lengths, 23)
    rounding = 1e-3 if name == "source_filter" else 1e-5  # of the pitch adds up to a phase
    z = torch.randn(4, 6, 23)
    with torch.no_grad():
        together = decoder(z, mask, KEYS).audio
        assert together.shape == (4, 1, 23 * 8)
        for b, n in enumerate(lengths.tolist()):
            alone = decoder(z[b : b + 1, :, :n], mask[b : b + 1, :, :n], KEYS[b : b + 1]).audio
            torch.testing.assert_close(together[b : b + 1, :, : n * 8], alone, atol=rounding, rtol=0)
            assert torch.equal(alone, decoder(z[b : b + 1, :, :n], None, KEYS[b : b + 1]).audio)
            assert not together[b, :, n * 8 :].any()
        assert together.std() > 0.02
        # Planted fault: without the mask, padding is heard well before the end.
        unmasked = decoder(z * mask, None, KEYS).audio[1, :, : 9 * 8]
        assert (unmasked - together[1, :, : 9 * 8]).abs().max() > 10 * rounding


@pytest.mark.parametrize("name", SMALL)
def test_every_weight_has_a_gradient_and_so_has_z(name):
    decoder = small_decoder(name)
    z = torch.randn(2, 6, 12, requires_grad=True)
    decoded = decoder(z, sequence_mask(torch.tensor([12, 7]), 12), KEYS[:2], recording=RECORDINGS)
    (decoded.audio.square().sum() + (0 if decoded.pitch_loss is None else decoded.pitch_loss.sum())).backward()
    for label, p in decoder.named_parameters():
        assert p.grad is not None and p.grad.abs().max() > 0, label
    assert z.grad[0].abs().min() > 0 and z.grad[1, :, :7].abs().min() > 0
    assert not z.grad[1, :, 7:].any()


@pytest.mark.parametrize("kind", ["hifigan", "istft", "source_filter"])
def test_first_output_is_quiet_and_fp32(kind):
    torch.manual_seed(0)
    is_hifigan, is_full = kind == "hifigan", kind == "source_filter"
    istft = ISTFTSettings(subframes=4 if is_full else 1, harmonics=is_full, noise=is_full)
    settings = DecoderSettings("hifigan" if is_hifigan else "istft", HiFiGANSettings(channels=64), istft)
    decoder = build_decoder(settings, 32, 256, 16000)
    z = torch.randn(1, 32, 20)
    with torch.no_grad():
        audio = decoder(z, None, KEYS[:1]).audio
        assert audio.shape == (1, 1, 20 * 256) and audio.abs().max() < 0.3 and audio.std() < 0.05
        with torch.autocast("cpu", torch.bfloat16):
            half = decoder(z, sequence_mask(torch.tensor([20]), 20), KEYS[:1]).audio
    assert half.dtype == torch.float32 and (half - audio).abs().max() < 0.05 * audio.abs().max()


# ------------------------------------------------------------------------------------- pulses and noise


def test_pulses_are_the_sum_of_their_harmonics():
    hop, pitch = 320, torch.tensor([2.0, 2.0, 2.3, 3.1, 2.9, 2.9])  # cycles per frame
    pulses = pulse_train(pitch.log()[None], hop)[0].double()
    centres = (torch.arange(6) + 0.5) * hop - 0.5
    per_sample = np.interp(np.arange(6 * hop), centres, pitch.numpy()) / hop
    phi = 2 * np.pi * np.cumsum(per_sample)
    brute = sum(np.where(k < np.floor(0.5 / per_sample) + 1, np.cos(k * phi), 0) for k in range(1, 200))
    assert np.abs(pulses.numpy() - brute).max() < 0.05  # of 50 to 80 harmonics
    # Planted fault: a phase that starts anew in each frame, as if no frame knew of the ones before.
    again = torch.cat([pulse_train(x[None, None], hop)[0] for x in pitch.log()]).double()
    assert np.abs(again.numpy() - brute).max() > 10


def test_the_phase_of_the_pulses_is_exact_after_minutes():
    hop, n_frames = 320, 12_000  # four minutes
    pulses = pulse_train(torch.full((1, n_frames), math.log(2.5)), hop)[0]
    torch.testing.assert_close(pulses[-2 * hop :], pulses[: 2 * hop], atol=0.5, rtol=0)  # pulses of 64
    assert pulses.max() > 60


def test_pulses_have_no_energy_between_the_harmonics():
    spectrum = torch.fft.rfft(pulse_train(torch.full((1, 50), math.log(4.0)), 320)[0]).abs()
    harmonics = spectrum[200::200]  # 4 cycles a frame for 50 frames
    torch.testing.assert_close(harmonics[:-1], torch.full_like(harmonics[:-1], 8000.0), rtol=1e-3, atol=0)
    spectrum[200::200] = 0
    assert spectrum.max() < 40


def test_another_draw_differs_by_the_noise_alone():
    torch.manual_seed(0)
    decoder, z = small_decoder("source_filter"), torch.randn(2, 6, 40)
    n_bins = decoder.out.out_features // 6
    with torch.no_grad():
        decoded = decoder(z, None, KEYS[:2], twice=True)
        assert torch.equal(decoded.audio, decoder(z, None, KEYS[:2]).audio)  # one draw is the first of two
        assert decoder(z, None, KEYS[:2]).again is None
        assert not torch.equal(decoded.audio, decoder(z, None, KEYS[2:]).audio)
        assert (decoded.again - decoded.audio).std() > 0.1 * decoded.audio.std()
        bias = decoder.out.bias.unflatten(0, (2, 3, n_bins))
        bias[:, 2] = -30.0
        decoder.out.weight.unflatten(0, (2, 3, n_bins))[:, 2] = 0
        quiet = decoder(z, None, KEYS[:2], twice=True)
    torch.testing.assert_close(quiet.audio, quiet.again, atol=1e-6, rtol=0)
    with pytest.raises(AssertionError, match="keys"):
        decoder(z, None)


def test_the_filter_of_the_noise_is_its_level():
    decoder = small_decoder("source_filter")
    with torch.no_grad():
        decoder.out.weight.zero_()
        bias = decoder.out.bias.unflatten(0, (2, 3, -1))
        bias[:, 0], bias[:, 1], bias[:, 2] = -30.0, 0.0, math.log(0.5)
        audio = decoder(torch.zeros(1, 6, 5000), None, KEYS[:1]).audio[0, 0]
    n_fft = len(decoder.window)
    # Analysis and synthesis with one filter for all bins are the identity, but for the scale of a bin.
    assert audio.std() == pytest.approx(0.5 / math.sqrt(0.375 * n_fft), rel=0.02)
    spectrum = audio[: 4096 * 9].reshape(-1, 4096).double()
    power = torch.fft.rfft(spectrum).abs().square().mean(0)[1:-1].reshape(-1, 89).mean(1)
    assert power.max() / power.min() < 1.8  # white


# ---------------------------------------------------------------------------------------- overlap-add


def short_time_fourier(audio, hop):
    """Frames centred on t * hop + hop / 2, as audio.LinearSpectrogram has them; zeros outside the audio."""
    window = torch.hann_window(4 * hop)
    padded = nn.functional.pad(audio, (3 * hop // 2, 3 * hop // 2))
    spectrum = torch.stft(padded, 4 * hop, hop, window=window, center=False, return_complex=True)
    return spectrum.transpose(1, 2), window


@pytest.mark.parametrize("hop", [16, 80])
def test_overlap_add_inverts_a_known_transform(hop):
    t = torch.arange(20 * hop)
    sine = torch.stack([torch.sin(2 * math.pi * 0.03 * t), 0.3 * torch.sin(2 * math.pi * 0.11 * t + 1)])
    spectrum, window = short_time_fourier(sine, hop)
    assert spectrum.shape == (2, 20, 2 * hop + 1)
    audio = overlap_add(spectrum, window)
    assert audio.shape == (2, 1, 20 * hop)
    inside = slice(5 * hop // 2, -5 * hop // 2)  # where all four frames exist
    torch.testing.assert_close(audio[:, 0, inside], sine[:, inside], atol=1e-5, rtol=0)
    # Planted fault: a spectrum that is one frame late.
    assert (overlap_add(spectrum.roll(1, 1), window)[:, 0, inside] - sine[:, inside]).abs().max() > 0.1


def test_a_frame_reaches_one_and_a_half_frames_to_either_side():
    hop, window = 16, torch.hann_window(64)
    spectrum = torch.zeros(1, 12, 33, dtype=torch.complex64)
    spectrum[0, 5] = 1.0 + 0.5j
    heard = overlap_add(spectrum, window)[0, 0].nonzero()[:, 0]
    assert 5 * hop - 24 <= heard.min() and heard.max() < 6 * hop + 24


def test_a_full_scale_sine_is_within_the_magnitude_limit():
    decoder = small_decoder("istft")
    sine = torch.sin(2 * math.pi * 0.125 * torch.arange(800))[None]
    spectrum, _ = short_time_fourier(sine, 8)
    assert math.log(spectrum.abs().max()) == pytest.approx(math.log(8), abs=0.01)
    assert math.log(2 * spectrum.abs().max()) <= decoder.max_log_magnitude + 0.01


# ---------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["kind=vocos"], "model.decoder.kind=vocos is unknown: choose one of hifigan, istft"),
        (["hop_length=320"], "model.decoder.hifigan.upsample_rates=.* product, 256, must be audio.hop_length=320"),
        (["hifigan.upsample_kernels=[16,16,4]"], "upsample_kernels=.*one for each"),
        (["hifigan.upsample_kernels=[16,16,4,3]"], "upsample_kernels=.*even number"),
        (["hifigan.upsample_kernels=[16,16,4,0]"], r"upsample_kernels\[3\]=0: must be at least 1"),
        (["hifigan.resblock_dilations=[[1,3]]"], "resblock_dilations has 1 lists"),
        (["hifigan.resblock_dilations=[[1,3],[1,3],[1,0]]"], r"resblock_dilations\[2\]\[1\]=0: must be at least 1"),
        (["hifigan.resblock_kind='3'"], "resblock_kind=3 is unknown: choose one of 1, 2"),
        (["hifigan.resblock_kernels=[3,7,10]"], r"resblock_kernels\[2\]=10: must be odd, say 11"),
        (["hifigan.channels=24"], "channels=24 cannot be halved 4"),
        (["kind=istft", "hop_length=275", "n_fft=1025"], "audio.hop_length=275 / 1 samples: .* whole and even"),
        (["kind=istft", "istft.subframes=3"], "istft.subframes=3 centres spectra of audio.hop_length=256 / 3 samples"),
        (["kind=istft", "istft.harmonics=true", "objective.weights.pitch=0"], "harmonics=true.*pitch=0: .*make it 10"),
        (["kind=istft", "istft.kernel=4"], "kernel=4: must be odd, say 5"),
    ],
)
def test_settings_that_cannot_work_say_so(overrides, message):
    of_audio = ("hop_length", "n_fft")
    dotted = [f"audio.{o}" if o.startswith(of_audio) else f"model.decoder.{o}" for o in overrides]
    dotted = [o.removeprefix("model.decoder.") if "objective." in o else o for o in dotted]
    with pytest.raises(ValueError, match=message):
        defaults_with(*dotted)


def test_the_decoder_that_is_not_used_need_not_fit():
    defaults_with("model.decoder.kind=istft", "audio.hop_length=320")
    with pytest.raises(AssertionError):
        build_decoder(DecoderSettings(), 8, 320, 16000)
