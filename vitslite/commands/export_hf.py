"""Export of a voice to transformers: a folder that VitsModel.from_pretrained and VitsTokenizer load.

    python scripts/export_hf.py runs/NAME -o DIR

RUN is a run directory (its best checkpoint) or a checkpoint file, of a voice with model/decoder=hifigan
model.duration.rounding=ceil text.units=codepoints; model=vits, small and tiny fit. What does not is named.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

from vitslite.commands import console
from vitslite.config import identity
from vitslite.interop import huggingface_export
from vitslite.synthesis import Synthesizer


def main(arguments: argparse.Namespace) -> None:
    console.refuse_file(arguments.output)
    if (arguments.output / "config.json").exists() and not arguments.overwrite:
        raise ValueError(f"{arguments.output} holds a voice: add --overwrite, or choose another -o")
    voice = Synthesizer(arguments.run)
    settings = identity.flatten(asdict(voice.config))
    notes = huggingface_export.write(arguments.output, voice.model, voice.frontend, voice.config.audio, settings)
    for note in notes:
        print(f"note: {note}")
    print(f"{arguments.output}: VitsModel.from_pretrained({str(arguments.output)!r})")


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("run", type=Path, metavar="RUN")
    p.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    p.add_argument("--overwrite", action="store_true", help="replace an existing voice")
    return p


def command() -> int:
    return console.run_script(main, parser())
