"""What a reconstructed segment is compared with: its own recording's spectrogram, or the utterance's, cut there."""

import dataclasses

import numpy as np
import pytest
import torch
from common import defaults_with

from vitslite.audio import AudioSettings, Features, mel_filters
from vitslite.model.decoders import DecoderSettings, HiFiGANSettings
from vitslite.model.durations import DurationSettings
from vitslite.model.flows import FlowSettings
from vitslite.model.posterior_encoder import PosteriorEncoderSettings
from vitslite.model.segments import segment_starts
from vitslite.model.text_encoder import TextEncoderSettings
from vitslite.model.vits import VITS, ModelSettings
from vitslite.objectives.objective import Objective, ObjectiveSettings
from vitslite.tensors import Batch, Outputs

AUDIO = AudioSettings(sample_rate=16000, n_fft=64, hop_length=16, win_length=64, n_mels=8)
LENGTHS, N = [40, 23], 12  # frames of the utterances, and of a segment


def log_mel(audio: np.ndarray) -> np.ndarray:
    """[M, T] of one recording, as VITS' code makes it: reflected at both ends, windowed, transformed, filtered."""
    pad = (AUDIO.n_fft - AUDIO.hop_length) // 2
    extended = np.pad(audio.astype(np.float64), pad, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(AUDIO.n_fft) / AUDIO.n_fft)
    starts = range(0, len(audio), AUDIO.hop_length)
    spectrum = np.array([np.fft.rfft(window * extended[s : s + AUDIO.n_fft]) for s in starts]).T
    filters = mel_filters(AUDIO.sample_rate, AUDIO.n_fft, AUDIO.n_mels).double().numpy()
    return np.log(np.maximum(filters @ np.sqrt(np.abs(spectrum) ** 2 + 1e-6), 1e-5))


def world(segment_frames: int | None) -> tuple[Batch, Outputs]:
    torch.manual_seed(0)
    audio = 0.2 * torch.randn(2, 1, 40 * AUDIO.hop_length)
    audio[1, :, LENGTHS[1] * AUDIO.hop_length :] = 0
    names, keys, frames = ["a", "b"], torch.tensor([5, -6]), torch.tensor(LENGTHS)
    batch = Batch(0, names, keys, torch.randint(9, (2, 6)), torch.tensor([6, 4]), audio, frames)
    settings = ModelSettings(
        n_latent=6,
        segment_frames=segment_frames,
        text_encoder=TextEncoderSettings(hidden=8, filters=8, n_layers=1),
        posterior=PosteriorEncoderSettings(hidden=8, n_layers=2),
        flow=FlowSettings(hidden=8, n_layers=1, n_couplings=2),
        duration=DurationSettings(filters=8),
        decoder=DecoderSettings("hifigan", HiFiGANSettings(8, [4, 4], [8, 8], "1", [3], [[1, 3]])),
    )
    batch = Features(AUDIO)(batch)
    return batch, VITS(settings, 9, AUDIO.n_fft, AUDIO.n_mels, AUDIO.hop_length, AUDIO.sample_rate)(batch)


def mel_loss(batch: Batch, outputs: Outputs, target: str, segment_frames: int | None = N) -> float:
    objective = Objective(ObjectiveSettings(mel_target=target), AUDIO, segment_frames)
    return objective(outputs, objective.counts(batch)).terms["mel"].item()


def test_the_target_is_cut_from_the_spectrogram_of_the_utterance():
    batch, outputs = world(N)
    starts = segment_starts(batch.keys, batch.frame_lengths, N).tolist()
    whole, own = [], []
    for b, (start, length) in enumerate(zip(starts, LENGTHS, strict=True)):
        recording = batch.audio[b, 0, : length * AUDIO.hop_length].numpy()
        said = log_mel(outputs.audio_hat[b, 0].detach().numpy())
        whole.append(np.abs(said - log_mel(recording)[:, start : start + N]).mean())
        segment = recording[start * AUDIO.hop_length : (start + N) * AUDIO.hop_length]
        own.append(np.abs(said - log_mel(segment)).mean())
    assert mel_loss(batch, outputs, "utterance") == pytest.approx(np.mean(whole), rel=1e-5)
    assert mel_loss(batch, outputs, "segment") == pytest.approx(np.mean(own), rel=1e-5)
    assert abs(np.mean(whole) / np.mean(own) - 1) > 1e-3


def test_a_perfect_copy_pays_for_two_frames_at_each_end():
    batch, outputs = world(N)
    copy = dataclasses.replace(outputs, audio_hat=outputs.audio)
    assert mel_loss(batch, copy, "segment") == 0
    own = np.stack([log_mel(audio[0].numpy()) for audio in outputs.audio])
    differs = np.abs(own - outputs.audio_mel.numpy()).max((0, 1)) > 1e-4
    assert differs.nonzero()[0].tolist() == [0, 1, N - 2, N - 1]
    assert mel_loss(batch, copy, "utterance") > 0.01
    # The planted fault: cut one frame later.
    late = dataclasses.replace(copy, audio_mel=outputs.audio_mel.roll(1, 2))
    assert mel_loss(batch, late, "utterance") > 3 * mel_loss(batch, copy, "utterance")


def test_without_segments_both_targets_are_one():
    batch, outputs = world(None)
    assert mel_loss(batch, outputs, "utterance", None) == mel_loss(batch, outputs, "segment", None) > 0


def test_other_resolutions_have_no_target_of_the_utterance():
    extra = "objective.extra_resolutions=[[512,128,40]]"
    with pytest.raises(ValueError, match=r"mel_target=utterance.*add objective.extra_resolutions=\[\], or use"):
        defaults_with("objective.mel_target=utterance", extra)
    defaults_with("objective.mel_target=utterance", extra, "model.segment_frames=null")  # where it changes nothing
    defaults_with("objective.mel_target=utterance")
    with pytest.raises(ValueError, match=r"mel_target=whole is unknown: choose one of segment, utterance"):
        defaults_with("objective.mel_target=whole")
