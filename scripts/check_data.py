"""`vitslite check-data` of this checkout: python scripts/check_data.py ROOT; --help tells the rest."""

import sys

from vitslite.commands import check_data

if __name__ == "__main__":
    sys.exit(check_data.command())
