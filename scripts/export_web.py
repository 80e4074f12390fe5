"""Export to a web page: python scripts/export_web.py RUN -o voice.html [--runtime DIR]; --help tells the rest."""

import sys

from vitslite.commands import export_web

if __name__ == "__main__":
    sys.exit(export_web.command())
