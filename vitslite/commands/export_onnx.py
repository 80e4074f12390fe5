"""Export of a voice to ONNX, for the programs that people have.

    python scripts/export_onnx.py runs/demo format=piper -o voice.onnx     piper -m voice.onnx
    python scripts/export_onnx.py runs/demo format=sherpa -o voice.onnx    sherpa-onnx, with tokens.txt

RUN is a run directory (its best checkpoint) or a checkpoint file. Needs pip install "vitslite[export]". The file is
checked before it is written: the runtime has to say what PyTorch says, at three lengths.
"""

import argparse
import sys
from pathlib import Path

from vitslite.commands import console
from vitslite.interop import onnx_check, onnx_file
from vitslite.interop.onnx_file import Exported
from vitslite.synthesis import Synthesizer
from vitslite.text.frontend import END, START, Frontend, intersperse_blanks

_LENGTHS = (12, 40, 120)  # symbols of what the check speaks


def main(arguments: argparse.Namespace) -> None:
    layout = arguments.format.removeprefix("format=")
    if arguments.output.exists() and not arguments.overwrite:
        raise ValueError(f"{arguments.output} exists: add --overwrite, or choose another -o")
    if arguments.output.suffix != ".onnx":
        raise ValueError(f"-o {arguments.output}: its name has to end in .onnx")
    voice = exported(Synthesizer(arguments.run))
    proto = onnx_file.graph(voice, arguments.fp16)
    verified(proto, voice, arguments.fp16)
    for symbol in onnx_file.not_fed(voice.frontend) if layout == "piper" else []:
        print(f"note: Piper takes {symbol!r} apart, so that this voice never gets it", file=sys.stderr)
    for path in onnx_file.write(proto, voice, arguments.output, layout):
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


def exported(voice: Synthesizer) -> Exported:
    return Exported(voice.model, voice.frontend, voice.sample_rate, voice.config.synthesis)


def verified(proto, voice: Exported, half: bool) -> None:
    """Print how near the runtime is to PyTorch at three lengths; ValueError where it is another voice."""
    for n in _LENGTHS:
        compared = onnx_check.compare(proto, voice, some_tokens(voice.frontend, n))
        print(compared.line(), flush=True)
        onnx_check.verify(compared, onnx_file.has_pulses(voice), half)


def some_tokens(frontend: Frontend, n: int) -> list[int]:
    """Tokens of n symbols, one after the other of the vocabulary: any text will do."""
    s, inside = frontend.settings, [i for i, x in enumerate(frontend.vocabulary) if i and x not in ("", START, END)]
    ids = [inside[k % len(inside)] for k in range(n)]
    if s.edges:
        ids = [frontend.vocabulary.index(START), *ids, frontend.vocabulary.index(END)]
    return intersperse_blanks(ids, s.outer_blanks) if s.blanks else ids


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("run", type=Path, metavar="RUN")
    formats = [f"format={name}" for name in onnx_file.FORMATS]
    p.add_argument("format", choices=formats, nargs="?", default=formats[0], metavar="|".join(formats))
    p.add_argument("-o", "--output", type=Path, default=Path("voice.onnx"))
    p.add_argument("--overwrite", action="store_true", help="replace an existing output")
    p.add_argument("--fp16", action="store_true", help="store weights in half precision: half the size")
    return p


def command() -> int:
    return console.run_script(main, parser())
