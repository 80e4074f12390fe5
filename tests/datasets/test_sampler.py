"""Batches as a function of the step: whatever the ranks, the workers, the accumulation and the start."""

import os
import signal
import time

import numpy as np
import pytest
import torch
from common import defaults_with

from vitslite import distributed, randomness
from vitslite.audio import AudioSettings, write_wav
from vitslite.datasets import loader
from vitslite.datasets.audio_cache import cached_clips
from vitslite.datasets.clips import ClipReader
from vitslite.datasets.corpus import DataSettings, Utterance
from vitslite.datasets.loader import Loader, fixed_batches
from vitslite.datasets.sampler import Sampler

AUDIO = AudioSettings()


def ljspeech_like_lengths(n, seed=0):
    """1 to 10 s, mean 6.6 s, skewed to the long side."""
    return (86 * (1.1 + 9 * np.random.default_rng(seed).beta(2.4, 1.5, n))).astype(int).tolist()


# ------------------------------------------------------------------------------------------------- sampler


def test_an_epoch_is_a_permutation_and_epochs_differ():
    sampler = Sampler(ljspeech_like_lengths(1000), 10, seed=3)
    assert sampler.steps_per_epoch == 100
    epochs = [[sampler.batch(100 * e + i) for i in range(100)] for e in range(3)]
    for epoch in epochs:
        assert sorted(i for batch in epoch for i in batch) == list(range(1000))
    assert epochs[0] != epochs[1] != epochs[2]
    assert Sampler(sampler.lengths.tolist(), 10, seed=4).batch(0) != epochs[0][0]
    mean_lengths = [np.mean(sampler.lengths[batch].numpy()) for batch in epochs[0]]
    assert abs(np.corrcoef(mean_lengths[1:], mean_lengths[:-1])[0, 1]) < 0.4  # batches come in no order of length


def test_it_is_a_function_of_the_step():
    lengths = ljspeech_like_lengths(203)
    forward = [Sampler(lengths, 8, 0).batch(k) for k in range(60)]
    sampler = Sampler(lengths, 8, 0)
    assert [sampler.batch(k) for k in reversed(range(60))] == forward[::-1]
    assert sampler.steps_per_epoch == 25  # 3 utterances are left out of each epoch, other ones each time
    left_out = [set(range(203)) - {i for b in forward[25 * e : 25 * e + 25] for i in b} for e in range(2)]
    assert [len(s) for s in left_out] == [3, 3] and left_out[0] != left_out[1]


