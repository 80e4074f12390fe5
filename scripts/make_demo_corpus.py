"""Make the demo corpus, in the layout of LJSpeech, in a new folder under OUT.

    python scripts/make_demo_corpus.py OUT [--sentences 1200] [--seed 0] [--voice en-us+f5] [--jobs 2]

The last line that it prints is the option that trains on it.
"""

import argparse
import sys

from vitslite.datasets.demo import make_demo_corpus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT")
    parser.add_argument("--sentences", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--voice", default="en-us+f5")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    try:
        root = make_demo_corpus(args.out, args.sentences, args.seed, args.voice, args.jobs)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"data=ljspeech data.root={root}")


if __name__ == "__main__":
    main()
