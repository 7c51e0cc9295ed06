#!/usr/bin/env python3
"""Runs ``passl convert`` from a checkout; see passl/cli/convert.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from passl.cli.convert import main

if __name__ == "__main__":
    sys.exit(main())
