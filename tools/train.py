#!/usr/bin/env python3
"""Runs ``passl train`` from a checkout; see passl/cli/train.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from passl.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
