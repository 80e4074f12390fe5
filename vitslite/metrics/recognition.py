"""Speech recognisers, word and character error rates. The one owner of pocketsphinx and jiwer.

A recogniser measures whether the words come through, not whether the voice is pleasant. Its own errors on the real
recordings belong beside every figure.
"""

import os
import re
import unicodedata
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import jiwer
import numpy as np
from jaxtyping import Float

from vitslite.audio import to_int16
from vitslite.datasets.demo import Grammar, load_grammar
from vitslite.metrics.recognisers import (
    PAD_SECONDS,
    TorchaudioPipeline,
    TransformersModel,
    Whisper,
    not_installed,
    prepared,
)
from vitslite.text.characters import normalise

if TYPE_CHECKING:
    from pocketsphinx import Decoder

SPHINX_FRAMES_PER_SECOND = 100
_FIRST, _LAST = 0, 1  # states of the grammar


@runtime_checkable
class Recogniser(Protocol):
    """Speech to words. The same samples give the same words, whatever came before them."""

    name: str  # with what it knows, for reports

    def transcribe(self, wav: Float[np.ndarray, " S"], sample_rate: int) -> str: ...


class Counts(NamedTuple):
    """Errors (substitutions, deletions, insertions) of one utterance and what to divide by."""

    word_errors: int
    words: int
    character_errors: int
    characters: int


def words(text: str) -> list[str]:
    """Lower-case words without punctuation; apostrophes inside a word stay. Digits stay digits: spell numbers out."""
    plain = "".join(c if c == "'" or unicodedata.category(c)[0] in "LMN" else " " for c in normalise(text, 2).lower())
    return [word for word in (w.strip("'") for w in plain.split()) if word]


def count_errors(text: str, hypothesis: str) -> Counts:
    """Edit distances of a recogniser's `hypothesis` from the text, in words and in characters (spaces included).

    ValueError for a text without words: it has no error rate.
    """
    reference, hypothesis = " ".join(words(text)), " ".join(words(hypothesis))
    if not reference:
        raise ValueError(f"text {text!r}: no words to recognise")
    found = jiwer.process_words(reference, hypothesis), jiwer.process_characters(reference, hypothesis)
    by_word, by_character = (x.substitutions + x.deletions + x.insertions for x in found)
    return Counts(by_word, len(reference.split()), by_character, len(reference))


def build_recogniser(kind: str, is_demo: bool = False, language: str = "en-us") -> Recogniser | None:
    """`kind`: auto, grammar, pocketsphinx, none, whisper:SIZE, whisper:FOLDER, a torchaudio pipeline, or the folder of
    a transformers model.

    auto is pocketsphinx: with the grammar of the demo corpus where that is the corpus, with its language model
    elsewhere; none for languages other than English. `language` is a voice of espeak-ng. ValueError: an
    unknown kind, or a missing package or weights.
    """
    if kind == "auto":
        kind = "grammar" if is_demo else "pocketsphinx" if language.startswith("en") else "none"
    if kind == "none":
        return None
    if kind == "grammar":
        return PocketSphinx(load_grammar())
    if kind == "pocketsphinx":
        return PocketSphinx()
    if kind.startswith("whisper:"):
        return Whisper(kind.removeprefix("whisper:"), "en-us" if is_demo else language)
    if Path(kind).expanduser().is_dir():
        return TransformersModel(Path(kind).expanduser())
    if re.fullmatch(r"[A-Z0-9_]*ASR[A-Z0-9_]*", kind):
        return TorchaudioPipeline(kind)
    raise ValueError(
        f"recogniser {kind!r}: type auto, grammar, pocketsphinx, none, whisper:base, whisper:FOLDER, a "
        "torchaudio pipeline such as WAV2VEC2_ASR_BASE_960H, or the folder of a transformers model"
    )


class PocketSphinx:
    """CMU PocketSphinx with the US English model of its wheel: small, offline, on the CPU.

    With a grammar it recognises only the grammar's sentences, which makes it accurate on synthetic voices. Without one,
    it has a general trigram language model, fit for real voices.
    """

    def __init__(self, grammar: Grammar | None = None):
        self._decoder = _sphinx_decoder(has_language_model=grammar is None)
        self.name = f"pocketsphinx {version('pocketsphinx')}, {'demo grammar' if grammar else 'its language model'}"
        if grammar:
            arcs = grammar_arcs(grammar, lambda word: self._decoder.lookup_word(word) is not None)
            self._decoder.add_fsg("demo", self._decoder.create_fsg("demo", _FIRST, _LAST, arcs))
            self._decoder.activate_search("demo")

    def transcribe(self, wav: Float[np.ndarray, " S"], sample_rate: int) -> str:
        _decode(self._decoder, wav, sample_rate)
        best = self._decoder.hyp()
        return re.sub(r"\(\d+\)", "", best.hypstr) if best else ""  # "the(2)" is a second pronunciation


class WordAligner:
    """Where each word of a known text begins in a recording: forced alignment by pocketsphinx, US English."""

    def __init__(self):
        self._decoder = _sphinx_decoder(has_language_model=False)

    def onsets(self, text: str, wav: Float[np.ndarray, " S"], sample_rate: int) -> list[float] | None:
        """Seconds from the start of `wav`, in steps of 10 ms, one per word of `words(text)`.

        None where there is no word, the recogniser's dictionary lacks one, or it finds no way through the recording.
        """
        spoken, decoder = words(text), self._decoder
        if not spoken or any(decoder.lookup_word(word) is None for word in spoken):
            return None
        decoder.set_align_text(" ".join(spoken))
        _decode(decoder, wav, sample_rate)
        if not decoder.hyp():
            return None
        starts = [s.start_frame for s in decoder.seg() if not s.word.startswith("<")]  # "<sil>" is no word
        if len(starts) != len(spoken):
            return None
        seconds = [start / SPHINX_FRAMES_PER_SECOND - PAD_SECONDS for start in starts]
        return [max(0.0, s) for s in seconds]  # a word at the very start may be put into the noise before it


def _sphinx_decoder(has_language_model: bool) -> "Decoder":
    try:
        from pocketsphinx import Decoder
    except ImportError as error:
        raise not_installed("pocketsphinx") from error
    model = {} if has_language_model else {"lm": None}
    return Decoder(**model, logfn=os.devnull, loglevel="FATAL")


def _decode(decoder: "Decoder", wav: Float[np.ndarray, " S"], sample_rate: int) -> None:
    decoder.reinit_feat(decoder.config)  # else the cepstral means of the clip before go on into this one
    decoder.start_utt()
    decoder.process_raw(to_int16(prepared(wav, sample_rate)).tobytes(), full_utt=True)
    decoder.end_utt()


def grammar_arcs(grammar: Grammar, pronounceable: Callable[[str], bool]) -> list[tuple[int, int, float, str]]:
    """(state, next state, probability, word) of a finite-state grammar: one chain of states per template."""
    arcs, n_states, silent = [], 2, []
    for template in grammar.templates:
        slots = re.findall(r"\{\w+\}|[a-z']+", template.lower())
        state = _FIRST
        for position, slot in enumerate(slots):
            choices = grammar.words[slot[1:-1]] if slot.startswith("{") else [slot]
            silent += [word for word in choices if not pronounceable(word)]
            target = n_states if position < len(slots) - 1 else _LAST
            n_states += target != _LAST
            share = (1 / len(grammar.templates) if position == 0 else 1.0) / len(choices)
            arcs += [(state, target, share, word) for word in choices]
            state = target
    if silent:
        raise ValueError(f"the recogniser has no pronunciation for {', '.join(sorted(set(silent)))}: use other words")
    return arcs
