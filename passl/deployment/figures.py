"""Small pictures of images on a page, each with a line or two below it."""

from __future__ import annotations

import html
import io
import os
from pathlib import Path
from typing import List, Sequence

from PIL import Image

from passl.datasets import ImageDataset
from passl.utils.pages import picture

_SIDE = 112  # pixels of a thumbnail's longer side

STYLE = """
.row { display: flex; flex-wrap: wrap; gap: .5rem; padding: .6rem 0;
       border-bottom: 1px solid #ddd; }
figure { margin: 0; width: 7rem; }
figure img { height: 7rem; width: 7rem; object-fit: contain; background: #f2f2f2; display: block; }
figcaption { font-size: .75rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap;
             font-variant-numeric: tabular-nums; }
.query { margin-right: 1rem; } .query img { outline: 3px solid #1f77b4; }
"""


def figure(content: str, file: str, text: str, folder: str = "", kind: str = "") -> str:
    """Returns a figure, HTML.

    Args:
        content: of it, HTML: see ``thumbnail``.
        file: the image's path; its name stands below, the whole appears where the mouse rests.
        text: what stands above the name, HTML.
        folder: stands between them.
        kind: a class of the style.
    """
    lines = [*([f"{folder}/"] if folder else []), Path(file).name]
    caption = "<br>".join([text, *map(html.escape, lines)])
    return (
        f'<figure class="{kind}" title="{html.escape(file)}">{content}'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def folders_below(files: Sequence[str]) -> List[str]:
    """Returns the folder of each file below the one they share; empty ones where that is all."""
    parents = [str(Path(os.path.abspath(file)).parent) for file in files]
    shared = os.path.commonpath(parents)
    below = [os.path.relpath(parent, shared) for parent in parents]
    return below if len(set(below)) > 1 else [""] * len(files)


def thumbnail(dataset: ImageDataset, place: int) -> str:
    """Returns a small picture of an image of a set, HTML.

    Raises:
        PasslError: it cannot be read.
    """
    image = dataset.read(place).to_pil()
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return picture(buffer.getvalue(), "jpeg", Path(dataset.where(place)).name)
