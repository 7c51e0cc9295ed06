"""The layouts in which people keep images, each read into a ``Catalog``."""

from __future__ import annotations

import contextlib
import io
import os
import re
import tarfile
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
from tqdm import tqdm

from passl.datasets.catalog import Catalog, Names
from passl.utils.errors import PasslError
from passl.utils.logging import interactive

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm")
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"


# ---------------------------------------------------------------- plain files


def read_folders(root: str) -> Catalog:
    """Reads ``root/<class>/…``; the label of a class is the place of its name in sorted order.

    Raises:
        PasslError: no class folders, or one without images.
    """
    with os.scandir(root) as entries:
        classes = sorted(e.name for e in entries if e.is_dir() and e.name[0] != ".")
    if not classes:
        raise PasslError(f"{root}: has no class folders; expected {root}/<class>/<image>.jpg")
    paths: List[str] = []
    counts: List[int] = []
    watched = ["."]
    for name in tqdm(classes, desc=f"listing {root}", unit="class", leave=False,
                     disable=not interactive()):  # fmt: skip
        found = _images_below(root, name, watched)
        paths.extend(found)
        counts.append(len(found))
    empty = [name for name, count in zip(classes, counts) if not count]
    if empty:
        more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
        raise PasslError(
            f"{root}: no images in the class folder {', '.join(empty[:3])}{more}; "
            f"add some ({', '.join(EXTENSIONS)}) or remove the folder"
        )
    labels = np.repeat(np.arange(len(classes)), counts)
    return Catalog(root, Names.of(paths), labels, classes, watched=watched)


def _images_below(root: str, folder: str, watched: List[str]) -> List[str]:
    """Returns the image files below ``root/folder``, relative to ``root``, sorted."""
    found: List[str] = []
    watched.append(folder)
    with os.scandir(os.path.join(root, folder)) as entries:
        for entry in entries:
            if entry.name[0] == ".":
                continue
            if entry.name.lower().endswith(EXTENSIONS):
                # A link, and a folder that is called like an image, are rare: they cost a look.
                if entry.is_file():
                    found.append(f"{folder}/{entry.name}")
                    continue
            if entry.is_dir():
                found.extend(_images_below(root, f"{folder}/{entry.name}", watched))
    return sorted(found)


_LINE = re.compile(r"[ \t]*(.*\S)[ \t]+([0-9]{1,9})[ \t]*")


