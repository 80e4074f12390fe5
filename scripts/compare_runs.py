"""`vitslite compare` of this checkout: python scripts/compare_runs.py RUN ...; --help tells the rest."""

import sys

from vitslite.commands.main import call

if __name__ == "__main__":
    sys.exit(call("compare"))
