"""Phoneme text units (IPA, by espeak-ng): phones or code points.

    phones      one symbol per phoneme with its stress and length, "ˈiː"; no spaces. Short sequences, true onsets.
    codepoints  one symbol per IPA code point, spaces between words. The style of the published VITS checkpoints.

The marks , . ; : ? ! stay as symbols where the speaker makes a pause (a point in "3.14" does not).
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from vitslite.files import write_text
from vitslite.text import espeak

STRESS = "ˈˌ"
MARKS = ",.;:?!"
_LANGUAGE_SWITCH = re.compile(r"\([a-z-]+\)")  # espeak writes (en) before a foreign word
_END = r"([,.;:?!])[,.;:?!]*[^\w,.;:?!]*"
_LAST_END = re.compile(_END + r"$")
_INNER_END = re.compile(_END + r"\w?$")  # an inner clause shows the first letter of the next one


def phonemes(text: str, voice: str, units: str) -> list[str]:
    """Normalised text -> symbols. ValueError: unknown voice. Text without a word gives []."""
    return _symbols_and_starts(text, voice, units)[0]


def word_starts(text: str, voice: str, units: str) -> list[int]:
    """The places in `phonemes(...)` where words begin. espeak-ng runs some words together ("of the") into one."""
    return _symbols_and_starts(text, voice, units)[1]


def _symbols_and_starts(text: str, voice: str, units: str) -> tuple[list[str], list[int]]:
    symbols: list[str] = []
    starts: list[int] = []
    for words, mark in _spoken_clauses(text, voice):
        for phones in words:
            if units == "codepoints" and symbols:
                symbols.append(" ")
            starts.append(len(symbols))
            symbols += phones if units == "phones" else "".join(phones)
        symbols += mark
    return symbols, starts


def _spoken_clauses(text: str, voice: str) -> Iterator[tuple[list[list[str]], str]]:
    """Per clause that has a sound: its words as lists of phones, and the mark of the pause after it or ""."""
    clauses = espeak.clauses(re.sub(r"\s*(—|–|--)\s*", ", ", text), voice)
    for i, clause in enumerate(clauses):
        sounds = _LANGUAGE_SWITCH.sub("", clause.phonemes)
        words = [[phone for phone in word.split("_") if phone] for word in sounds.split(" ")]
        words = [phones for phones in words if phones]
        if words:
            is_last = i == len(clauses) - 1
            end = (_LAST_END if is_last else _INNER_END).search(clause.text)
            yield words, end[1] if end else "" if is_last else ","


def other_stress(phone: str) -> list[str]:
    """The same phone with the other stress markings, the unstressed first."""
    plain = phone.lstrip(STRESS)
    return [p for p in (plain, *(mark + plain for mark in STRESS)) if p != phone]


def phonemise_all(texts: list[str], voice: str, units: str, cache_folder: Path | None = None) -> dict[str, list[str]]:
    """Symbols of every text, from the file of exactly these texts in `cache_folder` if there is one.

    The file's name is a hash of all that the result depends on; its first line is a hash of the rest, so a damaged file
    is made again.
    """
    if cache_folder is None:
        return {text: phonemes(text, voice, units) for text in texts}
    question = json.dumps([espeak.version(), voice, units, texts])
    path = cache_folder / f"phonemes-{_digest(question)}.json"
    if path.is_file():
        digest, _, body = path.read_text(encoding="utf-8", errors="replace").partition("\n")
        if digest == _digest(body):
            return json.loads(body)
    found = {text: phonemes(text, voice, units) for text in texts}
    body = json.dumps(found, ensure_ascii=False)
    write_text(path, f"{_digest(body)}\n{body}")
    return found


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
