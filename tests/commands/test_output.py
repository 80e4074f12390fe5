"""What a command says, to nobody, in any alphabet; crashes in words; settings of a stranger's checkpoint."""

import ast
import os
import subprocess
import sys

import pytest
import torch
from common import ROOT

from vitslite import build, runs
from vitslite.commands import crashes

SAYS = """
import sys
from vitslite.commands import output
output.make_sturdy()
for i in range(3):
    print("Grüße", flush=True)
    if i == 0: sys.stdin.read()
print("done", file=sys.stderr)
"""


def say(read: int, **environment: str) -> subprocess.CompletedProcess:
    """Run SAYS; its output is read for so many bytes, then closed while it still writes."""
    process = subprocess.Popen(
        [sys.executable, "-c", SAYS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    said = process.stdout.read(read)
    process.stdout.close()
    _, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess([], process.returncode, said, errors)


def test_nobody_reads_it_any_more():
    done = say(6)
    assert done.returncode == 0 and done.stderr == b"done\n"


def test_letters_that_the_terminal_lacks():
    done = say(12, PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stdout == b"Gr\\xfc\\xdfe\n"[:12]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError("Unable to allocate 7.45 GiB for an array"), "out of memory (7.45 GiB more were asked for): LESS"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000 bytes."), "4000 bytes"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), "20.00 MiB more"),
        (MemoryError(), "out of memory: LESS"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "was ended by Killed, .*n_workers=0"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is"), "by Bus error, .*/dev/shm"),
        (OSError(24, "Too many open files", "a.wav"), "a.wav': data.n_workers=0"),
        (RuntimeError("Caught RuntimeError in DataLoader worker process 0. unable to write to file"), "/dev/shm"),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "was ended unexpectedly"),
    ],
)
def test_crashes_in_words(error, words):
    import re

    said = crashes.in_words(error, "LESS")
    assert re.search(words.replace("(", r"\(").replace(")", r"\)"), said) and "\n" not in said


def test_other_crashes_keep_their_stack():
    assert crashes.in_words(RuntimeError("shapes do not match"), "LESS") is None
    assert crashes.in_words(RuntimeError("Caught RuntimeError in DataLoader worker process 0. shapes"), "LESS") is None
    assert crashes.in_words(RuntimeError("Connection closed by peer"), "LESS") is None  # there is but one rank


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "x${oc.env:PATH}", "${trainer.steps}", ["${oc.env:HOME}"]])
def test_stored_settings_hold_values_alone(value):
    """What a checkpoint of a stranger says is never worked out: neither the environment nor a class is looked up."""
    with pytest.raises(ValueError, match="nothing to be worked out"):
        build.parse({"name": value} if isinstance(value, str) else {"tracking": {"tags": value}}, [])


def test_a_stored_class_is_no_setting(tmp_path):
    with pytest.raises(ValueError, match="unknown setting trainer._target_"):
        build.parse({"trainer": {"_target_": "os.system"}}, [])
    path = tmp_path / runs.CONFIG
    path.write_text(f"name: ${{oc.env:HOME}}\ntext: !!python/object/apply:os.system ['touch {tmp_path}/ran']\n")
    with pytest.raises(ValueError, match=r"config\.yaml: damaged"):
        runs.stored_config(tmp_path)
    path.write_text("name: ${oc.env:HOME}\n_target_: os.system\n")
    assert runs.stored_config(tmp_path) == {"name": "${oc.env:HOME}", "_target_": "os.system"}
    assert not (tmp_path / "ran").exists()


SOME_SYSTEMS_ONLY = {"fcntl", "resource", "termios", "pwd", "grp", "msvcrt", "winreg", "posix", "tty", "pty", "syslog"}
SOME_SYSTEMS_ONLY |= {"signal.alarm", "signal.SIGKILL", "signal.SIGALRM", "signal.setitimer", "os.fork", "os.getuid"}
SOME_SYSTEMS_ONLY |= {"os.sysconf", "os.killpg", "os.sched_getaffinity", "os.mkfifo", "os.geteuid"}


def at_import(source: str) -> set[str]:
    """Modules and names of some systems only that a module asks for when it is imported."""
    found, todo = set(), list(ast.parse(source).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
            found |= {str(name).split(".")[0] for name in names}
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.add(f"{node.value.id}.{node.attr}")
        todo += ast.iter_child_nodes(node)
    return found & SOME_SYSTEMS_ONLY


def test_every_module_can_be_imported_on_windows_and_macos():
    for path in (ROOT / "vitslite").rglob("*.py"):
        assert at_import(path.read_text()) == set(), path
    assert at_import("from fcntl import flock\nx = [signal.SIGKILL]") == {"fcntl", "signal.SIGKILL"}  # planted
