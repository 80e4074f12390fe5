"""The objective: masks, reduction over the global batch, weights, fp32. T7 to T10, T37, T38 and planted faults."""

import math

import numpy as np
import pytest
import torch
from common import defaults_with

from vitslite.audio import AudioSettings
from vitslite.objectives import adversarial
from vitslite.objectives.objective import Counts, LossWeights, Objective, ObjectiveSettings
from vitslite.objectives.regularisers import RegulariserSettings
from vitslite.tensors import Batch, DiscriminatorOutput, Gaussian, Latents, Outputs, sequence_mask

AUDIO = AudioSettings(sample_rate=16000, n_fft=64, hop_length=16, win_length=64, n_mels=8)


def make(lengths, token_lengths, n_latent=2, pad=0, seed=0, dtype=torch.float32):
    """A random batch and outputs; the same values for the same utterance whatever `pad` is."""
    n_frames, n_tokens = max(lengths) + pad, max(token_lengths) + pad
    frames, tokens = torch.tensor(lengths), torch.tensor(token_lengths)
    mask, token_mask = sequence_mask(frames, n_frames), sequence_mask(tokens, n_tokens)

    def noise(index, *shape):
        return torch.tensor(np.random.default_rng([seed, index]).standard_normal(shape), dtype=dtype)

    def rows(index, channels, n, mask):
        full = torch.zeros(len(lengths), channels, n, dtype=dtype)
        for b in range(len(lengths)):
            length = int(mask[b].sum())
            full[b, :, :length] = noise(100 * index + b, channels, length)
        return full.requires_grad_()

    q = Gaussian(rows(1, n_latent, n_frames, mask), rows(2, n_latent, n_frames, mask))
    p = Gaussian(rows(3, n_latent, n_frames, mask), rows(4, n_latent, n_frames, mask))
    z = q.sample(rows(5, n_latent, n_frames, mask)) * mask
    log_det = rows(6, n_latent, n_frames, mask)
    audio_mask = sequence_mask(frames * AUDIO.hop_length, n_frames * AUDIO.hop_length)
    wavs = [rows(7 + i, 1, n_frames * AUDIO.hop_length, audio_mask) for i in range(2)]
    outputs = Outputs(
        latents=Latents(q, p, z, z + 0.1 * z**2, log_det, mask),
        p_text=Gaussian(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1)),
        durations=torch.ones(len(lengths), n_tokens, dtype=torch.long),
        duration_loss=rows(9, 1, n_tokens, token_mask)[:, 0] ** 2,
        audio_hat=wavs[0],
        audio=wavs[1],
        audio_frames=frames,
        mel=rows(10, 8, n_frames, mask),
        mel_prior=rows(11, 8, n_frames, mask),
        audio_again=rows(12, 1, n_frames * AUDIO.hop_length, audio_mask),
    )
    batch = Batch(
        0,
        [str(i) for i in range(len(lengths))],
        torch.arange(len(lengths)),
        tokens[:, None] * 0,
        tokens,
        wavs[1],
        frames,
    )
    return batch, outputs


def objective(**settings) -> Objective:
    return Objective(ObjectiveSettings(**settings), AUDIO, None)


def total_counts(*counts: Counts) -> Counts:
    return Counts.from_flat(sum(c.flat() for c in counts))


def t7(mask) -> tuple[Batch, Outputs]:
    zero = torch.zeros(1, 2, 3)
    mask = torch.tensor([[mask]], dtype=torch.bool)
    batch, outputs = make([3], [1])
    z_p = torch.tensor([[[1.0, 0, 7], [-1, 2, 7]]])
    latents = Latents(Gaussian(zero, zero + math.log(0.5)), Gaussian(zero, zero), zero, z_p, zero, mask)
    frames = mask.sum((1, 2))
    batch = Batch(0, ["a"], batch.keys, batch.tokens, batch.token_lengths, batch.audio, frames)
    return batch, Outputs(latents, *[getattr(outputs, k) for k in list(outputs.__dataclass_fields__)[1:]])


def test_t7_masked_mean_over_frames():
    batch, outputs = t7([1, 1, 0])
    o = objective()
    value = float(o(outputs, o.counts(batch)).terms["kl"])
    assert value == pytest.approx(1.8862944, abs=1e-6)  # nats per frame; 0.9431472 per element
    # Planted fault: the mask forgotten, first above the fraction line, then on both sides of it.
    unmasked = Outputs(**{**outputs.__dict__, "latents": outputs.latents._replace(mask=torch.ones(1, 1, 3).bool())})
    assert float(o(unmasked, o.counts(batch)).terms["kl"]) == pytest.approx(26.579442, abs=1e-5)
    batch_of_3, _ = t7([1, 1, 1])
    assert float(o(unmasked, o.counts(batch_of_3)).terms["kl"]) == pytest.approx(17.719628, abs=1e-5)


