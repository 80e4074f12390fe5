"""The file of all training clips: the samples of direct reading, made once, whole or not at all."""

import errno
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from common import ROOT

from vitslite import build
from vitslite.audio import AudioSettings, write_wav
from vitslite.audio_files import duration_info
from vitslite.datasets import audio_cache
from vitslite.datasets.audio_cache import cached_clips, digest, map_samples
from vitslite.datasets.clips import ClipReader
from vitslite.datasets.corpus import DataSettings, Utterance
from vitslite.datasets.loader import Loader

SR, HOP = 22050, 256
AUDIO = AudioSettings()
READ = ClipReader(SR, HOP)


def make(root, n=7, rate=SR, peak=None):
    """Clips of 0.1 to 0.3 s at this sample rate, none a whole number of frames; the second one is silent."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(n):
        samples = rng.integers(-9000, 9000, int(rng.integers(rate // 10, rate // 3)) | 1)
        write_wav(root / f"{i}.wav", samples.astype(np.int16) * (i != 1), rate)
        n_frames = duration_info(root / f"{i}.wav").resampled(SR) // HOP
        made.append(Utterance(f"u{i}", "x", root / f"{i}.wav", [1] * (2 + i % 3), n_frames, peak=peak))
    return made


@pytest.fixture
def utterances(tmp_path):
    return make(tmp_path / "clips")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "of audio"


class CountingReader(ClipReader):
    """Adds a byte to a file for each clip that any process reads, slowly enough for others to come in between."""

    def __init__(self, counter):
        super().__init__(SR, HOP)
        self.counter = counter

    def __call__(self, utterance):
        with open(self.counter, "ab") as file:
            file.write(b".")
        time.sleep(0.02)
        return super().__call__(utterance)


class NeverReads(ClipReader):
    def __call__(self, utterance):
        raise AssertionError(f"read {utterance.id} again")


NEVER = NeverReads(SR, HOP)


def same(cached, utterances):
    """Whether the file holds what direct reading gives."""
    for u in utterances:
        clip, expected = cached(u), READ(u)
        assert clip.dtype == np.int16 and len(clip) == u.n_frames * HOP
        if not np.array_equal(clip, expected):
            return False
    return True


def left(folder):
    """What lies in the folder, but for locks."""
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".lock") if folder.is_dir() else []


# ------------------------------------------------------------------------------------------------ the same samples


@pytest.mark.parametrize(("rate", "peak"), [(SR, None), (SR, 0.9), (16000, 0.5), (44100, None)])
def test_the_file_holds_what_direct_reading_gives(tmp_path, folder, rate, peak):
    utterances = make(tmp_path, rate=rate, peak=peak)
    clips = cached_clips(utterances, READ, folder)
    assert same(clips, utterances) and left(folder) == [clips.path.name]
    loudest = max(int(np.abs(clips(u).astype(int)).max()) for u in utterances)
    assert peak is None or loudest == round(peak * 32768)
    with pytest.raises(ValueError, match="read-only"):
        clips(utterances[0])[:] = 0
    stored = np.load(clips.path)
    assert stored.dtype == np.int16 and np.array_equal(stored, np.concatenate([READ(u) for u in utterances]))
    # Planted faults: one sample off, and the clips in another order.
    for faulty in (np.roll(stored, 1), np.concatenate([READ(u) for u in utterances[::-1]])):
        np.save(clips.path, faulty)
        assert not same(cached_clips(utterances, READ, folder), utterances)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n_workers", [0, 2])
def test_batches_are_the_same(utterances, folder, n_workers):
    def take(data, clips):
        batches = Loader(utterances, data, AUDIO, 0, clips=clips).batches(0, accumulate=2)
        taken = [part for _ in range(5) for part in next(batches)]
        batches.close()
        return taken

    data = DataSettings(batch_size=4, n_workers=n_workers)
    direct, cached = take(replace(data, n_workers=0), None), take(data, cached_clips(utterances, READ, folder))
    for a, b in zip(direct, cached, strict=True):
        assert a.ids == b.ids and torch.equal(a.audio, b.audio) and torch.equal(a.keys, b.keys)


def test_settings_choose(compose, tmp_path):
    """What the configuration says is what is built; two runs share one file."""
    cache = tmp_path / "cache"
    shutil.copytree(build.corpus(build.parse(compose(), [])).root, root := tmp_path / "corpus")
    chosen = ["data=ljspeech", f"data.root={root}", f"data.cache={cache}", "text=characters"]
    loaders = {}
    for more in ("data.cache_audio=true", "data.cache_audio=false", "seed=1"):
        config = build.parse(compose(*chosen, more), [])
        loaders[more] = build.data(config, build.corpus(config)).loader
        assert len(list(cache.glob("*.npy"))) == 1
    direct, cached = loaders["data.cache_audio=false"], loaders["data.cache_audio=true"]
    assert isinstance(direct.clip, ClipReader) and loaders["seed=1"].clip.path == cached.clip.path
    assert torch.equal(direct.make(3)["audio"], cached.make(3)["audio"])


# -------------------------------------------------------------------------------------------------------- made once


def test_a_second_start_reads_no_clip(utterances, folder, capsys):
    path = cached_clips(utterances, READ, folder).path
    assert f"decoding 7 clips once, into {path}" in capsys.readouterr().err
    written = path.stat().st_mtime_ns
    assert same(cached_clips(utterances, NEVER, folder), utterances) and path.stat().st_mtime_ns == written
    assert capsys.readouterr() == ("", "")
    with pytest.raises(AssertionError, match="read u0 again"):  # the reader can complain
        cached_clips(utterances, NEVER, folder / "elsewhere")


def test_whatever_the_samples_depend_on_has_a_file_of_its_own(utterances, tmp_path, monkeypatch):
    first = digest(utterances, READ)
    assert digest(utterances, ClipReader(SR, HOP)) == first == digest([replace(u) for u in utterances], READ)
    assert digest([replace(u, text="y", tokens=[9]) for u in utterances], READ) == first  # no matter for samples
    shutil.copytree(tmp_path / "clips", tmp_path / "copy")
    others = [
        digest(utterances, ClipReader(SR // 2, HOP)),
        digest(utterances, ClipReader(SR, HOP // 2)),
        digest(utterances[:-1], READ),
        digest(utterances[::-1], READ),
        digest([replace(u, peak=0.5) for u in utterances], READ),
        digest([replace(u, n_frames=u.n_frames - 1) for u in utterances], READ),
        digest([replace(u, path=tmp_path / "copy" / u.path.name) for u in utterances], READ),
    ]
    monkeypatch.setattr(audio_cache, "_VERSION", 99)
    others.append(digest(utterances, READ))
    monkeypatch.undo()
    found = utterances[3].path.stat()
    os.utime(utterances[3].path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    others.append(digest(utterances, READ))
    utterances[3].path.write_bytes(utterances[3].path.read_bytes() + b"\0")
    os.utime(utterances[3].path, ns=(found.st_atime_ns, found.st_mtime_ns))
    others.append(digest(utterances, READ))
    assert len({first, *others}) == 11


def test_a_changed_clip_is_heard(utterances, folder):
    before = cached_clips(utterances, READ, folder)
    old = before(utterances[0]).copy()
    write_wav(utterances[0].path, np.full(2 * len(old), 5, np.int16), SR)
    after = cached_clips(utterances, READ, folder)
    assert after.path != before.path and (after(utterances[0]) == 5).all() and same(after, utterances)
    assert np.array_equal(before(utterances[0]), old) and len(left(folder)) == 2


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "header", "float", "longer", "folders"])
def test_a_damaged_file_is_made_again(utterances, folder, damage):
    path = cached_clips(utterances, READ, folder).path
    content, samples = path.read_bytes(), np.load(path)
    if damage in ("float", "longer"):
        np.save(path, samples.astype(np.float32) if damage == "float" else np.append(samples, samples[:1]))
    else:
        shorter_header = content[:8] + bytes([content[8] // 2]) + content[9:]
        damaged = {"truncated": content[:-1], "empty": b"", "text": b"no samples\n", "header": shorter_header}
        path.write_bytes(damaged.get(damage, content[:40]))
    assert map_samples(path, len(samples)) is None
    assert same(cached_clips(utterances, READ, folder), utterances)
    assert path.read_bytes() == content and left(folder) == [path.name]


def make_at_once(utterances, folder, counter, n=3):
    """Exit codes of `n` processes that want the file at the same time, and how many clips they read together."""
    context = multiprocessing.get_context("fork")
    together = context.Barrier(n)

    def start():
        together.wait()
        os._exit(0 if same(cached_clips(utterances, CountingReader(counter), folder), utterances) else 1)

    processes = [context.Process(target=start) for _ in range(n)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes], len(counter.read_bytes())


def test_processes_at_once_make_it_once(utterances, folder, tmp_path, capfd, monkeypatch):
    assert make_at_once(utterances, folder, tmp_path / "count") == ([0, 0, 0], len(utterances))
    said = capfd.readouterr().err
    assert said.count("decoding 7 clips once") == 1 and "waiting for another process, which is making" in said
    assert len(left(folder)) == 1
    monkeypatch.setattr(audio_cache, "in_turn", lambda *_: nullcontext())  # planted fault
    _, n_read = make_at_once(utterances, folder / "unlocked", tmp_path / "unlocked count")
    assert n_read > len(utterances)


def test_workers_are_handed_the_path_alone(tmp_path, folder):
    utterances = make(tmp_path, n=2) + [replace(u, id=f"again {u.id}") for u in make(tmp_path, n=40)]
    clips = cached_clips(utterances, READ, folder)
    assert same(clips, utterances)  # mapped by now
    pickled = pickle.dumps(clips)
    assert len(pickled) < 5000 < clips.path.stat().st_size / 50
    assert same(pickle.loads(pickled), utterances)
    clips.path.unlink()
    assert same(clips, utterances)  # a mapping outlives the name
    with pytest.raises(ValueError, match=r"\.npy: removed or damaged since the start: start again"):
        pickle.loads(pickled)(utterances[0])


# --------------------------------------------------------------------------------------------------- what goes wrong


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_unreadable_clip_is_named_and_nothing_stays(utterances, folder):
    damaged = utterances[4].path
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"4\.wav: truncated: its data chunk says") as error:
        cached_clips(utterances, READ, folder)
    assert one_line(error) and left(folder) == []
    damaged.unlink()
    with pytest.raises(ValueError, match=r"4\.wav: no such file or directory$"):
        cached_clips(utterances, READ, folder)


def test_too_little_space_is_said_before_a_clip_is_read(utterances, folder, monkeypatch):
    n_bytes = 2 * HOP * sum(u.n_frames for u in utterances)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12, n_bytes))
    with pytest.raises(ValueError, match=r"it needs \d+ MB, \d+ MB are free there.*data.cache_audio=false") as error:
        cached_clips(utterances, NEVER, folder)
    assert one_line(error).startswith(str(folder)) and left(folder) == []


def test_a_full_disk_is_one_line(utterances, folder, monkeypatch):
    def fails(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(ValueError, match=r"No space left on device\): data.cache=\.\.\. puts them") as error:
        cached_clips(utterances, READ, folder)
    assert one_line(error) and left(folder) == []
    monkeypatch.undo()
    assert same(cached_clips(utterances, READ, folder), utterances)


def test_a_write_that_fails_in_the_middle_is_one_line(utterances, folder):
    """Truly: beyond a limit, which the system answers as it does a quota."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(
            ValueError, match=r"cannot be kept there \(not written, File too large\): data.cache="
        ) as error:
            cached_clips(utterances, READ, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert one_line(error) and left(folder) == []


def test_a_folder_that_cannot_be_made_is_one_line(utterances, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be kept there \(.+\): data.cache=") as error:
        cached_clips(utterances, READ, tmp_path / "file" / "below")
    assert "Not a directory" in one_line(error)


def refused(*_):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def test_a_folder_of_someone_else(utterances, folder, monkeypatch):
    """Read-only is enough where the file exists, and one line where it does not."""
    path = cached_clips(utterances, READ, folder).path
    path.with_suffix(".lock").unlink()
    path.chmod(0o444)
    folder.chmod(0o555)
    try:
        assert same(cached_clips(utterances, NEVER, folder), utterances) and os.listdir(folder) == [path.name]
        if os.geteuid() == 0:  # whom no mode keeps out
            monkeypatch.setattr(audio_cache, "in_turn", refused)
        with pytest.raises(ValueError, match=r"cannot be kept there") as error:
            cached_clips(utterances[1:], READ, folder)
        assert one_line(error) and os.listdir(folder) == [path.name]
    finally:
        folder.chmod(0o755)


STOPPED = """
import pickle, sys, time
from pathlib import Path
from vitslite.datasets.audio_cache import cached_clips
from vitslite.datasets.clips import ClipReader

class Slow(ClipReader):
    def __call__(self, utterance):
        print("reading", flush=True)
        time.sleep(0.5)
        return super().__call__(utterance)

cached_clips(pickle.loads(Path(sys.argv[1]).read_bytes()), Slow(22050, 256), Path(sys.argv[2]))
"""


@pytest.mark.parametrize(("number", "stays"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, 1)])
def test_stopped_in_the_middle(utterances, folder, tmp_path, number, stays):
    (tmp_path / "utterances").write_bytes(pickle.dumps(utterances))
    command = [sys.executable, "-c", STOPPED, str(tmp_path / "utterances"), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert [process.stdout.readline() for _ in range(2)] == ["reading\n"] * 2
    assert len(left(folder)) == 1 and ".npy.tmp." in left(folder)[0]
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (143 if number == signal.SIGTERM else -number)
    assert len(left(folder)) == stays  # nothing can tidy up after a SIGKILL, but the next start
    path = cached_clips(utterances, READ, folder).path
    assert left(folder) == [path.name]


def test_signals_are_as_before(utterances, folder):
    before = signal.getsignal(signal.SIGTERM)
    cached_clips(utterances, READ, folder)
    assert signal.getsignal(signal.SIGTERM) == before
