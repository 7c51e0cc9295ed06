"""Images in files: class folders, and lists of paths with labels."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

from passl.datasets.dataset import ImageDataset, decode_image, subset_indices
from passl.datasets.registry import DATASETS
from passl.utils.errors import PasslError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm")


class _ImageFiles(ImageDataset):
    """Images named by paths relative to a root."""

    def __init__(
        self,
        root: Path,
        paths: Sequence[str],
        labels: Sequence[int],
        class_names: Optional[Sequence[str]],
        subset: Optional[str],
        transforms: Sequence[Mapping[str, Any]],
    ):
        all_labels = np.asarray(labels, dtype=np.int64)
        self.indices = subset_indices(all_labels, subset)
        super().__init__(all_labels[self.indices], class_names, transforms)
        self.root = str(root)
        self.paths = [paths[i] for i in self.indices]

    def path(self, index: int) -> str:
        """Returns the path of the image file at ``index``."""
        return os.path.join(self.root, self.paths[index])

    def read(self, index: int) -> Image.Image:
        return decode_image(self.path(index), self.path(index))

    def where(self, index: int) -> str:
        return self.path(index)


@DATASETS.register
class ImageFolder(_ImageFiles):
    """One folder per class below ``dataroot``; ImageNet's ``train/<wnid>/*.JPEG`` is one.

    The label of a class is the place of its folder's name in sorted order. Images may lie in
    folders below the class folder. Names that start with a dot are passed over.

    Args:
        dataroot: the folder that holds the class folders.
        subset: part of the set, see ``subset_indices``.
        transforms: configs of the sample transforms.

    Raises:
        PasslError: the folder is missing or empty, or a class has no image.
    """

    def __init__(
        self,
        dataroot: str,
        subset: Optional[str] = None,
        transforms: Sequence[Mapping[str, Any]] = (),
    ):
        root = _existing_folder(dataroot)
        with os.scandir(root) as entries:
            classes = sorted(e.name for e in entries if e.is_dir() and e.name[0] != ".")
        if not classes:
            raise PasslError(
                f"{dataroot}: has no class folders; expected {dataroot}/<class>/<image>.jpg"
            )
        paths: List[str] = []
        labels: List[int] = []
        empty: List[str] = []
        for label, name in enumerate(classes):
            found = _images_below(root, name)
            paths.extend(found)
            labels.extend([label] * len(found))
            if not found:
                empty.append(name)
        if empty:
            more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
            raise PasslError(
                f"{dataroot}: no images in the class folder {', '.join(empty[:3])}{more}; "
                f"add some ({', '.join(EXTENSIONS)}) or remove the folder"
            )
        super().__init__(root, paths, labels, classes, subset, transforms)


@DATASETS.register
class ImageList(_ImageFiles):
    """A text file of lines ``path label``, paths relative to ``dataroot``, labels from 0.

    The layout of PaddleClas' ``train_list.txt``; a path may hold spaces.

    Args:
        dataroot: the folder that the paths start from.
        list_file: the list; relative to the working folder, or else to ``dataroot``.
        subset: part of the set, see ``subset_indices``.
        transforms: configs of the sample transforms.

    Raises:
        PasslError: a missing file, or a bad line, with its number.
    """

    def __init__(
        self,
        dataroot: str,
        list_file: str,
        subset: Optional[str] = None,
        transforms: Sequence[Mapping[str, Any]] = (),
    ):
        root = _existing_folder(dataroot)
        file = Path(list_file) if Path(list_file).is_file() else root / list_file
        if not file.is_file():
            raise PasslError(f"{list_file}: there is no such list file, nor in {dataroot}")
        self.list_file = str(file)
        self.lines: List[int] = []
        paths: List[str] = []
        labels: List[int] = []
        try:
            with open(file, encoding="utf-8") as lines:
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        path, label = self._parse(line, number)
                        paths.append(path)
                        labels.append(label)
                        self.lines.append(number)
        except (OSError, UnicodeDecodeError) as error:
            raise PasslError(f"{file}: cannot be read as text: {error}") from None
        if not paths:
            raise PasslError(f"{file}: is empty; a line is 'path label'")
        # One look catches a wrong dataroot now; a look at every file would take minutes.
        if not (root / paths[0]).is_file():
            raise PasslError(
                f"{file}:{self.lines[0]}: there is no image {root / paths[0]}; check dataroot"
            )
        super().__init__(root, paths, labels, None, subset, transforms)

    def _parse(self, line: str, number: int) -> Tuple[str, int]:
        fields = line.strip().rsplit(None, 1)
        if len(fields) != 2 or not re.fullmatch("[0-9]{1,9}", fields[1]):
            raise PasslError(
                f"{self.list_file}:{number}: a line is 'path label' with a label from 0, "
                f"not '{line.strip():.80}'"
            )
        return fields[0], int(fields[1])

    def where(self, index: int) -> str:
        return f"{self.list_file}:{self.lines[self.indices[index]]}"


def _existing_folder(dataroot: str) -> Path:
    root = Path(dataroot)
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "there is no such data folder"
        raise PasslError(
            f"{dataroot}: {what}; put the data there, or name its place with "
            "-o dataloader.<split>.dataset.dataroot=…"
        )
    return root


def _images_below(root: Path, folder: str) -> List[str]:
    """Returns the image files below ``root/folder``, relative to ``root``, sorted."""
    found: List[str] = []
    with os.scandir(root / folder) as entries:
        for entry in entries:
            if entry.name[0] == ".":
                continue
            if entry.is_dir():
                found.extend(_images_below(root, os.path.join(folder, entry.name)))
            elif entry.name.lower().endswith(EXTENSIONS):
                found.append(os.path.join(folder, entry.name))
    return sorted(found)
