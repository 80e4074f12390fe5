"""Glow-TTS, Grad-TTS and flow matching, whole: sizes, the likelihood, what trains what, any batch, resume, refusals."""

import dataclasses
import json
import math

import pytest
import torch
from common import differences, losses, reached, without_header
from families import FAMILIES, REFINED

from vitslite import build
from vitslite.commands.train import train
from vitslite.metrics.latents import latent_statistics, latent_sums
from vitslite.model.vits import VITS
from vitslite.monitoring.observer import RunObserver
from vitslite.tensors import LOG_2PI


def parts(compose, family, *overrides):
    overrides = [*FAMILIES[family], *overrides]
    config = build.parse(compose(*overrides), overrides)
    corpus = build.corpus(config)
    data = build.data(config, corpus)
    model = build.model(config, corpus.frontend.n_symbols)
    build.start_from_data(model, data)
    torch.manual_seed(0)
    with torch.no_grad():  # away from the zeros that networks end with
        for p in model.parameters():
            if (p == 0).all():
                p.normal_(std=0.1)
    return model, build.objective(config), data


@pytest.mark.parametrize(
    "experiment, n_symbols, sizes",
    [
        (
            "glow_tts",
            148,
            {"text_encoder": 6_854_096, "flow": 21_423_936, "duration_predictor": 345_857},
        ),
        (
            "grad_tts",
            149,
            {"text_encoder": 6_854_288, "refiner": 7_634_887, "duration_predictor": 345_857},
        ),
    ],
)
def test_published_sizes(compose, experiment, n_symbols, sizes):
    """28,623,889 and 14,835,032 parameters without the vocoder, counted in the published code."""
    overrides = [f"experiment=ljspeech_{experiment}", f"model={experiment}", "data.root=/corpus"]
    config = build.parse(compose(*overrides), overrides)
    with torch.device("meta"):
        model = VITS(config.model, n_symbols, 1024, 80, 256, 22050)
    found = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    del found["decoder"]
    assert found == sizes | ({"refiner": 0} if experiment == "glow_tts" else {"flow": 0}) or found == sizes
    assert sum(found.values()) == {"glow_tts": 28_623_889, "grad_tts": 14_835_032}[experiment]


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_of_the_vocoder_reaches_the_acoustic_model(compose, family):
    model, objective, data = parts(compose, family)
    batch = data.features(next(data.loader.batches(0))[0])
    names = set(objective(model.train()(batch), objective.counts(batch)).terms)
    acoustic = {"text_encoder"} | ({"flow"} if family == "glow_tts" else set())
    expected = {"prior": acoustic, "duration": {"duration_predictor"}}
    expected |= dict.fromkeys(("mel", "energy", "pitch"), {"decoder"})
    if family in REFINED:  # the refiner's loss trains the prior's mean, too (Grad-TTS, Matcha-TTS)
        expected |= {REFINED[family]: {"text_encoder", "refiner"}}
    assert names == set(expected)
    for name in names:
        assert reached(model, objective(model(batch), objective.counts(batch)).terms[name]) == expected[name], name


