"""Samples page of a run: its validation sentences, step by step, in one file `samples.html`.

The page needs no network and no server: it links to the wavs and pictures of the run directory by relative paths.
"""

import difflib
import functools
import json
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from vitslite.files import write_text
from vitslite.monitoring import html

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


def samples_page(run_dir: Path, title: str) -> Path | None:
    """Write `run_dir/samples.html`: the sentences, each at every step. The file appears whole or not at all.

    None, and no file, if no step has a `samples.json` with a sentence in it. ValueError names a damaged one.
    """
    by_sentence: dict[tuple[str, str], list[Sample]] = {}
    for sample in _read_samples(run_dir):
        by_sentence.setdefault((sample.id, sample.text), []).append(sample)
    if not by_sentence:
        return None
    link = functools.partial(_link, run_dir)
    # The recording is the same at every step: the newest whose file is still there.
    sentences = [
        (next((s for s in reversed(samples) if s.file("recording").is_file()), samples[-1]), samples)
        for samples in by_sentence.values()
    ]
    values = {"title": title, "sentences": sentences, "link": link, "marked": marked}
    path = run_dir / "samples.html"
    write_text(path, html.render("monitoring/templates/samples.html", curves=link(run_dir / "curves.png"), **values))
    return path


def samples_table(run_dir: Path) -> list[dict[str, int | str | Path | None]]:
    """The same as rows: sentence after sentence, each at every step; None where a file is missing."""
    rows: list[dict[str, int | str | Path | None]] = []
    for x in sorted(_read_samples(run_dir), key=lambda sample: sample.id):
        files = {kind: x.file(kind) for kind in (*KINDS, "alignment", "spectrograms")}
        heard = {f"heard in {k}": x.heard.get(k, "") for k in ("copy", "spoken")}
        found = {kind: path if path.is_file() else None for kind, path in files.items()}
        rows.append({"text": x.text, "step": x.step, **heard, **found})
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


# -------------------------------------------------------------------------------------------------------- reading


def _read_samples(run_dir: Path) -> list[Sample]:
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


def _link(run_dir: Path, path: Path) -> str | None:
    """`path` as an address relative to the run directory; None if there is no such file."""
    return quote(path.relative_to(run_dir).as_posix()) if path.is_file() else None
