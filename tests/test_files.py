"""Files that appear whole or not at all, locks between processes, names that mean nothing to a shell."""

import subprocess
import sys
import threading
import time

import pytest
from common import ROOT

from vitslite.files import in_turn, replacing, slug, with_hash, write_text

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
