"""Images in files: class folders, lists with labels, tar shards, and ImageNet as it comes."""

from __future__ import annotations

import contextlib
import functools
import glob
import json
import os
from pathlib import Path
from typing import Any, List, Mapping, Optional, Sequence

import numpy as np

from passl.datasets import layouts
from passl.datasets.catalog import Catalog, cached
from passl.datasets.dataset import ImageDataset, subset_indices
from passl.datasets.decoding import decode_image
from passl.datasets.failures import UnreadableImage, reading_failed
from passl.datasets.images import RgbImage
from passl.datasets.registry import DATASETS
from passl.utils.errors import PasslError
from passl.utils.logging import logger

MANIFEST = "manifest.json"
# One part in so many of the files that a process may have open is for a data set's archives.
_SHARE = 8


class CatalogDataset(ImageDataset):
    """The images of a catalog, or a part of them.

    Args:
        catalog: where the images stand.
        subset: part of the set: ``[:90%]`` or ``[90%:]``, with the share of every
            class kept; see ``subset_indices``.
        transforms: configs of the sample transforms.
    """

    def __init__(
        self,
        catalog: Catalog,
        subset: Optional[str],
        transforms: Sequence[Mapping[str, Any]],
    ):
        self.catalog = catalog
        self.indices = subset_indices(catalog.labels, subset)
        super().__init__(catalog.labels[self.indices], catalog.class_names, transforms)
        # A descriptor that leaves the cache is closed when its last reader is done with it.
        most = _open_archives(len(catalog.archives)) if catalog.archives else 0
        self._opened = functools.lru_cache(most)(_Archive)

    def path(self, index: int) -> str:
        """Returns the path of the image at ``index``, ``archive:name`` within an archive."""
        return self.catalog.path(self.indices[index])

    def where(self, index: int) -> str:
        return self.path(index)

    def read_bytes(self, index: int) -> bytes:
        """Returns the content of the image file at ``index``.

        Raises:
            UnreadableImage: with the file's path.
            PasslError: it is not the file's fault: see ``reading_failed``; or the data folder, or
                the archive of the image, is gone.
        """
        entry, catalog = self.indices[index], self.catalog
        path = os.path.join(
            catalog.root,
            catalog.archives[catalog.archive[entry]] if catalog.archives else catalog.names[entry],
        )
        try:
            if not catalog.archives:
                with open(path, "rb") as file:
                    return file.read()
            size = int(catalog.sizes[entry])
            data = self._opened(path).read(size, int(catalog.offsets[entry]))
        except OSError as error:
            known = reading_failed(error, path)
            if not isinstance(known, UnreadableImage):
                raise known from None
            if not os.path.isdir(catalog.root):
                known = PasslError(
                    f"{catalog.root}: the data folder is gone; put it back, or mount its drive"
                )
            elif catalog.archives:
                known = PasslError(f"{path}: was there at the start and is gone; put it back")
            raise known from None
        if len(data) == size:
            return data
        raise UnreadableImage(
            f"{self.path(index)}: cannot be read as an image (its archive has become shorter); "
            "repair or remove it"
        )

    def read(self, index: int) -> RgbImage:
        return decode_image(self.read_bytes(index), self.path(index), self.max_pixels)


class _Archive:
    """An archive that is open as long as somebody has this object.

    A forked worker may share it, because reading at an offset moves nothing.
    """

    def __init__(self, path: str):
        self._descriptor: Optional[int] = None
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, size: int, offset: int) -> bytes:
        return os.pread(self._descriptor, size, offset)

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


def _open_archives(wanted: int) -> int:
    """Returns how many of a data set's archives may be open at a time.

    Where all would be too many, it raises this process's limit of open files as far as it may.
    """
    import resource  # which Windows has not

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted * _SHARE:
        most = wanted * _SHARE if hard == resource.RLIM_INFINITY else min(hard, wanted * _SHARE)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft // _SHARE))


@DATASETS.register
class ImageFolder(CatalogDataset):
    """One folder per class below ``dataroot``; ImageNet's ``train/<wnid>/*.JPEG`` is one.

    The label of a class is the place of its folder's name in sorted order. Images may lie in
    folders below the class folder. Names that start with a dot are passed over.

    Args:
        dataroot: the folder that holds the class folders.
        subset: part of the set: ``[:90%]`` or ``[90%:]``, with the share of every
            class kept; see ``subset_indices``.
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
        catalog = cached(root, "folders", lambda: layouts.read_folders(root))
        super().__init__(catalog, subset, transforms)


@DATASETS.register
class ImageList(CatalogDataset):
    """A text file of lines ``path label``, paths relative to ``dataroot``, labels from 0.

    The layout of PaddleClas' ``train_list.txt``; a path may hold spaces.

    Args:
        dataroot: the folder that the paths start from.
        list_file: the list; relative to the working folder, or else to ``dataroot``.
        subset: part of the set: ``[:90%]`` or ``[90%:]``, with the share of every
            class kept; see ``subset_indices``.
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
        file = Path(list_file) if Path(list_file).is_file() else Path(root, list_file)
        if not file.is_file():
            raise PasslError(f"{list_file}: there is no such list file, nor in {dataroot}")
        self.list_file = str(file)
        catalog, self.lines = layouts.read_list(root, file)
        super().__init__(catalog, subset, transforms)

    def where(self, index: int) -> str:
        return f"{self.list_file}:{self.lines[self.indices[index]]}"