@pytest.mark.parametrize("kl", ["half_analytic", "monte_carlo", "closed_form"])
def test_t8_padding_changes_no_value_and_no_gradient(kl):
    o = objective(kl=kl, extra_resolutions=[[32, 8, 4]])
    results = []
    for pad in (0, 5):
        batch, outputs = make([9, 14], [4, 6], pad=pad)
        losses = o(outputs, o.counts(batch))
        losses.total.backward()
        gradients = [outputs.audio_hat.grad[..., : 14 * AUDIO.hop_length], outputs.latents.q.mean.grad[..., :14]]
        results.append((losses.terms, gradients))
    for name, value in results[0][0].items():
        torch.testing.assert_close(value, results[1][0][name], rtol=1e-6, atol=1e-7, msg=name)
    for a, b in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_t9_a_padded_element_is_worth_minus_one_half():
    zero = torch.zeros(1, 192, 1)
    x = Latents(Gaussian(zero, zero), Gaussian(zero, zero), zero, zero, zero, torch.zeros(1, 1, 1).bool())
    assert float(objective().estimator(x).sum()) == -96.0


def test_t10_long_utterances_weigh_more():
    o = objective()
    batch, outputs = make([5, 20], [3, 3])
    both = float(o(outputs, o.counts(batch)).terms["kl"].detach())
    elements = (o.estimator(outputs.latents) * outputs.latents.mask).sum((1, 2))
    assert both == pytest.approx(float(elements.sum().detach() / 25), rel=1e-6)
    mean_of_means = float((elements / torch.tensor([5, 20])).mean().detach())
    assert abs(both - mean_of_means) > 0.01


@pytest.mark.parametrize("kl", ["half_analytic", "monte_carlo", "closed_form"])
def test_shares_of_a_split_batch_add_up(kl):
    """With the global counts two ranks or micro-batches give the terms of the whole batch; with their own not."""
    o = objective(kl=kl)
    lengths, token_lengths = [9, 30], [4, 11]
    batch, outputs = make(lengths, token_lengths)
    whole = o(outputs, o.counts(batch)).terms
    parts = []
    for b in range(2):
        index = torch.tensor([b])
        latents = outputs.latents
        part = Outputs(
            Latents(*(Gaussian(*(t[index] for t in g)) for g in latents[:2]), *(t[index] for t in latents[2:6])),
            outputs.p_text,
            *(x if x is None else x[index] for x in list(vars(outputs).values())[2:]),
        )
        own = Batch(
            0,
            ["x"],
            index,
            batch.tokens[index],
            batch.token_lengths[index],
            batch.audio[index],
            batch.frame_lengths[index],
        )
        parts.append((own, part))
    counts = total_counts(*(o.counts(own) for own, _ in parts))
    for name, value in whole.items():
        shares = sum(o(part, counts).terms[name] for _, part in parts)
        torch.testing.assert_close(shares, value, rtol=1e-6, atol=0, msg=name)
        own_means = sum(o(part, o.counts(own)).terms[name] for own, part in parts) / 2
        assert abs(float(own_means - value)) > 1e-4, f"{name}: the planted fault went unseen"


@pytest.mark.parametrize("reduction", ["per_element", "per_utterance"])
def test_other_reductions(reduction):
    """Per element: divided by D, too. Per utterance: the mean of utterances' means; its shares add up as well."""
    batch, outputs = make([5, 20], [3, 3], n_latent=4)
    per_frame = objective()
    o = objective(reduction=reduction)
    value = float(o(outputs, o.counts(batch)).terms["kl"].detach())
    elements = (o.estimator(outputs.latents) * outputs.latents.mask).sum((1, 2)).detach()
    by_hand = {
        "per_element": float(per_frame(outputs, o.counts(batch)).terms["kl"].detach()) / 4,
        "per_utterance": float((elements / torch.tensor([5, 20])).mean()),
    }
    assert value == pytest.approx(by_hand[reduction], rel=1e-6)


def test_t40_the_likelihood_of_glow_tts_per_element():
    """(-log N(z) - log_det) / (D T), with its constant: z = mean, log_det = 0 gives 1/2 log 2 pi."""
    batch, outputs = make([4], [3], n_latent=4)
    zero = torch.zeros(1, 4, 4)
    latents = outputs.latents._replace(p=Gaussian(zero + 0.3, zero), z_p=zero + 0.3, log_det=zero)
    outputs = Outputs(**{**outputs.__dict__, "latents": latents})
    o = objective(kl="likelihood", reduction="per_element")
    assert float(o(outputs, o.counts(batch)).terms["kl"]) == pytest.approx(0.918938533, abs=1e-6)


