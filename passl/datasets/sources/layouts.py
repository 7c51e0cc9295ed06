"""The layouts in which people keep images, each read into a ``Catalog``."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import tarfile
from array import array
from pathlib import Path
from typing import (
    BinaryIO,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)  # fmt: skip

import numpy as np
from tqdm import tqdm

from passl.datasets.sources.caption_texts import texts_of
from passl.datasets.sources.catalog import Catalog, GrowingCaptions, GrowingNames, Names
from passl.datasets.sources.image_files import (
    BROKEN_LINK,
    count,
    entries_of,
    image_extensions,
    images_below,
    is_image_name,
    kind_of,
    missing_image,
    passed_over_text,
)
from passl.utils.errors import PasslError, first_of, shown
from passl.utils.logging import interactive
from passl.utils.system_errors import explain_os_error
from passl.utils.text_files import is_utf8, not_utf8, read_lines

DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
# Folders of these names hold the parts of a set, or what belongs to its images.
_PARTS = {
    "train", "training", "val", "valid", "validation", "test", "testing", "eval", "dev",
    "images", "imgs", "labels", "annotations", "masks",
}  # fmt: skip


# ---------------------------------------------------------------- plain files


def class_folders(root: str) -> List[str]:
    """Returns the names of the folders in a folder, sorted, without hidden ones."""
    return sorted(entry.name for entry in entries_of(root) if kind_of(entry) == "folder")


def called_like_parts(names: Sequence[str]) -> bool:
    """Tells whether names of classes are all those of a set's parts: ``train`` and ``val``."""
    return bool(names) and all(name.lower() in _PARTS for name in names)


def read_folders(root: str) -> Catalog:
    """Reads ``root/<class>/…``; the label of a class is the place of its name in sorted order.

    Raises:
        PasslError: no class folders, one without images, one that cannot be read, or folders that
            hold the parts of a set.
    """
    kinds = {entry.name: kind_of(entry) for entry in entries_of(root)}
    classes = sorted(name for name, kind in kinds.items() if kind == "folder")
    images = sum(kind == "image" for kind in kinds.values())
    if not classes:
        raise PasslError(
            f"{shown(root)}: has no class folders; expected {shown(root)}/<class>/<image>.jpg"
            + (f", and {_pictures(images)} in the folder itself" if images else "")
        )
    if called_like_parts(classes):
        parts = [name for name in classes if class_folders(os.path.join(root, name))]
        if parts:
            raise PasslError(
                f"{shown(root)}: its folders {', '.join(classes)} are parts of a set and not "
                f"classes; set dataroot to {' or '.join(os.path.join(root, p) for p in parts)}"
            )
    passed_over: Dict[str, int] = {}
    watched = ["."]
    for name, kind in kinds.items():
        if kind == "image":
            count(passed_over, "image{s} beside the class folders")
        elif kind != "folder":
            count(passed_over, kind)
            watched += [name] if kind == BROKEN_LINK else []
    paths: List[str] = []
    counts: List[int] = []
    empty: Dict[str, str] = {}
    for name in tqdm(classes, desc=f"listing {root}", unit="class", leave=False,
                     disable=not interactive()):  # fmt: skip
        beside: Dict[str, int] = {}
        found = images_below(root, name, beside, watched)
        paths.extend(found)
        counts.append(len(found))
        if not found:
            empty[name] = f" ({passed_over_text(beside)})" if beside else ""
        for kind, number in beside.items():
            count(passed_over, kind, number)
    if empty:
        named = first_of([shown(name) + what for name, what in empty.items()], 3)
        raise PasslError(
            f"{shown(root)}: no images in the class folder {named}; "
            f"add some ({', '.join(image_extensions())}) or remove the folder"
        )
    labels = np.repeat(np.arange(len(classes)), counts)
    return Catalog(
        root, Names.of(paths), labels, classes, watched=watched, passed_over=passed_over
    )  # fmt: skip


def read_images(root: str) -> Catalog:
    """Reads all images below ``root``, at any depth, in the order of their paths; without labels.

    Raises:
        PasslError: there is none, or a folder that cannot be read.
    """
    passed_over: Dict[str, int] = {}
    watched: List[str] = []
    paths = images_below(root, "", passed_over, watched)
    if not paths:
        beside = f" ({passed_over_text(passed_over)})" if passed_over else ""
        raise PasslError(
            f"{shown(root)}: no images in the folder or below{beside}; add some "
            f"({', '.join(image_extensions())}), or check dataroot"
        )
    return Catalog(root, Names.of(paths), None, watched=watched, passed_over=passed_over)


