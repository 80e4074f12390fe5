"""Export to transformers: python scripts/export_hf.py RUN -o DIR; --help tells the rest."""

import sys

from vitslite.commands import export_hf

if __name__ == "__main__":
    sys.exit(export_hf.command())
