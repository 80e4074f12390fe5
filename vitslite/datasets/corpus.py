"""Corpus reader for LJSpeech's layout: rows and clips -> utterances, all checked before training starts."""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from vitslite.audio import AudioSettings
from vitslite.audio_files import duration_info
from vitslite.datasets.audio_cache import CachedClips
from vitslite.datasets.audio_facts import Facts
from vitslite.datasets.clips import ClipReader, Folder
from vitslite.datasets.demo import make_demo_corpus
from vitslite.datasets.doubts import Looked, doubt_clips
from vitslite.datasets.look import look
from vitslite.datasets.metadata import Notes, Row, Skipped, read_metadata
from vitslite.datasets.onsets import known_onsets, read_alignments
from vitslite.datasets.text_doubts import doubt_texts
from vitslite.text.frontend import BLANK, Frontend, TextSettings, build_frontend

_TOLERATED_FAULTS = 10  # missing or corrupt clips, in small corpora where data.max_bad is less than that


@dataclass
class DataSettings:
    # ljspeech: a folder of yours, in LJSpeech's layout (data/README.md)
    kind: str = field(default="demo", metadata={"choices": ("demo", "ljspeech")})
    root: str | None = None  # that folder
    cache: str = "~/.cache/vitslite"  # phonemes, decoded clips, and the demo corpus
    n_sentences: int = field(default=1200, metadata={"at_least": 1})  # of the demo corpus
    demo_seed: int = 0
    demo_voice: str = "en-us+f5"
    batch_size: int = field(default=16, metadata={"at_least": 1})  # utterances per step, of all ranks and micro-batches
    n_workers: int = field(default=0, metadata={"at_least": 0})  # processes that load data, per rank; 0: the trainer's
    cache_audio: bool = True  # decode the training clips once, into a file in `cache`; false: whenever they are used
    # Round token and frame counts of a batch up to this: fewer shapes for compilers.
    pad_multiple: int = field(default=1, metadata={"at_least": 1})
    # Scale every clip so that its loudest sample is here; null: as recorded.
    peak: float | None = field(default=None, metadata={"above": 0, "at_most": 1})
    validation_fraction: float = field(default=0.05, metadata={"at_least": 0})
    test_fraction: float = field(default=0.1, metadata={"at_least": 0})
    max_seconds: float = field(default=20.0, metadata={"above": 0})  # longer clips are skipped
    max_characters: int = field(default=1000, metadata={"at_least": 1})  # longer texts are skipped
    max_bad: float = 0.01  # share of missing, corrupt or silent clips that stops the run (10 are tolerated always)
    max_utterances: int | None = field(default=None, metadata={"at_least": 1})  # use only the first rows, this many


@dataclass(frozen=True)
class Utterance:
    id: str
    text: str
    path: Path
    tokens: list[int]
    n_frames: int  # n_frames * hop_length samples are used
    onsets: list[tuple[int, int]] | None = None  # true (token index, onset sample), where the corpus knows them
    peak: float | None = None  # level of its loudest sample after reading (0 to 1); None: as recorded


@dataclass(frozen=True)
class _Candidate:
    """A row and its file, before either has been looked into."""

    row: Row
    path: Path
    n_frames: int
    peak: float | None

    @property
    def id(self) -> str:
        return self.row.id


