#!/usr/bin/env python3
"""Runs ``passl search`` from a checkout; see passl/cli/search.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from passl.cli.search import main

if __name__ == "__main__":
    sys.exit(main())
