"""True durations from known onsets: by hand, feasible whatever the input, and true on the demo corpus."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch

from vitslite.audio import AudioSettings
from vitslite.datasets.clips import ClipReader
from vitslite.datasets.collate import collate
from vitslite.datasets.corpus import DataSettings, load_corpus
from vitslite.datasets.loader import Loader, fixed_batches
from vitslite.datasets.onsets import durations_from_onsets
from vitslite.text.frontend import TextSettings

AUDIO = AudioSettings()
HOP = AUDIO.hop_length


def starts_of(durations):
    return np.cumsum([0, *durations])[:-1]


@pytest.mark.parametrize(
    "onsets, n_tokens, n_frames, expected",
    [
        ([(1, 300), (2, 700)], 3, 12, [3, 4, 5]),  # each known but the first
        ([(1, 349), (2, 751)], 3, 12, [3, 5, 4]),  # to the nearest frame
        ([(2, 400), (5, 1000)], 7, 14, [2, 2, 2, 2, 2, 2, 2]),  # evenly between known neighbours, and to the end
        ([(1, 100), (4, 1000)], 5, 12, [1, 3, 3, 3, 2]),
        ([], 4, 10, [2, 3, 3, 2]),  # nothing known; 2.5 and 7.5 go to the even frame
        ([(0, 500), (1, 700)], 2, 10, [7, 3]),  # the first starts at 0 in any case
        ([(1, 500), (2, 500), (3, 500)], 4, 9, [5, 1, 1, 2]),  # coincident: one frame each
        ([(1, 0), (2, 0)], 3, 5, [1, 1, 3]),  # room before them, too
        ([(1, 900), (2, 960)], 3, 9, [7, 1, 1]),  # beyond the end: as late as those that follow allow
        ([(1, 500)], 3, 3, [1, 1, 1]),
        ([], 1, 6, [6]),
    ],
)
def test_by_hand(onsets, n_tokens, n_frames, expected):
    assert durations_from_onsets(onsets, n_tokens, n_frames, 100) == expected


def test_any_onsets_give_feasible_durations():
    rng = np.random.default_rng(0)
    for _ in range(500):
        n_tokens = int(rng.integers(1, 30))
        n_frames = n_tokens + int(rng.integers(0, 60))
        known = np.sort(rng.choice(n_tokens, int(rng.integers(0, n_tokens + 1)), replace=False))
        samples = rng.integers(-50, 110 * n_frames, len(known))
        if rng.random() < 0.8:  # else out of order, as no corpus should have them
            samples.sort()
        durations = durations_from_onsets(
            list(zip(known.tolist(), samples.tolist(), strict=True)), n_tokens, n_frames, 100
        )
        assert len(durations) == n_tokens and min(durations) >= 1 and sum(durations) == n_frames


def test_onsets_far_enough_apart_are_kept_exactly():
    """Nothing is moved that need not be: every known onset on its nearest frame."""
    rng = np.random.default_rng(1)
    for _ in range(100):
        true = np.cumsum(rng.integers(3, 12, 20))
        samples = true * 100 + rng.integers(-49, 50, 20)
        onsets = [(2 * i + 1, int(s)) for i, s in enumerate(samples)]  # an unknown token before each
        durations = durations_from_onsets(onsets, 41, int(true[-1]) + 5, 100)
        assert starts_of(durations)[1::2].tolist() == true.tolist()


def test_more_tokens_than_frames():
    with pytest.raises(AssertionError, match="5 tokens do not fit into 4 frames"):
        durations_from_onsets([], 5, 4, 100)


# ------------------------------------------------------------------------------------------------- in batches


@pytest.fixture(scope="module")
def utterances(cache):
    corpus = load_corpus(DataSettings(cache=str(cache), n_sentences=60), TextSettings(), AUDIO, min_frames=32)
    return [*corpus.train, *corpus.validation, *corpus.test]


def distances(utterances, hop_length=HOP, shift=0):
    """|start - onset| in frames, of every phoneme of a corpus; onsets `shift` samples off, to plant a fault."""
    found = []
    for u in utterances:
        onsets = [(token, sample + shift) for token, sample in u.onsets]
        starts = starts_of(durations_from_onsets(onsets, len(u.tokens), u.n_frames, hop_length))
        found += [abs(starts[token] - sample / hop_length) for token, sample in u.onsets]
    return np.array(found)


def test_the_demo_corpus(utterances):
    """Half a frame from the truth at most, but for the few phonemes that begin within the frame of another."""
    found = distances(utterances)
    assert len(found) > 1000 and np.mean(found <= 0.5) > 0.99 and found.max() <= 3
    assert np.mean(distances(utterances, shift=HOP) <= 0.5) < 0.1  # planted fault: one frame late


def test_with_blanks(cache):
    """A blank starts half way through the phoneme before it; phonemes stay where they are."""
    corpus = load_corpus(
        DataSettings(cache=str(cache), n_sentences=60), TextSettings(blanks=True), AUDIO, min_frames=32
    )
    assert np.mean(distances(corpus.train) <= 0.5) > 0.97
    u = corpus.train[0]
    durations = durations_from_onsets(u.onsets, len(u.tokens), u.n_frames, HOP)
    for (token, _), (following, _) in pairwise(u.onsets):
        if following == token + 2:
            assert abs(durations[token] - durations[token + 1]) <= 2


def test_batches_have_durations(utterances):
    by_id = {u.id: u for u in utterances}
    trained = next(Loader(utterances, DataSettings(batch_size=8, pad_multiple=16), AUDIO, seed=0).batches(0))
    for batch in (*trained, *fixed_batches(utterances[:6], 4, AUDIO, 0)):
        assert batch.durations.dtype == torch.int64 and batch.durations.shape == batch.tokens.shape
        assert batch.durations.sum(1).tolist() == batch.frame_lengths.tolist()
        for name, row, n in zip(batch.ids, batch.durations, batch.token_lengths, strict=True):
            u = by_id[name]
            assert row[:n].tolist() == durations_from_onsets(u.onsets, len(u.tokens), u.n_frames, HOP)
            assert not row[n:].any() and row[:n].min() >= 1


def test_one_utterance_without_onsets_leaves_them_out(utterances):
    chosen = [*utterances[:3], dataclasses.replace(utterances[3], onsets=None)]
    read = ClipReader(AUDIO.sample_rate, HOP)
    clips = [read(u) for u in chosen]
    assert "durations" in collate(chosen[:3], clips[:3], [1, 2, 3], 0, HOP)
    assert "durations" not in collate(chosen, clips, [1, 2, 3, 4], 0, HOP)
