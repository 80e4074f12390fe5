"""`vitslite import` of this checkout: python scripts/import_voice.py SOURCE -o DIR; --help tells the rest."""

import sys

from vitslite.commands import import_voice

if __name__ == "__main__":
    sys.exit(import_voice.command())
