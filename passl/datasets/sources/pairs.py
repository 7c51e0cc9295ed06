"""Images with captions, in the forms people have them: text files beside images, tables, shards."""

from __future__ import annotations

import json
import os
import re
from array import array
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from tqdm import tqdm

from passl.datasets.dataset import Captioned
from passl.datasets.registry import DATASETS
from passl.datasets.sources.caption_texts import texts_of
from passl.datasets.sources.catalog import (
    Catalog,
    GrowingCaptions,
    GrowingNames,
    by_image,
    cached,
)
from passl.datasets.sources.files import (
    CatalogDataset,
    existing_file,
    existing_folder,
    shards_of,
)
from passl.datasets.sources.image_files import count, images_below, missing_image, passed_over_text
from passl.datasets.sources.layouts import WITHOUT
from passl.datasets.sources.pair_tables import Columns, rows_of
from passl.utils.errors import PasslError, shown
from passl.utils.logging import interactive, logger
from passl.utils.text_files import is_utf8, not_utf8, read_lines

EMPTY, NONE = "empty caption{s}", "image{s} without a caption"


class ImageTextDataset(Captioned, CatalogDataset):
    """Base of the sets of images with captions that stand in files.

    Args:
        catalog: with captions.
        subset: part of the images, ``[:90%]`` or ``[90%:]``; the captions of an image stay
            together.
        transforms: configs of the sample transforms.
    """

    def __init__(
        self, catalog: Catalog, subset: Optional[str], transforms: Sequence[Mapping[str, Any]]
    ):
        super().__init__(catalog, subset, transforms)
        several, shared, self._equal = self._counts()
        texts = int((catalog.captions.ends[self.indices] - self._begins()).sum())
        logger.info(
            "%s: %s images with %s captions%s%s",
            catalog.root,
            f"{len(self):,}",
            f"{texts:,}",
            f"; {several:,} image{'s have' if several > 1 else ' has'} several" if several else "",
            f"; {shared:,} captions stand at several images" if shared else "",
        )

    def captions(self, index: int) -> List[str]:
        return self.catalog.captions[self.indices[index]]

    def equal_pairs(self, batch: int) -> float:
        """Returns how many pairs of images with an equal caption a random batch holds on average.

        In each of them one image's caption counts as wrong for the other, though it is the same.

        Args:
            batch: images.
        """
        return self._equal * batch * (batch - 1) / 2

    def _begins(self) -> np.ndarray:
        """Returns where the captions of each image begin, int64 ``[len(self)]``."""
        return np.concatenate([[0], self.catalog.captions.ends])[self.indices]

    def _counts(self) -> Tuple[int, int, float]:
        """Returns what captions repeat.

        Returns:
            how many images have several captions; how many captions stand at several images; how
            likely two random images are to be given the same one.
        """
        begins = self._begins()
        counts = self.catalog.captions.ends[self.indices] - begins
        images = np.repeat(np.arange(len(self)), counts)
        within = np.arange(len(images)) - np.repeat(np.cumsum(counts) - counts, counts)
        keys = self.catalog.captions.texts.keys()[np.repeat(begins, counts) + within]
        order = np.argsort(keys, kind="stable")  # so images still increase within a text
        keys, images = keys[order], images[order]
        new_text = np.concatenate([[True], keys[1:] != keys[:-1]])
        new_place = new_text | np.concatenate([[True], images[1:] != images[:-1]])
        # Of each text: at how many images it stands, and how often in all.
        texts = np.flatnonzero(new_text)
        stands = np.add.reduceat(new_place.astype(np.int64), texts)
        times = np.diff(np.append(texts, len(keys)))
        # Of each text at each image: how likely it is drawn there.
        places = np.flatnonzero(new_place)
        drawn = np.add.reduceat(1.0 / counts[images], places)
        sums = np.bincount(np.cumsum(new_text[places]) - 1, drawn)
        n = len(self)
        equal = float((sums**2).sum() - (drawn**2).sum()) / max(1, n * (n - 1))
        return int((counts > 1).sum()), int(times[stands > 1].sum()), max(0.0, equal)

    def _identity(self) -> Sequence[np.ndarray]:
        captions = self.catalog.captions
        return (*super()._identity(), captions.texts.blob, captions.texts.ends, captions.ends)


