"""Pictures with captions on one sheet."""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

import numpy as np
from PIL import Image, ImageDraw

from passl.utils.fonts import Fonts, installed_fonts

# A picture, uint8 ``[H, W, 3]``, and what stands above it.
Cell = Tuple[np.ndarray, str]

_COLUMNS = 6


def contact_sheet(
    rows: Sequence[Sequence[Cell]], side: int = 160, fonts: Optional[Fonts] = None
) -> Image.Image:
    """Returns pictures in rows, each with a caption of up to two lines above it.

    Args:
        rows: pictures, uint8 ``[H, W, 3]`` of any sizes, and their captions.
        side: pixels that the longer side of each is brought to.
        fonts: of the captions; None: those of this machine.
    """
    fonts = installed_fonts() if fonts is None else fonts
    margin, caption = 4, 30
    step_x, step_y = side + 2 * margin, side + caption + margin
    sheet = Image.new(
        "RGB", (step_x * max(len(row) for row in rows), step_y * len(rows) + margin), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for y, row in enumerate(rows):
        for x, (pixels, text) in enumerate(row):
            picture = Image.fromarray(pixels)
            scale = side / max(picture.size)
            size = [max(1, round(length * scale)) for length in picture.size]
            # Small ones are not smoothed: their pixels are what one wants to see.
            method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BICUBIC
            left, top = x * step_x + margin, y * step_y
            for line, words in enumerate(text.split("\n")):
                _write(draw, (left, top + 3 + 13 * line), _fitting(words, fonts, side), fonts)
            place = left + (side - size[0]) // 2, top + caption + (side - size[1]) // 2
            sheet.paste(picture.resize(size, method), place)
    return sheet


def _write(draw: ImageDraw.ImageDraw, place: Tuple[float, float], words: str, fonts: Fonts) -> None:
    """Writes a line, its letters from several fonts on one base line."""
    x, y = place
    for part, font in fonts.runs(words):
        draw.text((x, y + fonts.base.getmetrics()[0]), part, "black", font, anchor="ls")
        x += font.getlength(part)


def _fitting(words: str, fonts: Fonts, width: int) -> str:
    """Returns as much of a line as has place, with an ellipsis for the rest."""
    if _length(words, fonts) <= width:
        return words
    while words and _length(words + "…", fonts) > width:
        words = words[:-1]
    return words + "…"


def _length(words: str, fonts: Fonts) -> float:
    return sum(font.getlength(part) for part, font in fonts.runs(words))


def in_rows(cells: Sequence[Cell], together: int = 1) -> List[Sequence[Cell]]:
    """Returns pictures in rows of about six, for a sheet.

    Args:
        cells: the pictures.
        together: how many at a time belong together, and stay in one row.
    """
    columns = together * max(1, _COLUMNS // together)
    return [cells[i : i + columns] for i in range(0, len(cells), columns)]
