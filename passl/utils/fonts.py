"""Which font has which letter, for captions in all languages.

matplotlib brings DejaVu Sans along, which has no Chinese, Japanese or Korean. What it lacks is
taken from the fonts that are installed, letter by letter: one line may be in several scripts.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
import re
import time
import unicodedata
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
from PIL import ImageFont

from passl.utils.logging import logger
from passl.utils.text import as_text

Font = ImageFont.FreeTypeFont

# Plain and complete ones of Linux, Windows and macOS, which are looked at first.
_PREFERRED = (
    *("notosanscjk", "sourcehansans", "notosanssc", "wqy", "droidsansfallback"),
    *("msyh", "simhei", "pingfang", "hiragino", "applegothic", "uming", "ukai", "unifont"),
)
_OTHER_CUTS = re.compile(r"bold|light|thin|black|medium|mono|italic|oblique|serif")
# These have a box or nothing for every letter that there is.
_PLACEHOLDERS = re.compile(r"lastresort|adobeblank|tofu")
_PATIENCE = 4.0  # seconds that opening installed fonts may take in all, not that listing them does


class Fonts:
    """The fonts that captions are drawn in: DejaVu Sans, and what is installed beside it.

    Font files are opened when a letter first needs them, those that are most likely to have it
    first, and none at all for what DejaVu Sans has.

    Args:
        size: of the letters, in pixels.
        folders: where fonts are looked for; None: where the system keeps them.
    """

    def __init__(self, size: int = 11, folders: Optional[Sequence[str]] = None):
        import matplotlib  # late: not everything that shows images needs its font at once

        own = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
        self._size, self._folders = size, folders
        self.base = ImageFont.truetype(str(own), size)
        self._faces: List[_Face] = []
        self._unopened: Iterator[_Face] = _faces_of(str(own), size)
        self._found: Dict[str, Optional[Font]] = {}
        self._searching, self._told = False, False
        self._patience = _PATIENCE

    def of(self, letter: str) -> Optional[Font]:
        """Returns a font that has a letter, or None."""
        if letter.isascii():
            return self.base
        if letter not in self._found:
            self._found[letter] = self._search(letter)
        return self._found[letter]

    def have(self, text: str) -> bool:
        """Tells whether all of a text can be drawn."""
        return all(self.of(letter) or _stand_in(letter) != "?" for letter in as_text(text))

    def name_of(self, name: str, label: int) -> str:
        """Returns the name of a class, or its number where no font has the letters of the name."""
        return name if self.have(name) else f"class {label}"

    def runs(self, text: str) -> List[Tuple[str, Font]]:
        """Returns a line in parts that each have one font; a letter that no font has is a ``?``."""
        runs: List[Tuple[str, Font]] = []
        for letter in as_text(text):
            font = self.of(letter)
            if font is None:
                letter, font = _stand_in(letter), self.base
            if runs and runs[-1][1] is font:
                runs[-1] = (runs[-1][0] + letter, font)
            elif letter:
                runs.append((letter, font))
        return runs

    def _search(self, letter: str) -> Optional[Font]:
        for face in self._opened():
            if face.has(letter):
                return self.base if face is self._faces[0] else face.font
            if _stand_in(letter) != "?":
                return None  # there is nothing to see of it: none is looked for
        if not self._told:
            self._told = True
            searched = "no installed font has"
            if self._patience < 0:
                searched = f"of the fonts that {_PATIENCE:g} s suffice to look through none has"
            logger.warning(
                "%s the letter %s (U+%04X): pictures show classes with such "
                "names by number, and ? in other names; on Debian and Ubuntu, apt install "
                "fonts-noto-cjk brings Chinese, Japanese and Korean, fonts-noto-core most other "
                "scripts, fonts-symbola emoji", searched, letter, ord(letter),
            )  # fmt: skip
        return None

    def _opened(self) -> Iterator[_Face]:
        """Yields the faces in their order; those that nobody has needed yet are opened for it."""
        yield from self._faces
        while self._patience >= 0:
            started = time.monotonic()
            face = next(self._unopened, None)
            if self._searching:
                self._patience -= time.monotonic() - started
            if face is not None:
                self._faces.append(face)
                yield face
            elif self._searching:
                return
            else:
                self._searching = True
                self._unopened = self._installed()

    def _installed(self) -> Iterator[_Face]:
        """Lists the fonts of the system, and yields them as they are asked for."""
        # The first time in an environment this takes long: matplotlib lists fonts for itself.
        from matplotlib.font_manager import findSystemFonts

        files = findSystemFonts(None if self._folders is None else list(self._folders))
        chosen = [path for path in files if not _PLACEHOLDERS.search(_plain_name(path))]
        return itertools.chain.from_iterable(
            _faces_of(path, self._size) for path in sorted(chosen, key=_likelihood)
        )


@functools.cache
def installed_fonts() -> Fonts:
    """Returns the fonts of this machine."""
    return Fonts()


class _Face:
    """One of the fonts in a file.

    Args:
        letters: the code points that it has, int64, increasing.
        font: the same, to draw with.
    """

    def __init__(self, letters: np.ndarray, font: Font):
        self._letters, self.font = letters, font

    def has(self, letter: str) -> bool:
        place = np.searchsorted(self._letters, ord(letter))
        if place == len(self._letters) or self._letters[place] != ord(letter):
            return False
        # Fonts of coloured pictures have letters that leave no trace here.
        return letter.isspace() or self.font.getmask(letter).getbbox() is not None


def _faces_of(path: str, size: int) -> Iterator[_Face]:
    """Yields the fonts in a file that can be drawn with; a collection (``.ttc``) has several."""
    from fontTools.ttLib import TTFont

    number = count = 0
    while number <= count:
        try:
            with _unlogged(), TTFont(path, fontNumber=number, lazy=True) as file:
                letters = np.array(sorted(file.getBestCmap() or ()), np.int64)
                count = getattr(file.reader, "numFonts", 1) - 1
            yield _Face(letters, ImageFont.truetype(path, size, index=number))
        except GeneratorExit:
            raise
        except Exception:  # what is installed may be damaged in any way, or of bitmaps alone
            pass
        number += 1


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """Leaves out what fontTools says of odd fonts, which are not the user's fault."""
    log = logging.getLogger("fontTools")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(before)


def _plain_name(path: str) -> str:
    return re.sub(r"[^a-z0-9]", "", os.path.basename(path).lower())


def _likelihood(path: str) -> Tuple[int, bool, int, str]:
    """Sorts font files: known ones first, plain cuts before others, then the largest first."""
    name = _plain_name(path)
    ranks = [rank for rank, known in enumerate(_PREFERRED) if known in name]
    with contextlib.suppress(OSError):
        return (
            ranks[0] if ranks else len(_PREFERRED),
            _OTHER_CUTS.search(name) is not None,
            -os.path.getsize(path),
            path,
        )
    return len(_PREFERRED) + 1, True, 0, path


def _stand_in(letter: str) -> str:
    """Returns what is drawn for a letter that no font has: nothing where it is not to be seen."""
    if letter.isspace():
        return " "
    joins = unicodedata.category(letter) in ("Cf", "Cc") or 0xFE00 <= ord(letter) <= 0xFE0F
    return "" if joins else "?"
