"""Export to Piper and sherpa-onnx: python scripts/export_onnx.py RUN format=piper -o FILE; --help tells the rest."""

import sys

from vitslite.commands import export_onnx

if __name__ == "__main__":
    sys.exit(export_onnx.command())
