"""The record of a run's data: the same data is the same wherever it lies; what has changed is named."""

import os
import shutil

import numpy as np
import pytest
from corpora import AUDIO, CHARACTERS, lines_of, load, make, noise, write

from vitslite import build, runs
from vitslite.audio import write_wav
from vitslite.datasets import record
from vitslite.datasets.corpus import DataSettings, load_corpus


def drop(root):
    write(root, lines_of(root)[1:])


def add(root):
    write_wav(root / "wavs" / "new.wav", noise(1.0, 99), 22050)
    write(root, [*lines_of(root), "new|a new clip|a new clip"])


def retell(root):
    write(root, ["c000|raw|mended text", *lines_of(root)[1:]])


def rerecord(root):
    write_wav(root / "wavs" / "c001.wav", noise(1.0, 77), 22050)


CHANGES = {
    "1 clip (c000) gone": drop,
    "1 clip (new) added": add,
    "1 clip (c000) with another text": retell,
    "1 clip (c001) with another recording": rerecord,
}


@pytest.mark.parametrize(("said", "change"), CHANGES.items())
def test_changes_are_named(tmp_path, said, change):
    root = make(tmp_path / "corpus")
    before = load(root)
    record.write(tmp_path, before)
    assert record.changes(tmp_path, load(root)) is None
    digests, stamp = (before.digest(), before.recordings()), record.stamp(root)
    change(root)
    after = load(root)
    assert record.changes(tmp_path, after) == said
    assert (after.digest(), after.recordings()) != digests and record.stamp(root) != stamp


def test_a_corpus_may_move_and_be_touched(tmp_path):
    """Content counts, not place and time; planted: one sample is another recording."""
    root = make(tmp_path / "corpus")
    record.write(tmp_path, load(root))
    moved = shutil.copytree(root, tmp_path / "moved", ignore=shutil.ignore_patterns("cache"))
    os.utime(moved / "wavs" / "c001.wav", ns=(0, 1))
    corpus = load(moved)
    assert record.changes(tmp_path, corpus) is None and corpus.recordings() == load(root).recordings()
    write_wav(moved / "wavs" / "c001.wav", noise(1.0, 1) + np.eye(1, 22050, 50, dtype=np.int16)[0], 22050)
    assert record.changes(tmp_path, load(moved)) == "1 clip (c001) with another recording"


def test_trained_already_on_the_same_data_alone(compose, tmp_path):
    root = make(tmp_path / "corpus", seconds=2.0)

    def parsed(*more):
        places = ["data=ljspeech", "text=characters", "audio=mel_22k", f"data.root={root}", *more]
        return build.parse(compose(*places, "trainer.steps=2"), [])

    config = parsed()
    build.write_settings(config, build.corpus(config))
    (tmp_path / "run" / runs.CHECKPOINTS).mkdir()
    (tmp_path / "run" / runs.CHECKPOINTS / "last.pt").touch()
    assert not build.is_trained(config)
    runs.mark_finished(tmp_path / "run", 2)
    assert build.is_trained(config)
    moved = shutil.copytree(root, tmp_path / "moved")
    assert build.is_trained(parsed(f"data.root={moved}"))
    retell(moved)
    with pytest.raises(ValueError, match=r"is trained, but on other data than .*moved \(1 clip \(c000\) with another"):
        build.is_trained(parsed(f"data.root={moved}"))
    with pytest.raises(ValueError, match="nowhere/metadata.csv: no such file"):
        build.is_trained(parsed(f"data.root={tmp_path / 'nowhere'}"))


def test_a_root_that_is_not_read_is_refused(tmp_path):
    with pytest.raises(ValueError, match="data.root=/x is not what data=demo reads: add data=ljspeech"):
        load_corpus(DataSettings(root="/x", cache=str(tmp_path)), CHARACTERS, AUDIO)
