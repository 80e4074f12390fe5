"""Character text units: no pronunciation dictionary, any language."""

import re
import unicodedata

_SAME = str.maketrans({"‘": "'", "’": "'", "‚": ",", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "…": "..."})


def normalise(text: str) -> str:
    """What every frontend does first: Unicode NFC, straight quotes, no control characters, single spaces."""
    text = unicodedata.normalize("NFC", text).translate(_SAME)
    visible = "".join(" " if unicodedata.category(c) in ("Cc", "Cf") else c for c in text)
    return re.sub(r"\s+", " ", visible).strip()


def characters(text: str) -> list[str]:
    """Normalised text -> one symbol per character, in lower case; spaces and punctuation are kept."""
    return list(text.lower().replace("—", "-").replace("–", "-"))
