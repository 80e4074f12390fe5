"""Text normalisation, which every frontend does first, and character units: no dictionary, any language."""

import re
import unicodedata

_SAME = str.maketrans({"‘": "'", "’": "'", "‚": ",", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "…": "..."})
_WIDE = re.compile("[\uff00-\uffef]+")  # full-width Latin, digits and marks, half-width kana
_JOINERS = re.compile("(?<=[\u0600-\u0dff])\u200c|(?<=[\u0d00-\u0d7f])\u200d")  # spelling: Persian, Malayalam chillu


def normalise(text: str, version: int) -> str:
    """Unicode NFC, straight quotes, no control characters, single spaces.

    Version 1 puts a space for what is invisible (soft hyphens, zero width); 2 drops it, keeps the joiners that are
    spelling, and writes wide and narrow forms as the ordinary ones.
    """
    text = unicodedata.normalize("NFC", text).translate(_SAME)
    if version > 1:
        text = _WIDE.sub(lambda run: unicodedata.normalize("NFKC", run[0]), text)
        kept = {match.start() for match in _JOINERS.finditer(text)}
        text = "".join(c for i, c in enumerate(text) if unicodedata.category(c) != "Cf" or i in kept)
    blank = ("Cc", "Cf") if version == 1 else ("Cc",)
    visible = "".join(" " if unicodedata.category(c) in blank else c for c in text)
    return re.sub(r"\s+", " ", visible).strip()


def characters(text: str) -> list[str]:
    """Normalised text -> one symbol per character, in lower case; spaces and punctuation are kept."""
    return list(text.lower().replace("—", "-").replace("–", "-"))
