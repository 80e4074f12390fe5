"""Scripts that a voice of espeak-ng does not read: it says "Chinese letter", or spells words by the letters' names.

Letters and words are tried on the library itself, so a voice that learns to read a script is believed.
"""

import functools
import re
import unicodedata

from vitslite.text import espeak

_WORDS = re.compile(r"[^\W\d_]+")
_SYLLABIC = {
    "CJK": "馬花",
    "HANGUL": "가물",
    "HIRAGANA": "かむ",
    "KATAKANA": "カム",
}  # two that sound unlike where read


def unread(text: str, voice: str) -> str | None:
    """The first word of a text that the voice does not read, with what it makes of it; None where it reads all."""
    for word in _WORDS.findall(text):
        letters = [c for c in word if ord(c) > 0x24F]
        if letters and not _reads(voice, _script(letters[0]), word):
            return f"the voice {voice} does not read {word!r}: it says [{_sound(word, voice)[:40]}]"
    return None


def _script(letter: str) -> str:
    """CYRILLIC, CJK ...: the first word of the letter's name in Unicode."""
    return unicodedata.name(letter, "UNKNOWN").split()[0].split("-")[0]


def _reads(voice: str, script: str, word: str) -> bool:
    if script in _SYLLABIC:
        return _tells_apart(voice, *_SYLLABIC[script])
    if script in _read_scripts(voice) or script in ("MODIFIER", "COMBINING", "LATIN"):
        return True
    word = word.lower()
    # One word may be an acronym; it and its letters in reverse order, both spelled, are a script that is not read.
    is_read = len(word) < 3 or not (_is_spelled(word, voice) and _is_spelled(word[::-1], voice))
    if is_read and len(word) >= 3:
        _read_scripts(voice).add(script)
    return is_read


@functools.cache
def _read_scripts(voice: str) -> set[str]:
    """Those of which a word was read, to be tried once."""
    return set()


@functools.cache
def _tells_apart(voice: str, a: str, b: str) -> bool:
    return _sound(a, voice) != _sound(b, voice)


def _is_spelled(word: str, voice: str) -> bool:
    return _sound(word, voice) == _sound(" ".join(word), voice)


def _sound(text: str, voice: str) -> str:
    """Its phones without stress, pauses, spaces and changes of language."""
    return re.sub(r"\([a-z-]+\)|[ˈˌ_\s]", "", "".join(clause.phonemes for clause in espeak.clauses(text, voice)))
