"""Distances between recordings against closed forms and brute force, pitch of tones that are known, level facts."""

import math

import numpy as np
import pytest
import scipy.fft
import torch

from vitslite.audio import MEL_FLOOR, AudioSettings, LinearSpectrogram, LogMel
from vitslite.metrics.acoustics import (
    level,
    log_mel_l1,
    mel_cepstral_distortion,
    mel_cepstrum,
    pitch,
    pitch_errors,
    warp,
)

SR = 22050
HOP = 256
AUDIO = AudioSettings()
DB = 10 / math.log(10)


def straight(n):
    return np.arange(n), np.arange(n)


def random_log_mel(n_frames, seed=0, n_mels=80):
    return np.random.default_rng(seed).normal(-4, 2, (n_mels, n_frames))


def harmonic(frequency, n=None, rate=SR):
    """Eleven harmonics of a frequency, Hz, that is one number or one per sample."""
    frequency = np.broadcast_to(frequency, n or len(frequency))
    phase = 2 * np.pi * np.cumsum(frequency) / rate
    return 0.3 * sum(np.sin(k * phase) / k for k in range(1, 12))


def noise(n, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(n)


# ------------------------------------------------------------------------------------------------------- the spectrum


def test_cepstrum_is_the_scaled_dct_and_rebuilds_the_spectrum():
    log_mel = random_log_mel(9)
    cosines = np.cos((np.arange(80)[:, None] + 0.5) * np.pi / 80 * np.arange(1, 80))
    np.testing.assert_allclose(mel_cepstrum(log_mel, 79), 2 / 80 * cosines.T @ log_mel, atol=1e-12)
    rebuilt = log_mel.mean(0) + cosines @ mel_cepstrum(log_mel, 79)
    np.testing.assert_allclose(rebuilt, log_mel, atol=1e-12)
    assert np.array_equal(mel_cepstrum(log_mel), mel_cepstrum(log_mel, 13)) and len(mel_cepstrum(log_mel)) == 13
    with pytest.raises(ValueError, match="n=80: 80 mel bins have cepstral coefficients 1 to 79"):
        mel_cepstrum(log_mel, 80)


@pytest.mark.parametrize("m", [1, 5, 13])
def test_distortion_of_an_added_cosine_has_a_closed_form(m):
    log_mel, amplitude = random_log_mel(20), 0.7
    cosine = amplitude * np.cos(m * (np.arange(80) + 0.5) * np.pi / 80)[:, None]
    a, b = mel_cepstrum(log_mel), mel_cepstrum(log_mel + cosine)
    assert mel_cepstral_distortion(a, b, straight(20)) == pytest.approx(DB * math.sqrt(2) * amplitude, rel=1e-12)
    # What is beyond the coefficients kept is not seen.
    assert mel_cepstral_distortion(a[: m - 1], b[: m - 1], straight(20)) == pytest.approx(0, abs=1e-12)


def test_distortion_is_the_rms_difference_of_the_smoothed_spectra():
    a, b = random_log_mel(1, seed=1), random_log_mel(1, seed=2)
    envelopes = [scipy.fft.idct(np.r_[np.zeros(1), scipy.fft.dct(x[:, 0])[1:14], np.zeros(66)]) for x in (a, b)]
    rms_db = 20 / math.log(10) * np.sqrt(np.mean((envelopes[0] - envelopes[1]) ** 2))
    assert mel_cepstral_distortion(mel_cepstrum(a), mel_cepstrum(b), straight(1)) == pytest.approx(rms_db, rel=1e-12)


def test_a_change_of_level_is_no_distortion():
    log_mel = random_log_mel(20)
    a, b = mel_cepstrum(log_mel), mel_cepstrum(log_mel + 1.5)
    assert mel_cepstral_distortion(a, b, straight(20)) == pytest.approx(0, abs=1e-12)
    assert log_mel_l1(log_mel, log_mel + 1.5) == pytest.approx(1.5)


def test_l1_compares_frame_by_frame_or_not_at_all():
    a, b = random_log_mel(7, 1), random_log_mel(7, 2)
    assert log_mel_l1(a, b) == pytest.approx(sum(abs(x - y) for x, y in zip(a.flat, b.flat, strict=True)) / a.size)
    for short in (6, 1):  # one frame would broadcast
        with pytest.raises(ValueError, match=f"log-mels of 7 and {short} frames"):
            log_mel_l1(a, b[:, :short])
    with pytest.raises(ValueError, match="without frames"):
        log_mel_l1(a[:, :0], b[:, :0])


def test_noise_is_far_from_speech_and_another_take_is_near():
    n = HOP * 60
    vibrato = 140 + 20 * np.sin(2 * np.pi * 3 * np.arange(n) / SR)
    takes = {
        "speech": harmonic(vibrato) + 0.1 * noise(n, 0),
        "again": 0.8 * harmonic(vibrato) + 0.1 * noise(n, 1),
        "noise": noise(n, 2),
    }
    log_mel = LogMel(AUDIO)
    mels = {k: log_mel(torch.from_numpy(x)[None, None], torch.tensor([n]))[0].numpy() for k, x in takes.items()}
    cepstra = {k: mel_cepstrum(mel) for k, mel in mels.items()}

    def distortion(other):
        return mel_cepstral_distortion(cepstra["speech"], cepstra[other], warp(cepstra["speech"], cepstra[other]))

    assert distortion("again") < 3 < 10 < distortion("noise")
    assert log_mel_l1(mels["speech"], mels["again"]) < 0.5 * log_mel_l1(mels["speech"], mels["noise"])


# ------------------------------------------------------------------------------------------------------------- timing


def least_cost(distance):
    """By walking every path that there is."""

    def walk(i, j):
        if i == j == 0:
            return distance[0, 0]
        before = [(p, q) for p, q in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if p >= 0 and q >= 0]
        return distance[i, j] + min(walk(p, q) for p, q in before)

    return walk(distance.shape[0] - 1, distance.shape[1] - 1)


def is_legal(path, n_a, n_b):
    steps = set(zip(*(np.diff(side).tolist() for side in path), strict=True))
    ends = [(side[0], side[-1]) for side in path]
    return ends == [(0, n_a - 1), (0, n_b - 1)] and steps <= {(1, 0), (0, 1), (1, 1)}


@pytest.mark.parametrize("seed", range(60))
def test_warp_finds_the_least_cost_of_all_paths(seed):
    rng = np.random.default_rng(seed)
    n_a, n_b = rng.integers(1, 7, 2)
    draw = rng.standard_normal if seed % 2 else lambda size: rng.integers(0, 3, size).astype(float)  # many are equal
    a, b = draw((2, n_a)), draw((2, n_b))
    distance = np.linalg.norm(a[:, :, None] - b[:, None, :], axis=0)
    path = warp(a, b)
    assert is_legal(path, n_a, n_b)
    assert distance[path].sum() == pytest.approx(least_cost(distance), rel=1e-12, abs=1e-12)


def test_the_checks_of_a_path_can_fail():
    assert is_legal(straight(4), 4, 4)
    assert not is_legal((np.array([0, 2, 3]), np.array([0, 2, 3])), 4, 4)  # a jump
    assert not is_legal(straight(3), 4, 4)  # short of the end
    a, b = np.array([[0.0, 5.0, 5.0, 0.0]]), np.array([[0.0, 0.0, 5.0, 0.0]])
    distance = np.abs(a.T - b)
    assert distance[straight(4)].sum() == 5 > distance[warp(a, b)].sum() == least_cost(distance) == 0


def test_of_equal_paths_the_diagonal_one():
    for n_a, n_b in ((5, 5), (5, 8), (8, 5), (1, 4)):
        assert len(warp(np.ones((3, n_a)), np.ones((3, n_b)))[0]) == max(n_a, n_b)


def test_a_recording_is_at_distance_zero_from_itself():
    log_mel = random_log_mel(50).astype(np.float32)
    log_mel[:, 10:20] = math.log(MEL_FLOOR)  # a pause: many equal frames
    cepstrum = mel_cepstrum(log_mel)
    path = warp(cepstrum, cepstrum)
    assert np.array_equal(path, straight(50))
    assert mel_cepstral_distortion(cepstrum, cepstrum, path) == 0 == log_mel_l1(log_mel, log_mel)


def test_warp_undoes_a_stretch_and_without_it_the_stretch_shows():
    a = mel_cepstrum(random_log_mel(30))
    b = np.repeat(a, np.random.default_rng(0).integers(1, 4, 30), axis=1)
    assert mel_cepstral_distortion(a, b, warp(a, b)) == 0
    # The planted faults: no warp at all, and a linear one.
    linear = np.linspace(0, 29, b.shape[1]).round().astype(int)
    assert mel_cepstral_distortion(a, b, straight(30)) > 1
    assert mel_cepstral_distortion(a, b, (linear, np.arange(b.shape[1]))) > 1


def test_nothing_and_nan_cannot_be_warped():
    a = random_log_mel(4, n_mels=5)
    with pytest.raises(ValueError, match="first recording has no frames"):
        warp(a[:, :0], a)
    with pytest.raises(ValueError, match="second recording has no frames"):
        warp(a, a[:, :0])
    with pytest.raises(ValueError, match="second recording has NaN"):
        warp(a, np.where(a == a[0, 0], np.nan, a))


# -------------------------------------------------------------------------------------------------------------- pitch


@pytest.mark.parametrize("frequency", [120, 220])
def test_pitch_of_a_tone_with_noise_and_an_offset(frequency):
    f0, voiced = pitch((harmonic(frequency, HOP * 40) + 0.01 * noise(HOP * 40) + 0.2).astype(np.float32), AUDIO)
    assert voiced.all()
    np.testing.assert_allclose(f0, frequency, rtol=0.01)


def test_a_large_offset_does_not_hide_a_soft_tone():
    f0, voiced = pitch(0.07 * harmonic(120, HOP * 40) + 0.3, AUDIO)
    assert voiced.all()
    np.testing.assert_allclose(f0, 120, rtol=0.01)


def test_pitch_follows_a_glide_in_the_frames_of_the_spectrogram():
    true = 120 * 2.5 ** np.linspace(0, 1, HOP * 80)
    f0, voiced = pitch(harmonic(true), AUDIO)
    centres = true[HOP // 2 :: HOP]  # frame t reaches as far before t * hop as beyond (t + 1) * hop
    assert voiced.mean() > 0.95 and abs(np.nanmean(np.log(f0 / centres))) < 0.004
    assert abs(np.nanmean(np.log(f0[1:] / centres[:-1]))) > 0.008  # one frame late would be seen


@pytest.mark.filterwarnings("error:With fmin")  # librosa's, when two periods do not fit into a frame
@pytest.mark.parametrize("audio", [AUDIO, AudioSettings(48000, 1023, 301, 1023), AudioSettings(16000, 512, 160, 400)])
def test_pitch_has_the_frames_of_the_spectrogram(audio):
    linear = LinearSpectrogram(audio)
    for n in (audio.hop_length, 2 * audio.hop_length - 1, 1000, 5003):
        wav = harmonic(220, n, audio.sample_rate)
        f0, voiced = pitch(wav, audio)
        assert f0.shape == voiced.shape == linear(torch.from_numpy(wav)[None, None], torch.tensor([n])).shape[2:]
        assert np.array_equal(np.isnan(f0), ~voiced)
    np.testing.assert_allclose(f0[2:-2], 220, rtol=0.01)
    assert len(pitch(wav[: audio.hop_length - 1], audio)[0]) == 0 == len(pitch(wav[:0], audio)[0])


UNVOICED = {
    "silence": np.zeros(HOP * 40),
    "offset": np.full(HOP * 40, 0.1, np.float32),
    "click": np.eye(1, HOP * 40)[0],
    "hum below -50 dBFS": 0.005 * harmonic(120, HOP * 40),
}


@pytest.mark.parametrize("kind", UNVOICED)
def test_what_has_no_pitch(kind):
    f0, voiced = pitch(UNVOICED[kind], AUDIO)
    assert len(f0) == 40 and np.isnan(f0).all() and not voiced.any()


def test_noise_is_mostly_unvoiced():
    shares = [pitch(noise(HOP * 40, seed), AUDIO)[1].mean() for seed in range(20)]
    assert np.mean(shares) < 0.2 and np.median(shares) == 0  # pyin finds a period in some of them


@pytest.mark.parametrize("offset", [0, 0.05])
def test_a_tone_between_pauses_is_voiced_where_it_stands(offset):
    wav = np.concatenate([np.zeros(HOP * 30), harmonic(120, HOP * 40), np.zeros(HOP * 30)]) + offset
    _, voiced = pitch(wav, AUDIO)
    edges = np.flatnonzero(np.diff(voiced.astype(int))) + 1
    np.testing.assert_allclose(edges, [30, 70], atol=2)  # a frame is four hops long


def test_pitch_errors_of_known_contours():
    a, b = np.full(10, 200.0), np.full(10, 220.0)
    assert pitch_errors(a, b, straight(10)) == (pytest.approx(math.log(1.1)), 0)
    assert pitch_errors(a, a, straight(10)) == (0, 0)
    b[:4] = np.nan
    assert pitch_errors(a, b, straight(10)) == (pytest.approx(math.log(1.1)), 0.4)
    assert pitch_errors(b, a, straight(10)) == pitch_errors(a, b, straight(10))
    assert pitch_errors(b, b, straight(10)) == (0, 0)
    # Points of the path count, not frames: the last frame of each stands here for half of the points.
    path = np.r_[np.arange(10), np.full(10, 9)], np.r_[np.arange(10), np.full(10, 9)]
    assert pitch_errors(a, b, path).voicing == 0.2


def test_pitch_errors_of_recordings():
    n = HOP * 40
    low, high, silence = (pitch(x, AUDIO)[0] for x in (harmonic(200, n), harmonic(220, n), np.zeros(n)))
    assert pitch_errors(low, high, straight(40)) == (pytest.approx(math.log(1.1), abs=0.005), 0)
    errors = pitch_errors(low, silence, straight(40))
    assert math.isnan(errors.log_f0_rmse) and errors.voicing == 1
    assert pitch_errors(silence, silence, straight(40)).voicing == 0


# -------------------------------------------------------------------------------------------------------------- level


def test_level_of_constructed_signals():
    sine = np.sin(2 * np.pi * np.arange(1000) / 100)
    facts = level(0.5 * sine, 100)
    assert facts.peak == 0.5 and facts.clipped == 0 and facts.silent == 0
    assert facts.rms_db == pytest.approx(20 * math.log10(0.5 / math.sqrt(2)))
    assert level(np.zeros(1000), 100) == (0, 0, 1, -math.inf)
    assert level(np.ones(50), 50) == (1, 1, 0, 0)


def test_shares_of_clipping_and_silence_are_exact():
    wav = np.full(1050, 0.1)
    wav[:7], wav[7:10], wav[10] = 1.0, -0.9995, 0.9985  # ten are clipped, the last one nearly
    wav[300:600] = 0.9 * 10 ** (-50 / 20)  # just silent
    wav[600:700] = 1.1 * 10 ** (-50 / 20)  # just not
    wav[1000:] = 0  # no whole frame
    facts = level(wav, 100)
    assert facts.peak == 1 and facts.clipped == 10 / 1050 and facts.silent == 0.3
    assert level(-wav, 100) == facts
    assert level(wav * 0.99, 100).clipped == 0 and level(wav, 50).silent == 7 / 21  # the figures follow the signal


def test_what_has_no_level():
    with pytest.raises(ValueError, match="99 samples has no level: it is shorter than a frame of 100"):
        level(np.zeros(99), 100)
    for function in (lambda x: level(x, 1), lambda x: pitch(x, AUDIO)):
        with pytest.raises(ValueError, match="NaN or infinite samples"):
            function(np.array([0.0, np.nan]))