@DATASETS.register
class ImageTextFolder(ImageTextDataset):
    """Images with a text file of the same name beside each: ``cat.jpg`` and ``cat.txt``.

    A line of the text is a caption; empty ones are passed over, and so are images without any. All
    folders below ``dataroot`` are looked into; ``cat.jpg`` and ``cat.png`` in one of them have the
    same text.

    Args:
        dataroot: the folder.
        subset: part of the images: ``[:90%]`` or ``[90%:]``.
        transforms: configs of the sample transforms.

    Raises:
        PasslError: no image has a caption, or a text is not UTF-8.
    """

    def __init__(
        self,
        dataroot: str,
        subset: Optional[str] = None,
        transforms: Sequence[Mapping[str, Any]] = (),
    ):
        super().__init__(_read_folder(existing_folder(dataroot)), subset, transforms)


@DATASETS.register
class ImageTextList(ImageTextDataset):
    """A table with the path of an image and a caption in each row: csv, tsv, jsonl or parquet.

    Rows of the same path are captions of one image, of which each drawing takes one. A caption may
    also be a list of texts, in jsonl and parquet. Flickr30k's and Flickr8k's own lists
    (``results_20130124.token``, ``Flickr8k.token.txt``: ``1000092795.jpg#0``, a tab and a caption)
    are read too, and Flickr30k's ``results.csv`` with ``separator: "|"``.

    Args:
        dataroot: the folder that paths start from.
        list_file: the table, relative to the working folder, or else to ``dataroot``. Its ending
            says what it is: ``.csv``, ``.tsv`` or ``.txt`` (both with tabs), ``.jsonl``,
            ``.parquet``, ``.token``. The first line of csv and tsv names the columns.
        image_column, caption_column: their names; by default the first that is there of
            ``filepath``, ``image``, ``image_path``, ``file_name``, …, and of ``title``,
            ``caption``, ``captions``, ``text``, ….
        separator: of csv and tsv, in the place of comma and tab.
        quotes: whether quotation marks around a cell of csv and tsv are no part of it, and a cell
            in them may hold the separator and line breaks; false where they are part of the text.
        subset: part of the images: ``[:90%]`` or ``[90%:]``.
        transforms: configs of the sample transforms.

    Raises:
        PasslError: a missing file or column, with those that there are, or a bad row, with its
            number.
    """

    def __init__(
        self,
        dataroot: str,
        list_file: str,
        image_column: Optional[str] = None,
        caption_column: Optional[str] = None,
        separator: Optional[str] = None,
        quotes: bool = True,
        subset: Optional[str] = None,
        transforms: Sequence[Mapping[str, Any]] = (),
    ):
        root = existing_folder(dataroot)
        file = existing_file(root, list_file)
        columns = Columns(image_column, caption_column, separator, quotes)
        kind = f"table, {file.absolute()}, {tuple(columns)}"
        catalog = cached(root, kind, lambda: _read_table(root, file, columns))
        super().__init__(catalog, subset, transforms)


@DATASETS.register
class ImageTextShards(ImageTextDataset):
    """Tar files of ``key.jpg`` and ``key.txt`` pairs, as img2dataset writes them (WebDataset).

    They are read in place, each pair once an epoch, whatever the number of processes and workers.
    Images without a caption, or with an empty one, are left out, and counted. A text file is one
    caption, whatever its lines. Where img2dataset has
    left its counts (``00000_stats.json``), they are compared.

    Args:
        dataroot: the folder of the shards.
        pattern: which of its files are shards of this set; also ``{00000..00041}.tar``.
        caption: ``txt``, the extension of the captions' files, or ``json:caption``, a key within
            the ``.json`` of each sample, of a text or of a list of texts.
        image: the extension of the files to take, where a sample has several images.
        subset: part of the images: ``[:90%]`` or ``[90%:]``.
        transforms: configs of the sample transforms.

    Raises:
        PasslError: no shards, or a damaged one.
    """

    def __init__(
        self,
        dataroot: str,
        pattern: str = "*.tar",
        caption: str = "txt",
        image: Optional[str] = None,
        subset: Optional[str] = None,
        transforms: Sequence[Mapping[str, Any]] = (),
    ):
        root = existing_folder(dataroot)
        catalog = shards_of(root, pattern, image, labels=False, caption=caption)
        _compare_counts(root, catalog)
        super().__init__(catalog, subset, transforms)


