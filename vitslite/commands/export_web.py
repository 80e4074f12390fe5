"""Export of a voice to a web page: one HTML file that speaks, also from disk, without a server.

    npm install onnxruntime-web
    python scripts/export_web.py runs/demo -o voice.html --runtime node_modules/onnxruntime-web/dist

RUN is a run directory (its best checkpoint) or a checkpoint file. A voice of phonemes reads words from a lexicon in the
page: those of the demo corpus, or of the file given with --words. Needs pip install "vitslite[export]", too.
"""

import argparse
from pathlib import Path

from vitslite.commands import console
from vitslite.commands.export_onnx import exported, verified
from vitslite.datasets import demo
from vitslite.files import write_text
from vitslite.interop import onnx_file, web_page
from vitslite.synthesis import Synthesizer

_N_SENTENCES = 600  # of the demo's grammar, for how its words sound
_TEXT = "The young fox painted a golden bridge."


def main(arguments: argparse.Namespace) -> None:
    if arguments.output.exists() and not arguments.overwrite:
        raise ValueError(f"{arguments.output} exists: add --overwrite, or choose another -o")
    spoken = Synthesizer(arguments.run)
    voice = exported(spoken)
    lexicon, text = None, _TEXT
    if spoken.frontend.settings.frontend == "phonemes":
        sentences = read_sentences(arguments, spoken)
        onnx_file.check(voice)
        lexicon, text = web_page.lexicon(spoken.frontend, sentences), sentences[0]
    proto = onnx_file.graph(voice, half=not arguments.fp32)
    verified(proto, voice, half=not arguments.fp32)
    title = arguments.title or f"A voice of {spoken.config.name}"
    write_text(arguments.output, web_page.page(proto, voice, lexicon, arguments.runtime, title, text))
    words = "" if lexicon is None else f", {len(lexicon)} words"
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1e6:.1f} MB{words}; open it in a browser")


def read_sentences(arguments: argparse.Namespace, voice: Synthesizer) -> list[str]:
    """What the words of the lexicon stand in."""
    if arguments.words is not None:
        lines = [line.strip() for line in arguments.words.read_text(encoding="utf-8").splitlines()]
        sentences = [line for line in lines if any(c.isalnum() for c in line)]
        if not sentences:
            raise ValueError(f"--words {arguments.words}: no words in it")
        return sentences
    if voice.config.data.kind != "demo":
        raise ValueError("a page has no dictionary: give a text with the words that it is to read, --words FILE")
    return demo.make_sentences(_N_SENTENCES, 0, demo.load_grammar())


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("run", type=Path, metavar="RUN")
    p.add_argument("-o", "--output", type=Path, default=Path("voice.html"))
    p.add_argument("--runtime", type=Path, default=Path("node_modules/onnxruntime-web/dist"), metavar="DIR")
    p.add_argument("--words", type=Path, metavar="FILE", help="a text with the words of the lexicon, a sentence a line")
    p.add_argument("--title", help="of the page")
    p.add_argument("--fp32", action="store_true", help="do not store weights in half precision")
    p.add_argument("--overwrite", action="store_true", help="replace an existing output")
    return p


def command() -> int:
    return console.run_script(main, parser())