@pytest.mark.parametrize(("world", "parts"), [(2, 1), (1, 4), (4, 2)])
def test_ranks_and_parts_share_the_same_global_batch(world, parts):
    lengths = ljspeech_like_lengths(200)
    for step in (0, 7, 31):
        whole = Sampler(lengths, 16, 0).batch(step)
        shares = [Sampler(lengths, 16, 0, r, world).batch(step, p, parts) for r in range(world) for p in range(parts)]
        assert sorted(i for share in shares for i in share) == sorted(whole)
        assert {len(share) for share in shares} == {16 // (world * parts)}
        means = [np.mean([lengths[i] for i in share]) for share in shares]
        assert max(means) / min(means) < 1.2  # taking turns along the sorted batch keeps the work alike


@pytest.mark.parametrize("batch_size", [8, 16, 64])
def test_little_padding(batch_size):
    lengths = np.array(ljspeech_like_lengths(13100))
    sampler = Sampler(lengths.tolist(), batch_size, 0)
    batches = [lengths[sampler.batch(k)] for k in range(sampler.steps_per_epoch)]
    share = sum(b.sum() for b in batches) / sum(b.max() * batch_size for b in batches)
    assert share >= 0.95
    order = np.random.default_rng(0).permutation(13100)[: batch_size * len(batches)].reshape(-1, batch_size)
    assert lengths[order].sum() / (lengths[order].max(1) * batch_size).sum() < 0.85  # the figure can be bad


def test_impossible_batches(monkeypatch):
    with pytest.raises(ValueError, match="3 training clips < data.batch_size=32"):
        Sampler([5, 6, 7], 32, 0)
    with pytest.raises(ValueError, match="data.batch_size=0: must be at least 1"):
        defaults_with("data.batch_size=0")
    with pytest.raises(AssertionError):
        Sampler([5] * 9, 8, 0, 0, 2).batch(0, 0, 3)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(ValueError, match="data.batch_size=3: make it a multiple of trainer.accumulate=1 x 2 ranks"):
        defaults_with("data.batch_size=3")
    with pytest.raises(ValueError, match="data.batch_size=8: make it a multiple of trainer.accumulate=3 x 2 ranks"):
        defaults_with("data.batch_size=8", "trainer.accumulate=3")


# -------------------------------------------------------------------------------------------------- loader


@pytest.fixture(scope="module")
def utterances(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    made = []
    for i in range(26):
        n_frames = int(rng.integers(5, 40))
        samples = rng.integers(-9000, 9000, n_frames * 256 + int(rng.integers(0, 256))).astype(np.int16)
        write_wav(root / f"{i}.wav", samples, 22050)
        made.append(Utterance(f"u{i}", "x", root / f"{i}.wav", rng.integers(1, 9, 3 + i % 4).tolist(), n_frames))
    return made


def take(loader, first, n, accumulate=1):
    batches = loader.batches(first, accumulate)
    taken = [next(batches) for _ in range(n)]
    batches.close()
    return taken


def same(a, b):
    assert (a.step, a.ids) == (b.step, b.ids)
    for name in ("keys", "tokens", "token_lengths", "audio", "frame_lengths"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    return True


def test_batches_are_padded_and_keyed(utterances):
    ((batch,),) = take(Loader(utterances, DataSettings(batch_size=8), AUDIO, seed=5), 3, 1)
    by_id = {u.id: u for u in utterances}
    assert batch.step == 3 and batch.audio.dtype == torch.int16 and len(batch.ids) == 8
    assert batch.audio.shape == (8, 1, 256 * max(by_id[i].n_frames for i in batch.ids))
    for i, name in enumerate(batch.ids):
        u = by_id[name]
        n = u.n_frames * 256
        assert batch.frame_lengths[i] == u.n_frames and batch.token_lengths[i] == len(u.tokens)
        assert batch.tokens[i].tolist() == u.tokens + [0] * (batch.tokens.shape[1] - len(u.tokens))
        assert batch.audio[i, 0, :n].ne(0).any() and not batch.audio[i, 0, n:].any()
        assert batch.keys[i] == randomness.key(5, 3, name)


@pytest.mark.parametrize("cached", [True, False])
def test_workers_change_nothing(utterances, cached, tmp_path):
    clips = cached_clips(utterances, ClipReader(AUDIO.sample_rate, AUDIO.hop_length), tmp_path) if cached else None
    plain = take(Loader(utterances, DataSettings(batch_size=4), AUDIO, 0), 0, 14)
    forked = take(Loader(utterances, DataSettings(batch_size=4, n_workers=2), AUDIO, 0, clips=clips), 0, 14)
    assert all(same(a, b) for [a], [b] in zip(plain, forked, strict=True))
    resumed = take(Loader(utterances, DataSettings(batch_size=4, n_workers=1), AUDIO, 0, clips=clips), 9, 5)
    assert all(same(a, b) for [a], [b] in zip(plain[9:], resumed, strict=True))


def test_ranks_and_accumulation_see_the_same_utterances(utterances):
    whole = {
        i: (k, f)
        for [b] in take(Loader(utterances, DataSettings(batch_size=8), AUDIO, 0), 2, 1)
        for i, k, f in zip(b.ids, b.keys.tolist(), b.frame_lengths.tolist(), strict=True)
    }
    parts = [
        part
        for rank in range(2)
        for [*parts] in take(Loader(utterances, DataSettings(batch_size=8), AUDIO, 0, rank, 2), 2, 1, accumulate=2)
        for part in parts
    ]
    assert len(parts) == 4 and {p.step for p in parts} == {2} and {len(p.ids) for p in parts} == {2}
    assert {
        i: (k, f) for p in parts for i, k, f in zip(p.ids, p.keys.tolist(), p.frame_lengths.tolist(), strict=True)
    } == whole


def test_shapes_can_be_rounded_up(utterances):
    for [batch] in take(Loader(utterances, DataSettings(batch_size=4, pad_multiple=16), AUDIO, 0), 0, 6):
        assert batch.tokens.shape[1] % 16 == 0 and batch.audio.shape[2] % (16 * 256) == 0


def test_nothing_is_taken_from_the_global_generators(utterances):
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    for n_workers in (0, 1):
        take(Loader(utterances, DataSettings(batch_size=4, n_workers=n_workers), AUDIO, 0), 0, 3)
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()


def test_fixed_batches_never_change(utterances):
    first, again = (fixed_batches(chosen, 8, AUDIO, 0) for chosen in (utterances, utterances[::-1]))
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert sorted(i for b in first for i in b.ids) == sorted(u.id for u in utterances) and first[0].step == 0
    frames = torch.cat([b.frame_lengths for b in first])
    assert (frames.diff() >= 0).all() and [len(b.ids) for b in first] == [8, 8, 8, 2]
    other = fixed_batches(utterances, 5, AUDIO, 0)
    keys = {i: k for b in first for i, k in zip(b.ids, b.keys.tolist(), strict=True)}
    assert keys == {i: k for b in other for i, k in zip(b.ids, b.keys.tolist(), strict=True)}


@pytest.mark.parametrize("n_workers", [0, 1])
def test_a_file_that_vanishes_is_one_line(utterances, tmp_path, n_workers):
    lost = [*utterances[:3], Utterance("lost", "x", tmp_path / "lost.wav", [1], 5)]
    batches = Loader(lost, DataSettings(batch_size=4, n_workers=n_workers), AUDIO, 0).batches(0)
    with pytest.raises(ValueError, match=r"lost.wav: no such file or directory$") as error:
        next(batches)
    assert "\n" not in str(error.value)


def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return {int(pid) for pid in file.read().split()}


@pytest.mark.skipif(not os.path.exists(f"/proc/self/task/{os.getpid()}/children"), reason="needs /proc")
def test_workers_outlive_signals_and_end_with_the_iterator(utterances, monkeypatch):
    monkeypatch.setattr(loader, "_GRACE_SECONDS", 120)  # a busy machine is not what is tested
    before = children()
    batches = Loader(utterances, DataSettings(batch_size=4, n_workers=2), AUDIO, 0).batches(0)
    next(batches), next(batches)  # one of each worker: both are up, and have their signal handlers
    workers = children() - before
    assert len(workers) >= 2
    for number in (signal.SIGINT, signal.SIGTERM):
        for pid in workers:
            os.kill(pid, number)
    expected = take(Loader(utterances, DataSettings(batch_size=4), AUDIO, 0), 2, 12)
    assert all(same(next(batches)[0], b) for [b] in expected)
    started = time.monotonic()
    batches.close()
    assert not workers & children() and time.monotonic() - started < 4


def test_impossible_settings():
    with pytest.raises(ValueError, match="data.n_workers=-1"):
        defaults_with("data.n_workers=-1")
    with pytest.raises(ValueError, match="data.pad_multiple=0"):
        defaults_with("data.pad_multiple=0")
