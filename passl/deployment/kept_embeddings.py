"""Embeddings of the images of a folder, kept in a file from one time to the next."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any, Dict, Sequence

import numpy as np

from passl.datasets.sources.catalog import Names
from passl.utils.cache import cache_file, forget_the_oldest
from passl.utils.logging import logger
from passl.utils.whole_files import replacing, sha256_of

DIGEST = 32  # bytes of a SHA-256
_VERSION = 1
_MOST = 32  # files, of all folders and networks
_STAMP = 4
_NO_FILE = (-1,) * _STAMP
# What changed this shortly before it was looked at may have changed again unnoticed.
_TOO_RECENT_NS = 2_000_000_000


class KeptEmbeddings:
    """The embeddings of a folder's images: those that are known, and room for the others.

    An image counts as the one that was embedded where its file has the size, the times of its last
    change, of content (mtime) and of anything (ctime), and the number (inode) that it had then.
    Where not, or where it had changed so shortly before that nobody could tell a second change,
    its content decides, by SHA-256; so an image that was renamed, moved within the folder, copied
    or merely touched is known, too. Contents are only read of files of a known size.

    Args:
        folder: where the images are.
        names: their paths in it.
        key: of all that embeddings depend on beside the images: network and view.

    Attributes:
        path: of the file; None where there is no home to keep it in.
        known: which images have an embedding, bool ``[n]``.
        rows: the embeddings, float32 ``[n, d]``; ``[n, 0]`` as long as there are none.
    """

    def __init__(self, folder: str, names: Sequence[str], key: str):
        self.folder, self.names, self._key = folder, list(names), key
        self.path = cache_file("search", folder, key)
        self._looked_at = time.time_ns()
        # Before anything is read: a change meanwhile shows the next time.
        found = [_stamp(self.place(i)) for i in range(len(names))]
        self._stamps = np.array(found, np.int64).reshape(-1, _STAMP)
        self._digests = np.zeros((len(names), DIGEST), np.uint8)
        self.known = np.zeros(len(names), bool)
        self.rows = np.zeros((len(names), 0), np.float32)
        self._changed = False
        if self.path is not None and self.path.exists():
            try:
                kept = _read(self.path, key)
            except Exception:
                logger.info("%s: is damaged, so that it is made anew", self.path)
            else:
                self._take(**kept)
                with contextlib.suppress(OSError):  # it is in use, see ``forget_the_oldest``
                    os.utime(self.path)

    def place(self, index: int) -> str:
        """Returns the path of an image."""
        return os.path.join(self.folder, self.names[index])

    def put(self, index: int, digest: np.ndarray, row: np.ndarray) -> None:
        """Takes in the embedding ``[d]`` of an image whose content has a digest, uint8 ``[32]``."""
        if not self.known.any():
            self.rows = np.zeros((len(self.names), len(row)), np.float32)
        self.rows[index], self._digests[index], self.known[index] = row, digest, True
        self._changed = True

    def save(self) -> None:
        """Writes what is known, where that is not in the file already."""
        if self.path is None or not self._changed:
            return
        stamps = self._stamps[self.known]
        stamps[stamps[:, 2] >= self._looked_at - _TOO_RECENT_NS, 1:] = 0
        names = Names.of([name for name, known in zip(self.names, self.known) if known])
        facts = json.dumps({"version": _VERSION, "key": self._key})
        try:
            with replacing(self.path) as aside, open(aside, "wb") as file:
                np.savez(
                    file, facts=np.frombuffer(facts.encode(), np.uint8), blob=names.blob,
                    ends=names.ends, stamps=stamps, digests=self._digests[self.known],
                    rows=self.rows[self.known],
                )  # fmt: skip
        except OSError as error:  # a read-only home, a full disk
            logger.info(
                "%s: cannot be written (%s), so that the next search embeds all anew",
                self.path, error.strerror,
            )  # fmt: skip
            self.path = None
            return
        self._changed = False
        forget_the_oldest(self.path.parent, "*.npz", _MOST)  # of other weights, as a rule

    def _take(
        self, names: Names, stamps: np.ndarray, digests: np.ndarray, rows: np.ndarray
    ) -> None:
        """Takes over what is still true of an earlier time."""
        by_name = {names[i]: i for i in range(len(names))}
        by_digest = {digest.tobytes(): i for i, digest in enumerate(digests)}
        sizes = set(stamps[:, 0].tolist())
        for index, name in enumerate(self.names):
            stamp, old = self._stamps[index], by_name.get(name)
            same = old is not None and np.array_equal(stamp, stamps[old])
            if not same and int(stamp[0]) in sizes:
                with contextlib.suppress(OSError):  # whoever reads the image will say it
                    old = by_digest.get(bytes.fromhex(sha256_of(self.place(index))))
                    same = old is not None
                    self._changed |= same
            if same:
                changed = self._changed
                self.put(index, digests[old], rows[old])
                self._changed = changed
        self._changed |= int(self.known.sum()) != len(names)  # some are gone


def _stamp(path: str) -> Sequence[int]:
    """Returns what tells whether a file has changed: size, mtime, ctime in ns, inode."""
    try:
        state = os.stat(path)
    except OSError:
        return _NO_FILE
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


def _read(path: os.PathLike, key: str) -> Dict[str, Any]:
    """Returns what a file holds.

    Raises:
        Exception: of any sort, where it is damaged, or another one.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    facts = json.loads(arrays["facts"].tobytes())
    names = Names(arrays["blob"], arrays["ends"])
    stamps, digests, rows = (arrays[name] for name in ("stamps", "digests", "rows"))
    if (
        (facts["version"], facts["key"]) != (_VERSION, key)
        or (stamps.dtype, stamps.shape) != (np.int64, (len(names), _STAMP))
        or (digests.dtype, digests.shape) != (np.uint8, (len(names), DIGEST))
        or (rows.dtype, rows.ndim, len(rows)) != (np.float32, 2, len(names))
        or not np.isfinite(rows).all()
    ):
        raise ValueError("holds something else")
    return {"names": names, "stamps": stamps, "digests": digests, "rows": rows}
