"""Spectrograms against numpy and librosa, padding invariance, and every kind of file that users have."""

import librosa
import numpy as np
import pytest
import scipy.signal
import soundfile
import torch
from common import defaults_with

from vitslite.audio import (
    MEL_FLOOR,
    AudioSettings,
    Features,
    LinearSpectrogram,
    LogMel,
    mel_filters,
    read_wav,
    to_int16,
    write_wav,
)
from vitslite.audio_files import duration_info
from vitslite.tensors import Batch

SR = 22050


def speechlike(n, seed=0):
    """Decaying harmonics plus noise, peak 0.5."""
    t = np.arange(n) / SR
    noise = np.random.default_rng(seed).standard_normal(n)
    x = sum(np.sin(2 * np.pi * 140 * k * t) / k for k in range(1, 20)) * np.sin(2 * np.pi * 3 * t) ** 2 + 0.02 * noise
    return (0.5 * x / np.abs(x).max()).astype(np.float32)


def tensors(x):
    return torch.from_numpy(x)[None, None], torch.tensor([len(x)])


@pytest.mark.parametrize("n_fft, hop, win, n_mels, f_max", [(1024, 256, 1024, 80, None), (512, 160, 400, 48, 8000.0)])
def test_spectrograms_equal_numpy_with_librosa_filters(n_fft, hop, win, n_mels, f_max):
    x = speechlike(hop * 60)
    padded = np.pad(x, (n_fft - hop) // 2, mode="reflect")
    window = np.pad(scipy.signal.get_window("hann", win), (n_fft - win) // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded.astype(np.float64), n_fft)[::hop]
    linear = np.sqrt(np.abs(np.fft.rfft(frames * window)).T ** 2 + 1e-6)
    filters = librosa.filters.mel(sr=SR, n_fft=n_fft, n_mels=n_mels, fmax=f_max)
    np.testing.assert_allclose(mel_filters(SR, n_fft, n_mels, 0.0, f_max), filters, atol=1e-7)
    ours = LogMel(AudioSettings(SR, n_fft, hop, win, n_mels, 0.0, f_max))
    np.testing.assert_allclose(ours.linear(*tensors(x))[0], linear, atol=2e-4)
    np.testing.assert_allclose(ours(*tensors(x))[0], np.log(np.maximum(filters @ linear, 1e-5)), atol=1e-3)


def test_frames_do_not_depend_on_the_padding_of_the_batch():
    log_mel = LogMel(AudioSettings())
    items = [speechlike(256 * n, seed=n) for n in (40, 7, 25, 2, 1)]  # the last ones are shorter than the reflection
    batch = torch.full((len(items), 1, 256 * 44), 0.7)  # rubbish beyond the ends must not matter
    for row, x in zip(batch, items, strict=True):
        row[0, : len(x)] = torch.from_numpy(x)
    lengths = torch.tensor([len(x) for x in items])
    spec, mel = log_mel.linear(batch, lengths), log_mel(batch, lengths)
    for i, x in enumerate(items):
        n = len(x) // 256
        torch.testing.assert_close(spec[i, :, :n], log_mel.linear(*tensors(x))[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(mel[i, :, :n], log_mel(*tensors(x))[0], atol=1e-4, rtol=0)
        assert (spec[i, :, n:] == 0).all() and torch.allclose(mel[i, :, n:], torch.tensor(MEL_FLOOR).log())
    # The check can fail: with reflection at the end of the batch the last frame of a short item is another one.
    wrong = log_mel.linear(batch, torch.full_like(lengths, batch.shape[2]))
    assert (wrong[1, :, 6] - spec[1, :, 6]).abs().max() > 0.1


def test_length_need_not_be_a_multiple_of_the_hop():
    x = speechlike(256 * 10)
    assert LogMel(AudioSettings(SR, 1024, 320, 1024, 80))(*tensors(x)).shape[2] == 8
    assert LogMel(AudioSettings(SR, 512, 128, 512, 40))(*tensors(x)).shape[2] == 20


def test_sine_peaks_in_its_bin():
    frequency = 100 * SR / 1024
    x = np.sin(2 * np.pi * frequency * np.arange(256 * 20) / SR).astype(np.float32)
    spec = LinearSpectrogram(AudioSettings())(*tensors(x))
    assert (spec[0, :, 3:-3].argmax(0) == 100).all()
    assert spec[0, 100, 10] == pytest.approx(256, rel=1e-3)  # a sine of amplitude 1: half the sum of the window


def test_gradient_is_finite_at_silence_and_autocast_is_ignored():
    x = torch.zeros(1, 1, 2560, requires_grad=True)
    LogMel(AudioSettings())(x, torch.tensor([2560])).sum().backward()
    assert torch.isfinite(x.grad).all()
    y = tensors(speechlike(2560))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = LogMel(AudioSettings())(*y)
    assert inside.dtype == torch.float32 and torch.equal(inside, LogMel(AudioSettings())(*y))


def test_features_fill_the_batch():
    x = to_int16(speechlike(2560))
    batch = Batch(
        step=3,
        ids=["a"],
        keys=torch.tensor([1]),
        tokens=torch.tensor([[1, 2]]),
        token_lengths=torch.tensor([2]),
        audio=torch.from_numpy(x)[None, None],
        frame_lengths=torch.tensor([10]),
    )
    features = Features(AudioSettings())
    full = features(batch)
    assert full.step == 3 and full.spec.shape == (1, 513, 10) and full.mel.shape == (1, 80, 10)
    assert torch.equal(full.audio, torch.from_numpy(x).float()[None, None] / 32768)
    assert torch.equal(features(full).mel, full.mel)  # audio that is float already stays
    assert not features.state_dict()  # windows and filters are settings, not weights


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"f_max": 2e4}, r"audio\.f_min=0.0, audio\.f_max=20000.0: must rise"),
        ({"f_min": 12000.0}, r"audio\.f_min=12000.0"),
        ({"hop_length": 255}, r"audio\.hop_length=255 .*even"),
        ({"win_length": 2048}, r"audio\.hop_length=256 <= win_length=2048 <= n_fft=1024"),
    ],
)
def test_impossible_settings(bad, message):
    with pytest.raises(ValueError, match=message):
        defaults_with(*(f"audio.{key}={value}" for key, value in bad.items()))
    with pytest.raises(AssertionError):
        Features(AudioSettings(**bad))