def read_list(root: str, file: Path) -> Tuple[Catalog, np.ndarray]:
    """Reads lines ``path label``, paths relative to ``root``, labels from 0.

    Returns:
        the catalog, and the line number of each image.

    Raises:
        PasslError: an unreadable file, or a bad line, with its number.
    """
    paths: List[str] = []
    labels: List[int] = []
    numbers: List[int] = []
    try:
        with open(file, encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                match = _LINE.fullmatch(line.rstrip("\r\n"))
                if match:
                    paths.append(match[1])
                    labels.append(int(match[2]))
                    numbers.append(number)
                elif line.strip():
                    raise PasslError(
                        f"{file}:{number}: a line is 'path label' with a label from 0, "
                        f"not '{line.strip():.80}'"
                    )
    except (OSError, UnicodeDecodeError) as error:
        raise PasslError(f"{file}: cannot be read as text: {error}") from None
    if not paths:
        raise PasslError(f"{file}: is empty; a line is 'path label'")
    # One look catches a wrong dataroot now; a look at every file would take minutes.
    if not os.path.isfile(os.path.join(root, paths[0])):
        raise PasslError(
            f"{file}:{numbers[0]}: there is no image {os.path.join(root, paths[0])}; check dataroot"
        )
    catalog = Catalog(root, Names.of(paths), np.array(labels, np.int64))
    return catalog, np.array(numbers, np.int64)


# ---------------------------------------------------------------- archives


class _Entries:
    """Collects the images of archives."""

    def __init__(self) -> None:
        self.names: List[str] = []
        self.labels: List[int] = []
        self.archive: List[int] = []
        self.offsets: List[int] = []
        self.sizes: List[int] = []

    def add(self, name: str, label: int, archive: int, offset: int, size: int) -> None:
        self.names.append(name)
        self.labels.append(label)
        self.archive.append(archive)
        self.offsets.append(offset)
        self.sizes.append(size)

    def catalog(
        self, root: str, archives: Sequence[str], class_names: Optional[List[str]],
        watched: Sequence[str],
    ) -> Catalog:  # fmt: skip
        return Catalog(
            root,
            Names.of(self.names),
            np.array(self.labels, np.int64),
            class_names,
            archives,
            np.array(self.archive, np.int32),
            np.array(self.offsets, np.int64),
            np.array(self.sizes, np.int64),
            watched,
        )


@contextlib.contextmanager
def _archive(path: str) -> Iterator[tarfile.TarFile]:
    """Opens a tar file; what is wrong with it becomes one line."""
    try:
        with tarfile.open(path, "r:") as archive:
            yield archive
    except (tarfile.TarError, EOFError, OSError) as error:
        raise PasslError(
            f"{path}: is damaged, cut short, or no tar archive ({error}); download it again"
        ) from None


def read_train_archive(root: str, name: str) -> Catalog:
    """Reads ``ILSVRC2012_img_train.tar``, which holds one tar file a class, without unpacking.

    Raises:
        PasslError: a damaged archive, or one of another kind.
    """
    path = os.path.join(root, name)
    entries, found = _Entries(), []
    with _archive(path) as outer, open(path, "rb") as file, tqdm(
        desc=f"indexing {path}", total=os.path.getsize(path), unit="B", unit_scale=True,
        leave=False, disable=not interactive(),
    ) as bar:  # fmt: skip
        for member in outer:
            if not (member.isfile() and member.name.endswith(".tar")):
                continue
            part = io.BufferedReader(_Part(file, member.offset_data, member.size), 1 << 10)
            wnid = os.path.basename(member.name)[: -len(".tar")]
            found.append((wnid, _members(part, path, member.name)))
            bar.update(member.offset_data + member.size - bar.n)
            for index, (inner, offset, size) in enumerate(found[-1][1]):
                found[-1][1][index] = (inner, member.offset_data + offset, size)
    if not found:
        raise PasslError(f"{path}: holds no tar files of classes; is it {name}?")
    found.sort()
    for label, (wnid, members) in enumerate(found):
        for inner, offset, size in sorted(members):
            entries.add(f"{wnid}/{inner}", label, 0, offset, size)
    return entries.catalog(root, [name], [wnid for wnid, _ in found], [name])


def _members(file: io.BufferedReader, path: str, name: str) -> List[Tuple[str, int, int]]:
    """Returns name, offset and size of the images of a tar file within another."""
    members = []
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if member.isfile() and member.name.lower().endswith(EXTENSIONS):
                    members.append((member.name, member.offset_data, member.size))
                archive.members = []  # a list of all headers, which nobody needs
    except (tarfile.TarError, EOFError, OSError) as error:
        raise PasslError(f"{path}: {name}: is damaged or cut short ({error})") from None
    if not members:
        raise PasslError(f"{path}: {name}: holds no images")
    return members


class _Part(io.RawIOBase):
    """A stretch of a file as a file."""

    def __init__(self, file: io.BufferedReader, start: int, size: int):
        self._descriptor, self._start, self._size = file.fileno(), start, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:
        count = max(0, min(len(buffer), self._size - self._at))
        data = os.pread(self._descriptor, count, self._start + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def read_validation_archive(root: str, name: str) -> Catalog:
    """Reads ``ILSVRC2012_img_val.tar``, a flat archive, with the labels of the devkit beside it.

    Raises:
        PasslError: a damaged archive, or no devkit.
    """
    path = os.path.join(root, name)
    wnids, labels = read_devkit(os.path.join(root, DEVKIT))
    with _archive(path) as archive:
        members = sorted(
            (os.path.basename(m.name), m.offset_data, m.size)
            for m in archive
            if m.isfile() and m.name.lower().endswith(EXTENSIONS)
        )
    if len(members) != len(labels):
        raise PasslError(
            f"{path}: holds {len(members)} images, but {DEVKIT} has {len(labels)} labels; is one "
            "of them cut short?"
        )
    entries = _Entries()
    for label, (inner, offset, size) in zip(labels, members):
        entries.add(inner, label, 0, offset, size)
    return entries.catalog(root, [name], wnids, [name, DEVKIT])


def read_devkit(path: str) -> Tuple[List[str], List[int]]:
    """Returns the sorted WordNet ids of the 1000 classes, and each validation image's label."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise PasslError(f"{path}: reading its meta.mat needs SciPy: pip install scipy") from None
    try:
        with tarfile.open(path, "r:gz") as archive:
            wanted = {"meta.mat": b"", "ILSVRC2012_validation_ground_truth.txt": b""}
            for member in archive:
                file = archive.extractfile(member)
                if file is not None and os.path.basename(member.name) in wanted:
                    wanted[os.path.basename(member.name)] = file.read()
        meta, truth = wanted.values()
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        # The classes are the leaves of the hierarchy; the rest of the table is above them.
        leaves = synsets[synsets["num_children"] == 0]
        wnid_of = {int(s["ILSVRC2012_ID"]): str(s["WNID"]) for s in leaves}
        wnids = sorted(wnid_of.values())
        label_of = {number: wnids.index(wnid) for number, wnid in wnid_of.items()}
        return wnids, [label_of[int(line)] for line in truth.split()]
    except FileNotFoundError:
        raise PasslError(
            f"{path}: is missing; the labels of the validation images stand in it"
        ) from None
    except Exception as error:  # damaged archives and tables raise nearly anything
        raise PasslError(f"{path}: is not ImageNet's devkit ({error}); download it again") from None


# ---------------------------------------------------------------- shards


def read_shards(
    root: str, shards: Sequence[str], class_names: Optional[List[str]] = None,
    watched: Sequence[str] = (),
) -> Catalog:  # fmt: skip
    """Reads tar files of ``key.jpg`` and ``key.cls`` pairs, the naming of WebDataset.

    Args:
        root: the folder of the shards.
        shards: their names, in order.
        class_names: of the labels, where they are known.
        watched: other files that the catalog depends on.

    Raises:
        PasslError: a damaged shard, or an image without a label.
    """
    entries = _Entries()
    for number, shard in enumerate(tqdm(shards, desc=f"indexing {root}", unit="shard",
                                        leave=False, disable=not interactive())):  # fmt: skip
        path = os.path.join(root, shard)
        images: Dict[str, Tuple[str, int, int]] = {}
        labels: Dict[str, int] = {}
        with _archive(path) as archive:
            for member in archive:
                folder, base = os.path.split(member.name)
                key, _, extension = base.partition(".")
                key = f"{folder}/{key}"
                if extension == "cls":
                    labels[key] = _label(archive, member, path)
                elif f".{extension.lower()}".endswith(EXTENSIONS):
                    images[key] = (member.name, member.offset_data, member.size)
                archive.members = []
        for key, (name, offset, size) in images.items():
            if key not in labels:
                raise PasslError(f"{path}: '{name}' has no label beside it ({key.lstrip('/')}.cls)")
            entries.add(name, labels[key], number, offset, size)
    if not entries.names:
        raise PasslError(f"{root}: its shards hold no images")
    return entries.catalog(root, shards, class_names, [*shards, *watched])


def _label(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> int:
    file = archive.extractfile(member)
    text = file.read(32).strip() if file else b""
    if not re.fullmatch(rb"[0-9]{1,9}", text):
        raise PasslError(f"{path}: '{member.name}' holds no label from 0, but {text[:20]!r}")
    return int(text)
