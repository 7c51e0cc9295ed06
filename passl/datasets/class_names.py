"""What the classes of a network are called."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import List, Optional, Sequence

_IMAGENET = Path(__file__).with_name("imagenet_1k.txt")


@functools.cache
def imagenet_classes() -> List[List[str]]:
    """Returns wnid and words of ImageNet-1k's classes, in the order of their labels."""
    lines = _IMAGENET.read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines if not line.startswith("#")]


def readable_names(num_classes: int, recorded: Optional[Sequence[str]]) -> List[str]:
    """Returns a name for every class.

    Args:
        num_classes: K.
        recorded: those that the weights were trained with, where the file says so. Where they are
            ImageNet's identifiers, the words they stand for are returned.

    Returns:
        K names: recorded ones, ImageNet's for 1,000 classes without any, ``class 17`` otherwise.
    """
    if recorded is not None and len(recorded) == num_classes:
        words = dict(imagenet_classes())
        return [words.get(name, name) for name in recorded]
    if num_classes == len(imagenet_classes()):
        return [words for _, words in imagenet_classes()]
    return [f"class {label}" for label in range(num_classes)]
