"""Record of a run's data, `data.tsv` in its directory: what was read, so that other data under its name is noticed.

The first line is the folder and a stamp of its files, by size and time, which stand for their content where that has
not to be read; then a row per clip: id, part, a hash of the samples, text.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitslite.datasets.corpus import Corpus, DataSettings, corpus_folder
from vitslite.files import write_text
from vitslite.runs import SKIPPED

NAME = "data.tsv"
_PARTS = ("train", "validation", "test")
_EXAMPLES = 2  # clips that a message names


def write(run_dir: Path, corpus: Corpus) -> None:
    """The record, and beside it the lists of what was skipped and what is doubtful."""
    write_text(run_dir / SKIPPED, corpus.skipped.report())
    write_text(run_dir / "doubtful.tsv", corpus.notes.report())
    rows = [
        "\t".join((u.id, part, corpus.facts[u.id].digest if u.id in corpus.facts else "", _flat(u.text)))
        for part in _PARTS
        for u in getattr(corpus, part)
    ]
    write_text(run_dir / NAME, "\n".join([f"# {corpus.root}\t{stamp(corpus.root)}", *rows]) + "\n")


def stamp(root: Path) -> str:
    """A hash of the metadata and of every clip's name, size and time: 0.1 s for 13,100 clips."""
    found = hashlib.blake2b(digest_size=12)
    for path in (root / "metadata.csv", root / "alignments.jsonl"):
        if path.is_file():
            found.update(path.read_bytes())
    for folder, folders, names in os.walk(root / "wavs"):
        folders.sort()
        for name in sorted(names):
            try:
                status = os.stat(os.path.join(folder, name))
            except OSError:  # a link to nothing
                continue
            found.update(json.dumps([folder[len(str(root)) :], name, status.st_size, status.st_mtime_ns]).encode())
    return found.hexdigest()


def changes(run_dir: Path, corpus: Corpus) -> str | None:
    """What a corpus has that the run's data had not, in words; None for the same, or where no record is."""
    _, before = _read(run_dir)
    if not before:
        return None
    texts = {u.id: _flat(u.text) for part in _PARTS for u in getattr(corpus, part)}
    now = {name: (corpus.facts[name].digest if name in corpus.facts else "", text) for name, text in texts.items()}
    both = now.keys() & before.keys()
    found = {
        "added": sorted(now.keys() - before.keys()),
        "gone": sorted(before.keys() - now.keys()),
        "with another text": sorted(name for name in both if now[name][1] != before[name][1]),
        "with another recording": sorted(
            name for name in both if before[name][0] and now[name][0] and now[name][0] != before[name][0]
        ),
    }
    return ", ".join(f"{_clips(names)} {what}" for what, names in found.items() if names) or None


def refuse_other_data(
    run_dir: Path, data: DataSettings, load: Callable[[], Corpus], checkpoint: Callable[[], dict[str, Any]]
) -> None:
    """ValueError where a finished run was trained on other data than `data` names.

    The corpus is looked into (`load`) only where its files are not, by place, size and time, those of the record; of a
    run without one, its checkpoint is.
    """
    root = corpus_folder(data)
    if data.kind == "demo":  # its settings say it all
        return
    head, before = _read(run_dir)
    if head.partition("\t")[2] == stamp(root) and (root / "metadata.csv").is_file():
        return
    corpus = load()
    if before:
        what = changes(run_dir, corpus)
    else:
        what = "the corpus differs" if checkpoint().get("corpus") != corpus.digest() else None
    if what is not None:
        raise ValueError(
            f"{run_dir} is trained, but on other data than {root} ({what}): give the new run a name of its own "
            "(name=...), or restore the data"
        )


def _read(run_dir: Path) -> tuple[str, dict[str, tuple[str, str]]]:
    """The first line, and id -> (hash, text); nothing of a run without a record."""
    path = run_dir / NAME
    if not path.is_file():
        return "", {}
    head, *lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows = [line.split("\t") for line in lines if line.count("\t") == 3]
    return head.removeprefix("# "), {name: (digest, text) for name, _, digest, text in rows}


def _flat(text: str) -> str:
    return " ".join(text.split())


def _clips(names: list[str]) -> str:
    more = ", ..." if len(names) > _EXAMPLES else ""
    return f"{len(names)} clip{'s' * (len(names) > 1)} ({', '.join(names[:_EXAMPLES])}{more})"