def _pictures(number: int) -> str:
    return f"there {'are' if number > 1 else 'is'} {number:,} image{'s' if number > 1 else ''}"


_LINE = re.compile(r"[ \t]*(.*\S)[ \t]+([0-9]{1,9})[ \t]*")
_PATH = re.compile(r"[ \t]*(.*\S)[ \t]*")
_HEADER = re.compile(
    r"\W*\w*(path|file|image|img|name)\w*[\s,;]+\w*(label|class|target|category|id)\w*\W*", re.I
)


def read_list(root: str, file: Path, labels: bool = True) -> Tuple[Catalog, np.ndarray]:
    """Reads lines ``path label``, paths relative to ``root``, labels from 0.

    Args:
        root: the folder that paths start from.
        file: the list.
        labels: whether it has any; otherwise a line is a path.

    Returns:
        the catalog, and the line number of each image.

    Raises:
        PasslError: an unreadable file, or a bad line, with its number.
    """
    paths: List[str] = []
    found: List[int] = []
    numbers: List[int] = []
    form, pattern = ("path label", _LINE) if labels else ("path", _PATH)
    foreign = False
    for number, line in read_lines(file):
        match = pattern.fullmatch(line)
        if match:
            # The name of a file may be no UTF-8, and then the list has the very bytes of it.
            if not foreign and not is_utf8(line):
                foreign = os.path.lexists(os.path.join(root, match[1]))
                if not foreign:
                    raise not_utf8(file, number)
            paths.append(match[1])
            if labels:
                found.append(int(match[2]))
            numbers.append(number)
        elif line.strip():
            raise PasslError(f"{file}:{number}: {_wrong_line(line, not paths)}")
    if not paths:
        raise PasslError(f"{file}: is empty; a line is '{form}'")
    # One look catches a wrong dataroot now; a look at every file would take minutes.
    if not os.path.isfile(os.path.join(root, paths[0])):
        labelled = None if labels else _LINE.fullmatch(paths[0])
        if labelled and os.path.isfile(os.path.join(root, labelled[1])):
            raise PasslError(
                f"{file}:{numbers[0]}: has a label behind the path, but the set is read with "
                "labels: false; leave that out, or the labels"
            )
        raise PasslError(f"{file}:{numbers[0]}: {_wrong_path(root, file, paths[0], form)}")
    catalog = Catalog(root, Names.of(paths), np.array(found, np.int64) if labels else None)
    return catalog, np.array(numbers, np.int64)


def _wrong_line(line: str, first: bool) -> str:
    """Returns what is wrong with a line that is not ``path label``."""
    line = line.strip(" \t")[:80]
    given = f"'{line}'" if line.isprintable() else repr(line)
    if first and _HEADER.fullmatch(line):
        return f"is a header, {given}; remove the line: a list begins with an image"
    if re.fullmatch(r".*[,;][ \t]*[0-9]+", line):
        return f"has a comma before the label; write 'path label' with a space: {given}"
    if re.fullmatch(r"[0-9]+[ \t,;]+.*\D.*", line):
        return f"has the label first; write 'path label': {given}"
    return f"a line is 'path label' with a label from 0 (a number), not {given}"


def _wrong_path(root: str, file: Path, path: str, form: str) -> str:
    """Returns why there is no image where the first line of a list says."""
    missing = f"there is no image {shown(os.path.join(root, path))}"
    if path[-1] in ",;":
        space = "with a space and " if " " in form else ""
        return f"{missing}; write '{form}' {space}without '{path[-1]}'"
    if path[0] in "'\"":
        return f"{missing}; write paths without quotation marks, also those with spaces"
    return missing_image(root, file, path)


# ---------------------------------------------------------------- archives


