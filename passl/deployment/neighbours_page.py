"""A page of images, each beside those that a network takes for the most like it."""

from __future__ import annotations

import html
import io
import os
from pathlib import Path
from typing import List, Mapping, Sequence

import numpy as np
from PIL import Image

from passl.datasets import ImageDataset
from passl.deployment.features import nearest
from passl.utils.pages import notes, picture, write_page

_ROWS = 60  # images that the page shows with their neighbours, at most
_PICTURES = 1000  # of all rows together, at most: some megabytes
_SIDE = 112  # pixels of a thumbnail's longer side

_STYLE = """
.row { display: flex; flex-wrap: wrap; gap: .5rem; padding: .6rem 0;
       border-bottom: 1px solid #ddd; }
figure { margin: 0; width: 7rem; }
figure img { height: 7rem; width: 7rem; object-fit: contain; background: #f2f2f2; display: block; }
figcaption { font-size: .75rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap;
             font-variant-numeric: tabular-nums; }
.query { margin-right: 1rem; } .query img { outline: 3px solid #1f77b4; }
"""


def write_neighbours(
    path: Path,
    dataset: ImageDataset,
    places: Sequence[int],
    features: np.ndarray,
    count: int,
    facts: Mapping[str, str],
) -> None:
    """Writes a page of images, evenly taken from all, with the nearest of all beside each.

    Args:
        path: of the page.
        dataset: the images.
        places: of the images in it, ``[n]``.
        features: of these, ``[n, C]``.
        count: neighbours of each.
        facts: what stands at the head of the page.

    Raises:
        PasslError: it cannot be written.
    """
    total = len(places)
    sample = min(_ROWS, _PICTURES // (1 + count), total)
    queries = np.unique(np.linspace(0, total - 1, sample).astype(np.int64))
    found, similarity = nearest(features, queries, count)
    pictures = {int(i): _thumbnail(dataset, places[i]) for i in np.union1d(queries, found.ravel())}
    files = [dataset.where(place) for place in places]
    folders = _folders(files)

    def figure(i: int, text: str, kind: str) -> str:
        lines = [*([f"{folders[i]}/"] if folders else []), Path(files[i]).name]
        caption = "<br>".join([text, *map(html.escape, lines)])
        return (
            f'<figure class="{kind}" title="{html.escape(files[i])}">{pictures[i]}'
            f"<figcaption>{caption}</figcaption></figure>"
        )

    rows = []
    for query, neighbours, cosines in zip(queries.tolist(), found.tolist(), similarity.tolist()):
        cells = [figure(query, "&nbsp;", "query")]
        cells += [figure(i, f"{round(c, 3) + 0.0:.3f}", "") for i, c in zip(neighbours, cosines)]
        rows.append('<div class="row">' + "".join(cells) + "</div>")
    shown = f"{len(queries)} of {total:,} images" if len(queries) < total else f"{total} images"
    parts = [
        "<h1>Nearest neighbours</h1>",
        notes(facts),
        f'<p class="note">{shown}; right of each those that are nearest to it of all {total:,}, by '
        "the cosine of their features, which stands below them.</p>",
        *rows,
    ]
    write_page(path, "Nearest neighbours", parts, _STYLE)


def _folders(files: Sequence[str]) -> List[str]:
    """Returns the folder of each file below the one they share; nothing where that is all."""
    parents = [str(Path(os.path.abspath(file)).parent) for file in files]
    shared = os.path.commonpath(parents)
    below = [os.path.relpath(parent, shared) for parent in parents]
    return below if len(set(below)) > 1 else []


def _thumbnail(dataset: ImageDataset, place: int) -> str:
    image = dataset.read(place).to_pil()
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return picture(buffer.getvalue(), "jpeg", Path(dataset.where(place)).name)