@pytest.mark.parametrize("std", [1.0, 2.5])
def test_the_likelihood_is_of_the_log_mel_whatever_the_scale(compose, std):
    """Without a flow log p(mel | text) is a Gaussian around mean + std mu, of standard deviation std, by hand."""
    settings = ["model.posterior.recording_mean=-4", f"model.posterior.recording_std={std}"]
    model, objective, data = parts(compose, "grad_tts", *settings)
    batch = data.features(next(data.loader.batches(0))[0])
    outputs = model.eval()(batch)
    mean = -4 + std * outputs.latents.p.mean
    nll = 0.5 * LOG_2PI + math.log(std) + 0.5 * ((batch.mel - mean) / std) ** 2
    expected = (nll * outputs.latents.mask).sum() / outputs.latents.mask.sum()
    found = latent_statistics(latent_sums(outputs), 50.0)
    assert found["nll/per_frame"] == pytest.approx(expected.item(), rel=1e-5)
    assert sum(found[f"nll/{part}"] for part in ("normaliser", "quadratic", "minus_log_det")) == pytest.approx(
        found["nll/per_frame"], rel=1e-9
    )
    assert objective(outputs, objective.counts(batch)).terms["prior"].item() == pytest.approx(
        found["nll/per_element"], rel=1e-5
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_an_utterance_gives_the_same_in_any_batch(compose, family):
    model, _, data = parts(compose, family)
    model.eval()
    whole = data.features(data.validation[0])
    i = int(whole.frame_lengths.argmin())
    n, t = int(whole.token_lengths[i]), int(whole.frame_lengths[i])
    alone = dataclasses.replace(
        whole,
        ids=whole.ids[i : i + 1],
        keys=whole.keys[i : i + 1],
        tokens=whole.tokens[i : i + 1, :n],
        token_lengths=whole.token_lengths[i : i + 1],
        audio=whole.audio[i : i + 1, :, : t * data.audio.hop_length],
        frame_lengths=whole.frame_lengths[i : i + 1],
        spec=None,
        mel=whole.mel[i : i + 1, :, :t],
        durations=None,
    )
    a, b = model(whole), model(alone)
    close = {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(a.latents.z_p[i : i + 1, :, :t], b.latents.z_p, **close)
    torch.testing.assert_close(a.latents.log_det[i : i + 1, :, :t].sum(), b.latents.log_det.sum(), **close)
    assert torch.equal(a.durations[i : i + 1, :n], b.durations)
    if a.refined is not None:
        length = min(t, a.refined.loss.shape[2], b.refined.loss.shape[2])
        torch.testing.assert_close(a.refined.loss[i : i + 1, :, :length], b.refined.loss[:, :, :length], **close)
    spoken = [model.infer(x.tokens, x.token_lengths, x.keys, n_steps=3) for x in (whole, alone)]
    assert torch.equal(spoken[0].durations[i : i + 1, :n], spoken[1].durations)
    length = int(spoken[1].audio_lengths)
    torch.testing.assert_close(spoken[0].z[i : i + 1, :, : spoken[1].z.shape[2]], spoken[1].z, **close)
    assert spoken[0].audio_lengths[i] == length


def test_glow_speaks_whole_squeezes_and_reads_whole_squeezes(compose):
    model, _, data = parts(compose, "glow_tts", "model.flow.n_squeeze=2")
    lengths = [u.n_frames for u in [*data.corpus.train, *data.corpus.validation]]
    assert all(n % 2 == 0 for n in lengths)
    batch = data.validation[0]
    spoken = model.eval().infer(batch.tokens, batch.token_lengths, batch.keys)
    assert (spoken.durations.sum(1) % 2 == 0).all()
    assert (spoken.audio_lengths == spoken.durations.sum(1) * data.audio.hop_length).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_resumed_bit_for_bit_and_without_a_kl(compose, tmp_path, monkeypatch, family):
    """What has no meaning is absent: no key of a KL, and none that is 0 for want of one."""
    monkeypatch.setattr(RunObserver, "sample", lambda self, step, model: {})  # the pictures of three runs, for nothing
    schedule = ["trainer.steps=6", "trainer.log_every_steps=1", "trainer.validate_every_steps=3"]
    schedule += ["trainer.diagnose_every_steps=3", "trainer.optimizer.warmup_steps=0"]

    def run(folder, *more):
        overrides = [*FAMILIES[family], *schedule, f"run_dir={tmp_path / folder}", *more]
        config = build.parse(compose(*overrides), overrides)
        train(config, overrides)
        return torch.load(tmp_path / folder / "checkpoints" / "last.pt", weights_only=True)

    straight = run("straight")
    run("halves", "trainer.stop_after_step=3")
    halves = run("halves")
    assert differences(without_header(straight), without_header(halves)) == []
    assert losses(tmp_path / "straight") == losses(tmp_path / "halves")
    keys = {
        key for line in (tmp_path / "straight" / "metrics.jsonl").read_text().splitlines() for key in json.loads(line)
    }
    assert not [k for k in keys if "kl" in k.split("/") or k.startswith("latent/posterior") or "loss/kl_weight" in k]
    assert {"val/nll/per_frame", "val/loss/prior", "loss/prior", "grad/prior/text_encoder"} <= keys
