"""Speakers: sizes, who hears them, what they change and what not, against an independent implementation."""

import dataclasses

import pytest
import torch
from common import reached
from small_model import CLOSE, HOP, make_batch, single, small
from small_model import make as make_model

from vitslite.model.flows import BoundFlow
from vitslite.model.refiner import RefinerSettings
from vitslite.model.refiner_networks import UNet2dSettings
from vitslite.model.speakers import PARTS, SpeakerSettings
from vitslite.model.vits import VITS, ModelSettings
from vitslite.objectives import kl
from vitslite.objectives.regularisers import posterior_side, prior_side


def make(settings=None, n_speakers=3, **speakers):
    settings = dataclasses.replace(settings or small("affine"), speakers=SpeakerSettings(channels=5, **speakers))
    return make_model(settings, n_speakers=n_speakers)


def spoken_by(batch, *speakers):
    return dataclasses.replace(batch, speakers=torch.tensor(speakers))


def test_published_sizes():
    """39,700,208 parameters of the published model of VCTK's 109 speakers, and where they are."""
    with torch.device("meta"):
        one, many = (VITS(ModelSettings(), 178, 1024, 80, 256, 22050, n_speakers=n) for n in (0, 109))
    assert sum(p.numel() for p in many.parameters()) == 39_700_208
    sizes = [{name: sum(p.numel() for p in m.parameters()) for name, m in x.named_children()} for x in (one, many)]
    grown = {name: n - sizes[0].get(name, 0) for name, n in sizes[1].items()}
    assert grown == {
        "text_encoder": 0,
        "posterior_encoder": 1_585_152,
        "flow": 1_585_152,
        "duration_predictor": 49_344,
        "decoder": 131_584,
        "speakers": 27_904,
    }


def test_a_model_of_one_voice_has_nothing_new():
    model = make(n_speakers=0)
    assert not [name for name in model.state_dict() if "cond" in name or "speaker" in name]
    batch = make_batch()
    ours, told = model(batch), model(spoken_by(batch, 0, 1, 2))  # whoever speaks, it is the same voice
    assert torch.equal(ours.audio_hat, told.audio_hat) and torch.equal(ours.latents.z_p, told.latents.z_p)


@pytest.mark.parametrize("part", [part for part in PARTS if part != "refiner"])
def test_every_part_hears_the_speaker_and_no_other(part):
    """With one part alone told who speaks, its output changes with the speaker, and what comes before does not."""
    model, batch = make(parts=[part]), make_batch()
    a, b = (model(spoken_by(batch, *s)) for s in ((0, 1, 2), (1, 2, 0)))
    changed = {
        "text_encoder": not torch.equal(a.p_text.mean, b.p_text.mean),
        "posterior": not torch.equal(a.latents.q.mean, b.latents.q.mean),
        "flow": torch.equal(a.latents.z, b.latents.z) and not torch.equal(a.latents.z_p, b.latents.z_p),
        "duration": torch.equal(a.durations, b.durations) and not torch.equal(a.duration_loss, b.duration_loss),
        "decoder": torch.equal(a.latents.z, b.latents.z) and not torch.equal(a.audio_hat, b.audio_hat),
    }
    before = {"text_encoder": set(), "posterior": set(), "flow": {"text_encoder", "posterior"}}
    assert changed[part]
    for other in before.get(part, {"text_encoder", "posterior", "flow"}):
        assert not changed[other], other


def test_the_durations_do_not_move_the_table():
    model, batch = make(parts=["duration"]), spoken_by(make_batch(), 0, 1, 2)
    assert reached(model, model(batch).duration_loss.sum()) == {"duration_predictor"}


def test_the_speakers_are_trained_through_the_parts():
    batch = spoken_by(make_batch(), 0, 1, 2)
    for part in ("posterior", "flow", "decoder"):
        model = make(parts=[part]).train()
        out = model(batch)
        term = out.latents.z_p.square().sum() + out.audio_hat.square().sum()
        assert "speakers" in reached(model, term), part
        with pytest.raises(AssertionError):  # the planted fault: a speaker that nobody hears
            assert "speakers" in reached(model, model(batch).duration_loss.sum())


