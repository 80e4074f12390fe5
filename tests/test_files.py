"""Files that appear whole or not at all, locks between processes, names that mean nothing to a shell."""

import subprocess
import sys
import threading
import time

import matplotlib.figure
import numpy as np
import pytest
from common import ROOT

from vitslite import runs
from vitslite.audio import write_wav
from vitslite.files import in_turn, replacing, slug, sole_use, with_hash, write_text
from vitslite.monitoring import figures

HOLDER = """
import sys
from pathlib import Path
from vitslite.files import in_turn
with in_turn(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_text(path, "old \u00fc")
    with pytest.raises(RuntimeError), replacing(path) as unfinished:
        unfinished.write_text("half")
        assert path.read_text(encoding="utf-8") == "old \u00fc" and unfinished.name.startswith("a.txt.tmp.")
        raise RuntimeError
    assert path.read_text(encoding="utf-8") == "old \u00fc" and list(path.parent.iterdir()) == [path]
    with replacing(path) as unfinished:
        unfinished.write_text("new")
    assert path.read_text() == "new" and list(path.parent.iterdir()) == [path]


def test_one_waits_for_its_turn_and_says_so(tmp_path, capsys):
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout.readline() == "held\n"
    threading.Timer(0.5, process.stdin.close).start()  # then it ends
    started = time.monotonic()
    with in_turn(tmp_path / "lock", "waiting"):
        assert time.monotonic() - started > 0.4 and capsys.readouterr().err == "waiting\n"
    assert process.wait(timeout=10) == 0
    with in_turn(tmp_path / "lock", "waiting"):
        pass
    assert capsys.readouterr().err == ""


def test_names():
    assert slug("a b/c=1,2-\u00fc.x") == "a_b_c=1,2-_.x"
    assert slug("a=1,2-x", marks="._") == "a_1_2_x"
    assert with_hash("abcdef", 3, "abc") == "abc-a9993e36"  # SHA-1 of "abc" (FIPS 180-4)


def test_a_full_disk_is_named_by_the_file_and_tears_none(tmp_path, full_disk):
    """Settings, pages, sounds and pictures: what was there stays, and nothing half written does."""
    figure = matplotlib.figure.Figure()
    figure.subplots().plot(np.random.default_rng(0).normal(size=3000))
    writers = {
        "config.yaml": lambda path: runs.write_config(path.parent, {"a": "x" * 5000}),
        "page.html": lambda path: write_text(path, "x" * 5000),
        "a.wav": lambda path: write_wav(path, np.zeros(5000, np.int16), 16000),
        "a.png": lambda path: figures.save(figure, path),
    }
    for name, write in writers.items():
        path = tmp_path / name
        path.write_text("before")
        with pytest.raises(OSError, match=name):
            write(path)
        assert path.read_text() == "before"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(writers)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    def refused(self, timeout):
        raise PermissionError(13, "Permission denied", "x.lock")

    monkeypatch.setattr("filelock.FileLock.acquire", refused)
    with pytest.raises(OSError, match=rf"cannot be written to, Permission denied: '{tmp_path}'"), sole_use(tmp_path):
        pass
