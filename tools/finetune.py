#!/usr/bin/env python3
"""Runs ``passl finetune`` from a checkout; see passl/cli/finetune.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from passl.cli.finetune import main

if __name__ == "__main__":
    sys.exit(main())