@dataclass
class Corpus:
    train: list[Utterance]
    validation: list[Utterance]
    test: list[Utterance]
    frontend: Frontend
    root: Path
    skipped: Skipped = field(default_factory=Skipped)
    notes: Notes = field(default_factory=Notes)  # what is doubtful and used all the same
    facts: dict[str, Facts] = field(default_factory=dict)  # id -> what its recording is like
    clips: CachedClips | None = None  # the samples of all utterances, where they are kept

    def digest(self) -> str:
        """A hash of what is trained on: names, tokens and lengths. Another one means other data."""
        parts = [f"{u.id} {u.n_frames} {u.tokens}" for u in [*self.train, *self.validation]]
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()

    def about(self) -> dict[str, str | int]:
        """The digest, and how much there is."""
        counts = {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)}
        return {"digest": self.digest(), **counts, "skipped": len(self.skipped.entries)}

    def recordings(self) -> str:
        """A hash of the samples that are trained on."""
        parts = [self.facts[u.id].digest for u in [*self.train, *self.validation] if u.id in self.facts]
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()

    @property
    def n_rows(self) -> int:
        return len(self.train) + len(self.validation) + len(self.test) + len(self.skipped.entries)

    def summary(self, closing: bool = True) -> str:
        """What was read, left out and doubtful, for the user; `closing` with a line on how to look at it."""
        n_skipped = len(self.skipped.entries)
        line = (
            f"{self.root}: {self.n_rows} rows = {len(self.train)} training + {len(self.validation)} validation "
            f"+ {len(self.test)} test + {n_skipped} skipped"
        )
        more = [f"vitslite check-data {self.root} shows them all"] if closing and self.notes.entries else []
        return "\n".join([line, *self.skipped.summary(), *self.notes.summary(), *more])


def load_corpus(
    data: DataSettings,
    text: TextSettings,
    audio: AudioSettings,
    min_frames: int = 1,
    frontend: Frontend | None = None,
    frame_multiple: int = 1,
) -> Corpus:
    """Read the rows and the headers of the clips, leave out what cannot be used, encode the texts, split.

    Of each clip a multiple of `frame_multiple` frames is used: a flow may squeeze them.
    The frontend of a checkpoint may be given; otherwise its vocabulary comes from the texts. ValueError: nothing
    usable, or more than max(10, data.max_bad) clips missing or corrupt.
    """
    root, cache = corpus_folder(data), Path(data.cache).expanduser()
    skipped, notes = Skipped(), Notes()
    rows = read_metadata(root / "metadata.csv", skipped, notes)[: data.max_utterances]
    found = _usable_clips(rows, Folder(root), data, audio, min_frames, frame_multiple, skipped, notes)
    refuse_too_many(len(rows), data, skipped)
    facts, kept = look(found, ClipReader(audio.sample_rate, audio.hop_length), cache, data.cache_audio)
    clips = _sound_clips(found, facts, skipped)
    refuse_too_many(len(rows), data, skipped)
    texts = [clip.row.text for clip in clips]
    if frontend is None:
        frontend = build_frontend(text, texts, cache) if clips else Frontend(text, [BLANK])
    else:
        frontend.prepare(texts, cache)
    alignments = read_alignments(root / "alignments.jsonl")
    used, looked = [], []
    for clip in clips:
        row, n_frames = clip.row, clip.n_frames
        try:
            tokens = frontend.encode(row.text)
        except ValueError as error:
            skipped.add("unusable text", row, str(error))
            continue
        if len(tokens) > n_frames:
            skipped.add("more tokens than frames", row, f"{len(tokens)} tokens, the clip has {n_frames} frames")
            continue
        onsets = known_onsets(alignments.get(row.id), frontend, row.text, audio.sample_rate)
        used.append(Utterance(row.id, row.text, clip.path, tokens, n_frames, onsets, data.peak))
        looked.append(Looked(row, facts[row.id], len(tokens)))
    if len(used) < 2:
        raise ValueError(
            "; ".join([f"{root}: {len(used)} usable clips, need at least 2 (training, validation)", *skipped.summary()])
        )
    if data.kind != "demo":
        doubt_texts([row for row, _, _ in looked], frontend, notes)
        doubt_clips(looked, audio.sample_rate, notes)
    parts = _split(used, data.validation_fraction, data.test_fraction)
    return Corpus(*parts, frontend, root, skipped, notes, {row.id: known for row, known, _ in looked}, kept)


