"""Checkpoints of a run: what is kept, what takes the place of a damaged one, what a kill leaves (scripts/stress.py)."""

import errno
import hashlib
import os
import random
import shutil
import zipfile

import pytest
import stress
import torch

from vitslite import runs
from vitslite.files import tidy
from vitslite.training import checkpoint, run_checkpoints
from vitslite.training.run_checkpoints import Checkpoints


def saved(run_dir, *steps, kept=2, best=()):
    checkpoints = Checkpoints(run_dir, stress.HEADER, kept)
    for step in steps:
        checkpoints.save(stress.content(step, 100), is_best=step in best)
    return checkpoints


def names(run_dir):
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    saved(tmp_path, 1, 2, 3, 3, 4, kept=3, best=(2,))
    assert names(tmp_path) == ["best.pt", "last.pt", "step_000002.pt", "step_000003.pt"]
    found = {name: checkpoint.read(tmp_path / "checkpoints" / name)["step"] for name in names(tmp_path)}
    assert found == {"best.pt": 2, "last.pt": 4, "step_000002.pt": 2, "step_000003.pt": 3}
    saved(tmp_path, 5, kept=1)
    assert names(tmp_path) == ["best.pt", "last.pt"]


def test_without_hard_links_it_is_a_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *paths: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    saved(tmp_path, 1, 2)
    assert checkpoint.read(tmp_path / "checkpoints" / "step_000001.pt")["step"] == 1