def _read_folder(root: str) -> Catalog:
    """Reads ``cat.jpg`` and ``cat.txt``.

    There is no index of it, as of other large sets: nothing but a look at every text would say that
    none has changed, and that takes as long as reading them.
    """
    passed_over: Dict[str, int] = {}
    paths, captions = GrowingNames(), GrowingCaptions()
    found = images_below(root, "", passed_over)
    texts = passed_over.pop(".txt", 0)
    used = array("q")
    for path in tqdm(found, desc=f"reading {root}", leave=False, disable=not interactive()):
        file = _text_beside(os.path.join(root, path))
        if file is None:
            count(passed_over, NONE)
            continue
        used.append(hash(file))
        own: List[str] = []
        for number, line in read_lines(Path(file)):
            if not is_utf8(line):
                raise not_utf8(Path(file), number)
            own += texts_of(line)
        if not own:
            count(passed_over, EMPTY)
            continue
        paths.add(path)
        captions.add(own)
    alone = texts - len(np.unique(np.array(used, np.int64)))  # several images may have one text
    if alone > 0:
        count(passed_over, "text{s} without an image", alone)
    if not found:
        raise PasslError(
            f"{shown(root)}: has no images"
            + (f" ({passed_over_text(passed_over)})" if passed_over else "")
            + "; ImageTextFolder reads cat.jpg with cat.txt beside it, ImageTextShards reads .tar "
            "files of them"
        )
    if not len(paths):
        raise PasslError(
            f"{shown(root)}: of {len(found):,} images none has a caption"
            + (f" ({passed_over_text(passed_over)})" if passed_over else "")
            + "; put a text file of the same name beside each, cat.txt beside cat.jpg, with a "
            "caption a line"
        )
    return Catalog(root, paths.names(), None, passed_over=passed_over, captions=captions.captions())


def _text_beside(image: str) -> Optional[str]:
    stem = os.path.splitext(image)[0]
    return next((f for f in (f"{stem}.txt", f"{stem}.TXT") if os.path.isfile(f)), None)


def _read_table(root: str, file: Path, columns: Columns) -> Catalog:
    passed_over: Dict[str, int] = {}
    paths, captions = GrowingNames(), GrowingCaptions()
    for number, path, texts in rows_of(file, columns):
        if not path.strip():
            raise PasslError(f"{file}:{number}: has no path of an image")
        if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", path):
            raise PasslError(
                f"{file}:{number}: the image is an address, {shown(path)}; fetch the images first, "
                "with img2dataset say, which writes shards for ImageTextShards"
            )
        if not texts:
            count(passed_over, EMPTY)
            continue
        while path.startswith("./"):  # the same image as without
            path = path[2:].lstrip("/")
        # One look catches a wrong dataroot now; a look at every file would take minutes.
        if not len(paths) and not os.path.isfile(os.path.join(root, path)):
            raise PasslError(f"{file}:{number}: {missing_image(root, file, path)}")
        paths.add(path)
        captions.add(texts)
    if not len(paths):
        raise PasslError(f"{file}: has no row with a caption")
    names, packed = by_image(paths.names(), captions.captions())
    watched = [str(file.absolute())]
    return Catalog(root, names, None, watched=watched, passed_over=passed_over, captions=packed)


def _compare_counts(root: str, catalog: Catalog) -> None:
    """Warns where shards hold another number of images than img2dataset has counted."""
    images = np.bincount(catalog.archive, minlength=len(catalog.archives))
    counted = found = 0
    for shard, number in zip(catalog.archives, images):
        stats = Path(root, f"{shard[: -len('.tar')]}_stats.json")
        try:
            counted += int(json.loads(stats.read_text(encoding="utf-8"))["successes"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            continue  # it is a help, and nothing depends on it
        found += int(number)
    # It also counts images that are here, but without a caption; in which shards is not known.
    left_out = sum(catalog.passed_over.get(f"image{{s}} with {why}", 0) for why in WITHOUT)
    if not found <= counted <= found + left_out:
        logger.warning(
            "%s: its shards hold %s images, where img2dataset counted %s that it fetched; some "
            "were lost or added since",
            root, f"{found + left_out if counted > found else found:,}", f"{counted:,}",
        )  # fmt: skip