class _Entries:
    """Collects the images of archives."""

    def __init__(self) -> None:
        self.names = GrowingNames()
        self.labels = array("q")
        self.captions = GrowingCaptions()
        self.archive = array("i")
        self.offsets, self.sizes = array("q"), array("q")

    def add(
        self, name: str, label: Optional[int], archive: int, offset: int, size: int,
        captions: Optional[List[str]] = None,
    ) -> None:  # fmt: skip
        self.names.add(name)
        if label is not None:
            self.labels.append(label)
        if captions is not None:
            self.captions.add(captions)
        self.archive.append(archive)
        self.offsets.append(offset)
        self.sizes.append(size)

    def catalog(
        self, root: str, archives: Sequence[str], class_names: Optional[List[str]],
        watched: Sequence[str], passed_over: Optional[Dict[str, int]] = None,
    ) -> Catalog:  # fmt: skip
        return Catalog(
            root,
            self.names.names(),
            np.array(self.labels, np.int64) if self.labels else None,
            class_names,
            archives,
            np.array(self.archive, np.int32),
            np.array(self.offsets, np.int64),
            np.array(self.sizes, np.int64),
            watched,
            passed_over,
            self.captions.captions() if len(self.captions) else None,
        )


@contextlib.contextmanager
def _archive(name: str, file: Optional[BinaryIO] = None) -> Iterator[tarfile.TarFile]:
    """Opens a tar file that is read to its end; what is wrong with it becomes one line.

    Args:
        name: the file, or what to call it.
        file: its content, where it is a part of another file.

    Raises:
        PasslError: it cannot be read, is none, is damaged, or does not end as a whole one does.
    """
    problem: Optional[str] = None
    try:
        with tarfile.open(name, "r:", file) as archive:
            yield archive
            problem = _wrong_end(archive)
            if problem == _NO_MARK and file is None:
                problem += " (if it is known to be whole: head -c 1024 /dev/zero >> FILE adds one)"
    except (tarfile.TarError, EOFError) as error:
        problem = f"is damaged, cut short, or no tar archive ({error}); fetch or write it again"
        with contextlib.suppress(OSError), open(name, "rb") as content:
            if content.read(2) == b"\x1f\x8b":
                problem = "is compressed, so nothing can be read in place; unpack it with gunzip"
    except OSError as error:
        raise explain_os_error(error, name, "read") from None
    if problem is not None:
        raise PasslError(f"{name}: {problem}")


_NO_MARK = (
    "lacks the mark at the end of a tar archive: it was cut short, or its writer was stopped; "
    "fetch or write it again"
)


def _wrong_end(archive: tarfile.TarFile) -> Optional[str]:
    """Returns what is wrong where the members of an archive end, None where nothing is.

    ``tarfile`` takes whatever is no header for the end: also a damaged header, and the end of a
    file that was cut between two members. A whole archive goes on with blocks of zeros, two by the
    standard. One is enough: some writers leave it at that, and no member is missing.
    """
    file = archive.fileobj
    assert file is not None
    file.seek(archive.offset)
    mark = file.read(tarfile.BLOCKSIZE)
    if len(mark) < tarfile.BLOCKSIZE:
        return _NO_MARK
    if mark.strip(b"\0"):
        return f"is damaged at byte {archive.offset:,}; fetch or write it again"
    # What was joined by `cat` goes on behind the padding, which is 10 KiB as a rule.
    rest = file.read(1 << 20)
    zeros = len(rest) - len(rest.lstrip(b"\0"))
    begin = zeros - zeros % tarfile.BLOCKSIZE
    with contextlib.suppress(tarfile.TarError):  # something else may stand there
        block = rest[begin : begin + tarfile.BLOCKSIZE]
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        return "is several archives one after the other; unpack them (tar -i) and make one of them"
    return None


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


def _members(file: BinaryIO, path: str, name: str) -> List[Tuple[str, int, int]]:
    """Returns name, offset and size of the images of a tar file within another."""
    members = []
    with _archive(f"{path}: {name}", file) as archive:
        for member in archive:
            if member.isfile() and is_image_name(member.name):
                members.append((member.name, member.offset_data, member.size))
            archive.members = []  # a list of all headers, which nobody needs
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
            if m.isfile() and is_image_name(m.name)
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
        if isinstance(error, OSError) and error.errno is not None:  # the system's, not gzip's
            raise explain_os_error(error, path, "read") from None
        raise PasslError(f"{path}: is not ImageNet's devkit ({error}); download it again") from None


# ---------------------------------------------------------------- shards


NO_CAPTION, EMPTY_CAPTION = "no caption", "an empty caption"
FOREIGN_CAPTION = "a caption that is not UTF-8"
WITHOUT = (NO_CAPTION, EMPTY_CAPTION, FOREIGN_CAPTION)  # what an image is left out for
_TWICE = "stands there twice, so that one sample would be two; give every sample a key of its own"
_DOTS = (
    "has a dot within its name, and a sample's key ends at the first dot (WebDataset's rule), so "
    "that its label or caption is not found; write the shards with names that have no other dot"
)


