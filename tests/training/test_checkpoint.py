"""Checkpoints: whole or not there, checked, and never code."""

import os
import pickle

import pytest
import torch

from vitslite.training import checkpoint
from vitslite.training.run_checkpoints import Checkpoints

CONTENT = {"config": {"a": {"b": 1}, "trainer": {"steps": 3}}, "frontend": {}, "model": {}, "step": 3}


def header(**config):
    return {"config": {"a": {"b": 1}, "trainer": {"steps": 3}} | config, "frontend": {}, "environment": {"threads": 1}}


def test_round_trip(tmp_path):
    weights = {"w": torch.randn(3)}
    Checkpoints(tmp_path, header()).save({"model": weights, "step": 7}, is_best=True)
    again = Checkpoints(tmp_path, header())
    state = again.take_last()
    assert state["step"] == 7 and torch.equal(state["model"]["w"], weights["w"])
    assert checkpoint.read(again.best)["step"] == 7
    assert again.take_last() is None
    assert sorted(p.name for p in again.folder.iterdir()) == ["best.pt", "last.pt"]


def test_no_checkpoint_is_a_fresh_start(tmp_path):
    assert Checkpoints(tmp_path, header()).take_last() is None


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_files_are_refused(tmp_path, share):
    path = tmp_path / "last.pt"
    checkpoint.write(path, CONTENT)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(ValueError, match="last.pt"):
        checkpoint.read(path)


def test_every_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "last.pt"
    torch.manual_seed(0)
    checkpoint.write(path, CONTENT | {"model": {"w": torch.randn(300)}})
    original = path.read_bytes()
    data = original.find(b"PK\x03\x04")  # inside the weights: torch.load alone accepts this
    for at in range(data + 200, len(original) - 200, 97):
        damaged = bytearray(original)
        damaged[at] ^= 4
        path.write_bytes(damaged)
        try:
            content = checkpoint.read(path)
        except ValueError:
            continue
        path.write_bytes(original)
        torch.testing.assert_close(content["model"], checkpoint.read(path)["model"], atol=0, rtol=0)


def test_code_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    path = tmp_path / "last.pt"
    torch.save(CONTENT | {"model": Bomb()}, path)
    with pytest.raises(ValueError, match="refused"):
        checkpoint.read(path)
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="not a checkpoint"):
        checkpoint.read(path)
    assert not (tmp_path / "ran").exists()


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"weights": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="lacks config"):
        checkpoint.read(path)
    with pytest.raises(ValueError, match="no such checkpoint"):
        checkpoint.read(tmp_path / "none.pt")


def test_a_checkpoint_of_another_format_is_refused(tmp_path):
    """The weights would load and mean something else: that would be a voice that babbles, without an error."""
    path = tmp_path / "old.pt"
    torch.save({"config": {}, "frontend": {}, "model": {}, "step": 1}, path)
    with pytest.raises(ValueError, match=r"old\.pt: written in format 1, this is the code of format 2.* the version"):
        checkpoint.read(path)
    torch.save({"config": {}, "frontend": {}, "model": {}, "step": 1, "format": 3, "version": "0.9.1"}, path)
    with pytest.raises(ValueError, match=r"written in format 3.* or use vitslite 0\.9\.1, which wrote it"):
        checkpoint.read(path)


def test_a_failed_write_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    checkpoint.write(path, CONTENT)
    before = path.read_bytes()

    def full(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(path, CONTENT | {"step": 4})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_order_of_the_writes(tmp_path, monkeypatch):
    """Data on the disk before the rename, the rename on the disk before we go on: power cuts find one or the other."""
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b))[1])
    checkpoint.write(tmp_path / "last.pt", CONTENT)
    assert calls == ["fsync", "replace", "fsync"]
