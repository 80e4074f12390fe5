"""Synthesis: texts spoken by a trained voice.

    vitslite synthesize runs/demo "The young fox painted a bridge." -o out.wav
    vitslite synthesize runs/demo -i lines.txt -d spoken              an utterance a line: spoken/0001.wav ...
    echo "Two giants danced." | vitslite synthesize runs/demo -o - | aplay -f S16_LE -r 16000

RUN is a run directory (its best checkpoint) or a checkpoint file. The same text and seed give the same file. Without
TEXT and -i the texts come from a pipe. A line that begins with { is JSON: {"text": ..., "id": ..., "seed": ...,
"speed": ...}, of which the id names the file in DIR. -o - writes 16-bit samples without a header as soon as they are
spoken.
"""

import argparse
import dataclasses
import itertools
import sys
from pathlib import Path

from vitslite import audio
from vitslite.commands import console
from vitslite.commands.utterances import Utterance, read_lines
from vitslite.synthesis import PAUSE_SECONDS, SpeakSettings, Synthesizer, pieces_to_speak
from vitslite.training.progress import busy

_SUFFIXES = (".wav", ".flac")


def main(arguments: argparse.Namespace) -> None:
    first = arguments.text[0] if arguments.text else ""
    if not arguments.run.exists() and first and Path(first).exists():
        raise ValueError(f"the run comes first: vitslite synthesize {first} {str(arguments.run)!r}")
    if arguments.sentence_silence < 0:
        raise ValueError(f"--sentence-silence {arguments.sentence_silence}: give 0 or a positive number of seconds")
    utterances = read_utterances(arguments)
    outputs = name_outputs(arguments, utterances)
    voice = Synthesizer(arguments.run, arguments.device)
    if arguments.skip_unknown:
        voice.frontend.settings = dataclasses.replace(voice.frontend.settings, skip_unknown=True)
    settings = console.speak_settings(arguments, voice)
    for utterance in utterances:  # all are looked at before one is spoken
        refuse_unspeakable(voice, utterance)
    for utterance, output in zip(utterances, outputs, strict=True):
        own = settings if utterance.seed is None else dataclasses.replace(settings, seed=utterance.seed)
        speed = arguments.speed if utterance.speed is None else utterance.speed
        if output is None:
            stream(voice, utterance.text, own, speed, arguments.sentence_silence)
            continue
        with busy("speaking"):
            wav = voice.speak(utterance.text, own, speed, arguments.sentence_silence)
        if not output.parent.is_dir():
            output.parent.mkdir(parents=True)
            print(f"made the folder {output.parent}/")
        audio.write_wav(output, wav, voice.sample_rate)
        print(f"{output}: {len(wav) / voice.sample_rate:.2f} s, {voice.sample_rate} Hz, from {voice.path}", flush=True)


def read_utterances(arguments: argparse.Namespace) -> list[Utterance]:
    """From the arguments, a file, or standard input."""
    if arguments.text and arguments.input:
        raise ValueError("give TEXT or -i FILE, not both")
    if arguments.text:
        return [Utterance(text, f"text {i}") for i, text in enumerate(arguments.text, 1)]
    if arguments.input is None and sys.stdin.isatty():
        raise ValueError(
            'nothing to speak: give a text in quotes, -i FILE, or a pipe: echo "..." | vitslite synthesize RUN'
        )
    if arguments.input is None or str(arguments.input) == "-":
        return read_lines(sys.stdin.read(), "standard input")
    try:
        return read_lines(arguments.input.read_text(encoding="utf-8-sig"), str(arguments.input))
    except UnicodeDecodeError as error:
        raise ValueError(f"{arguments.input}: not UTF-8 ({error.reason} at byte {error.start}); convert it") from error


def name_outputs(arguments: argparse.Namespace, utterances: list[Utterance]) -> list[Path | None]:
    """A file for each utterance; None: standard output. ValueError where one exists, or two have one name."""
    if arguments.folder is None:
        if str(arguments.output) == "-":
            return [None] * len(utterances)
        if len(utterances) > 1:
            raise ValueError(
                f"{len(utterances)} texts for -o {arguments.output}: name a folder, -d DIR; a sentence needs quotes"
            )
        outputs = [arguments.output]
    else:
        console.refuse_file(arguments.folder)
        width = max(4, len(str(len(utterances))))
        names = [u.id or f"{i:0{width}}" for i, u in enumerate(utterances, 1)]
        twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        if twice:
            raise ValueError(f"two utterances have the id {twice[0]}: give each its own")
        outputs = [arguments.folder / f"{name}.{arguments.format}" for name in names]
    for output in outputs:
        if output.suffix.lower() not in _SUFFIXES:
            raise ValueError(
                f"-o {output}: speech is written as .wav or .flac: type -o {output.with_suffix('.wav')}, and convert it"
            )
        if output.exists() and not arguments.overwrite:
            other = "-d" if arguments.folder else f"-o, say {_free(output)}"
            raise ValueError(f"{output} exists: add --overwrite, or choose another {other}")
    return [*outputs]


def refuse_unspeakable(voice: Synthesizer, utterance: Utterance) -> None:
    """ValueError names the line of a text that the voice cannot speak."""
    try:
        pieces = pieces_to_speak(utterance.text, voice.config.text.voice)
        if not pieces:
            raise ValueError(f"nothing to speak in {utterance.text!r}: give a text with words")
        for piece in pieces:
            voice.frontend.encode(piece)
    except ValueError as error:
        unknown = "; or --skip-unknown leaves them out" if "not in the vocabulary" in str(error) else ""
        raise ValueError(f"{utterance.place}: {error}{unknown}") from error


def stream(voice: Synthesizer, text: str, settings: SpeakSettings, speed: float, pause_seconds: float) -> None:
    """16-bit samples to standard output, sentence by sentence, a pause after each."""
    pause = bytes(2 * int(pause_seconds * voice.sample_rate))
    for piece in pieces_to_speak(text, voice.config.text.voice):
        sys.stdout.buffer.write(audio.to_int16(voice.speak(piece, settings, speed)).tobytes() + pause)
        sys.stdout.buffer.flush()


def _free(path: Path) -> Path:
    names = (path.with_stem(f"{path.stem}-{i}") for i in itertools.count(2))
    return next(name for name in names if not name.exists())


def parser() -> argparse.ArgumentParser:
    p = console.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("run", type=Path, metavar="RUN")
    p.add_argument("text", nargs="*", metavar="TEXT")
    p.add_argument("-i", "--input", type=Path, metavar="FILE", help="an utterance a line; - is standard input")
    p.add_argument("-o", "--output", type=Path, default=Path("out.wav"), help="a .wav or .flac file, or - (out.wav)")
    p.add_argument("-d", "--folder", type=Path, metavar="DIR", help="a file for each utterance, in this folder")
    p.add_argument("--format", choices=("wav", "flac"), default="wav", help="of the files in DIR (wav)")
    p.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    p.add_argument("--speed", type=float, default=1.0, help="2 is twice as fast (1)")
    p.add_argument(
        "--sentence-silence",
        type=float,
        default=PAUSE_SECONDS,
        metavar="SECONDS",
        help=f"between sentences ({PAUSE_SECONDS})",
    )
    p.add_argument("--skip-unknown", action="store_true", help="leave out symbols that the voice does not know")
    console.add_speaking(p)
    return p


def command() -> int:
    return console.run_script(main, parser())
