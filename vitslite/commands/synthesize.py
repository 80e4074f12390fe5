"""Synthesis: a text spoken by a trained voice.

    vitslite synthesize runs/demo "The young fox painted a bridge." -o out.wav
    vitslite synthesize runs/demo/checkpoints/last.pt "Two giants danced." -o out.wav --seed 1 --speed 0.9

RUN is a run directory (its best checkpoint) or a checkpoint file. The same text and seed give the same file.
"""

import argparse
import itertools
from pathlib import Path

from vitslite import audio
from vitslite.commands import console
from vitslite.synthesis import Synthesizer
from vitslite.training.progress import busy


def main(arguments: argparse.Namespace) -> None:
    output = arguments.output
    if not arguments.run.exists() and Path(arguments.text).exists():
        raise ValueError(f"the run comes first: vitslite synthesize {arguments.text} {str(arguments.run)!r}")
    if output.suffix.lower() != ".wav":
        raise ValueError(
            f"-o {output}: speech is written as .wav: type -o {output.with_suffix('.wav')}, and convert it"
        )
    if output.exists() and not arguments.overwrite:
        raise ValueError(f"{output} exists: add --overwrite, or choose another -o, say {_free(output)}")
    voice = Synthesizer(arguments.run, arguments.device)
    with busy("speaking"):
        wav = voice.speak(arguments.text, console.speak_settings(arguments, voice), arguments.speed)
    if not output.parent.is_dir():
        output.parent.mkdir(parents=True)
        print(f"made the folder {output.parent}/")
    audio.write_wav(output, wav, voice.sample_rate)
    print(f"{output}: {len(wav) / voice.sample_rate:.2f} s, {voice.sample_rate} Hz, from {voice.path}")


def _free(path: Path) -> Path:
    names = (path.with_stem(f"{path.stem}-{i}") for i in itertools.count(2))
    return next(name for name in names if not name.exists())


def parser() -> argparse.ArgumentParser:
    p = console.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("run", type=Path, metavar="RUN")
    p.add_argument("text", metavar="TEXT")
    p.add_argument("-o", "--output", type=Path, default=Path("out.wav"), help="a .wav file (out.wav)")
    p.add_argument("--overwrite", action="store_true", help="replace an existing output")
    p.add_argument("--speed", type=float, default=1.0, help="2 is twice as fast (1)")
    console.add_speaking(p)
    return p


def command() -> int:
    return console.run_script(main, parser())
