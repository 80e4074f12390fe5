"""Demo corpus: sentences from a grammar, spoken by espeak-ng, with the true onset of every phoneme."""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from vitslite import randomness
from vitslite.files import in_turn, shipped, write_text
from vitslite.text import espeak

GRAMMAR_FILE = shipped("data/demo_grammar.txt")
_ROOT = Path(__file__).parents[2]  # where the workers import from: a checkout, or the folder of installed packages
CHUNK_SENTENCES = 50  # per process; fixed, because the speech depends on what the process spoke before
_VERSION = 1  # of the recipe: raise it when the same grammar gives other bytes


@dataclass
class Grammar:
    words: dict[str, list[str]]
    templates: list[str]
    text: str  # the file, for hashing


def load_grammar(path: Path = GRAMMAR_FILE) -> Grammar:
    """ValueError names the file and line that cannot be read."""
    if not path.is_file():
        raise ValueError(f"{path} is missing: install vitslite again")
    text = path.read_text(encoding="utf-8")
    words: dict[str, list[str]] = {}
    templates: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(">"):
            templates.append(line[1:].strip())
            unknown = [slot for slot in re.findall(r"\{(\w+)\}", line) if slot not in words]
            if unknown:
                raise ValueError(f"{path}:{number}: no word list named {unknown[0]!r} above")
        elif match := re.fullmatch(r"(\w+) *= *(.+)", line):
            words.setdefault(match[1], []).extend(match[2].split())
        elif line.strip() and not line.startswith("#"):
            raise ValueError(f"{path}:{number}: expected `name = words`, `> template` or `# comment`")
    if not templates:
        raise ValueError(f"{path}: no templates")
    return Grammar(words, templates, text)


def make_sentences(n: int, seed: int, grammar: Grammar) -> list[str]:
    """n different sentences. Words and templates are dealt from shuffled decks, so that all are equally frequent."""
    decks: dict[str, Iterator[str]] = {}

    def deck(name: str, cards: list[str]) -> Iterator[str]:
        for deal in range(10**9):
            yield from sorted(cards, key=lambda card: randomness.key(seed, name, deal, card))

    def draw(name: str, cards: list[str]) -> str:
        return next(decks.setdefault(name, deck(name, cards)))

    sentences: dict[str, None] = {}
    for _ in range(20 * n + 1000):
        if len(sentences) == n:
            return list(sentences)
        template = draw(">", grammar.templates)
        raw = re.sub(r"\{(\w+)\}", lambda slot: draw(slot[1], grammar.words[slot[1]]), template)
        sentences[_with_capitals(raw, grammar.words.get("person", []))] = None
    raise ValueError(f"data.n_sentences={n}: the grammar gives only {len(sentences)} different sentences")


def make_demo_corpus(
    folder: str | Path,
    n_sentences: int = 1200,
    seed: int = 0,
    voice: str = "en-us+f5",
    jobs: int = 2,
    grammar_file: Path = GRAMMAR_FILE,
) -> Path:
    """Make the corpus in a subfolder of `folder`, or find it there, and return the subfolder.

    Its name has a hash of all that the bytes depend on (not of `jobs`). What an interrupted call finished is kept; a
    second process that wants the same corpus waits for the first. Layout: data/README.md. The file `DONE` comes last.
    """
    if n_sentences < 1 or jobs < 1:
        raise ValueError(f"demo corpus: need at least 1 sentence and 1 job, got {n_sentences} and {jobs}")
    grammar = load_grammar(grammar_file)
    recipe = [_VERSION, espeak.version(), CHUNK_SENTENCES, n_sentences, seed, voice, grammar.text]
    digest = hashlib.blake2b(json.dumps(recipe).encode(), digest_size=4).hexdigest()
    root = Path(folder).expanduser().absolute() / f"demo-{voice}-{n_sentences}-{digest}"
    if (root / "DONE").is_file():
        return root
    espeak.clauses("a", voice)  # an unknown voice stops here
    (root / "wavs").mkdir(parents=True, exist_ok=True)
    with in_turn(root / "lock"):
        if not (root / "DONE").is_file():
            for leftover in root.rglob("*.tmp.*"):
                leftover.unlink()
            sentences = make_sentences(n_sentences, seed, grammar)
            items = [(f"demo-{i:05d}", sentence) for i, sentence in enumerate(sentences)]
            chunks = _speak(items, root, voice, seed, jobs)
            write_text(root / "alignments.jsonl", "".join(chunk.read_text(encoding="utf-8") for chunk in chunks))
            write_text(root / "metadata.csv", "".join(f"{name}|{text}|{text}\n" for name, text in items))
            write_text(root / "DONE", json.dumps({"sentences": n_sentences, "seed": seed, "voice": voice}) + "\n")
    return root


def _speak(items: list[tuple[str, str]], root: Path, voice: str, seed: int, jobs: int) -> list[Path]:
    """Have every chunk spoken that is not there yet; their alignment files, in order."""
    folder = root / "chunks"
    folder.mkdir(exist_ok=True)
    starts = range(0, len(items), CHUNK_SENTENCES)
    chunks = {folder / f"{start:05d}.jsonl": items[start : start + CHUNK_SENTENCES] for start in starts}
    shared = {"voice": voice, "seed": seed, "wavs": f"{root}/wavs"}
    bar = tqdm(total=len(items), desc="making the demo corpus", unit="sentences", disable=None)
    with ThreadPoolExecutor(jobs) as pool, bar:
        running = {
            pool.submit(_run_worker, shared | {"items": part, "alignments": str(chunk)}): len(part)
            for chunk, part in chunks.items()
            if not chunk.is_file()
        }
        bar.update(len(items) - sum(running.values()))
        try:
            for done in as_completed(running):
                done.result()
                bar.update(running[done])
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return list(chunks)


def _run_worker(task: dict) -> None:
    command = [sys.executable, "-m", "vitslite.datasets.demo_worker"]
    result = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True, cwd=_ROOT)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]
        raise OSError(f"the demo corpus could not be spoken: {reason} (data.cache=... puts it elsewhere)")


def _with_capitals(sentence: str, names: list[str]) -> str:
    upper = {"i", *names}
    sentence = re.sub(r"\w+", lambda word: word[0].capitalize() if word[0] in upper else word[0], sentence)
    return sentence[0].upper() + sentence[1:]