class _Field(NamedTuple):
    """A file of a sample: its extension, everything behind the first dot, and where it stands."""

    extension: str
    name: str
    offset: int
    size: int


class _Shard:
    """What one shard holds, by the keys of its samples."""

    def __init__(self) -> None:
        self.images: Dict[str, List[_Field]] = {}
        self.labels: Dict[str, int] = {}
        self.texts: Dict[str, bytes] = {}
        self.others: Dict[str, Set[str]] = {}  # extensions


def read_shards(
    root: str,
    shards: Sequence[str],
    image: Optional[str] = None,
    labels: bool = True,
    caption: Optional[str] = None,
) -> Catalog:
    """Reads tar files of ``key.jpg`` and ``key.cls`` pairs, the naming of WebDataset.

    A key ends at the first dot of a file's name. The image of a sample is the file whose extension
    is one of an image and has no dot in it: ``0001.seg.png`` beside ``0001.jpg`` is not it.

    Args:
        root: the folder of the shards.
        shards: their names, in order.
        image: the extension of the files to take (``seg.png``), where that leaves a choice.
        labels: whether samples have labels; otherwise ``.cls`` files are passed over.
        caption: where samples have their caption: ``txt``, the extension of its file, or
            ``json:caption``, that of a file in JSON and the key in it, of a text or a list of
            texts; images without one, or with an empty one, are passed over. None: they have none.

    Raises:
        PasslError: a damaged shard, an image without a label, or a sample with several images.
    """
    text = None if caption is None else caption.lower().partition(":")[0].lstrip(".")
    form = r"json:.+|(?!json$)[^:]+"
    if caption is not None and not re.fullmatch(form, caption.lower().lstrip(".")):
        raise PasslError(
            f"caption is the extension of the captions' files, txt, or json:KEY, a key within "
            f"the .json files, not '{caption}'"
        )
    wanted = None if image is None else image.lower().lstrip(".")
    entries = _Entries()
    passed_over: Dict[str, int] = {}
    extensions: Set[str] = set()
    # An image of a plain extension, and one of another: side by side one of them is no photo.
    examples: Dict[bool, str] = {}
    for number, name in enumerate(tqdm(shards, desc=f"indexing {root}", unit="shard",
                                       leave=False, disable=not interactive())):  # fmt: skip
        path = os.path.join(root, name)
        shard = _read_shard(path, wanted, labels, text)
        for key, fields in shard.images.items():
            others = shard.others.get(key, ())
            field = _image_of(fields, others, path, text)
            if labels and key not in shard.labels:
                if _has_dotted_label(others):
                    raise PasslError(f"{path}: '{field.name}' {_DOTS}")
                raise PasslError(
                    f"{path}: '{field.name}' has no label beside it ({key.lstrip('/')}.cls)"
                )
            captions = None
            if caption is not None:
                if key not in shard.texts and _has_dotted_text((field,), others, text):
                    raise PasslError(f"{path}: '{field.name}' {_DOTS}")
                captions, why = _captions_of(
                    shard.texts.get(key), caption, f"{path}: '{field.name}'"
                )
                if not captions:
                    count(passed_over, f"image{{s}} with {why}")
                    continue
            entries.add(
                field.name, shard.labels.get(key), number, field.offset, field.size, captions
            )
            examples.setdefault("." in field.extension, f"{path}: '{field.name}'")
        if wanted is None and len(examples) == 2:
            raise PasslError(
                f"{examples[True]} has no plain extension of an image, other samples have; name "
                "the extension to take with the set's argument 'image', or repack the set"
            )
        for key in (*shard.labels, *shard.texts):
            if key not in shard.images:
                beside = ", ".join(sorted(shard.others.get(key, ()))[:4])
                beside = f" (but {beside})" if beside else ""
                count(passed_over, f"sample{{s}} without an image{beside}")
        if len(extensions) < 8:  # for a message
            extensions.update(*shard.others.values())
    if not len(entries.names):
        what = "images" if wanted is None else f"files with the extension {wanted}"
        if caption is not None:
            what += f" with a caption in .{text} files"
        found = f", but {', '.join(sorted(extensions)[:8])}" if extensions else ""
        found += f" ({passed_over_text(passed_over)})" if passed_over else ""
        raise PasslError(f"{root}: its shards hold no {what}{found}")
    return entries.catalog(root, shards, None, shards, passed_over)


