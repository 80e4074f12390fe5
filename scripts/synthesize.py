"""`vitslite synthesize` of this checkout: python scripts/synthesize.py RUN TEXT [-o out.wav]; --help tells the rest."""

import sys

from vitslite.commands.main import call

if __name__ == "__main__":
    sys.exit(call("synthesize"))
