"""Pickles of others: code in them does not run."""

import os
import pathlib

import pytest
import torch

from vitslite.interop import pickles, sources


class Runs:
    """What unpickles by a call: planted in a file, it leaves a mark where it ran."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_carries_code_is_refused_and_does_not_run(tmp_path, zipped):
    path, mark = tmp_path / "G_1.pth", tmp_path / "it-ran"
    content = {"model": {"enc_p.emb.weight": torch.zeros(2, 2)}, "iteration": Runs(mark)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"G_1\.pth: not read: it holds more than weights and plain values"):
        sources.read(path)
    assert not mark.exists()
    torch.load(
        path, weights_only=False
    )  # our own canary, to show that the check above could fail: read without a guard, the code does run
    assert mark.exists()


def test_a_path_is_read_and_no_other_class(tmp_path):
    path, allowed = tmp_path / "epoch.ckpt", torch.serialization.get_safe_globals()
    torch.save({"a": [pathlib.PosixPath("/x/y")]}, path)
    assert pickles.read(path) == {"a": [pathlib.PosixPath("/x/y")]}
    torch.save({"a": pathlib.PurePosixPath("/x")}, path)
    with pytest.raises(ValueError, match="more than weights and plain values"):
        pickles.read(path)
    assert torch.serialization.get_safe_globals() == allowed  # nothing stays allowed


def test_paths_of_windows_are_named(tmp_path):
    path = tmp_path / "epoch.ckpt"
    torch.save({"a": pathlib.PosixPath("/x")}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"PosixPath\n", b"WindowsPath\n"))
    with pytest.raises(ValueError, match="paths of Windows: load it there"):
        pickles.read(path)


def test_what_is_no_checkpoint(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    with pytest.raises(ValueError, match="damaged, or no checkpoint"):
        sources.read(path)
    with pytest.raises(ValueError, match="no voice in it: name the file"):
        sources.read(tmp_path)
    with pytest.raises(ValueError, match="no such file or folder"):
        sources.read(tmp_path / "gone")
    torch.save({"weights": 1}, path)
    with pytest.raises(ValueError, match=r"no voice that is known \(it holds weights\)"):
        sources.read(path)
