"""The look at a corpus: every clip decoded once, measured, and kept for training; its facts in a file of the cache.

`audio-<digest>.facts.json` stands beside the samples of `audio_cache.py` and has its digest, so a clip that has
changed is looked at again.
"""

import contextlib
import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vitslite.audio_files import read_channels
from vitslite.datasets.audio_cache import QUIET_SECONDS, CachedClips, cached_clips, digest
from vitslite.datasets.audio_facts import Facts, measure
from vitslite.datasets.clips import Clip, ClipReader
from vitslite.files import in_turn, write_text


class Looker(ClipReader):
    """A reader that measures what it decodes; silence for what it cannot, with the reason among the facts."""

    def __init__(self, read: ClipReader):
        super().__init__(read.sample_rate, read.hop_length)
        self.facts: dict[str, Facts] = {}

    def __call__(self, clip: Clip) -> np.ndarray:
        try:
            audio, sample_rate = read_channels(clip.path)
            samples = self.fit(clip, audio, sample_rate)
        except ValueError as error:
            self.facts[clip.id] = Facts(error=str(error))
            return np.zeros(clip.n_frames * self.hop_length, np.int16)
        content = hashlib.blake2b(samples.tobytes(), digest_size=12).hexdigest()
        self.facts[clip.id] = measure(audio, sample_rate, content)
        return samples


def look(
    clips: Sequence[Clip], read: ClipReader, cache: Path, keep_audio: bool
) -> tuple[dict[str, Facts], CachedClips | None]:
    """The facts of every clip by its id, and all samples if they are to be kept. Both are made in one pass.

    Where they are in the cache already nothing is decoded. ValueError: the samples cannot be kept there.
    """
    folder = cache.expanduser().absolute()
    path = folder / f"audio-{digest(clips, read)}.facts.json"
    facts, looker, kept = _stored(path, clips), Looker(read), None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with in_turn(path.with_suffix(".lock")) if facts is None else contextlib.nullcontext():
            facts = facts or _stored(path, clips)
            if keep_audio:
                kept = cached_clips(clips, looker, folder)
            if facts is None:
                facts = _look_at_the_rest(clips, looker)
                _store(path, facts)
    except OSError as error:
        reason = f"{path}: cannot be kept there ({error.strerror or error}): data.cache=... puts it elsewhere"
        if keep_audio:
            raise ValueError(f"{reason}, data.cache_audio=false does without") from error
        print(f"note: {reason}; until then every start decodes all clips", file=sys.stderr, flush=True)
        facts = facts or _look_at_the_rest(clips, looker)
    return facts, kept


def _look_at_the_rest(clips: Sequence[Clip], looker: Looker) -> dict[str, Facts]:
    """Decode what was not: all of it where no samples are kept, or where those were there and the facts were not."""
    rest = [clip for clip in clips if clip.id not in looker.facts]
    for clip in tqdm(rest, desc="looking at the clips", unit="clips", delay=QUIET_SECONDS, disable=None):
        looker(clip)
    return looker.facts


def _store(path: Path, facts: dict[str, Facts]) -> None:
    body = json.dumps({name: dataclasses.asdict(f) for name, f in facts.items()}, ensure_ascii=False)
    write_text(path, f"{_digest(body)}\n{body}")


def _stored(path: Path, clips: Sequence[Clip]) -> dict[str, Facts] | None:
    """None where there is no intact file, of these clips and these facts."""
    if not path.is_file():
        return None
    content, _, body = path.read_text(encoding="utf-8", errors="replace").partition("\n")
    if content != _digest(body):
        return None
    stored = json.loads(body)
    names = {field.name for field in dataclasses.fields(Facts)}
    if stored.keys() != {clip.id for clip in clips} or any(f.keys() != names for f in stored.values()):
        return None
    return {name: Facts(**f) for name, f in stored.items()}


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
