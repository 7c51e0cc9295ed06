"""Pages for a browser, each one file that needs no other and opens from disk."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Mapping, Sequence

from passl.utils.text import as_text
from passl.utils.whole_files import filling, replacing

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
       color: #1b1b1b; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child, .text { text-align: left; }
.scroll { overflow: auto; max-height: 32rem; } img { max-width: 100%; }
.note { color: #666; }
"""


def write_page(path: Path, title: str, parts: Sequence[str], style: str = "") -> None:
    """Writes a page; it appears whole or not at all.

    Args:
        path: of the file; its folder is made.
        title: of the browser's tab.
        parts: of the body, HTML.
        style: further rules.

    Raises:
        PasslError: it cannot be written.
    """
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title>"
        f"<style>{_STYLE}{style}</style></head>\n<body>" + "\n".join(parts) + "</body></html>\n"
    )
    with filling(path.parent):
        with replacing(path) as aside:
            aside.write_text(as_text(text), encoding="utf-8")


def notes(facts: Mapping[str, str]) -> str:
    """Returns facts, a line each, as HTML."""
    return "".join(
        f'<div class="note">{html.escape(key)}: {html.escape(value)}</div>'
        for key, value in facts.items()
    )


def table(rows: Sequence[Sequence[str]], kind: str = "", text: int = 1) -> str:
    """Returns a table with a heading row; the first ``text`` columns are flush left."""
    lines = []
    for number, row in enumerate(rows):
        tag = "td" if number else "th"
        cells = "".join(
            f"<{tag}{' class=text' if i < text else ''}>{html.escape(cell)}</{tag}>"
            for i, cell in enumerate(row)
        )
        lines.append(f"<tr>{cells}</tr>")
    return f'<table class="{kind}">' + "".join(lines) + "</table>"


def picture(data: bytes, kind: str, words: str) -> str:
    """Returns an image that lies in the page itself.

    Args:
        data: the file.
        kind: ``jpeg`` or ``png``.
        words: what is to be read where it cannot be seen.
    """
    encoded = base64.b64encode(data).decode()
    return f'<img alt="{html.escape(words)}" src="data:image/{kind};base64,{encoded}">'
