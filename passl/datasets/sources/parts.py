"""The parts of a set that a folder holds: for training, for choosing, for the last word."""

from __future__ import annotations

import os
from typing import Dict

from passl.datasets.sources.layouts import class_folders
from passl.utils.errors import PasslError, listing, shown

# What people call them, the commonest name first.
_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval"),
}


def find_parts(root: str) -> Dict[str, str]:
    """Returns the folders of a set's parts, each with a folder for each class.

    Args:
        root: holds the parts, ``train/<class>``, or the classes themselves.

    Returns:
        ``train``, and ``val`` and ``test`` where they are there, each with its folder; where the
        folder holds the classes themselves, it is ``train``.

    Raises:
        PasslError: no folder, parts without one to train on, or one class.
    """
    if not os.path.isdir(root):
        what = "is a file, not a folder" if os.path.exists(root) else "there is no such folder"
        raise PasslError(f"{shown(root)}: {what}; name one with a folder of images for each class")
    there = {name.lower(): name for name in class_folders(root)}
    parts = {}
    for part, names in _NAMES.items():
        found = [there[name] for name in names if name in there]
        below = [os.path.join(root, name) for name in found]
        below = [folder for folder in below if class_folders(folder)]
        if below:
            parts[part] = below[0]
    if parts and "train" not in parts:
        raise PasslError(
            f"{shown(root)}: has {listing(os.path.basename(p) for p in parts.values())}, but no "
            "folder called train to learn from; call it so"
        )
    parts = parts or {"train": root}
    classes = class_folders(parts["train"])
    if len(classes) == 1:
        raise PasslError(
            f"{shown(parts['train'])}: has one class folder, {shown(classes[0])}, and telling "
            "classes apart takes two at least"
        )
    return parts
