"""A page of what was looked for, each query with the images that fit it best."""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import List, Mapping, Sequence

from passl.datasets.sources.paths import ImagePaths
from passl.deployment.figures import STYLE, figure, folders_below, thumbnail
from passl.deployment.search import Answers
from passl.utils.config import Config
from passl.utils.pages import notes, write_page

_STYLE = """
h2 { overflow-wrap: anywhere; } figure a { color: inherit; text-decoration: none; }
"""


def write_answers(
    path: Path,
    paths: Sequence[str],
    answers: Sequence[Answers],
    section: Config,
    facts: Mapping[str, str],
) -> None:
    """Writes a page of answers; each picture is small, and a link to its file.

    Args:
        path: of the page.
        paths: of all images that were searched.
        answers: to each query.
        section: of the dataloader, which says how large images may be.
        facts: what stands at the head of the page.

    Raises:
        PasslError: it cannot be written, or an image not be read any more.
    """
    used = sorted({place for found in answers for place in found.places})
    files = [paths[place] for place in used]
    dataset = ImagePaths(files)
    dataset.max_pixels = section.loader.max_pixels
    at = {place: i for i, place in enumerate(used)}
    pictures, folders = [thumbnail(dataset, i) for i in range(len(used))], folders_below(files)
    parts = [
        "<h1>Search</h1>",
        notes(facts),
        f'<p class="note">{len(paths):,} images; below each the cosine of its embedding with that '
        "of what was looked for. Cosines with words are compared with one another, and say "
        "little by themselves.</p>",
    ]
    for found in answers:
        cells: List[str] = []
        if found.like is None:
            parts.append(f'<h2 dir="auto">{html.escape(found.words)}</h2>')
        else:
            parts.append("<h2>like</h2>")
            query = ImagePaths([found.like])
            query.max_pixels = section.loader.max_pixels
            cells.append(_cell(thumbnail(query, 0), found.like, "&nbsp;", kind="query"))
        for place, cosine in zip(found.places, found.similarities):
            i = at[place]
            cells.append(_cell(pictures[i], files[i], f"{round(cosine, 4) + 0.0:.4f}", folders[i]))
        parts.append('<div class="row">' + "".join(cells) + "</div>")
    titles = ", ".join(found.title for found in answers)
    write_page(path, f"Search: {titles}", parts, STYLE + _STYLE)


def _cell(content: str, file: str, text: str, folder: str = "", kind: str = "") -> str:
    link = html.escape(Path(os.path.abspath(file)).as_uri())
    return figure(f'<a href="{link}">{content}</a>', file, text, folder, kind)
