"""Which files below a folder are images, and what of the rest a user should hear of."""

from __future__ import annotations

import errno
import functools
import os
import re
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Tuple

from PIL import Image

from passl.utils.errors import shown
from passl.utils.system_errors import explain_os_error

# Formats of pictures. Pillow also opens documents, films and icons, which nobody means.
_PICTURES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo",
    ".png", ".apng", ".bmp", ".dib", ".webp", ".gif", ".tif", ".tiff", ".tga",
    ".ppm", ".pgm", ".pbm", ".pnm",
    ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx",
    ".avif",
)  # fmt: skip
# What systems leave in folders by themselves.
_LEFT_BEHIND = ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx")

# Kinds of what is passed over, beside extensions; "{s}" is where the plural ends.
BROKEN_LINK = "broken link{s}"
_CIRCLE = "link{s} in a circle"
_NO_EXTENSION = "file{s} without an extension"
_OTHER = "other file{s}"
_LONGEST_EXTENSION = 8
_KINDS = 6  # that one line names


@functools.cache
def image_extensions() -> Tuple[str, ...]:
    """Returns what names of image files end with, in lower case: what the installed Pillow reads.

    AVIF is the one that Pillow reads in some versions and on some systems alone.
    """
    read = Image.registered_extensions()
    return tuple(extension for extension in _PICTURES if extension in read)


def is_image_name(name: str) -> bool:
    """Tells whether a file is an image by its name."""
    return name.lower().endswith(image_extensions())


def images_below(
    root: str, folder: str, passed_over: Dict[str, int], watched: Optional[List[str]] = None
) -> List[str]:
    """Returns the image files below a folder, and below the folders that links in it lead to.

    Names that start with a dot are passed over.

    Args:
        root: the folder that results are relative to.
        folder: the one to look below, relative to ``root``; "" is ``root`` itself.
        passed_over: is added to: how often each kind of file was passed over.
        watched: is added to: every folder that was looked into, and every broken link.

    Returns:
        paths relative to ``root``, in the order of their letters.

    Raises:
        PasslError: a folder that cannot be read, with its name.
    """
    found: List[str] = []
    above = (_identity(root),) if folder else ()
    _collect(root, folder, above, False, found, passed_over, [] if watched is None else watched)
    return sorted(found)


def _collect(
    root: str, folder: str, above: Tuple[Tuple[int, int], ...], linked: bool, found: List[str],
    passed_over: Dict[str, int], watched: List[str],
) -> None:  # fmt: skip
    path = os.path.join(root, folder) if folder else root
    linked = linked or os.path.islink(path)
    identity = _identity(path)
    if linked and identity in above:  # only a link leads back to where one has been
        count(passed_over, _CIRCLE)
        return
    watched.append(folder or ".")
    folders = []
    for entry in entries_of(path):
        name = f"{folder}/{entry.name}" if folder else entry.name
        kind = kind_of(entry)
        if kind == "image":
            found.append(name)
        elif kind == "folder":
            folders.append(name)
        else:
            count(passed_over, kind)
            if kind == BROKEN_LINK:
                watched.append(name)
    for name in folders:
        _collect(root, name, (*above, identity), linked, found, passed_over, watched)


def entries_of(path: str) -> List[os.DirEntry]:
    """Returns what a folder holds, in no order, without what is hidden or left by systems.

    Raises:
        PasslError: it cannot be read.
    """
    try:
        with os.scandir(path) as entries:
            return [e for e in entries if e.name[0] != "." and e.name.lower() not in _LEFT_BEHIND]
    except OSError as error:
        raise explain_os_error(error, path, "read") from None


def kind_of(entry: os.DirEntry) -> str:
    """Returns ``image``, ``folder``, or as what it is passed over."""
    # A link, and a folder that is called like an image, are rare: they cost a look.
    try:
        if is_image_name(entry.name) and entry.is_file():
            return "image"
        if entry.is_dir():
            return "folder"
        if entry.is_symlink() and not os.path.exists(entry.path):
            return BROKEN_LINK
    except OSError as error:
        if error.errno == errno.ELOOP:
            return BROKEN_LINK
        raise explain_os_error(error, entry.path, "read") from None
    extension = os.path.splitext(entry.name)[1].lower()
    if not extension:
        return _NO_EXTENSION
    plain = extension.isprintable() and " " not in extension
    return extension if plain and len(extension) <= _LONGEST_EXTENSION else _OTHER


def missing_image(root: str, file: Path, path: str) -> str:
    """Returns why there is no image where a list or a table says, with where it is if it is near.

    Args:
        root: the folder that paths start from.
        file: the list.
        path: of the image, as it stands there.
    """
    missing = f"there is no image {shown(os.path.join(root, path))}"
    if "\\" in path or re.match("[A-Za-z]:", path):
        return f"{missing}; this is a path of Windows: write paths from dataroot on, with /"
    near = [os.path.dirname(os.path.abspath(root)), str(file.parent)]
    if os.path.isdir(root):
        near += sorted(entry.path for entry in os.scandir(root) if entry.is_dir())
    for folder in near:
        if os.path.isfile(os.path.join(folder, path)):
            return f"{missing}, but one in {shown(folder)}; set dataroot to that"
    return f"{missing}; check dataroot"


def _identity(path: str) -> Tuple[int, int]:
    try:
        state = os.stat(path)
    except OSError as error:
        raise explain_os_error(error, path, "read") from None
    return state.st_dev, state.st_ino


def count(passed_over: Dict[str, int], kind: str, number: int = 1) -> None:
    """Adds to how often a kind was passed over."""
    passed_over[kind] = passed_over.get(kind, 0) + number


def passed_over_text(passed_over: Mapping[str, int]) -> str:
    """Returns ``12 .heic, 5 broken links, 1 .txt``: the most frequent first."""
    named = sorted(
        ((kind, number) for kind, number in passed_over.items() if kind != _OTHER),
        key=lambda item: (-item[1], item[0]),
    )
    rest = sum(passed_over.values()) - sum(number for _, number in named[:_KINDS])
    named = named[:_KINDS] + ([(_OTHER, rest)] if rest else [])
    return ", ".join(f"{n:,} {kind.replace('{s}', 's' if n > 1 else '')}" for kind, n in named)