@pytest.mark.parametrize("i", range(3))
def test_alone_as_in_company(i):
    batch = spoken_by(make_batch(), 2, 0, 1)
    model = make()
    many, one = model(batch), model(single(batch, i))
    n = int(batch.frame_lengths[i])
    torch.testing.assert_close(many.latents.z_p[i, :, :n], one.latents.z_p[0], **CLOSE)
    torch.testing.assert_close(many.audio_hat[i, :, : n * HOP], one.audio_hat[0], **CLOSE)


def test_a_mixture_of_one_is_that_one_and_of_two_is_between():
    model, batch = make(), make_batch()
    lengths = torch.full((3, 9), 2)

    def speak(speakers):
        keys = batch.token_lengths, batch.keys
        return model.infer(batch.tokens, *keys, durations=lengths, speakers=speakers).audio

    one_hot = torch.eye(3)[torch.tensor([1, 1, 1])]
    torch.testing.assert_close(speak(one_hot), speak(torch.tensor([1, 1, 1])), **CLOSE)
    half = speak(torch.tensor([[0.5, 0.5, 0.0]] * 3))
    assert min((half - speak(torch.full((3,), k))).abs().max() for k in (0, 1)) > 1e-4


def test_conversion_to_oneself_is_the_copy_and_to_another_is_not():
    model, batch = make(), spoken_by(make_batch(), 0, 1, 2)
    copy = model.reconstruct(batch)
    torch.testing.assert_close(model.convert(batch, batch.speakers), copy, atol=1e-4, rtol=1e-3)
    assert (model.convert(batch, torch.tensor([1, 2, 0])) - copy).abs().max() > 1e-2


@pytest.mark.parametrize("estimator", [kl.half_analytic, kl.monte_carlo, kl.pushed_mean, kl.carried_mean])
def test_estimators_get_the_flow_of_the_speaker(estimator):
    """What looks at other points finds there what `forward` has found at its own: the condition is bound."""
    model, batch = make(small("mean_only")), spoken_by(make_batch(), 0, 1, 2)
    x = model(batch).latents
    assert isinstance(x.flow, BoundFlow)
    torch.testing.assert_close(x.at(x.z).z_p, x.z_p, **CLOSE)
    assert torch.isfinite(estimator(x)).all()
    other = x._replace(flow=BoundFlow(model.flow, model.speakers(torch.tensor([1, 2, 0])).flow))
    assert (other.at(x.z).z_p - x.z_p).abs().max() > 1e-2  # the planted fault


def test_one_side_of_the_kl_holds_the_speaker_of_the_flow():
    """The flow belongs to the prior: on the posterior's side neither its weights nor its speakers are trained by it."""
    model, batch = make(small("mean_only"), parts=["flow"]), spoken_by(make_batch(), 0, 1, 2)
    assert "speakers" not in reached(model, kl.half_analytic(posterior_side(model(batch).latents)).sum())
    assert "speakers" in reached(model, kl.half_analytic(prior_side(model(batch).latents)).sum())


@pytest.mark.parametrize("network", ["conv1d", "unet2d"])
def test_the_refiner_hears_the_speaker(network):
    settings = small("none")
    settings = dataclasses.replace(
        settings,
        n_latent=8,
        posterior=dataclasses.replace(settings.posterior, kind="recording", input="mel"),
        refiner=RefinerSettings("diffusion", network, segment_frames=None, unet2d=UNet2dSettings(8, [1, 2], 4)),
    )
    model, batch = make(settings, parts=["refiner"]), make_batch()
    batch = dataclasses.replace(batch, mel=batch.mel[:, :8])
    a, b = (model(spoken_by(batch, *s)) for s in ((0, 1, 2), (1, 2, 0)))
    assert not torch.equal(a.refined.loss, b.refined.loss) and torch.equal(a.p_text.mean, b.p_text.mean)
    assert "speakers" in reached(model, a.refined.loss.sum())
