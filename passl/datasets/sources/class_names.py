"""What the classes of a network are called."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import List, Optional, Sequence

from passl.utils.errors import PasslError
from passl.utils.text_files import is_utf8, not_utf8, read_lines

_IMAGENET = Path(__file__).with_name("imagenet_1k.txt")


@functools.cache
def imagenet_classes() -> List[List[str]]:
    """Returns wnid and words of ImageNet-1k's classes, in the order of their labels."""
    lines = _IMAGENET.read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines if not line.startswith("#")]


def read_class_names(file: Path) -> List[str]:
    """Returns the names in a text file, one a line, the first that of label 0.

    A name is the whole line, without spaces at its ends: of a line ``n01440764 tench, Tinca tinca``
    all of it. The file is UTF-8; empty lines at its end do not count.

    Raises:
        PasslError: no such file, no names, an empty line among them, or another encoding.
    """
    names: List[str] = []
    for number, line in read_lines(file):
        if not is_utf8(line):
            raise not_utf8(file, number)
        names.append(line.strip())
    while names and not names[-1]:
        names.pop()
    if not names:
        raise PasslError(f"{file}: is empty; a line is the name of a class")
    if "" in names:
        raise PasslError(
            f"{file}:{names.index('') + 1}: is empty; a line is the name of a class, and the one "
            "after it would have the label of another"
        )
    return names


def readable_names(
    num_classes: int, recorded: Optional[Sequence[str]], imagenet: bool = False
) -> List[str]:
    """Returns a name for every class.

    Args:
        num_classes: K.
        recorded: those that the weights were trained with, where the file says so. Where they are
            ImageNet's identifiers, the words they stand for are returned.
        imagenet: whether the weights are known to be for ImageNet-1k's classes.

    Returns:
        K names: recorded ones, ImageNet's where ``imagenet`` and there are none, ``class 17``
        otherwise.
    """
    if recorded is not None and len(recorded) == num_classes:
        words = dict(imagenet_classes())
        return [words.get(name, name) for name in recorded]
    if imagenet and num_classes == len(imagenet_classes()):
        return [words for _, words in imagenet_classes()]
    return [f"class {label}" for label in range(num_classes)]