def corpus_folder(data: DataSettings) -> Path:
    """The folder of a corpus, made now if it is the demo's. ValueError: none is named, or one that is not used."""
    if data.kind == "demo":
        if data.root is not None:
            raise ValueError(f"data.root={data.root} is not what data=demo reads: add data=ljspeech")
        jobs = min(os.cpu_count() or 1, 8)
        return make_demo_corpus(Path(data.cache), data.n_sentences, data.demo_seed, data.demo_voice, jobs)
    if data.root is None:  # not a matter of config/rules.py: a voice is loaded without its corpus, or with another
        raise ValueError("data.root is not set: type data.root=/path/to/LJSpeech-1.1, the folder with metadata.csv")
    return Path(data.root).expanduser()


def _usable_clips(
    rows: list[Row],
    folder: Folder,
    data: DataSettings,
    audio: AudioSettings,
    min_frames: int,
    frame_multiple: int,
    skipped: Skipped,
    notes: Notes,
) -> list[_Candidate]:
    """The clips that exist and, by their headers and texts, have a usable length."""
    clips = []
    for row in rows:
        found = folder.find(row.id)
        if found is None:
            skipped.add("missing audio", row, f"no file {folder.folder / row.id}.wav or .flac{folder.hint(row.id)}")
            continue
        if found.remark is not None:
            notes.add("file names", row, found.remark)
        try:
            info = duration_info(found.path)
        except ValueError as error:
            skipped.add("corrupt audio", row, str(error))
            continue
        seconds = info.n_samples / info.sample_rate
        n_frames = info.resampled(audio.sample_rate) // audio.hop_length
        n_frames -= n_frames % frame_multiple
        if seconds > data.max_seconds:
            skipped.add("too long", row, f"{seconds:.1f} s > data.max_seconds={data.max_seconds:g}")
        elif n_frames < max(min_frames, 1):
            skipped.add("too short", row, f"{n_frames} frames ({seconds:.2f} s), a training segment has {min_frames}")
        elif len(row.text) > data.max_characters:
            detail = f"{len(row.text)} characters > data.max_characters={data.max_characters}"
            skipped.add("text too long", row, detail)
        else:
            clips.append(_Candidate(row, found.path, n_frames, data.peak))
    return clips


def _sound_clips(clips: list[_Candidate], facts: dict[str, Facts], skipped: Skipped) -> list[_Candidate]:
    """The clips that could be decoded and have a sound, each recording of a text once."""
    kept: dict[tuple[str, str], _Candidate] = {}
    for clip in clips:
        known = facts[clip.id]
        if (fault := known.skip()) is not None:
            skipped.add(fault[0], clip.row, fault[1])
        elif (earlier := kept.setdefault((known.digest, clip.row.text), clip)) is not clip:
            skipped.add("repeated clip", clip.row, f"recording and text of {earlier.row.where}")
    return list(kept.values())


def refuse_too_many(n_rows: int, data: DataSettings, skipped: Skipped) -> None:
    """ValueError where more clips are faulty than data.max_bad tolerates."""
    n_faults = skipped.n_data_faults()
    if n_faults > max(_TOLERATED_FAULTS, data.max_bad * n_rows) or n_faults == n_rows:
        raise ValueError(
            f"{n_faults} of {n_rows} clips are missing, corrupt or silent (data.max_bad={data.max_bad:g}); "
            + "; ".join(skipped.summary())
        )


def _split(used: list[Utterance], validation: float, test: float) -> tuple[list, list, list]:
    """By a hash of the id alone, so that a clip stays on its side when others come or go."""
    lowest = min(used, key=lambda u: _share(u.id))  # is validated in any case
    train, validate, held_out = [], [], []
    for utterance in used:
        share = _share(utterance.id)
        if share < validation or utterance is lowest:
            validate.append(utterance)
        elif share < validation + test:
            held_out.append(utterance)
        else:
            train.append(utterance)
    if not train:
        raise ValueError(f"nothing left to train on: {len(validate)} validation and {len(held_out)} test clips")
    return train, validate, held_out


def _share(name: str) -> float:
    """A number in [0, 1) from an id."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") / 2**64
