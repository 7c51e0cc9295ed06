"""Images in files: class folders, lists with labels, tar shards, and ImageNet as it comes."""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import glob
import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np

from passl.datasets.dataset import ImageDataset, subset_indices
from passl.datasets.images.decoding import decode_image
from passl.datasets.images.failures import UnreadableImage, reading_failed
from passl.datasets.images.rgb_image import RgbImage
from passl.datasets.registry import DATASETS
from passl.datasets.sources import layouts
from passl.datasets.sources.catalog import Catalog, cached
from passl.datasets.sources.class_names import read_class_names
from passl.datasets.sources.image_files import (
    entries_of,
    image_extensions,
    kind_of,
    passed_over_text,
)
from passl.utils.errors import PasslError, first_of, shown
from passl.utils.logging import logger
from passl.utils.system_errors import explain_os_error

# What `passl pack` leaves beside its shards, at the end and until then.
MANIFEST = "manifest.json"
PACKING = "packing.jsonl"
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
        self.indices = subset_indices(catalog.labels, subset, len(catalog))
        labels = None if catalog.labels is None else catalog.labels[self.indices]
        super().__init__(labels, catalog.class_names, transforms, len(self.indices))
        # A descriptor that leaves the cache is closed when its last reader is done with it.
        most = _open_archives(len(catalog.archives)) if catalog.archives else 0
        self._opened = functools.lru_cache(most)(_Archive)
        if catalog.passed_over:
            logger.info("%s: passed over: %s", catalog.root, passed_over_text(catalog.passed_over))

    def _identity(self) -> Sequence[np.ndarray]:
        return self.catalog.names.blob, self.catalog.names.ends, self.indices

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
    folders below the class folder, or in folders that links lead to. Names that start with a dot
    are passed over.

    Args:
        dataroot: the folder that holds the class folders.
        subset: part of the set: ``[:90%]`` or ``[90%:]``, with the share of every
            class kept; see ``subset_indices``.
        transforms: configs of the sample transforms.
        labels: false takes all images below ``dataroot``, in whatever folders or in none, without
            classes: for methods that learn without labels.

    Raises:
        PasslError: the folder is missing or empty, holds the parts of a set, or a class has no
            image.
    """

    def __init__(
        self,
        dataroot: str,
        subset: Optional[str] = None,
        transforms: Sequence[Mapping[str, Any]] = (),
        labels: bool = True,
    ):
        root = existing_folder(dataroot)
        super().__init__(_folders(root) if labels else _images(root), subset, transforms)


@DATASETS.register
class ImageList(CatalogDataset):
    """A text file of lines ``path label``, paths relative to ``dataroot``, labels from 0.

    The layout of PaddleClas' ``train_list.txt``; a path may hold spaces.

    Args:
        dataroot: the folder that the paths start from.
        list_file: the list, in UTF-8; relative to the working folder, or else to ``dataroot``.
        subset: part of the set: ``[:90%]`` or ``[90%:]``, with the share of every
            class kept; see ``subset_indices``.
        transforms: configs of the sample transforms.
        class_names: a file with the names of the classes, one a line in the order of the labels;
            found as the list is.
        labels: false where a line is a path alone; the set has no classes then.

    Raises:
        PasslError: a missing file, or a bad line, with its number.
    """

    def __init__(
        self,
        dataroot: str,
        list_file: str,
        subset: Optional[str] = None,
        transforms: Sequence[Mapping[str, Any]] = (),
        class_names: Optional[str] = None,
        labels: bool = True,
    ):
        _check_names(class_names, labels)
        root = existing_folder(dataroot)
        file = existing_file(root, list_file)
        self.list_file = str(file)
        catalog, self.lines = layouts.read_list(root, file, labels)
        if class_names is not None:
            _name_classes(catalog, existing_file(root, class_names))
        super().__init__(catalog, subset, transforms)

    def where(self, index: int) -> str:
        return f"{self.list_file}:{self.lines[self.indices[index]]}"


@DATASETS.register
class ImageShards(CatalogDataset):
    """Tar files of ``key.jpg`` and ``key.cls`` pairs: WebDataset's naming, or ``passl pack``'s.

    A key ends at the first dot of a file's name. The image of a sample is the file with an
    extension of images that has no dot in it: ``0001.seg.png`` beside ``0001.jpg`` is not.

    Args:
        dataroot: the folder of the shards.
        pattern: which of its files are shards of this set.
        subset: part of the set: ``[:90%]`` or ``[90%:]``, with the share of every
            class kept; see ``subset_indices``.
        transforms: configs of the sample transforms.
        image: the extension of the files to take, where a sample has several images (``seg.png``).
        class_names: a file with the names of the classes, one a line in the order of the labels;
            relative to the working folder, or else to ``dataroot``. Default: those that
            ``passl pack`` has written beside the shards.
        labels: false takes images without labels, and passes over ``key.cls``; the set has no
            classes then.

    Raises:
        PasslError: no shards, a damaged one, or a packed set that is not whole.
    """

    def __init__(
        self,
        dataroot: str,
        pattern: str = "*.tar",
        subset: Optional[str] = None,
        transforms: Sequence[Mapping[str, Any]] = (),
        image: Optional[str] = None,
        class_names: Optional[str] = None,
        labels: bool = True,
    ):
        _check_names(class_names, labels)
        root = existing_folder(dataroot)
        catalog = shards_of(root, pattern, image, labels)
        if class_names is not None:
            _name_classes(catalog, existing_file(root, class_names))
        super().__init__(catalog, subset, transforms)


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
    shards of WebDataset or ``passl pack``       ``<split>/*.tar``, or ``<split>-*.tar``
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
        root = existing_folder(dataroot)
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
    if os.path.isdir(folder) and layouts.class_folders(folder):
        return _folders(folder)
    if _matches(folder, "*.tar"):
        return shards_of(folder, "*.tar")
    if _matches(root, f"{split}-*.tar"):
        return shards_of(root, f"{split}-*.tar")
    if lists.is_file():
        return layouts.read_list(root, lists)[0]
    if os.path.isfile(os.path.join(root, archive)):
        read = layouts.read_train_archive if split == "train" else layouts.read_validation_archive
        return cached(root, _kind(archive), lambda: read(root, archive))
    devkit = f" with {layouts.DEVKIT}" if split == "val" else ""
    if os.path.isdir(folder):
        images = sum(kind_of(entry) == "image" for entry in entries_of(folder))
        if images:
            raise PasslError(
                f"{folder}: holds {images:,} images in no class folders, so that nothing says what "
                f"they show; put {lists.name} (lines of '{split}/<image> label') or "
                f"{archive}{devkit} into {root}, or sort them into {split}/<wnid>/"
            )
    above = [os.path.dirname(path) for depth in ("*", "*/*")
             for path in glob.glob(os.path.join(glob.escape(root), depth, split))]  # fmt: skip
    raise PasslError(
        f"{root}: holds no ImageNet for '{split}'; expected one of {split}/<wnid>/*.JPEG, "
        f"{lists.name}, {archive}{devkit}, {split}/*.tar or {split}-*.tar in it"
        + (f"; or is it dataroot: {above[0]}?" if above else "")
    )


def _kind(*facts: object) -> str:
    """Returns what a catalog depends on beside its files: which of them are images, and more."""
    return "\0".join(str(fact) for fact in (*facts, *image_extensions()))


def _folders(root: str) -> Catalog:
    return cached(root, _kind("folders"), lambda: layouts.read_folders(root))


def _images(root: str) -> Catalog:
    return cached(root, _kind("images"), lambda: layouts.read_images(root))


def _matches(root: str, pattern: str) -> List[str]:
    found = glob.glob(os.path.join(glob.escape(root), pattern))
    return sorted(os.path.basename(path) for path in found)


_BRACES = re.compile(r"(.*)\{(\d+)\.\.(\d+)\}(.*)")


def shards_of(
    root: str,
    pattern: str,
    image: Optional[str] = None,
    labels: bool = True,
    caption: Optional[str] = None,
) -> Catalog:
    """Returns the catalog of shards; see ``layouts.read_shards`` and ``ImageShards``."""
    shards = _numbered(root, pattern) or _matches(root, pattern)
    if not shards:
        raise PasslError(f"{root}: has no shards called {pattern}")
    if all(re.fullmatch(r"n[0-9]{8}\.tar", shard) for shard in shards):
        raise PasslError(
            f"{root}: {shards[0]} and the others are ImageNet's archives of one class each, not "
            f"shards; unpack each into a folder of its name ({shards[0][:-4]}/), or keep "
            "ILSVRC2012_img_train.tar, which is read as it is"
        )
    manifest = _manifest(root, pattern, shards)
    what = "shards" if labels else "images of shards"
    if caption is not None:
        what = f"pairs of shards, {caption}"
    catalog = cached(
        root,
        _kind(what, image, *shards),
        lambda: layouts.read_shards(root, shards, image, labels, caption),
    )
    if manifest is not None:
        found = np.bincount(catalog.archive, minlength=len(shards))
        for shard, images in zip(shards, found):
            if images != manifest["images"].get(shard, images):
                raise PasslError(
                    f"{root}/{shard}: holds {images} images, where {MANIFEST} has "
                    f"{manifest['images'][shard]}; pack the data again"
                )
        catalog.class_names = manifest["class_names"] if labels else None
    return catalog


def _numbered(root: str, pattern: str) -> List[str]:
    """Returns the shards of a pattern such as ``{00000..00041}.tar``; none for any other."""
    match = _BRACES.fullmatch(pattern)
    if match is None:
        return []
    before, first, last, after = match.groups()
    names = [
        f"{before}{number:0{len(first)}d}{after}" for number in range(int(first), int(last) + 1)
    ]
    missing = [name for name in names if not os.path.isfile(os.path.join(root, name))]
    if missing:
        raise PasslError(
            f"{root}: {len(missing)} of the {len(names)} shards {pattern} are missing: "
            f"{first_of(missing, 3)}"
        )
    return names


def _manifest(root: str, pattern: str, shards: Sequence[str]) -> Optional[Dict[str, Any]]:
    """Returns what ``passl pack`` has noted of shards: ``class_names`` and ``images`` of each.

    Raises:
        PasslError: it has not come to its end, or the shards are not those that it wrote.
    """
    path = Path(root, MANIFEST)
    if not path.is_file():
        if Path(root, PACKING).exists():
            raise PasslError(
                f"{root}: is a set that is not packed to its end ({PACKING}); run the same "
                "passl pack again, it goes on"
            )
        return None
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
        names = noted["class_names"]
        sizes = {shard["name"]: int(shard["size"]) for shard in noted["shards"]}
        images = {shard["name"]: int(shard["images"]) for shard in noted["shards"]}
    except OSError as error:
        raise explain_os_error(error, path, "read") from None
    except (ValueError, KeyError, TypeError) as error:
        raise PasslError(f"{path}: is damaged ({error}); pack the data again") from None
    chosen = set(fnmatch.filter(sizes, pattern))
    # Where all have other names, they were renamed, and it cannot be said which is which.
    if not chosen.isdisjoint(shards):
        again = "copy it again from where it was packed, or pack the data again"
        for shard in sorted(chosen.symmetric_difference(shards)):
            what = "is missing" if shard in chosen else "is not one of those"
            raise PasslError(f"{path}: lists the shards of a set, but {shard} {what}; {again}")
        for shard in shards:
            size = os.path.getsize(os.path.join(root, shard))
            if size != sizes[shard]:
                raise PasslError(
                    f"{os.path.join(root, shard)}: has {size:,} bytes, where {MANIFEST} has "
                    f"{sizes[shard]:,}; {again}"
                )
    return {"class_names": names, "images": images}


def _check_names(class_names: Optional[str], labels: bool) -> None:
    if class_names is not None and not labels:
        raise PasslError(
            "class_names names classes, but with labels: false the set has none; leave one out"
        )


def _name_classes(catalog: Catalog, file: Path) -> None:
    """Gives the classes of a set the names in a file."""
    names = read_class_names(file)
    highest = int(catalog.labels.max())
    if highest >= len(names):
        raise PasslError(
            f"{file}: has {len(names)} names, but the labels of the set go up to {highest}, which "
            f"are {highest + 1} classes; a line is the name of a class, the first that of label 0"
        )
    twice, times = Counter(names).most_common(1)[0]
    if times > 1:
        lines = [str(number) for number, name in enumerate(names, 1) if name == twice]
        raise PasslError(
            f"{file}: the lines {' and '.join(lines)} are the same, {shown(twice)}, so that it "
            "could not be told which class is meant; give each a name of its own"
        )
    catalog.class_names = names


def existing_file(root: str, name: str) -> Path:
    """Returns a file by its path, or else by that from ``root`` on."""
    for file in (Path(name), Path(root, name)):
        if file.is_file():
            return file
    raise PasslError(f"{shown(name)}: there is no such file, nor in {shown(root)}")


def existing_folder(dataroot: str) -> str:
    """Returns the folder of a data set."""
    root = Path(dataroot)
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "there is no such data folder"
        raise PasslError(
            f"{shown(dataroot)}: {what}; put the data there, or name its place with "
            "-o dataloader.<split>.dataset.dataroot=…"
        )
    return str(root)
