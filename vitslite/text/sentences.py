"""Sentence splitting, by sentencex: abbreviations, initials, numbers and ellipses stay whole, in some 300 languages."""

import re

from sentencex import segment

_LANGUAGES = {"cmn": "zh", "yue": "zh", "hak": "zh", "nb": "no"}  # sentencex's names, where espeak-ng's are others
# What the library takes for an end in some language: an initial, a title, a piece that goes on in lower case.
_GOES_ON = re.compile(r"(?:^|[\s\"'(])(?:[^\W\d_]|MM|Mme|Mlle|Mgr|Dr|Prof|Mr|Mrs|Ms|St|Mevr|Dhr|kl|vs|T\.ex)\.\s*$")
_BLANK_LINES = re.compile(r"\n\s*\n")


def language(voice: str) -> str:
    """en-us+f5 -> en: the language of an espeak-ng voice."""
    return voice.lower().split("+")[0].split("-")[0]


def split_sentences(text: str, voice: str = "en-us") -> list[str]:
    """'Dr. Fox spoke. Who?' -> ['Dr. Fox spoke.', 'Who?']. Blank lines part as well."""
    code = _LANGUAGES.get(language(voice), language(voice))
    sentences: list[str] = []
    for paragraph in _BLANK_LINES.split(text):
        found: list[str] = []
        for piece in segment(code, " ".join(paragraph.split())):
            if found and _belongs(found[-1], piece):
                found[-1] += piece
            else:
                found.append(piece)
        sentences += (piece.strip() for piece in found)
    return [sentence for sentence in sentences if sentence]


def _belongs(before: str, piece: str) -> bool:
    """Whether a piece goes on with the one before it; closing quotes and lone marks do."""
    goes_on = _GOES_ON.search(before) is not None or piece.lstrip("\"'(")[:1].islower()
    return goes_on and before[-1:].isspace() or not any(c.isalnum() for c in piece)
