"""What a set of images consists of, as arrays: a million entries take tens of megabytes.

Workers share the arrays that the main process has made: nothing in them is counted by Python, so
that reading one does not copy a page.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from array import array
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from passl.utils.cache import cache_file
from passl.utils.logging import logger
from passl.utils.whole_files import replacing

# Smaller sets are listed faster than an index is worth.
_SMALLEST_INDEX = 20_000
# A file that changed this shortly before it was looked at may have changed again unnoticed.
_TOO_RECENT_NS = 2_000_000_000
_VERSION = 5
# Texts that are put in another order in one go: their bytes are addressed one by one.
_AT_A_TIME = 20_000


class Names:
    """A list of texts as one array of bytes.

    Args:
        blob: uint8, all texts one after the other, as ``os.fsencode`` writes them.
        ends: int64 ``[n]``, where each ends in ``blob``.
    """

    def __init__(self, blob: np.ndarray, ends: np.ndarray):
        self.blob, self.ends = blob, ends

    @classmethod
    def of(cls, texts: Sequence[str]) -> Names:
        """Packs a list of texts."""
        packed = GrowingNames()
        for text in texts:
            packed.add(text)
        return packed.names()

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        return os.fsdecode(self._bytes(index))

    def keys(self) -> np.ndarray:
        """Returns a number for each text, int64 ``[n]``, in this process: equal for equal ones.

        Others share one hardly ever: of ten million texts two do in one of 400,000 cases.
        """
        data, begin, keys = memoryview(self.blob), 0, array("q")
        for end in self.ends.tolist():
            keys.append(hash(data[begin:end].tobytes()))
            begin = end
        return _as_array(keys, np.int64)

    def taken(self, order: np.ndarray) -> Names:
        """Returns the texts at the places ``order``, int64 ``[m]``, in that order."""
        begins = np.concatenate([[0], self.ends])[order]
        lengths = self.ends[order] - begins
        ends = np.cumsum(lengths)
        blob = np.empty(int(lengths.sum()), np.uint8)
        for first in range(0, len(order), _AT_A_TIME):
            part = slice(first, first + _AT_A_TIME)
            start, own = int(ends[first] - lengths[first]), lengths[part]
            shifts = np.repeat(begins[part] - (ends[part] - own - start), own)
            blob[start : start + len(shifts)] = self.blob[shifts + np.arange(len(shifts))]
        return Names(blob, ends)

    def _bytes(self, index: int) -> bytes:
        begin = self.ends[index - 1] if index else 0
        return self.blob[begin : self.ends[index]].tobytes()


class GrowingNames:
    """``Names`` while they are being read: a list of them would take several times the memory."""

    def __init__(self) -> None:
        self._blob, self._ends = bytearray(), array("q")

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, text: str) -> None:
        """Adds a text at the end."""
        self._blob += os.fsencode(text)
        self._ends.append(len(self._blob))

    def names(self) -> Names:
        """Returns all of them; nothing is added afterwards."""
        return Names(_as_array(self._blob, np.uint8), _as_array(self._ends, np.int64))


def _as_array(buffer: Any, dtype: Any) -> np.ndarray:
    """Returns a buffer as an array of the same memory; NumPy has none of an empty one."""
    return np.frombuffer(buffer, dtype) if len(buffer) else np.empty(0, dtype)


class Captions:
    """The captions of images, each of which has one or several.

    Args:
        texts: all of them, image by image; of UTF-8.
        ends: int64 ``[n]``, where those of each image end among them.
    """

    def __init__(self, texts: Names, ends: np.ndarray):
        self.texts, self.ends = texts, ends

    @classmethod
    def of(cls, captions: Sequence[Sequence[str]]) -> Captions:
        """Packs the captions of each image."""
        packed = GrowingCaptions()
        for own in captions:
            packed.add(own)
        return packed.captions()

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> List[str]:
        begin = self.ends[index - 1] if index else 0
        return [self.texts[i] for i in range(begin, self.ends[index])]


class GrowingCaptions:
    """``Captions`` while they are being read."""

    def __init__(self) -> None:
        self._texts, self._ends = GrowingNames(), array("q")

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, captions: Sequence[str]) -> None:
        """Adds the captions of the next image."""
        for text in captions:
            # What is no character, half of a pair of surrogates, becomes a question mark.
            self._texts.add(text.encode("utf-8", "replace").decode("utf-8"))
        self._ends.append(len(self._texts))

    def captions(self) -> Captions:
        """Returns those of all images; nothing is added afterwards."""
        return Captions(self._texts.names(), _as_array(self._ends, np.int64))


def by_image(paths: Names, captions: Captions) -> Tuple[Names, Captions]:
    """Returns each image once, where it stands first, with the captions of all its rows.

    Args:
        paths: of the image of each row.
        captions: of each row.
    """
    _, first, inverse = np.unique(paths.keys(), return_index=True, return_inverse=True)
    if len(first) == len(paths):
        return paths, captions
    images = np.sort(first)
    image = np.searchsorted(images, first)[inverse.reshape(-1)]  # of each row
    rows = np.argsort(image, kind="stable")
    begins = np.concatenate([[0], captions.ends])[rows]
    counts = captions.ends[rows] - begins
    ends = np.cumsum(counts)
    texts = np.repeat(begins - (ends - counts), counts) + np.arange(counts.sum())
    last = np.searchsorted(image[rows], np.arange(len(images)), side="right") - 1
    return paths.taken(images), Captions(captions.texts.taken(texts), ends[last])


class Catalog:
    """The images of a set: where each stands, and its class or its captions where it has any.

    Args:
        root: the folder that paths are relative to.
        names: the path of each image's file, or its name within an archive.
        labels: int64 ``[n]``; None where nothing says what the images show.
        class_names: the name of every class, where the data has names.
        archives: paths of the archives that the images stand in; empty for plain files.
        archive: int32 ``[n]``, which archive each stands in.
        offsets, sizes: int64 ``[n]``, where in its archive, in bytes.
        watched: paths below ``root`` whose change makes the catalog out of date.
        passed_over: how many files, by kind, stand there and are not in the catalog.
        captions: of each image; None where the data has none.
    """

    def __init__(
        self,
        root: str,
        names: Names,
        labels: Optional[np.ndarray],
        class_names: Optional[List[str]] = None,
        archives: Sequence[str] = (),
        archive: Optional[np.ndarray] = None,
        offsets: Optional[np.ndarray] = None,
        sizes: Optional[np.ndarray] = None,
        watched: Sequence[str] = (),
        passed_over: Optional[Mapping[str, int]] = None,
        captions: Optional[Captions] = None,
    ):
        self.root, self.names, self.labels, self.class_names = root, names, labels, class_names
        self.archives, self.archive = list(archives), archive
        self.offsets, self.sizes = offsets, sizes
        self.watched = list(watched)
        self.passed_over = dict(passed_over or {})
        self.captions = captions

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        """Returns what a message calls the image: its path, or ``archive:name``."""
        if self.archives:
            archive = os.path.join(self.root, self.archives[self.archive[index]])
            return f"{archive}:{self.names[index]}"
        return os.path.join(self.root, self.names[index])


def cached(root: str, kind: str, build: Callable[[], Catalog]) -> Catalog:
    """Returns what ``build`` makes, from the index of an earlier start where that still holds.

    The index stands in ``$PASSL_CACHE`` or else in the user's cache folder. It holds as long as
    every folder or archive that it was made from has the size and the time that it had then. A
    catalog that watches a broken link has none: what the link leads to may come back at any time.

    Args:
        root: the data folder.
        kind: what tells apart two readings of the same folder: all that the catalog depends on
            beside what it watches.
        build: makes the catalog.
    """
    path = cache_file("index", root, kind)
    if path is None:
        return build()
    with contextlib.suppress(Exception):  # a damaged index is made anew
        catalog = _load(path, root)
        if catalog is not None:
            return catalog
    started = time.time_ns()
    catalog = build()
    if len(catalog) >= _SMALLEST_INDEX or catalog.archives:
        seconds = (time.time_ns() - started) / 1e9
        # A read-only home, or something watched that is not there: the next start lists again.
        with contextlib.suppress(OSError):
            _save(path, catalog, started)
            logger.info("%s: %d images listed in %.1f s; index: %s", root, len(catalog), seconds,
                        path)  # fmt: skip
    return catalog


def _states(root: str, watched: Sequence[str]) -> np.ndarray:
    """Returns size and time of last change of each path, int64 ``[n, 2]``."""
    found = [os.stat(os.path.join(root, path)) for path in watched]
    # The size of a folder says nothing.
    return np.array(
        [(s.st_size if os.path.isfile(os.path.join(root, p)) else 0, s.st_mtime_ns)
         for p, s in zip(watched, found)], np.int64,
    ).reshape(-1, 2)  # fmt: skip


def _save(path: Path, catalog: Catalog, started: int) -> None:
    states = _states(catalog.root, catalog.watched)
    facts: Dict[str, Any] = {
        "version": _VERSION,
        "started": started,
        "class_names": catalog.class_names,
        "archives": catalog.archives,
        "watched": catalog.watched,
        "passed_over": catalog.passed_over,
    }
    arrays = {
        "facts": np.frombuffer(json.dumps(facts).encode(), np.uint8),
        "states": states,
        "blob": catalog.names.blob,
        "ends": catalog.names.ends,
    }
    if catalog.labels is not None:
        arrays["labels"] = catalog.labels
    if catalog.archives:
        arrays.update(archive=catalog.archive, offsets=catalog.offsets, sizes=catalog.sizes)
    if catalog.captions is not None:
        texts = catalog.captions.texts
        arrays.update(
            caption_blob=texts.blob, caption_ends=texts.ends, captions=catalog.captions.ends
        )
    with replacing(path) as aside, open(aside, "wb") as file:
        np.savez(file, **arrays)


def _load(path: Path, root: str) -> Optional[Catalog]:
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    facts = json.loads(arrays["facts"].tobytes())
    states = _states(root, facts["watched"])
    recent = states[:, 1] >= facts["started"] - _TOO_RECENT_NS
    if facts["version"] != _VERSION or not np.array_equal(states, arrays["states"]) or recent.any():
        return None
    captions = None
    if "captions" in arrays:
        texts = Names(arrays["caption_blob"], arrays["caption_ends"])
        captions = Captions(texts, arrays["captions"])
    return Catalog(
        root,
        Names(arrays["blob"], arrays["ends"]),
        arrays.get("labels"),
        facts["class_names"],
        facts["archives"],
        arrays.get("archive"),
        arrays.get("offsets"),
        arrays.get("sizes"),
        facts["watched"],
        facts["passed_over"],
        captions,
    )
