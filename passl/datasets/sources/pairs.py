"""Images with captions, in the forms people have them: text files beside images, tables, shards."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from passl.datasets.dataset import Captioned
from passl.datasets.registry import DATASETS
from passl.datasets.sources.catalog import Captions, Catalog, Names
from passl.datasets.sources.files import (
    CatalogDataset,
    existing_file,
    existing_folder,
    shards_of,
)
from passl.datasets.sources.image_files import count, images_below
from passl.utils.errors import PasslError, first_of, listing, shown
from passl.utils.logging import logger
from passl.utils.system_errors import explain_os_error
from passl.utils.text_files import is_utf8, not_utf8, read_lines

# What columns of tables are called where nothing is said of it; the first that is there counts.
_IMAGE_COLUMNS = ("filepath", "image", "image_path", "file_name", "filename", "path", "file")
_CAPTION_COLUMNS = ("title", "caption", "captions", "text", "sentence", "description")
_EMPTY, _NONE = "empty caption{s}", "image{s} without a caption"


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
        texts, shared = self.caption_counts()
        logger.info(
            "%s: %s images with %s captions%s",
            self.where(0).partition(":")[0] if catalog.archives else catalog.root,
            f"{len(self):,}",
            f"{texts:,}",
            f", of which {shared:,} stand at several images" if shared else "",
        )

    def captions(self, index: int) -> List[str]:
        return self.catalog.captions[self.indices[index]]

    def caption_counts(self) -> Tuple[int, int]:
        """Returns how many captions there are, and how many of them stand at several images."""
        keys, _ = self._keys()
        _, counts = np.unique(keys, return_counts=True)
        return len(keys), int(counts[counts > 1].sum())

    def equal_pairs(self, batch: int) -> float:
        """Returns how many pairs of images with an equal caption a random batch holds on average.

        In each of them one image's caption counts as wrong for the other, though it is the same.

        Args:
            batch: images.
        """
        n = len(self)
        keys, images = self._keys()
        if n < 2:
            return 0.0
        weights = 1.0 / np.bincount(images, minlength=n)[images]  # one of an image's is drawn
        _, places = np.unique(keys, return_inverse=True)
        sums, squares = (np.bincount(places, w) for w in (weights, weights**2))
        return float((sums**2 - squares).sum() / 2) * batch * (batch - 1) / (n * (n - 1))

    def _keys(self) -> Tuple[np.ndarray, np.ndarray]:
        """Returns a number for each caption, equal for equal ones, and the image it belongs to."""
        ends, texts = self.catalog.captions.ends, self.catalog.captions.texts
        begins = np.concatenate([[0], ends[:-1]])[self.indices]
        counts = ends[self.indices] - begins
        images = np.repeat(np.arange(len(self)), counts)
        within = np.arange(len(images)) - np.repeat(np.cumsum(counts) - counts, counts)
        places = np.repeat(begins, counts) + within
        return np.fromiter(map(texts.key, places), np.int64, len(places)), images

    def _identity(self) -> Sequence[np.ndarray]:
        captions = self.catalog.captions
        return (*super()._identity(), captions.texts.blob, captions.texts.ends, captions.ends)


@DATASETS.register
class ImageTextFolder(ImageTextDataset):
    """Images with a text file of the same name beside each: ``cat.jpg`` and ``cat.txt``.

    A line of the text is a caption; empty ones are passed over, and so are images without any. All
    folders below ``dataroot`` are looked into.

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
    also be a list of texts, in jsonl and parquet.

    Args:
        dataroot: the folder that paths start from.
        list_file: the table, relative to the working folder, or else to ``dataroot``. Its ending
            says what it is: ``.csv``, ``.tsv`` or ``.txt`` (both with tabs), ``.jsonl``,
            ``.parquet``. The first line of csv and tsv names the columns.
        image_column, caption_column: their names; by default the first that is there of
            ``filepath``, ``image``, ``image_path``, ``file_name``, …, and of ``title``,
            ``caption``, ``captions``, ``text``, ….
        separator: of csv and tsv, in the place of comma and tab.
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
        subset: Optional[str] = None,
        transforms: Sequence[Mapping[str, Any]] = (),
    ):
        root = existing_folder(dataroot)
        file = existing_file(root, list_file)
        rows = _rows(file, image_column, caption_column, separator)
        super().__init__(_read_table(root, file, rows), subset, transforms)


