"""A small model of every kind, away from its zeros, and a batch of three utterances."""

import dataclasses

import torch
from torch import nn

from vitslite.model.decoders import DecoderSettings, HiFiGANSettings
from vitslite.model.durations import DurationSettings
from vitslite.model.flows import FlowSettings
from vitslite.model.istft import ISTFTSettings
from vitslite.model.posterior_encoder import PosteriorEncoderSettings
from vitslite.model.text_encoder import TextEncoderSettings
from vitslite.model.vits import VITS, ModelSettings
from vitslite.tensors import Batch

N_SYMBOLS, N_FFT, N_MELS, HOP = 20, 64, 10, 16
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
HIFIGAN = HiFiGANSettings(8, [4, 4], [8, 8], "1", [3], [[1, 3]], weight_norm=False)
ISTFT = ISTFTSettings(channels=8, n_layers=2, expansion=2, kernel=5)


def small(flow="mean_only", duration="deterministic", decoder="istft", posterior="linear", segment_frames=None):
    return ModelSettings(
        n_latent=6,
        segment_frames=segment_frames,
        text_encoder=TextEncoderSettings(hidden=16, filters=32, n_layers=2, dropout=0.2),
        posterior=PosteriorEncoderSettings(posterior, hidden=8, n_layers=2, skip=posterior == "mel"),
        flow=FlowSettings(flow, hidden=8, n_layers=2, n_couplings=2, n_squeeze=1, n_split=2),  # lengths are odd
        duration=DurationSettings(duration, filters=8),
        decoder=DecoderSettings(decoder, HIFIGAN, ISTFT),
    )


def make(settings, seed=0, n_speakers=0):
    """A model whose layers all have something to say, also those that start with zeros or next to it."""
    torch.manual_seed(seed)
    model = VITS(settings, N_SYMBOLS, N_FFT, N_MELS, HOP, 16000, n_speakers)
    for p in model.parameters():
        if (p == 0).all():
            nn.init.normal_(p, std=0.2)
    for p in model.decoder.parameters():
        nn.init.normal_(p, std=0.3)
    return model.eval()


def make_batch(seed=0):
    torch.manual_seed(seed)
    frame_lengths = torch.tensor([40, 23, 31])
    return Batch(
        step=0,
        ids=["a", "b", "c"],
        keys=torch.tensor([5, -6, 7]),
        tokens=torch.randint(N_SYMBOLS, (3, 9)),
        token_lengths=torch.tensor([6, 9, 1]),
        audio=torch.randn(3, 1, 40 * HOP),
        frame_lengths=frame_lengths,
        spec=torch.rand(3, N_FFT // 2 + 1, 40),
        mel=torch.randn(3, N_MELS, 40) - 5,
    )


def single(batch, i):
    """Utterance i alone, cut to its own length."""
    n, t = batch.token_lengths[i], batch.frame_lengths[i]
    return dataclasses.replace(
        batch,
        ids=batch.ids[i : i + 1],
        keys=batch.keys[i : i + 1],
        tokens=batch.tokens[i : i + 1, :n],
        token_lengths=batch.token_lengths[i : i + 1],
        audio=batch.audio[i : i + 1, :, : t * HOP],
        frame_lengths=batch.frame_lengths[i : i + 1],
        spec=batch.spec[i : i + 1, :, :t],
        mel=batch.mel[i : i + 1, :, :t],
        speakers=None if batch.speakers is None else batch.speakers[i : i + 1],
    )