@DATASETS.register
class ImageShards(CatalogDataset):
    """Tar files of ``key.jpg`` and ``key.cls`` pairs: WebDataset's naming, or ``tools/pack.py``'s.

    Args:
        dataroot: the folder of the shards.
        pattern: which of its files are shards of this set.
        subset: part of the set: ``[:90%]`` or ``[90%:]``, with the share of every
            class kept; see ``subset_indices``.
        transforms: configs of the sample transforms.

    Raises:
        PasslError: no shards, or a damaged one.
    """

    def __init__(
        self,
        dataroot: str,
        pattern: str = "*.tar",
        subset: Optional[str] = None,
        transforms: Sequence[Mapping[str, Any]] = (),
    ):
        root = _existing_folder(dataroot)
        super().__init__(_shards(root, pattern), subset, transforms)


# Images and classes of ImageNet-1k (Russakovsky et al., arXiv 1409.0575, table 2).
_IMAGES = {"train": 1281167, "val": 50000}
_CLASSES = 1000


@DATASETS.register
class ImageNet(CatalogDataset):
    """ImageNet-1k in whichever layout it stands, told apart by what ``dataroot`` holds.

    ===========================================  ===================================================
    class folders                                ``<split>/<wnid>/*.JPEG``
    PaddleClas' lists                            ``<split>_list.txt``, lines of ``path label``
    the archives as downloaded, read in place    ``ILSVRC2012_img_<split>.tar``; for ``val`` also
                                                 ``ILSVRC2012_devkit_t12.tar.gz``
    shards of WebDataset or ``tools/pack.py``    ``<split>/*.tar``, or ``<split>-*.tar``
    ===========================================  ===================================================

    Args:
        dataroot: the folder of the data set.
        split: ``train`` or ``val``.
        subset: part of the set: ``[:90%]`` or ``[90%:]``, with the share of every
            class kept; see ``subset_indices``.
        transforms: configs of the sample transforms.

    Raises:
        PasslError: none of the layouts is there.
    """

    published_sizes = _IMAGES

    def __init__(
        self,
        dataroot: str,
        split: str,
        subset: Optional[str] = None,
        transforms: Sequence[Mapping[str, Any]] = (),
    ):
        if split not in _IMAGES:
            raise PasslError(f"ImageNet has the splits train and val, not '{split}'")
        root = _existing_folder(dataroot)
        catalog = _imagenet(root, split)
        super().__init__(catalog, subset, transforms)
        classes = len(np.unique(catalog.labels))
        if (len(catalog), classes) != (_IMAGES[split], _CLASSES):
            logger.warning(
                "%s (%s): has %s images of %d classes, where ImageNet has %s of %d",
                dataroot, split, f"{len(catalog):,}", classes, f"{_IMAGES[split]:,}", _CLASSES,
            )  # fmt: skip


def _imagenet(root: str, split: str) -> Catalog:
    folder, archive = os.path.join(root, split), f"ILSVRC2012_img_{split}.tar"
    lists = Path(root, f"{split}_list.txt")
    if os.path.isdir(folder) and any(entry.is_dir() for entry in os.scandir(folder)):
        return cached(folder, "folders", lambda: layouts.read_folders(folder))
    if glob.glob(os.path.join(glob.escape(folder), "*.tar")):
        return _shards(folder, "*.tar")
    if glob.glob(os.path.join(glob.escape(root), f"{split}-*.tar")):
        return _shards(root, f"{split}-*.tar")
    if lists.is_file():
        return layouts.read_list(root, lists)[0]
    if os.path.isfile(os.path.join(root, archive)):
        read = layouts.read_train_archive if split == "train" else layouts.read_validation_archive
        return cached(root, archive, lambda: read(root, archive))
    raise PasslError(
        f"{root}: holds no ImageNet for '{split}'; expected one of {split}/<wnid>/*.JPEG, "
        f"{lists.name}, {archive}, {split}/*.tar or {split}-*.tar in it"
    )


def _shards(root: str, pattern: str) -> Catalog:
    found = glob.glob(os.path.join(glob.escape(root), pattern))
    shards = sorted(os.path.basename(path) for path in found)
    if not shards:
        raise PasslError(f"{root}: has no shards called {pattern}")
    manifest = Path(root, MANIFEST)
    names: Optional[List[str]] = None
    watched: List[str] = []
    if manifest.is_file():
        try:
            names = json.loads(manifest.read_text(encoding="utf-8"))["class_names"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PasslError(f"{manifest}: is damaged ({error}); pack the data again") from None
        watched = [MANIFEST]
    return cached(
        root, f"shards {pattern} {len(shards)}",
        lambda: layouts.read_shards(root, shards, names, watched),
    )  # fmt: skip


def _existing_folder(dataroot: str) -> str:
    root = Path(dataroot)
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "there is no such data folder"
        raise PasslError(
            f"{dataroot}: {what}; put the data there, or name its place with "
            "-o dataloader.<split>.dataset.dataroot=…"
        )
    return str(root)
