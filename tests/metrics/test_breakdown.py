"""The breakdown by utterance, phoneme and frame: its sums are those of the means, on batches and alone."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from paths import FRAMES, TOKENS, B, outputs_of

from vitslite.audio import AudioSettings
from vitslite.metrics import breakdown
from vitslite.metrics.breakdown import PhonemeSum
from vitslite.metrics.over_paths import over_path_statistics, quiet, utterance_sums
from vitslite.objectives.reconstruction import MelReconstruction

NAMES = [["a", "b", "a"], ["b", "_"], ["c"]]
TEXTS = {"x": "one", "y": "two", "z": "three"}


@pytest.mark.parametrize("recording", [False, True])
def test_rows_of_utterances_average_to_the_logged_figures(recording):
    sums = utterance_sums(outputs_of("mas", recording), TOKENS)
    rows = breakdown.utterance_rows(list(TEXTS), sums, TEXTS, mel_l1=[0.5, 0.25, 0.75], alignment_error_ms=[9, None, 3])
    assert [(row["id"], row["text"], row["frames"]) for row in rows] == [
        ("x", "one", 7),
        ("y", "two", 4),
        ("z", "three", 5),
    ]
    assert [row["alignment_error_ms"] for row in rows] == [9, None, 3] and rows[2]["mel_l1"] == 0.75
    key, name = ("nll/over_paths", "nll_over_paths") if recording else ("kl/over_paths", "kl_over_paths")
    mean = np.average([row[name] for row in rows], weights=FRAMES)
    assert mean == pytest.approx(over_path_statistics([sums])[key], rel=1e-12)
    assert ("kl" in rows[0], "nll" in rows[0]) == (not recording, recording)


def test_phonemes_share_out_all_nats_and_frames():
    outputs = outputs_of("given")  # [[4, 1, 2], [1, 3], [5]] frames
    nats = breakdown.frame_nats(outputs)
    assert nats.sum().item() == pytest.approx((quiet(outputs.latents) * outputs.latents.mask).sum().item(), rel=1e-12)
    found = breakdown.phoneme_sums(outputs, NAMES)
    assert {name: (value.frames, value.tokens) for name, value in found.items()} == {
        "a": (6, 2),
        "b": (2, 2),
        "_": (3, 1),
        "c": (5, 1),
    }
    assert found["a"].nats == pytest.approx((nats[0, :4].sum() + nats[0, 5:7].sum()).item())
    assert found["b"].nats == pytest.approx((nats[0, 4] + nats[1, 0]).item())
    rows = breakdown.phoneme_rows([found, found, {"silent": PhonemeSum(0.0, 0.0, 2)}])
    assert rows[-1] == {"phoneme": "silent", "tokens": 2, "frames": 0, "nats_per_frame": None, "nats_per_token": 0}
    by_name = {row["phoneme"]: row for row in rows}
    assert by_name["a"]["tokens"] == 4 and by_name["a"]["nats_per_frame"] == pytest.approx(found["a"].nats / 6)
    order = [row["nats_per_frame"] for row in rows[:-1]]
    assert order == sorted(order, reverse=True)


def test_nats_of_a_frame_are_its_own_whatever_lies_on_padding():
    clean, spoilt = (breakdown.frame_nats(outputs_of("mas", padding=value)) for value in (0.0, math.nan))
    assert torch.equal(clean, spoilt) and (clean[1, 4:] == 0).all()


def test_channels_add_up_to_frames_and_scatter_as_the_theory_says(monkeypatch):
    """Without a flow, of an element: d^2 r^2 + (r^2 - mean r^2)^2 / 2, the mean over its channel in its utterance."""
    monkeypatch.setattr(breakdown, "N_DRAWS", 400)
    outputs = outputs_of("given")
    x = outputs.latents._replace(flow=lambda z, mask: (z, torch.zeros_like(z)), keys=torch.arange(B))
    outputs = dataclasses.replace(outputs, latents=x)
    assert torch.equal(breakdown.element_nats(outputs).sum(1), breakdown.frame_nats(outputs))
    ratio = torch.exp(2 * (x.q.log_std - x.p.log_std))
    shift = (x.q.mean - x.p.mean) ** 2 * torch.exp(-2 * x.p.log_std) * ratio
    mean = (ratio * x.mask).sum(2, keepdim=True) / x.mask.sum(2, keepdim=True)
    theory = ((shift + 0.5 * (ratio - mean) ** 2) * x.mask).sum(1).sqrt()
    found = breakdown.frame_noise(outputs)
    assert (found[~x.mask[:, 0]] == 0).all()
    assert found.sum().item() == pytest.approx(theory.sum().item(), rel=0.03)
    planted = (((shift + 0.5 * ratio**2) * x.mask).sum(1)).sqrt()  # of half_analytic
    assert found.sum().item() != pytest.approx(planted.sum().item(), rel=0.03)
    assert breakdown.frame_noise(outputs_of("given", recording=True)) is None


def test_values_of_histograms(monkeypatch):
    outputs = outputs_of("given")
    found = breakdown.distributions(outputs)
    assert {name: len(value) for name, value in found.items()} == {
        "frame_nats": 16,
        "durations": 6,
        "ratio": 64,
        "posterior_log_std": 64,
    }
    x = outputs.latents
    by_hand = [(x.q.log_std[b] - x.p.log_std[b])[:, : FRAMES[b]].exp().flatten() for b in range(B)]
    assert found["ratio"].mean() == pytest.approx(torch.cat(by_hand).mean().item(), rel=1e-5)
    assert set(breakdown.distributions(outputs_of("given", recording=True))) == {"frame_nats", "durations"}
    monkeypatch.setattr(breakdown, "MOST_VALUES", 50)
    thinned = breakdown.joined([found, found])
    assert {name: len(value) for name, value in thinned.items()} == {
        "frame_nats": 32,
        "durations": 12,
        "ratio": 43,
        "posterior_log_std": 43,
    }
    assert thinned["ratio"][1] == found["ratio"][3]


def test_mel_l1_of_utterances_averages_to_the_loss():
    audio = AudioSettings(sample_rate=16000, n_fft=256, hop_length=64, win_length=256, n_mels=20)
    reconstruction = MelReconstruction(audio, [[128, 32, 10]])
    outputs = outputs_of("mas")
    frames = torch.tensor([20, 12, 16])
    sound, copy = (0.1 * torch.randn(B, 1, 20 * 64, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    outputs = outputs.__class__(**{**vars(outputs), "audio": sound, "audio_hat": copy, "audio_frames": frames})
    found = breakdown.mel_l1(reconstruction, outputs)
    whole = reconstruction(copy, sound, frames, reconstruction.counts(frames))[0].item()
    assert np.average(found, weights=frames) == pytest.approx(whole, rel=1e-5)
    assert np.mean(found) != pytest.approx(whole, rel=1e-6), "planted: utterances alike whatever their length"
