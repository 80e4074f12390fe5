"""Text frontend: text -> token ids. It is its settings and its vocabulary; both go into the checkpoint."""

import dataclasses
import re
import sys
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from vitslite.text.characters import characters, normalise
from vitslite.text.phonemes import other_stress, phonemes, phonemise_all, refuse_lossy, word_starts
from vitslite.text.scripts import unread

BLANK = "_"  # id 0: padding, and between tokens if text.blanks; voices of others may have another symbol there
START, END = "^", "$"  # carry the silence at both ends of a recording


@dataclass
class TextSettings:
    frontend: str = field(default="phonemes", metadata={"choices": ("phonemes", "characters")})
    voice: str = "en-us"  # espeak-ng's name of the language, for phonemes
    units: str = field(default="phones", metadata={"choices": ("phones", "codepoints")})  # of phonemes, see phonemes.py
    blanks: bool = False  # a blank before, between and after all tokens, as in VITS
    outer_blanks: bool = True  # false: of those, only the ones between tokens, as in Piper
    edges: bool = True  # "^" before and "$" after every sentence, as in Piper
    version: int = field(default=1, metadata={"at_least": 1, "at_most": 2})  # of the reading, see docs/data.md
    skip_unknown: bool = False  # leave out what the vocabulary lacks, with one note each; false: refuse the text
    symbols: str | None = None  # the vocabulary, "_" first, one symbol per character (phones: separated by spaces)
    # null: all symbols of the corpus. Of a symbol that is listed twice the last place counts, as in VITS.


