"""The command `vitslite`: train a VAE text-to-speech model, watch its losses, hear it.

    vitslite train                                                   the demo: makes its corpus, trains, speaks
    vitslite train -m objective.kl=half_analytic,monte_carlo seed=0,1    a sweep: four runs, and a table of them
    vitslite synthesize runs/demo "The young fox painted a bridge." -o out.wav
    vitslite evaluate runs/demo                                      word error rates, distances, alignment errors
    vitslite compare runs/sweeps/NAME                                runs side by side, in one page
    vitslite import en_US-joe-medium.onnx -o voices/joe              a voice of Piper, transformers or the VITS code

Each tells more with --help; `vitslite train --cfg job` shows all settings. VITSLITE_TRACE=1 shows the stack behind an
error line. `torchrun --nproc_per_node=2 --no-python vitslite train ...` trains on two processes, with the same losses.
"""

import difflib
import importlib
import sys

from vitslite import __version__

COMMANDS = {  # and their modules, imported when they are called: torch takes long
    **{name: name for name in ("train", "synthesize", "evaluate", "compare")},
    "import": "import_voice",
}


def main() -> int:
    """Call the command that is named first, as if the rest of the line were its own. Gives the exit code."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(__doc__.strip())
    elif name == "--version":
        print(f"vitslite {__version__}")
    elif name in COMMANDS:
        sys.argv = [f"vitslite {name}", *arguments]
        return importlib.import_module(f"vitslite.commands.{COMMANDS[name]}").command()
    else:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(COMMANDS)}"
        print(f"vitslite: error: no command {name}: {hint}", file=sys.stderr)
        return 2
    return 0
