"""Look at a corpus before it is trained on: every clip is decoded once, every text read by the voice.

    vitslite check-data /path/to/corpus                     what is skipped or doubtful, by kind, with FILE:LINE
    vitslite check-data /path/to/corpus text.voice=de       settings as for vitslite train, which matter to the texts
    vitslite check-data demo                                the demo corpus

ROOT is a folder in LJSpeech's layout. Leaves a page, its picture and the whole lists in runs/check-data/NAME. What is
decoded stays in data.cache, where a training with the same settings finds it. Exit status 2: a run would refuse it.
"""

import argparse
from pathlib import Path

import hydra

from vitslite import build
from vitslite.commands import console
from vitslite.config.settings import Config
from vitslite.datasets.corpus import refuse_too_many
from vitslite.files import shipped, slug, write_text
from vitslite.monitoring import data_page

FOLDER = Path("runs/check-data")


def main(arguments: argparse.Namespace) -> None:
    config = settings(arguments.root, arguments.overrides)
    max_bad, config.data.max_bad = config.data.max_bad, 1.0  # look at all of it before refusing it
    corpus = build.corpus(config)
    config.data.max_bad = max_bad
    print(corpus.summary(closing=False))
    output = arguments.output or FOLDER / (slug(corpus.root.name) or "corpus")
    console.refuse_file(output)
    for name, value in data_page.figures_of(corpus):
        print(f"  {name:<28} {value}")
    write_text(output / "skipped.tsv", corpus.skipped.report())
    write_text(output / "doubtful.tsv", corpus.notes.report())
    print(f"page: {data_page.write(output, corpus)}   lists: {output}/skipped.tsv, doubtful.tsv", flush=True)
    refuse_too_many(corpus.n_rows, config.data, corpus.skipped)


def settings(root: str, overrides: list[str]) -> Config:
    """The settings of a training on `root`, whatever its name is made of."""
    build.register_schema()
    chosen = [] if root == "demo" else ["data=ljspeech"]
    with hydra.initialize_config_dir(str(shipped("configs").absolute()), version_base="1.3"):
        cfg = hydra.compose("train", overrides=[*chosen, "tracking=local", "name=check-data", *overrides])
    if root != "demo":
        cfg.data.root = root
    return build.parse(cfg, overrides)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("root", metavar="ROOT", help="the folder with metadata.csv and wavs/, or demo")
    p.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="settings, as of vitslite train")
    p.add_argument("-o", "--output", type=Path, help=f"folder for the page ({FOLDER}/NAME)")
    return p


def command() -> int:
    return console.run_script(main, parser())
