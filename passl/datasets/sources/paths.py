"""Images without labels: files and folders that somebody names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence

import numpy as np

from passl.datasets.dataset import ImageDataset
from passl.datasets.images.decoding import decode_image
from passl.datasets.images.failures import reading_failed
from passl.datasets.images.rgb_image import RgbImage
from passl.datasets.sources.image_files import (
    count,
    image_extensions,
    images_below,
    passed_over_text,
)
from passl.utils.errors import PasslError, shown
from passl.utils.logging import logger


def find_images(places: Sequence[str]) -> List[str]:
    """Returns the image files that paths mean: files as they are, folders with all below them.

    What is below a folder is found as in training, and what is passed over there is logged.

    Args:
        places: paths.

    Raises:
        PasslError: a path that does not exist, a folder without images or one that
            cannot be read, an address.
    """
    found: List[str] = []
    passed_over: Dict[str, int] = {}
    for place in places:
        if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", place):
            raise PasslError(
                f"{place}: is an address; images are read from the disk alone, so that what a "
                "server sends is seen before it is decoded; download it first"
            )
        path = Path(place)
        if path.is_dir():
            own: Dict[str, int] = {}
            inside = [str(path / name) for name in images_below(str(path), "", own)]
            if not inside:
                raise PasslError(
                    f"{shown(place)}: holds no image file ({', '.join(image_extensions())}), also "
                    "not in the folders below it"
                    + (f"; it holds {passed_over_text(own)}" if own else "")
                )
            found += inside
            for kind, number in own.items():
                count(passed_over, kind, number)
        elif path.exists():
            found.append(place)
        else:
            raise PasslError(f"{shown(place)}: there is no such file or folder")
    if passed_over:
        logger.info("passed over: %s", passed_over_text(passed_over))
    return found


class ImagePaths(ImageDataset):
    """Image files; the label of each is its place in the list.

    Args:
        paths: the files.
        transforms: configs of the sample transforms.
    """

    def __init__(self, paths: Sequence[str], transforms: Sequence[Mapping[str, Any]] = ()):
        super().__init__(np.arange(len(paths)), None, transforms)
        self.paths = list(paths)

    def read_bytes(self, index: int) -> bytes:
        """Returns the content of the file at ``index``.

        Raises:
            UnreadableImage: with its path.
            PasslError: the machine refuses to read it.
        """
        try:
            return Path(self.paths[index]).read_bytes()
        except OSError as error:
            raise reading_failed(error, self.paths[index]) from None

    def read(self, index: int) -> RgbImage:
        return decode_image(self.read_bytes(index), self.paths[index], self.max_pixels)

    def where(self, index: int) -> str:
        return self.paths[index]