def test_a_dropped_log_determinant_is_missing():
    batch, outputs = make([9, 14], [4, 6])
    o, dropped = objective(), objective(log_det="drop")
    counts = o.counts(batch)
    difference = dropped(outputs, counts).terms["kl"] - o(outputs, counts).terms["kl"]
    torch.testing.assert_close(difference, (outputs.latents.log_det * outputs.latents.mask).sum() / 23)


def test_a_detached_posterior_gets_no_gradient_from_the_kl():
    batch, outputs = make([9, 14], [4, 6])
    o = objective(detach_posterior=True)
    o(outputs, o.counts(batch)).terms["kl"].backward()
    q, p = outputs.latents.q, outputs.latents.p
    assert q.mean.grad is None and q.log_std.grad is None
    assert p.mean.grad.abs().sum() > 0 and p.log_std.grad.abs().sum() > 0


def test_the_prior_loss_on_the_mel_has_its_floor():
    batch, outputs = make([9, 14], [4, 6])
    o = objective()
    at_the_mean = Outputs(**{**outputs.__dict__, "mel_prior": outputs.mel})
    assert float(o(at_the_mean, o.counts(batch)).terms["prior_mel"]) == pytest.approx(0.918938533, abs=1e-6)
    squares = ((outputs.mel - outputs.mel_prior) ** 2 * outputs.latents.mask).sum() / (23 * 8)
    value = o(outputs, o.counts(batch)).terms["prior_mel"]
    assert float(value.detach()) == pytest.approx(0.918938533 + 0.5 * float(squares.detach()), rel=1e-6)


def test_the_weight_of_the_kl_follows_its_schedule():
    o = objective(regulariser=RegulariserSettings(schedule="warmup", steps=10), weights=LossWeights(kl=0.5, mel=2.0))
    assert o.weights_at(5)["kl"] == 0.25 and o.weights_at(5)["mel"] == 2.0
    assert o.weights_at(None)["kl"] == 0.5
    batch, outputs = make([9], [4])
    counts = o.counts(batch)
    halfway, full = o(outputs, counts, step=5), o(outputs, counts)
    torch.testing.assert_close(full.total - halfway.total, 0.25 * full.terms["kl"])


def test_weights_and_terms():
    weights = LossWeights(kl=0.5, mel=2.0, duration=3.0, adversarial=5.0, feature_matching=7.0)
    o = objective(weights=weights)
    batch, outputs = make([9, 14], [4, 6])
    real = [DiscriminatorOutput(torch.rand(2, 5), [torch.rand(2, 3, 5)])]
    fake = [DiscriminatorOutput(torch.rand(2, 5), [torch.rand(2, 3, 5)])]
    terms, total = o(outputs, o.counts(batch), real, fake)
    assert set(terms) == {"kl", "mel", "duration", "adversarial", "feature_matching", "prior_mel", "energy"}
    expected = sum(getattr(weights, name, 0) * value for name, value in terms.items())
    torch.testing.assert_close(total, expected)
    assert float(terms["adversarial"]) == pytest.approx(float(((1 - fake[0].score) ** 2).mean()), rel=1e-6)
    distance = (real[0].features[0] - fake[0].features[0]).abs().mean()
    assert float(terms["feature_matching"]) == pytest.approx(2 * float(distance), rel=1e-6)


def test_discriminator_loss_is_least_squares():
    recordings, reconstructions = [[0.5, 1.5], [1.0, 1.0]], [[0.0, 1.0], [0.5, 0.0]]
    both = DiscriminatorOutput(torch.tensor(recordings + reconstructions), [])
    assert adversarial.discriminator_loss([both, both]).tolist() == pytest.approx([2 * (0.25 + 0.5), 2 * (0 + 0.125)])


def test_t38_the_same_inside_and_outside_autocast():
    o = objective()
    batch, outputs = make([9, 14], [4, 6])
    plain = o(outputs, o.counts(batch)).terms
    with torch.autocast("cpu", torch.bfloat16):
        halved = o(outputs, o.counts(batch)).terms
    assert all(torch.equal(plain[name], halved[name]) for name in plain)