def test_too_many_mel_bins():
    with pytest.raises(ValueError, match="audio: 400 mel bins are too many for n_fft=1024 at 22050 Hz"):
        Features(AudioSettings(n_mels=400))


# ------------------------------------------------------------------------------------------------------------- files

KINDS = [
    ("wav", "PCM_U8"),
    ("wav", "PCM_16"),
    ("wav", "PCM_24"),
    ("wav", "PCM_32"),
    ("wav", "FLOAT"),
    ("wav", "DOUBLE"),
    ("flac", "PCM_16"),
    ("flac", "PCM_24"),
]


@pytest.mark.parametrize("extension, subtype", KINDS)
def test_every_sample_format_has_the_same_level(tmp_path, extension, subtype):
    x, path = speechlike(5000), tmp_path / f"x.{extension}"
    soundfile.write(path, x, SR, subtype=subtype)
    y = read_wav(path, SR)
    assert y.dtype == np.int16 and len(y) == 5000
    assert np.sqrt(np.mean((y / 32768.0) ** 2)) == pytest.approx(np.sqrt(np.mean(x**2)), rel=1e-3)
    assert np.abs(y / 32768.0 - x).max() < (1e-2 if subtype == "PCM_U8" else 1e-4)


def test_sixteen_bit_round_trip_is_exact_and_loud_floats_are_clipped(tmp_path):
    x = np.random.default_rng(0).integers(-32768, 32768, 3000).astype(np.int16)
    write_wav(tmp_path / "x.wav", x, SR)
    assert np.array_equal(read_wav(tmp_path / "x.wav", SR), x)
    assert [p.name for p in tmp_path.iterdir()] == ["x.wav"]
    soundfile.write(tmp_path / "loud.wav", np.array([2.0, -2.0, 0.5]), SR, subtype="FLOAT")
    assert read_wav(tmp_path / "loud.wav", SR).tolist() == [32767, -32768, 16384]


def test_stereo_is_averaged(tmp_path):
    x = speechlike(1000)
    soundfile.write(tmp_path / "x.wav", np.stack([x, 0 * x], 1), SR, subtype="FLOAT")
    assert np.array_equal(read_wav(tmp_path / "x.wav", SR), to_int16(x / 2))


@pytest.mark.parametrize("rate", [8000, 16000, 24000, 44100, 48000])
def test_resampling_keeps_pitch_level_and_the_announced_length(tmp_path, rate):
    x = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(rate + 7) / rate)
    soundfile.write(tmp_path / "x.wav", x, rate)
    y = read_wav(tmp_path / "x.wav", SR)
    assert len(y) == duration_info(tmp_path / "x.wav").resampled(SR)
    spectrum = np.abs(np.fft.rfft(y[:SR] * np.hanning(SR)))
    assert spectrum.argmax() == 1000
    assert np.abs(y[2000:-2000]).max() == pytest.approx(16384, rel=0.01)


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "x.wav"
    write_wav(path, to_int16(speechlike(5000)), SR)
    good = path.read_bytes()
    cases = {
        "empty file": b"",
        "0 samples": good[:40] + b"\0\0\0\0",
        "truncated: its data chunk says 10000 bytes, the file has 4978": good[: len(good) // 2],
        "not an audio file": np.random.default_rng(0).bytes(5000),
        "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "web page": b"<!DOCTYPE html><html><body>404</body></html>",
    }
    for message, content in cases.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            read_wav(path, SR)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ValueError, match="truncated"):
        path.write_bytes(good[:44])
        duration_info(path)
    with pytest.raises(ValueError, match="no such file"):
        read_wav(tmp_path / "absent.wav", SR)
    with pytest.raises(ValueError, match="directory"):
        read_wav(tmp_path, SR)


def test_truncated_flac_and_nan_are_refused(tmp_path):
    soundfile.write(tmp_path / "x.flac", speechlike(40000), SR)
    (tmp_path / "half.flac").write_bytes((tmp_path / "x.flac").read_bytes()[:20000])
    with pytest.raises(ValueError, match="half.flac"):
        read_wav(tmp_path / "half.flac", SR)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), SR, subtype="FLOAT")
    with pytest.raises(ValueError, match="NaN"):
        read_wav(tmp_path / "nan.wav", SR)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.wav"
    write_wav(path, np.zeros(10, np.int16), SR)
    before = path.read_bytes()

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(soundfile, "write", fail)
    with pytest.raises(OSError, match="disk full"):
        write_wav(path, np.ones(10, np.int16), SR)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
