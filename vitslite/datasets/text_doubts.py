"""Doubts about texts: what the voice cannot read, spells letter by letter, or does not see, and damaged encodings.

Words and letters are tried on espeak-ng itself, so a voice that learns to read a script is believed. What is said is
counted by text; the text is used.
"""

import collections
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from vitslite.datasets.metadata import Notes, Row
from vitslite.text import espeak
from vitslite.text.frontend import Frontend
from vitslite.text.phonemes import STRESS

N_WORDS = 200  # the most frequent words of a script that are tried, 0.1 ms each
SPELLED_SHARE = 0.5  # of the words of a script, above which the voice does not read it; of its own it is below 0.05
SAME_SHARE = 0.5  # of the letters of a script that sound alike ("Chinese letter")
EQUAL_SHARE = 0.34  # distinct words with equal tokens; homophones are 0.06 of English and 0.25 of French
_WORD = re.compile(r"[^\W\d_]+")
_ORDINARY = set("'\"‘’“”„‚«»‹›()[]{}-‐‑–—_/*#.,;:?!…¿¡")  # what a frontend may pass over, or keep as a pause
_JOINERS = "\u200c\u200d"  # part of the spelling of Persian, Hindi and others
_MARKUP = re.compile(r"&(#\d+|[a-z]+);|</?[a-z][^<>]*>", re.IGNORECASE)


class Words(NamedTuple):
    """How the words of a corpus are read: of each script, and all together."""

    unreadable: dict[str, str]  # script -> what the voice makes of it
    equal: list[list[str]]  # words with equal tokens
    n_tried: int


def doubt_texts(rows: Sequence[Row], frontend: Frontend, notes: Notes) -> None:
    """Add to `notes` what is doubtful about the texts of `rows`."""
    words = read_words((row.text for row in rows), frontend)
    unseen = _unseen(rows, frontend)
    for row in rows:
        for kind, detail in _of_text(row.text):
            notes.add(kind, row, detail)
        scripts = {script(c) for c in row.text if c.isalpha()}
        for name in sorted(scripts & words.unreadable.keys()):
            notes.add(
                "script", row, f"text.voice={frontend.settings.voice} does not read {name}: {words.unreadable[name]}"
            )
        if found := [c for c in dict.fromkeys(row.text) if c in unseen]:
            notes.add("marks without effect", row, f"{' '.join(map(_named, found))}: same tokens as without")
    n_equal = sum(map(len, words.equal))
    if rows and words.n_tried >= 10 and n_equal > EQUAL_SHARE * words.n_tried:
        examples = "; ".join(" = ".join(group[:4]) for group in words.equal[:3])
        notes.add("words with equal tokens", rows[0], f"{n_equal} of {words.n_tried} in the corpus: {examples}")


def read_words(texts: Iterable[str], frontend: Frontend) -> Words:
    """The most frequent words of each script, read alone by the voice. Of characters nothing has to be read."""
    if frontend.settings.frontend == "characters":
        return Words({}, [], 0)
    counts = collections.Counter(w for text in texts for w in _WORD.findall(unicodedata.normalize("NFC", text)))
    by_script: dict[str, list[str]] = {}
    for word, _ in counts.most_common():
        by_script.setdefault(script(word[0]), []).append(word)
    voice, unreadable = frontend.settings.voice, {}
    sounds: dict[str, list[str]] = {}
    n_tried = 0
    for name, words in by_script.items():
        if (made := _what_is_made(words, voice)) is not None:
            unreadable[name] = made
            continue
        for word in dict.fromkeys(word.lower() for word in words[:N_WORDS]):
            sounds.setdefault(_sound(word, voice), []).append(word)
            n_tried += 1
    equal = sorted((group for group in sounds.values() if len(group) > 1), key=len, reverse=True)
    return Words(unreadable, equal, n_tried)


def script(letter: str) -> str:
    """LATIN, CYRILLIC, CJK ...: the first word of the letter's name in Unicode."""
    return unicodedata.name(letter, "UNKNOWN").split()[0].split("-")[0]


