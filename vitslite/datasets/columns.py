"""Columns of metadata.csv: a header, and what is no text (speaker, seconds, language) where a text is expected."""

import re
import statistics
from pathlib import Path

_FEWEST_ROWS = 4  # fewer say nothing about a column
_LABELS = 0.25  # distinct values / rows: labels repeat, sentences hardly ever do
_SHORTER = 3  # a normalised text is as long as the raw one, or longer; a third of it is something else
_NUMBER = re.compile(r"[-+]?[\d.,:]+(?:e[-+]?\d+)?\s*(?:s|ms|sec)?", re.IGNORECASE)
_ID_NAME = re.compile(r"(id|uid|utt(erance)?_id|name|(audio_)?file(_?(name|path))?|path|wavs?|audio|clip)s?")
_TEXT_NAME = re.compile(
    r"(raw_?)?(texts?|transcript(ion)?s?|sentences?|utterance|normali[sz]ed(_text)?)|speaker(_id)?|lang.*"
)


def is_header(fields: list[str]) -> bool:
    """Whether a row names its columns, as in `id|text`."""
    first, *others = (re.sub(r"\W+", "_", f.strip().lower()).removesuffix("_") for f in fields)
    return bool(_ID_NAME.fullmatch(first) and others and _TEXT_NAME.fullmatch(others[0]))


def check_columns(path: Path, table: list[list[str]]) -> str | None:
    """A remark about a second column that is no text; ValueError where the column that would be spoken is none."""
    thirds = [(row[1].strip(), row[2].strip()) for row in table if len(row) == 3 and row[2].strip()]
    if len(thirds) >= _FEWEST_ROWS:
        second, third = ([pair[i] for pair in thirds] for i in (0, 1))
        if (what := _no_text(third, second)) is not None:
            raise ValueError(
                f"{path}: column 3, which would be spoken, holds {what}, not texts: "
                "take the column out (id|text), or put the text there (id|raw text|text)"
            )
        if (what := _no_text(second, third)) is not None and what.startswith("labels"):
            return f"column 2 holds {what}: if they are speakers, all of them become one voice"
        return None
    seconds = [row[1].strip() for row in table if row[1].strip()]
    if len(seconds) >= _FEWEST_ROWS and (what := _no_text(seconds, [])) is not None:
        raise ValueError(f"{path}: column 2, which would be spoken, holds {what}, not texts: expected id|text")
    return None


def _no_text(values: list[str], beside: list[str]) -> str | None:
    """What a column holds if it is no text; `beside`: the column that may be one."""
    examples = ", ".join(list(dict.fromkeys(values))[:3])
    if sum(bool(_NUMBER.fullmatch(v)) for v in values) > 0.9 * len(values):
        return f"numbers ({examples})"
    if not beside:
        return None
    n_kinds = len(set(values))
    if n_kinds <= max(_LABELS * len(values), 1) and len(set(beside)) >= 2 * n_kinds:
        return f"labels ({examples})"
    if statistics.median(map(len, beside)) >= _SHORTER * statistics.median(map(len, values)):
        return f"{'labels' if n_kinds <= 0.5 * len(values) else 'something far shorter than a text'} ({examples})"
    return None
