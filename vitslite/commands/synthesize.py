"""Synthesis: a text spoken by a trained voice.

    vitslite synthesize runs/demo "The young fox painted a bridge." -o out.wav
    vitslite synthesize runs/demo/checkpoints/last.pt "Two giants danced." -o out.wav --seed 1 --speed 0.9

RUN is a run directory (its best checkpoint) or a checkpoint file. The same text and seed give the same file.
"""

import argparse
from pathlib import Path

from vitslite import audio
from vitslite.commands import console
from vitslite.synthesis import Synthesizer


def main(arguments: argparse.Namespace) -> None:
    if arguments.output.exists() and not arguments.overwrite:
        raise ValueError(f"{arguments.output} exists: add --overwrite, or choose another -o")
    voice = Synthesizer(arguments.run, arguments.device)
    wav = voice.speak(arguments.text, console.speak_settings(arguments, voice), arguments.speed)
    audio.write_wav(arguments.output, wav, voice.sample_rate)
    print(f"{arguments.output}: {len(wav) / voice.sample_rate:.2f} s, {voice.sample_rate} Hz, from {voice.path}")


def parser() -> argparse.ArgumentParser:
    p = console.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("run", type=Path, metavar="RUN")
    p.add_argument("text", metavar="TEXT")
    p.add_argument("-o", "--output", type=Path, default=Path("out.wav"))
    p.add_argument("--overwrite", action="store_true", help="replace an existing output")
    p.add_argument("--speed", type=float, default=1.0, help="2 is twice as fast")
    console.add_speaking(p)
    return p


def command() -> int:
    return console.run_script(main, parser())
