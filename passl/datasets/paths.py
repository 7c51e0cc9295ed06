"""Images without labels: files and folders that somebody names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, List, Mapping, Sequence

import numpy as np

from passl.datasets.dataset import ImageDataset
from passl.datasets.decoding import decode_image
from passl.datasets.failures import reading_failed
from passl.datasets.images import RgbImage
from passl.datasets.layouts import EXTENSIONS
from passl.utils.errors import PasslError


def find_images(places: Sequence[str]) -> List[str]:
    """Returns the image files that paths mean: files as they are, folders with all below them.

    Args:
        places: paths.

    Raises:
        PasslError: a path that does not exist, a folder without images, an address.
    """
    found: List[str] = []
    for place in places:
        if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", place):
            raise PasslError(
                f"{place}: is an address; images are read from the disk alone, so that what a "
                "server sends is seen before it is decoded; download it first"
            )
        path = Path(place)
        if path.is_dir():
            inside = sorted(
                str(file)
                for file in path.rglob("*")
                if file.suffix.lower() in EXTENSIONS
                and file.is_file()
                and not any(part.startswith(".") for part in file.relative_to(path).parts)
            )
            if not inside:
                raise PasslError(
                    f"{place}: holds no image file ({', '.join(sorted(EXTENSIONS))}), also not in "
                    "the folders below it"
                )
            found += inside
        elif path.exists():
            found.append(place)
        else:
            raise PasslError(f"{place}: there is no such file or folder")
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

    def read(self, index: int) -> RgbImage:
        path = self.paths[index]
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise reading_failed(error, path) from None
        return decode_image(data, path, self.max_pixels)

    def where(self, index: int) -> str:
        return self.paths[index]