def _what_is_made(words: list[str], voice: str) -> str | None:
    """What a voice makes of a script that it does not read; None of one that it does."""
    letters = list(dict.fromkeys(c for word in words for c in word.lower()))[:N_WORDS]
    if len(letters) >= 3:
        sounds = collections.Counter(_sound(letter, voice) for letter in letters)
        sound, n = sounds.most_common(1)[0]
        if n > SAME_SHARE * len(letters):
            return f"{n} of {len(letters)} letters sound alike, [{sound}]"
    tried = [word for word in words if len(word) >= 3 and not word.isupper()][:N_WORDS]
    spelled = [word for word in tried if is_spelled(word, voice)]
    if len(tried) >= 2 and len(spelled) > SPELLED_SHARE * len(tried) and not _is_syllabic(words[0]):
        return f"{len(spelled)} of {len(tried)} words are spelled letter by letter ({', '.join(spelled[:2])})"
    return None


def is_spelled(word: str, voice: str) -> bool:
    """Whether a word sounds like the names of its letters."""
    return len(word) > 1 and _sound(word, voice) == _sound(" ".join(word), voice)


def _is_syllabic(word: str) -> bool:
    """Of scripts whose characters are syllables or words, spelling is reading."""
    return script(word[0]) in ("CJK", "HANGUL", "HIRAGANA", "KATAKANA", "YI", "ETHIOPIC", "CHEROKEE")


def _sound(text: str, voice: str) -> str:
    """Its phones without stress, pauses and spaces."""
    phones = "".join(clause.phonemes for clause in espeak.clauses(text, voice))
    return re.sub(rf"\([a-z-]+\)|[{STRESS}_\s]", "", phones)


def _of_text(text: str) -> Iterable[tuple[str, str]]:
    """What a text says for itself: kind, detail."""
    words = [word for word in _WORD.findall(text) if len(word) > 1]
    if len(words) >= 2 and all(word.isupper() for word in words):
        yield "capitals alone", f"{text[:40]!r}: words may be spelled (US as you ess); write it in lower case"
    hidden = [c for c in dict.fromkeys(text) if unicodedata.category(c) in ("Cf", "Cc", "Co", "Cn") or c == "\ufffd"]
    if hidden := [c for c in hidden if c not in _JOINERS and c != "\t"]:
        yield "invisible or broken characters", f"{' '.join(map(_named, hidden))} in {text[:40]!r}"
    if (mended := _mended(text)) is not None:
        yield "encoding", f"{text[:40]!r} reads as {mended[:40]!r} in UTF-8: it was decoded wrongly"
    if found := _MARKUP.search(text):
        yield "markup", f"{found[0]!r} would be spoken"


def _mended(text: str) -> str | None:
    """UTF-8 that was read as a code page of Windows or ISO, as it should have been; None of another text."""
    for page in ("cp1252", "latin-1"):
        try:
            mended = text.encode(page).decode("utf-8")
        except UnicodeError:
            continue
        return mended if mended != text else None
    return None


def _unseen(rows: Sequence[Row], frontend: Frontend) -> set[str]:
    """The marks of the texts that change no token between two words; letters, digits and usual marks are not asked."""
    texts = {c for row in rows for c in row.text}
    asked = sorted(c for c in texts if unicodedata.category(c)[0] in "PS" and c not in _ORDINARY)
    word = next((w for row in rows for w in _WORD.findall(row.text) if len(w) > 2), None)
    if word is None or not asked:
        return set()
    try:
        plain = frontend.symbols(f"{word} {word}")
        return {c for c in asked[:N_WORDS] if frontend.symbols(f"{word} {c} {word}") == plain}
    except ValueError:  # a mark that the frontend refuses is not unseen; corpus.py counts its texts
        return set()


def _named(character: str) -> str:
    return f"{character!r} (U+{ord(character):04X})" if character.isprintable() else f"U+{ord(character):04X}"