class Frontend:
    """str -> ids, by `encode`. Ids are places in `vocabulary`; `n_symbols` is the size of the embedding.

    An imported vocabulary may have gaps, places with the symbol "", and any symbol at place 0.
    """

    def __init__(self, settings: TextSettings, vocabulary: list[str]):
        self.settings = settings
        self._prepared: dict[str, list[str]] = {}
        self._skipped: set[str] = set()
        self._set_vocabulary(vocabulary)

    @property
    def n_symbols(self) -> int:
        return len(self.vocabulary)

    def prepare(self, texts: list[str], cache_folder: Path | None = None) -> None:
        """Look up the phonemes of a whole corpus at once, kept in memory and in a file of the folder."""
        s = self.settings
        if s.frontend == "phonemes":
            self._refuse_lossy()
            normalised = list(dict.fromkeys(normalise(text, s.version) for text in texts))
            known = [text for text in normalised if s.version == 1 or unread(text, s.voice) is None]
            self._prepared |= phonemise_all(known, s.voice, s.units, s.version, cache_folder)

    def symbols(self, text: str) -> list[str]:
        """The symbols of a text, with "^" and "$" but without blanks. ValueError: nothing to speak, or not readable."""
        s = self.settings
        normalised = normalise(text, s.version)
        if s.frontend == "characters":
            spoken = self._checked_characters(normalised)
        elif normalised in self._prepared:
            spoken = self._prepared[normalised]
        else:
            self._refuse_lossy()
            if s.version > 1 and (fault := unread(normalised, s.voice)) is not None:
                raise ValueError(
                    f"text {text!r}: {fault}; write it in the script of the voice, or choose another voice"
                )
            spoken = phonemes(normalised, s.voice, s.units, s.version)
        if not spoken:
            raise ValueError(f"text {text!r}: nothing to speak")
        return [START, *spoken, END] if s.edges else spoken

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, with blanks if text.blanks. ValueError names the symbols that the vocabulary lacks."""
        symbols = self.symbols(text)
        places = [self._places(symbol) for symbol in symbols]
        unknown = dict.fromkeys(s for s, found in zip(symbols, places, strict=True) if not found)
        known = [i for found in places for i in found]
        if unknown and (not self.settings.skip_unknown or len(known) <= 2 * self.settings.edges):
            first = symbols.index(next(iter(unknown)))
            raise ValueError(
                f"text {text!r}: {' '.join(map(repr, unknown))} not in the vocabulary of {self.n_symbols} symbols "
                f"(first after {''.join(symbols[max(0, first - 8) : first])!r}); respell the text"
            )
        self._note_skipped(unknown.keys() - self._skipped)
        s = self.settings
        return intersperse_blanks(known, s.outer_blanks) if s.blanks else known

    def word_starts(self, text: str) -> list[int]:
        """The token indices at which the words of a text begin."""
        s = self.settings
        normalised = normalise(text, s.version)
        if s.frontend == "characters":
            starts = [match.start() for match in re.finditer(r"[^\W_]+(?:'[^\W_]+)*", "".join(characters(normalised)))]
        else:
            starts = word_starts(normalised, s.voice, s.units, s.version)
        shifted = [start + s.edges for start in starts]
        return [2 * start + s.outer_blanks for start in shifted] if s.blanks else shifted

    def names(self, ids: list[int]) -> list[str]:
        """The symbols of token ids, for figures and messages."""
        return [self.vocabulary[i] for i in ids]

    def state(self) -> dict:
        """Plain values only, for the checkpoint."""
        return {"settings": dataclasses.asdict(self.settings), "vocabulary": list(self.vocabulary)}

    @classmethod
    def from_state(cls, state: dict) -> "Frontend":
        return cls(TextSettings(**state["settings"]), list(state["vocabulary"]))

    def _refuse_lossy(self) -> None:
        if self.settings.version > 1:
            refuse_lossy(self.settings.voice)

    def _set_vocabulary(self, vocabulary: list[str]) -> None:
        assert vocabulary, "no symbol for the blank"
        self.vocabulary = vocabulary
        self._ids = {symbol: i for i, symbol in enumerate(vocabulary) if symbol}

    def _places(self, symbol: str) -> list[int]:
        """The id of a symbol, or those of its parts where only they are known ("ç" is "c" and a cedilla); [] without.

        A phone whose stress was never seen in training falls back on another stress of the same phone.
        """
        is_phone = self.settings.frontend == "phonemes" and self.settings.units == "phones"
        candidates = [symbol, *other_stress(symbol)] if is_phone else [symbol]
        found = next(([self._ids[c]] for c in candidates if c in self._ids), [])
        parts = [self._ids.get(part) for part in unicodedata.normalize("NFD", symbol)]
        return found or ([] if is_phone or None in parts else [i for i in parts if i is not None])

    def _note_skipped(self, symbols: set[str]) -> None:
        for symbol in sorted(symbols):
            print(f"note: left out {symbol!r}, which the voice does not know", file=sys.stderr, flush=True)
        self._skipped |= symbols

    def _checked_characters(self, text: str) -> list[str]:
        reserved = (BLANK if self.vocabulary[0] == BLANK else "") + (START + END if self.settings.edges else "")
        found = [c for c in reserved if c in text]
        if found:
            raise ValueError(f"text {text!r}: {' '.join(found)} has a meaning of its own here; spell it out")
        return characters(text)


def intersperse_blanks(ids: list[int], outer: bool = True) -> list[int]:
    """a b -> 0 a 0 b 0: token i goes to place 2 i + 1; without the outer ones a 0 b, and to place 2 i."""
    out = [0] * (2 * len(ids) + 1)
    out[1::2] = ids
    return out if outer else out[1:-1]


def listed_symbols(settings: TextSettings) -> list[str]:
    """The vocabulary that text.symbols spells out."""
    assert settings.symbols is not None
    by_space = settings.frontend == "phonemes" and settings.units == "phones"
    return settings.symbols.split() if by_space else list(settings.symbols)


def build_frontend(settings: TextSettings, texts: list[str], cache_folder: Path | None = None) -> Frontend:
    """A frontend with the vocabulary of text.symbols, or else of all symbols in `texts`, sorted.

    Texts without anything to speak are passed over; ValueError if all are.
    """
    frontend = Frontend(settings, [BLANK])
    frontend.prepare(texts, cache_folder)
    if settings.symbols is not None:
        frontend._set_vocabulary(listed_symbols(settings))
        return frontend
    found: set[str] = set()
    faults = []
    for text in texts:
        try:
            found.update(frontend.symbols(text))
        except ValueError as fault:
            faults.append(str(fault))  # the reader of the corpus counts and reports it
    if not found:
        raise ValueError(f"no text with anything to speak{f'; the first: {faults[0]}' if faults else ''}")
    frontend._set_vocabulary([BLANK, *sorted(found)])
    return frontend
