"""`python -m vitslite`, where the command `vitslite` is not on the path."""

import sys

from vitslite.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
