"""Samples of a run: what lies below `samples/`, its validation sentences step by step, and what was heard in them."""

import difflib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from vitslite import runs

WORDS = "words.json"  # in a step's folder: sentence -> kind -> wrong words, words
KINDS = ("recording", "copy", "spoken")  # as recorded, decoded from the posterior, spoken from the text
# "don't" is one word; quotation marks around a word are not part of it; accents may stand as marks of their own.
_WORD = re.compile(r"\w[\w\u0300-\u036f]*(?:['’]\w[\w\u0300-\u036f]*)*")


class Sample(NamedTuple):
    """One sentence at one step: an entry of `samples/step_*/samples.json`."""

    step: int
    folder: Path  # holds ID_recording.wav, ID_copy.wav, ID_spoken.wav, ID_alignment.png, ID_spectrograms.png
    id: str
    text: str
    heard: dict[str, str]  # recording, copy, spoken -> what the speech recogniser understood; {} if it was not asked

    def file(self, kind: str) -> Path:
        return self.folder / f"{self.id}_{kind}.{'wav' if kind in KINDS else 'png'}"


def samples_table(run_dir: Path) -> list[dict[str, int | str | Path | None]]:
    """The same as rows: sentence after sentence, each at every step; None where a file is missing."""
    rows: list[dict[str, int | str | Path | None]] = []
    for x in sorted(read_samples(run_dir), key=lambda sample: sample.id):
        files = {kind: x.file(kind) for kind in (*KINDS, "alignment", "spectrograms")}
        heard = {f"heard in {k}": x.heard.get(k, "") for k in ("copy", "spoken")}
        found = {kind: path if path.is_file() else None for kind, path in files.items()}
        rows.append({"text": x.text, "step": x.step, **heard, **found})
    return rows


def utterances_table(run_dir: Path, step: int) -> list[dict[str, Any]]:
    """The newest validation's utterances as rows, with the word error rates and the players of the sampling at `step`.

    All have the same columns: None where a sentence was not listened to, or has no sample.
    """
    validation, words = runs.read_validation(run_dir) or runs.Validation(step=-1), read_words(run_dir, step)
    spoken = {x.id: x.file("spoken") for x in read_samples(run_dir) if x.step == step}
    rows = []
    for row in validation.utterances:
        heard = {kind: wrong / n for kind, (wrong, n) in words.get(row["id"], {}).items() if n}
        errors = {f"wer_{kind}": heard.get(kind) for kind in KINDS}
        rows.append({"step": validation.step, **row, **errors, "spoken": spoken.get(row["id"])})
    return rows


def marked(heard: str, text: str) -> list[tuple[str, str]]:
    """`heard` in pieces (HTML tag or "", words), compared with `text` word by word, in lower case, without punctuation.

    "mark": words that differ from the text; "del": words of the text for which nothing was heard.
    """
    said, words = list(_WORD.finditer(heard)), _WORD.findall(text)
    matcher = difflib.SequenceMatcher(
        None, [_plain(w) for w in words], [_plain(w.group()) for w in said], autojunk=False
    )
    pieces, end = [], 0  # `end`: how far `heard` is written
    for operation, i, j, k, m in matcher.get_opcodes():
        if operation == "delete":
            before = said[k].start() if k < len(said) else len(heard)
            pieces += [("", f"{heard[end:before]} "), ("del", " ".join(words[i:j])), ("", " ")]
            end = before
        for word in said[k:m]:
            pieces += [("", heard[end : word.start()]), ("" if operation == "equal" else "mark", word.group())]
            end = word.end()
    return [*pieces, ("", heard[end:])]


def _plain(word: str) -> str:
    return word.lower().replace("’", "'")


def read_samples(run_dir: Path) -> list[Sample]:
    """All sentences of all steps, steps ascending. Folders without a samples.json are left out."""
    steps = [(path.parent.name.removeprefix("step_"), path) for path in run_dir.glob("samples/step_*/samples.json")]
    samples = []
    for step, path in sorted((int(number), path) for number, path in steps if number.isdecimal()):
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(entries, list) or not all(map(_is_entry, entries)):
                raise ValueError('must be a list of {"id": "...", "text": "...", "heard": {}}')
        except ValueError as error:  # also what is not JSON, or not even text
            raise ValueError(f"{path}: damaged ({error}); delete it to leave this step out") from None
        samples += [Sample(step, path.parent, e["id"], e["text"], e.get("heard") or {}) for e in entries]
    return samples


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict):
        return False
    heard = entry.get("heard") or {}
    is_heard = isinstance(heard, dict) and all(isinstance(words, str) for words in heard.values())
    return is_heard and isinstance(entry.get("id"), str) and isinstance(entry.get("text"), str)


def read_words(run_dir: Path, step: int) -> dict[str, dict[str, list[int]]]:
    """Of each sentence that was listened to at a step, by kind: wrong words, words. ValueError for a damaged file."""
    path = run_dir / "samples" / f"step_{step:06d}" / WORDS
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); delete it to leave it out") from None
