"""Everything about the data that training needs, in one container."""

from dataclasses import dataclass

from vitslite.audio import AudioSettings, Features
from vitslite.datasets.ljspeech import Corpus
from vitslite.datasets.loader import Loader
from vitslite.tensors import Batch


@dataclass(frozen=True)
class Data:
    corpus: Corpus
    audio: AudioSettings
    features: Features  # on the device: 16-bit audio -> spectrograms
    loader: Loader  # step -> micro-batches
    validation: list[Batch]  # the same utterances and keys at every step
    heard: list[Batch]  # some of them, for the recogniser
    samples: Batch  # a few of them, to look at and listen to