@DATASETS.register
class ImageTextShards(ImageTextDataset):
    """Tar files of ``key.jpg`` and ``key.txt`` pairs, as img2dataset writes them (WebDataset).

    They are read in place, each pair once an epoch, whatever the number of processes and workers.
    Images without a caption, or with an empty one, are left out, and counted. Where img2dataset has
    left its counts (``00000_stats.json``), they are compared.

    Args:
        dataroot: the folder of the shards.
        pattern: which of its files are shards of this set; also ``{00000..00041}.tar``.
        caption: ``txt``, the extension of the captions' files, or ``json:caption``, a key within
            the ``.json`` of each sample.
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
    passed_over: Dict[str, int] = {}
    paths: List[str] = []
    captions: List[List[str]] = []
    found = images_below(root, "", passed_over)
    texts = passed_over.pop(".txt", 0)
    for path in found:
        file = Path(root, path).with_suffix(".txt")
        own: List[str] = []
        if not file.is_file():
            count(passed_over, _NONE)
            continue
        for number, line in read_lines(file):
            if not is_utf8(line):
                raise not_utf8(file, number)
            if line.strip():
                own.append(line.strip())
        texts -= 1
        if not own:
            count(passed_over, _EMPTY)
            continue
        paths.append(path)
        captions.append(own)
    if texts > 0:
        count(passed_over, "text{s} without an image", texts)
    if not paths:
        raise PasslError(
            f"{shown(root)}: of {len(found)} images none has a caption; put a text file of the "
            "same name beside each, cat.txt beside cat.jpg, with a caption a line"
        )
    return Catalog(
        root, Names.of(paths), None, passed_over=passed_over, captions=Captions.of(captions)
    )


def _read_table(root: str, file: Path, rows: Iterator[Tuple[int, str, List[str]]]) -> Catalog:
    passed_over: Dict[str, int] = {}
    captions: Dict[str, List[str]] = {}
    for number, path, texts in rows:
        if path.startswith(("http://", "https://")):
            raise PasslError(
                f"{file}:{number}: the image is an address, {shown(path)}; fetch the images first, "
                "with img2dataset say, which writes shards for ImageTextShards"
            )
        given = [text.strip() for text in texts if text and text.strip()]
        if not path.strip():
            raise PasslError(f"{file}:{number}: has no path of an image")
        if not given:
            count(passed_over, _EMPTY)
            continue
        if path not in captions and not captions:
            _check_first(root, file, number, path)
        captions.setdefault(path, []).extend(given)
    if not captions:
        raise PasslError(f"{file}: has no row with a caption")
    packed = Captions.of(list(captions.values()))
    return Catalog(root, Names.of(list(captions)), None, passed_over=passed_over, captions=packed)


def _check_first(root: str, file: Path, number: int, path: str) -> None:
    """Raises PasslError where the first image is not there: a wrong dataroot is found at once."""
    if os.path.isfile(os.path.join(root, path)):
        return
    missing = f"{file}:{number}: there is no image {shown(os.path.join(root, path))}"
    for folder in (os.path.dirname(os.path.abspath(root)), os.path.dirname(file)):
        if os.path.isfile(os.path.join(folder, path)):
            raise PasslError(f"{missing}, but one in {shown(folder)}; set dataroot to that")
    raise PasslError(f"{missing}; check dataroot")


def _rows(
    file: Path, image: Optional[str], caption: Optional[str], separator: Optional[str]
) -> Iterator[Tuple[int, str, List[str]]]:
    """Yields number, path and captions of each row of a table."""
    ending = file.suffix.lower()
    if ending in (".csv", ".tsv", ".txt"):
        return _separated(file, image, caption, separator or ("," if ending == ".csv" else "\t"))
    if separator is not None:
        raise PasslError(f"{file}: separator is for csv and tsv; leave it out")
    if ending == ".jsonl":
        return _json_lines(file, image, caption)
    if ending == ".parquet":
        return _parquet(file, image, caption)
    raise PasslError(
        f"{file}: ends in {ending or 'nothing'}, and tables end in .csv, .tsv, .jsonl or .parquet"
    )


def _separated(
    file: Path, image: Optional[str], caption: Optional[str], separator: str
) -> Iterator[Tuple[int, str, List[str]]]:
    csv.field_size_limit(2**30)
    reader = csv.reader((f"{line}\n" for _, line in read_lines(file)), delimiter=separator)
    try:
        names = next(reader, [])
        places = _columns(file, names, image, caption, separator)
        for row in reader:
            if not row:
                continue
            if len(row) <= max(places):
                raise PasslError(
                    f"{file}:{reader.line_num}: has {len(row)} columns, the first line "
                    f"{len(names)}; put text that holds the separator in double quotation marks"
                )
            path, text = (row[place] for place in places)
            if not is_utf8(text):
                raise not_utf8(file, reader.line_num)
            yield reader.line_num, path, [text]
    except csv.Error as error:
        raise PasslError(f"{file}:{reader.line_num}: is no row of a table ({error})") from None


def _json_lines(
    file: Path, image: Optional[str], caption: Optional[str]
) -> Iterator[Tuple[int, str, List[str]]]:
    names: Optional[Tuple[str, str]] = None
    for number, line in read_lines(file):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise PasslError(f"{file}:{number}: is no JSON ({error})") from None
        if not isinstance(row, dict):
            raise PasslError(f'{file}:{number}: is no object, {{"image": …, "caption": …}}')
        if names is None:
            keys = list(row)
            names = tuple(keys[place] for place in _columns(file, keys, image, caption, None))
        for name in names:
            if name not in row:
                raise PasslError(f"{file}:{number}: has no '{name}', but {listing(list(row))}")
        yield number, str(row[names[0]]), _as_list(row[names[1]])


def _parquet(
    file: Path, image: Optional[str], caption: Optional[str]
) -> Iterator[Tuple[int, str, List[str]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise PasslError(f"{file}: needs pyarrow to be read: pip install pyarrow") from None
    try:
        table = parquet.ParquetFile(file)
        places = _columns(file, table.schema_arrow.names, image, caption, None)
        names = [table.schema_arrow.names[place] for place in places]
        number = 0
        for batch in table.iter_batches(columns=names):
            for path, text in zip(*(batch.column(name).to_pylist() for name in names)):
                number += 1
                yield number, "" if path is None else str(path), _as_list(text)
    except OSError as error:
        raise explain_os_error(error, file, "read") from None
    except ArrowException as error:
        raise PasslError(f"{file}: is no whole parquet file ({error})") from None


def _as_list(value: Any) -> List[str]:
    if isinstance(value, (list, tuple)):
        return [str(text) for text in value if text is not None]
    return [] if value is None else [str(value)]


def _columns(
    file: Path,
    names: Sequence[str],
    image: Optional[str],
    caption: Optional[str],
    separator: Optional[str],
) -> Tuple[int, int]:
    """Returns the places of the two columns.

    Raises:
        PasslError: one is not there, or none of the usual names is.
    """
    found = []
    for given, usual, argument in (
        (image, _IMAGE_COLUMNS, "image_column"),
        (caption, _CAPTION_COLUMNS, "caption_column"),
    ):
        wanted = [given] if given is not None else list(usual)
        place = next((names.index(name) for name in wanted if name in names), None)
        if place is None:
            hint = ""
            other = {",": "\t", "\t": ","}.get(separator or "", "")
            if len(names) == 1 and other and other in names[0]:
                hint = f"; its columns seem to have {_called(other)} between them: set separator"
            what = f"'{given}'" if given is not None else f"called {' or '.join(usual[:4])}"
            raise PasslError(
                f"{file}: has no column {what}, but {first_of(list(names), 8) or 'none at all'}; "
                f"name it with {argument}{hint}"
            )
        found.append(place)
    return found[0], found[1]


def _called(separator: str) -> str:
    return {"\t": "tabs ('\\t')", ",": "commas (',')"}[separator]


def _compare_counts(root: str, catalog: Catalog) -> None:
    """Warns where shards hold another number of pairs than img2dataset has counted."""
    images = np.bincount(catalog.archive, minlength=len(catalog.archives))
    counted = found = 0
    for shard, number in zip(catalog.archives, images):
        stats = Path(root, f"{shard[: -len('.tar')]}_stats.json")
        if not stats.is_file():
            continue
        try:
            counted += int(json.loads(stats.read_text(encoding="utf-8"))["successes"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # it is a help, and nothing depends on it
        found += int(number)
    if counted != found:
        logger.warning(
            "%s: holds %s images with captions, where img2dataset counted %s that it fetched",
            root, f"{found:,}", f"{counted:,}",
        )  # fmt: skip