def _read_shard(path: str, wanted: Optional[str], labels: bool, text: Optional[str]) -> _Shard:
    """Reads the names and places of the images of a shard, and labels and texts if it has any."""
    shard = _Shard()
    with _archive(path) as archive:
        for member in archive:
            folder, base = os.path.split(member.name)
            stem, _, extension = base.partition(".")
            extension = extension.lower()
            archive.members = []
            if not stem or member.isdir():  # a name that starts with a dot is hidden
                continue
            key = f"{folder}/{stem}"
            if not member.isfile():
                extension += " as a link"
            field = _Field(extension, member.name, member.offset_data, member.size)
            if labels and extension == "cls":
                if key in shard.labels:
                    raise PasslError(f"{path}: '{member.name}' {_TWICE}")
                shard.labels[key] = _label(archive, member, path)
            elif text is not None and extension == text:
                if key in shard.texts:
                    raise PasslError(f"{path}: '{member.name}' {_TWICE}")
                content = archive.extractfile(member)
                shard.texts[key] = b"" if content is None else content.read()
            elif (extension == wanted) if wanted else is_image_name(f".{extension}"):
                fields = shard.images.setdefault(key, [])
                if any(other.extension == extension for other in fields):
                    raise PasslError(f"{path}: '{member.name}' {_TWICE}")
                fields.append(field)
            else:
                shard.others.setdefault(key, set()).add(extension)
    return shard


def _image_of(
    fields: Sequence[_Field], others: Iterable[str], path: str, text: Optional[str]
) -> _Field:
    """Returns the image of a sample."""
    plain = [field for field in fields if "." not in field.extension] or fields
    if len(plain) > 1:
        one, other = plain[:2]
        if _has_dotted_label(others) or _has_dotted_text(plain, others, text):
            raise PasslError(f"{path}: '{one.name}' {_DOTS}")
        raise PasslError(
            f"{path}: '{one.name}' and '{other.name}' are two images of one sample; name the "
            f"extension to take with the set's argument 'image', {one.extension} or "
            f"{other.extension}"
        )
    return plain[0]


def _has_dotted_label(extensions: Iterable[str]) -> bool:
    return any(extension.endswith(".cls") for extension in extensions)


def _has_dotted_text(
    fields: Iterable[_Field], extensions: Iterable[str], text: Optional[str]
) -> bool:
    """Tells whether ``a.b.jpg`` has ``a.b.txt`` beside it, where a key is all before a dot."""
    inner = [field.extension.rpartition(".")[0] for field in fields]
    return text is not None and any(part and f"{part}.{text}" in extensions for part in inner)


def _label(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> int:
    file = archive.extractfile(member)
    text = file.read(32).strip() if file else b""
    if not re.fullmatch(rb"[0-9]{1,9}", text):
        raise PasslError(f"{path}: '{member.name}' holds no label from 0, but {text[:20]!r}")
    return int(text)


def _captions_of(text: Optional[bytes], caption: str, place: str) -> Tuple[List[str], str]:
    """Returns the captions of a sample, and why it has none where it has none.

    Raises:
        PasslError: its file is no JSON, lacks the key, or has no texts there.
    """
    if text is None:
        return [], NO_CAPTION
    try:
        read = text.decode("utf-8-sig")
    except UnicodeDecodeError:
        return [], FOREIGN_CAPTION
    key = caption.partition(":")[2]
    if not key:
        return ([read.strip()], "") if read.strip() else ([], EMPTY_CAPTION)
    try:
        found = json.loads(read)
    except (ValueError, RecursionError) as error:
        raise PasslError(f"{place}: the .json file beside it is damaged ({error})") from None
    if not isinstance(found, dict) or key not in found:
        raise PasslError(
            f"{place}: the .json file beside it has no '{key}', but "
            f"{first_of(list(found), 6) if isinstance(found, dict) else 'no keys'}; name the "
            "one of the captions, caption: json:KEY"
        )
    try:
        return texts_of(found[key]), EMPTY_CAPTION
    except ValueError as error:
        raise PasslError(
            f"{place}: '{key}' in the .json file beside it is {error}; name the key of the "
            "captions, caption: json:KEY"
        ) from None