def test_mel_is_zero_for_a_perfect_copy_and_grows_with_the_error():
    o = objective(extra_resolutions=[[32, 8, 4]])
    batch, outputs = make([9, 14], [4, 6])
    values = []
    for scale in (0.0, 0.1, 1.0):
        audio_hat = outputs.audio + scale * outputs.audio_hat
        noisy = Outputs(**{**outputs.__dict__, "audio_hat": audio_hat.detach()})
        values.append(float(o(noisy, o.counts(batch)).terms["mel"]))
    assert values[0] == 0.0 and values[0] < values[1] < values[2]


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"objective.kl=exact.*half_analytic"):
        defaults_with("objective.kl=exact")
    with pytest.raises(ValueError, match="objective.extra_resolutions"):
        defaults_with("objective.extra_resolutions=[[512,128]]")


# ---------------------------------------------------------------------------------------- spectral energy distance


def draws(share, n_frames=400, seed=0):
    """Outputs of a decoder whose noise is `share` the same in each draw: 1 is a decoder that always says one noise."""
    generator = torch.Generator().manual_seed(seed)
    recording, fixed, first, second = torch.randn(4, 1, 1, n_frames * AUDIO.hop_length, generator=generator)
    again = [math.sqrt(share) * fixed + math.sqrt(1 - share) * noise for noise in (first, second)]
    _, outputs = make([n_frames], [3])
    return Outputs(**{**outputs.__dict__, "audio": recording, "audio_hat": again[0], "audio_again": again[1]})


def test_energy_distance_is_that_of_three_spectrograms():
    loss = objective(extra_resolutions=[[32, 8, 4]])
    batch, outputs = make([30, 17], [4, 3])
    terms = loss(outputs, loss.counts(batch)).terms

    def distance(a, b):
        found = 0
        for mel, resolution in zip(loss.reconstruction.mels, loss.reconstruction.resolutions, strict=True):
            samples = outputs.audio_frames * AUDIO.hop_length
            mask = sequence_mask(samples // resolution.hop_length, int(samples.max()) // resolution.hop_length)
            difference = (mel(a, samples) - mel(b, samples)).abs()
            found += difference[mask.expand_as(difference)].mean()
        return found / len(loss.reconstruction.mels)

    x, y, again = outputs.audio, outputs.audio_hat, outputs.audio_again
    expected = (distance(x, y) + distance(x, again) - distance(y, again)) / 2
    assert terms["energy"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert terms["mel"].item() == pytest.approx(distance(x, y).item(), rel=1e-5)
    one_draw = loss(Outputs(**{**outputs.__dict__, "audio_again": None}), loss.counts(batch)).terms
    assert "energy" not in one_draw and one_draw["mel"] == terms["mel"]


def test_energy_distance_wants_noise_to_be_noise_and_l1_does_not_care():
    """E d(x, y) is the same for a noise that repeats and one that does not; the repulsive term tells them apart."""
    loss = objective()
    mel, energy = {}, {}
    for share in (0.0, 0.5, 1.0):
        outputs = draws(share)
        mel[share], energy[share] = loss.reconstruction(
            outputs.audio_hat, outputs.audio, outputs.audio_frames, [torch.tensor(400.0 * 8)], outputs.audio_again
        )
    assert mel[1.0].item() == pytest.approx(mel[0.0].item(), rel=0.03)
    assert energy[1.0].item() == pytest.approx(mel[1.0].item(), rel=0.05)  # d(y, y') = 0
    assert energy[0.0].item() == pytest.approx(mel[0.0].item() / 2, rel=0.05)  # all three alike
    assert energy[0.0] < energy[0.5] < energy[1.0]


def test_pitch_is_a_mean_over_all_valid_frames():
    loss, (batch, outputs) = objective(), make([6, 4], [3, 3])
    outputs = Outputs(**{**outputs.__dict__, "pitch_loss": torch.full((2, 6), 0.5) * outputs.latents.mask[:, 0]})
    assert loss(outputs, loss.counts(batch)).terms["pitch"].item() == pytest.approx(0.5)


def test_the_energy_distance_takes_the_place_and_the_weight_of_the_mel_loss():
    batch, outputs = make([9, 14], [4, 6])
    settings = ObjectiveSettings(weights=LossWeights(mel=7.0))
    for is_random, energy, weighed in [(True, True, "energy"), (True, False, "mel"), (False, True, "mel")]:
        settings.energy = energy
        loss = Objective(settings, AUDIO, None, is_random)
        terms, total = loss(outputs, loss.counts(batch))
        others = terms["kl"] + terms["duration"]
        torch.testing.assert_close(total, others + 7 * terms[weighed])
    assert abs(terms["energy"] - terms["mel"]) > 0.01
