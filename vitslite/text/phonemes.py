"""Phoneme text units (IPA, by espeak-ng): phones or code points.

    phones      one symbol per phoneme with its stress and length, "ˈiː"; no spaces. Short sequences, true onsets.
    codepoints  one symbol per IPA code point, spaces between words. The style of the published VITS checkpoints.

The marks , . ; : ? ! stay as symbols where the speaker makes a pause (a point in "3.14" does not). What version 2 of
the reading adds: marks of other scripts are read as these six, no pause after an abbreviation, tones are whole, texts
in capitals alone are read as words.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from vitslite.files import write_text
from vitslite.text import espeak
from vitslite.text.sentences import language, split_sentences

STRESS = "ˈˌ"
MARKS = ",.;:?!"
TONAL = ("cmn", "yue", "hak", "vi")  # languages whose tones espeak-ng writes as digits
LOSSY = {"th": "Thai", "my": "Burmese", "shn": "Shan"}  # of which espeak-ng leaves out vowels and tones
_OTHER_MARKS = {  # of other scripts, by what they are read as
    ".": "。．։۔।॥။።᠃។꓿",
    ",": "、،၊፣՝᠂",
    ";": "؛፤",
    ":": "：፥",
    "?": "？؟⸮፧",
    "!": "！",
    ' "': "「『《〈【（",
    '" ': "」』》〉】）",
    " ": "・〜～",
}
_AS_READ = str.maketrans({other: mark for mark, others in _OTHER_MARKS.items() for other in others})
_UNSPACED = re.compile(  # in scripts without spaces; espeak-ng wants one after its own marks
    f"(?:[{''.join(_OTHER_MARKS[mark] for mark in MARKS)}]|(?<=[\u2e80-\uffff])[{MARKS}])(?=[^\\W\\d_])"
)
_IN_CAPITALS = re.compile(r"[^\W\d_]{2,}")
_ABBREVIATED = re.compile(r"(?<!\.)\. *\w?$")
_LANGUAGE_SWITCH = re.compile(r"\([a-z-]+\)")  # espeak writes (en) before a foreign word
_END = r"([,.;:?!])[,.;:?!]*[^\w,.;:?!]*"
_LAST_END = re.compile(_END + r"$")
_INNER_END = re.compile(_END + r"\w?$")  # an inner clause shows the first letter of the next one


def phonemes(text: str, voice: str, units: str, version: int) -> list[str]:
    """Normalised text -> symbols. ValueError: unknown voice. Text without a word gives []."""
    return _symbols_and_starts(text, voice, units, version)[0]


def word_starts(text: str, voice: str, units: str, version: int) -> list[int]:
    """The places in `phonemes(...)` where words begin. espeak-ng runs some words together ("of the") into one."""
    return _symbols_and_starts(text, voice, units, version)[1]


def refuse_lossy(voice: str) -> None:
    if language(voice) in LOSSY:
        raise ValueError(
            f"text.voice={voice}: espeak-ng leaves out vowels and tones of {LOSSY[language(voice)]}: "
            "use text=characters, which reads the letters as they are written"
        )


def _symbols_and_starts(text: str, voice: str, units: str, version: int) -> tuple[list[str], list[int]]:
    symbols: list[str] = []
    starts: list[int] = []
    text = re.sub(r"\s*(—|–|--)\s*", ", ", text)
    for sentence in [text] if version == 1 else split_sentences(_as_read(text, voice), voice):
        for words, mark in _spoken_clauses(sentence, voice, version):
            for phones in words:
                if units == "codepoints" and symbols:
                    symbols.append(" ")
                starts.append(len(symbols))
                symbols += phones if units == "phones" else "".join(phones)
            symbols += mark
    return symbols, starts


def _as_read(text: str, voice: str) -> str:
    """Marks of other scripts -> those of MARKS; capitals alone -> lower case."""
    if language(voice) in ("el", "grc"):
        text = re.sub(r"·(?=\s)", ",", text.replace(";", "?"))
    if language(voice).startswith("hy"):  # these stand in the word that is asked or called
        text = re.sub("([՞՜])([^։.]*)[։.]?", lambda m: m[2] + "?!"[m[1] == "՜"], text).replace("՛", "")
    words = _IN_CAPITALS.findall(text)
    if len(words) > 1 and text.upper() == text != text.lower() and max(map(len, words)) > 3:
        text = text.lower()
    return _UNSPACED.sub(r"\g<0> ", text).translate(_AS_READ)


def _spoken_clauses(text: str, voice: str, version: int) -> Iterator[tuple[list[list[str]], str]]:
    """Per clause that has a sound: its words as lists of phones, and the mark of the pause after it or ""."""
    clauses = espeak.clauses(text, voice, tones=version > 1 and language(voice) in TONAL)
    for i, clause in enumerate(clauses):
        sounds = _LANGUAGE_SWITCH.sub("", clause.phonemes)
        words = [[phone for phone in word.split("_") if phone] for word in sounds.split(" ")]
        words = [phones for phones in words if phones]
        if words:
            is_last = i == len(clauses) - 1
            end = (_LAST_END if is_last else _INNER_END).search(clause.text)
            if version > 1 and not is_last and _ABBREVIATED.search(clause.text):
                yield words, ""  # the sentence goes on
            else:
                yield words, end[1] if end else "" if is_last else ","


def other_stress(phone: str) -> list[str]:
    """The same phone with the other stress markings, the unstressed first."""
    plain = phone.lstrip(STRESS)
    return [p for p in (plain, *(mark + plain for mark in STRESS)) if p != phone]


def phonemise_all(
    texts: list[str], voice: str, units: str, version: int, cache_folder: Path | None = None
) -> dict[str, list[str]]:
    """Symbols of every text, from the file of exactly these texts in `cache_folder` if there is one.

    The file's name is a hash of all that the result depends on; its first line is a hash of the rest, so a damaged file
    is made again.
    """
    if cache_folder is None:
        return {text: phonemes(text, voice, units, version) for text in texts}
    question = json.dumps([espeak.version(), voice, units, texts, version])
    path = cache_folder / f"phonemes-{_digest(question)}.json"
    if path.is_file():
        digest, _, body = path.read_text(encoding="utf-8", errors="replace").partition("\n")
        if digest == _digest(body):
            return json.loads(body)
    found = {text: phonemes(text, voice, units, version) for text in texts}
    body = json.dumps(found, ensure_ascii=False)
    write_text(path, f"{_digest(body)}\n{body}")
    return found


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
