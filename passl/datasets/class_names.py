"""What the classes of a network are called."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import List, Optional, Sequence

from passl.utils.errors import PasslError
from passl.utils.system_errors import explain_os_error

_IMAGENET = Path(__file__).with_name("imagenet_1k.txt")


@functools.cache
def imagenet_classes() -> List[List[str]]:
    """Returns wnid and words of ImageNet-1k's classes, in the order of their labels."""
    lines = _IMAGENET.read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines if not line.startswith("#")]


def read_class_names(path: str) -> List[str]:
    """Returns the names in a text file, one a line, in the order of the labels.

    Raises:
        PasslError: it cannot be read, is not UTF-8, is empty, or has an empty line between names.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise explain_os_error(error, path, "read") from None
    except UnicodeDecodeError as error:
        raise PasslError(f"{path}: is not UTF-8 text ({error.reason}); save it as such") from None
    names = [line.strip() for line in text.rstrip().split("\n")]
    if "" in names:
        place = names.index("") + 1
        raise PasslError(f"{path}:{place}: is empty; a file of class names has one a line")
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