def test_the_newest_good_one_takes_the_place(tmp_path, capsys):
    """A cut last.pt, a flipped bit in the one before, and the best, which is older: said, put aside, gone on from."""
    last = saved(tmp_path, 1, 2, 3, best=(1,)).last
    os.truncate(last, last.stat().st_size // 2)
    again = Checkpoints(tmp_path, stress.HEADER)
    assert again.found["step"] == 2 and again.source.name == "step_000002.pt"
    said = capsys.readouterr().out
    assert "last.pt: damaged" in said and "going on from" in said and "of step 2" in said
    assert names(tmp_path) == ["best.pt", "last.pt.damaged", "step_000002.pt"]
    content = bytearray(again.source.read_bytes())
    content[len(content) // 2] ^= 1
    again.source.write_bytes(content)
    third = Checkpoints(tmp_path, stress.HEADER)
    assert third.found["step"] == 1 and third.source.name == "best.pt"
    third.save(stress.content(2, 100), is_best=False)
    assert names(tmp_path) == ["best.pt", "last.pt", "last.pt.damaged", "step_000002.pt.damaged"]


def test_a_run_that_was_saved_never_begins_anew(tmp_path):
    """All damaged; or gone, after more steps than lie between two checkpoints. One that was never saved may."""
    last = saved(tmp_path, 1).last
    last.write_bytes(b"")
    with pytest.raises(ValueError, match=r"last\.pt: damaged.*no other checkpoint.*name=\.\.\..*train it anew"):
        Checkpoints(tmp_path, stress.HEADER)
    shutil.rmtree(last.parent)
    runs.write_config(tmp_path, {"trainer": {"checkpoint_every_steps": 10}})
    for step, is_refused in ((10, False), (11, True)):
        runs.append_row(tmp_path, {"step": step})
        if is_refused:
            with pytest.raises(ValueError, match=r"trained to step 11 and its checkpoints are gone: put them back"):
                Checkpoints(tmp_path, stress.HEADER)
        else:
            assert Checkpoints(tmp_path, stress.HEADER).found is None


def test_another_format_is_no_damage(tmp_path):
    saved(tmp_path, 1, 2)
    torch.save(stress.HEADER | {"model": {}, "step": 3}, tmp_path / "checkpoints" / "last.pt")
    with pytest.raises(ValueError, match="written in format 1"):
        Checkpoints(tmp_path, stress.HEADER)


def test_a_checkpoint_from_before_the_seal_is_read(tmp_path):
    path = saved(tmp_path, 7).last
    torch.save(checkpoint.read(path), path)
    assert Checkpoints(tmp_path, stress.HEADER).found["step"] == 7
    damaged = bytearray(path.read_bytes())
    damaged[damaged.find(b"PK\x03\x04", 5000) + 100] ^= 1  # in the weights
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.read(path)


def test_a_few_bytes_that_would_be_gigabytes_are_refused(tmp_path):
    path = tmp_path / "last.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**7))
    with pytest.raises(ValueError, match="compressed"):
        checkpoint.read(path)


def test_sealed_by_sha256(tmp_path):
    """Of all bytes but the digest itself, as sha256sum says."""
    content = saved(tmp_path, 1).last.read_bytes()
    assert (
        content[-64:].decode() == hashlib.sha256(content[:-80]).hexdigest() and content[-80:-64] == b"vitslite sha256 "
    )


def test_damages_are_noticed_and_fallen_back_from(tmp_path):
    random.seed(1)
    assert sum(stress.damage(90, tmp_path).values()) == 0


def test_damage_goes_unseen_without_the_seal(tmp_path, monkeypatch):
    """The test above can fail: torch alone does not look."""
    random.seed(1)
    monkeypatch.setattr(checkpoint, "_verify", lambda path: None)
    assert stress.damage(90, tmp_path)["unnoticed"] > 0


def test_kills_lose_nothing(tmp_path):
    random.seed(1)
    found = stress.kill(12, tmp_path, 20_000)
    assert not any(found[bad] for bad in ("unreadable", "lost", "strays after the next start", "too many files")), found


def test_kills_lose_something_where_files_are_written_in_place(tmp_path, monkeypatch):
    random.seed(1)

    def in_place(path, content):
        path.parent.mkdir(exist_ok=True)
        torch.save(content, path)

    monkeypatch.setattr(run_checkpoints.checkpoint, "write", in_place)
    monkeypatch.setattr(run_checkpoints.Checkpoints, "_earlier", lambda self: [])
    found = stress.kill(30, tmp_path, 200_000)
    assert found["unreadable"] + found["lost"] > 0


def test_what_a_killed_start_left_goes(tmp_path):
    for name in ("last.pt.tmp.123", "a.tmp.b", "metrics.jsonl"):
        (tmp_path / name).write_bytes(b"12345")
    assert tidy(tmp_path) == (1, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tmp.b", "metrics.jsonl"]


def test_a_full_disk_leaves_the_last_one(tmp_path, request):
    checkpoints = saved(tmp_path, 1, 2)
    request.getfixturevalue("full_disk")
    with pytest.raises(OSError, match=r"last\.pt: not written \(\[Errno 27\].*MB are free there"):
        checkpoints.save(stress.content(3, 10_000), is_best=False)
    assert Checkpoints(tmp_path, stress.HEADER).found["step"] == 2 and tidy(tmp_path / "checkpoints") == (0, 0)


def test_a_full_disk_tears_no_row(tmp_path, full_disk):
    row = {"step": 1, "text": "x" * 900}
    for _ in range(4):
        runs.append_row(tmp_path, row)
    with pytest.raises(OSError, match=r"metrics\.jsonl"):
        runs.append_row(tmp_path, row)
    runs.append_row(tmp_path, {"step": 2})
    assert [r["step"] for r in runs.read_rows(tmp_path)] == [1, 1, 1, 1, 2]


def test_rows_of_looks_that_are_taken_again_are_forgotten(tmp_path):
    for row in ({"step": 1, "loss/total": 0.1}, {"step": 2, "loss/total": 0.3}, {"step": 2, "val/x": 1}, {"step": 3}):
        runs.append_row(tmp_path, row)
    before = (tmp_path / runs.METRICS).read_text().splitlines()
    runs.rewind(tmp_path, 2)
    assert (tmp_path / runs.METRICS).read_text().splitlines() == before[:3]
    runs.rewind(tmp_path, 2, looked=False)
    assert (tmp_path / runs.METRICS).read_text().splitlines() == before[:2]


def test_a_damaged_row_is_named_by_its_line(tmp_path):
    (tmp_path / runs.METRICS).write_text('{"step": 1}\n{"step": 2,}\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: damaged .*take out the line"):
        runs.read_rows(tmp_path)
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2"):
        runs.rewind(tmp_path, 1)
