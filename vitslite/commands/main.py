"""The command `vitslite`: train a VAE text-to-speech model, watch its losses, hear it.

    vitslite train                                                   the demo: makes its corpus, trains, speaks
    vitslite train -m objective.kl=half_analytic,monte_carlo seed=0,1    a sweep: four runs, and a table of them
    vitslite check-data /path/to/corpus                              what is wrong with recordings and texts
    vitslite synthesize runs/demo "The young fox painted a bridge." -o out.wav
    vitslite evaluate runs/demo                                      word error rates, distances, alignment errors
    vitslite compare runs/sweeps/NAME                                runs side by side, in one page
    vitslite watch runs                                              runs as they train, in the browser
    vitslite import en_US-joe-medium.onnx -o voices/joe              a voice of Piper, transformers or the VITS code

Each tells more with --help; `vitslite train --cfg job` shows all settings. VITSLITE_TRACE=1 shows the stack behind an
error line. `torchrun --nproc_per_node=2 --no-python vitslite train ...` trains on two processes, with the same losses.
"""

import difflib
import importlib
import os
import signal
import sys
from types import FrameType

from vitslite import __version__
from vitslite.commands import output

COMMANDS = {  # and their modules, imported when they are called: torch takes long
    **{name: name for name in ("train", "synthesize", "evaluate", "compare", "watch")},
    "check-data": "check_data",
    "import": "import_voice",
}
SHOWING = {"-h", "--help", "--cfg", "-c", "--info", "-i", "--hydra-help"}  # what they print is all that is wanted


def main() -> int:
    """Call the command that is named first, as if the rest of the line were its own. Gives the exit code."""
    output.make_sturdy()
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(__doc__.strip())
    elif name == "--version":
        print(f"vitslite {__version__}")
    elif name in COMMANDS:
        sys.argv = [f"vitslite {name}", *arguments]
        return call(name)
    else:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(COMMANDS)}"
        return _fail(f"no command {name}: {hint}")
    return 0


def call(name: str) -> int:
    """The command `name`, with the arguments of this process: what needs no torch at once, then a line, then the rest.

    Until torch and the others are imported, Ctrl-C is one line as well.
    """
    arguments = sys.argv[1:]
    if "--version" in arguments:
        print(f"vitslite {__version__}")
        return 0
    before = signal.signal(signal.SIGINT, _interrupted)
    if name == "train":
        from vitslite.commands import typed

        if {"-h", "--help"} & set(arguments):
            print(typed.usage())
            return 0
        if (fault := typed.fault(arguments)) is not None:
            return _fail(fault)
    if os.environ.get("RANK", "0") == "0":
        stream = sys.stderr if SHOWING & {a.split("=")[0] for a in arguments} else sys.stdout
        print(f"vitslite {__version__}: loading torch ...", file=stream, flush=True)
    command = importlib.import_module(f"vitslite.commands.{COMMANDS[name]}").command
    signal.signal(signal.SIGINT, before)
    return command()


def _fail(message: str) -> int:
    print(f"vitslite: error: {message}", file=sys.stderr)
    return 2


def _interrupted(number: int, frame: FrameType | None) -> None:
    """An exception would be raised inside somebody's import, and be taken for a fault of it."""
    _fail("interrupted while starting; nothing was begun")
    os._exit(130)
