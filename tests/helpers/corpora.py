"""Small corpora of noise in LJSpeech's layout, for the tests of what reads them."""

import numpy as np

from vitslite.audio import AudioSettings, write_wav
from vitslite.datasets.corpus import DataSettings, load_corpus
from vitslite.text.frontend import TextSettings

SR = 22050
AUDIO = AudioSettings()
CHARACTERS = TextSettings(frontend="characters")


def noise(seconds, seed=0):
    return (np.random.default_rng(seed).standard_normal(round(seconds * SR)) * 3000).astype(np.int16)


def make(root, n=30, seconds=1.0, text="clip number {}", line="{id}|{text}|{text}"):
    (root / "wavs").mkdir(parents=True)
    lines = []
    for i in range(n):
        write_wav(root / "wavs" / f"c{i:03d}.wav", noise(seconds, i), SR)
        lines.append(line.format(id=f"c{i:03d}", text=text.format(i)))
    write(root, lines)
    return root


def write(root, lines):
    (root / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def lines_of(root):
    return (root / "metadata.csv").read_text(encoding="utf-8").splitlines()


def load(root, text=CHARACTERS, min_frames=1, frontend=None, **settings):
    data = DataSettings(kind="ljspeech", root=str(root), cache=str(root / "cache"), **settings)
    return load_corpus(data, text, AUDIO, min_frames, frontend)


def all_of(corpus):
    return sorted([*corpus.train, *corpus.validation, *corpus.test], key=lambda u: u.id)
