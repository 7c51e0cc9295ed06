#!/usr/bin/env python3
"""Writes the model zoo's table into README.md, between its two markers.

Run it after a change of configs/zoo/; a test fails until the two agree.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from passl.utils.zoo import as_markdown  # noqa: E402

BEGIN, END = "<!-- zoo: scripts/zoo_table.py writes this -->\n", "<!-- end of zoo -->\n"


def with_table(text):
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or not after:
        sys.exit("error: README.md: the markers of the zoo's table are missing")
    return f"{before}{BEGIN}{as_markdown()}\n{END}{after}"


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8")), encoding="utf-8")
