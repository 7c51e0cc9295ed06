"""The size of the images that a section of the dataloader gives."""

from __future__ import annotations

from typing import Tuple

from passl.datasets.registry import TRANSFORMS
from passl.datasets.transforms.base import Transform, last_stated
from passl.utils.config import Config, origin_of
from passl.utils.errors import PasslError


def image_size(section: Config) -> Tuple[int, int]:
    """Returns height and width, in pixels, of the images after a section's transforms.

    Raises:
        PasslError: none of them gives the images a size.
    """
    transforms = [TRANSFORMS.build(cfg) for cfg in section.dataset.get("transforms") or ()]
    size = last_stated(transforms, Transform, "size")
    if size is None:
        raise PasslError(
            "no transform of the dataset gives the images a size",
            place=origin_of(section, "dataset"),
        )
    return tuple(size)
