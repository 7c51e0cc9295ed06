"""A page of images, each beside those that a network takes for the most like it."""

from __future__ import annotations

from pathlib import Path
from typing import Mapping, Sequence

import numpy as np

from passl.datasets import ImageDataset
from passl.deployment.features import nearest
from passl.deployment.figures import STYLE, figure, folders_below, thumbnail
from passl.utils.pages import notes, write_page

_ROWS = 60  # images that the page shows with their neighbours, at most
_PICTURES = 1000  # of all rows together, at most: some megabytes


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
    pictures = {int(i): thumbnail(dataset, places[i]) for i in np.union1d(queries, found.ravel())}
    files = [dataset.where(place) for place in places]
    folders = folders_below(files)

    def cell(i: int, text: str, kind: str = "") -> str:
        return figure(pictures[i], files[i], text, folders[i], kind)

    rows = []
    for query, neighbours, cosines in zip(queries.tolist(), found.tolist(), similarity.tolist()):
        cells = [cell(query, "&nbsp;", "query")]
        cells += [cell(i, f"{round(c, 3) + 0.0:.3f}") for i, c in zip(neighbours, cosines)]
        rows.append('<div class="row">' + "".join(cells) + "</div>")
    shown = f"{len(queries)} of {total:,} images" if len(queries) < total else f"{total} images"
    parts = [
        "<h1>Nearest neighbours</h1>",
        notes(facts),
        f'<p class="note">{shown}; right of each those that are nearest to it of all {total:,}, by '
        "the cosine of their features, which stands below them.</p>",
        *rows,
    ]
    write_page(path, "Nearest neighbours", parts, STYLE)
