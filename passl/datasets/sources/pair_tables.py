"""Tables of images and captions: the rows of csv, tsv, jsonl, parquet and Flickr30k's own list.

Rows are yielded one after the other, so that a table of millions never stands in memory.
"""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from passl.datasets.sources.caption_texts import texts_of
from passl.datasets.sources.image_files import is_image_name
from passl.utils.errors import PasslError, first_of, listing, shown
from passl.utils.system_errors import explain_os_error
from passl.utils.text_files import is_utf8, not_utf8, read_lines

# What columns are called where nothing is said of it; the first that is there counts.
_IMAGE_COLUMNS = (
    "filepath", "image", "image_path", "file_name", "filename", "path", "file", "image_name",
)  # fmt: skip
_CAPTION_COLUMNS = (
    "title", "caption", "captions", "text", "sentence", "description", "comment",
)  # fmt: skip
_SEPARATORS = {
    "\t": "tabs ('\\t')",
    ",": "commas (',')",
    "|": "bars ('|')",
    ";": "semicolons (';')",
}
# A caption that goes over more lines begins with a quotation mark that nobody meant.
_MOST_LINES = 100
_LONGEST = 2**30  # bytes of a cell

# Number of the line or row, the path of the image, its captions.
Row = Tuple[int, str, List[str]]


class Columns(NamedTuple):
    """How a table is read, where that is said.

    Args:
        image, caption: the names of the two columns.
        separator: of csv and tsv.
        quotes: whether quotation marks around a cell of csv and tsv are no part of it.
    """

    image: Optional[str] = None
    caption: Optional[str] = None
    separator: Optional[str] = None
    quotes: bool = True


def rows_of(file: Path, columns: Columns) -> Iterator[Row]:
    """Yields number, path and captions of each row of a table.

    Args:
        file: its ending says what it is.
        columns: how it is read.

    Raises:
        PasslError: it cannot be read, or has no such columns; or a bad row, with its number.
    """
    ending = "".join(file.suffixes[-2:]).lower()
    if ending.endswith((".csv", ".tsv")) or (ending.endswith(".txt") and ending != ".token.txt"):
        return _separated(file, columns, "," if ending.endswith(".csv") else "\t")
    if columns.separator is not None or not columns.quotes:
        raise PasslError(f"{file}: separator and quotes are for csv and tsv; leave them out")
    if ending.endswith(".token") or ending == ".token.txt":
        return _tokens(file)
    if ending.endswith(".jsonl"):
        return _json_lines(file, columns)
    if ending.endswith(".parquet"):
        return _parquet(file, columns)
    if ending.endswith(".json"):
        raise PasslError(
            f"{file}: is a single object in JSON; CocoCaptions reads COCO's files and those of "
            "Karpathy's splits, and ImageTextList takes .jsonl, an object a line"
        )
    raise PasslError(
        f"{file}: ends in {file.suffix or 'nothing'}, and tables end in .csv, .tsv, .jsonl, "
        ".parquet or .token"
    )


def _separated(file: Path, columns: Columns, usual: str) -> Iterator[Row]:
    separator = usual if columns.separator is None else columns.separator
    if separator == "\\t":  # as a config has it without quotation marks
        separator = "\t"
    if len(separator) != 1 or separator in '"\r\n':
        raise PasslError(f"{file}: separator is one character, not '{separator}'")
    csv.field_size_limit(_LONGEST)
    lines = (f"{line}\n" for _, line in read_lines(file))
    reader = csv.reader(
        lines,
        delimiter=separator,
        quoting=csv.QUOTE_MINIMAL if columns.quotes else csv.QUOTE_NONE,
        skipinitialspace=separator == ",",
        strict=True,
    )
    begin = 1
    try:
        # Flickr30k's has spaces behind its bars, also in front of the columns' names.
        header = next((row for row in reader if any(map(str.strip, row))), None)
        if header is None:
            raise PasslError(f"{file}: is empty; its first line names the columns")
        names = [name.strip() for name in header]
        places = _columns(file, names, columns, separator)
        begin = reader.line_num + 1
        for row in reader:
            number, begin = begin, reader.line_num + 1
            if begin - number > _MOST_LINES:
                raise PasslError(f"{file}:{number}: {_runaway(begin - number)}")
            if not any(map(str.strip, row)):
                continue
            if begin - number > 1 and _has_rows_within(row, separator, places[0]):
                raise PasslError(f"{file}:{number}: {_runaway(begin - number)}")
            # More than there are names would be the end of a text that nobody reads.
            if len(row) <= max(places) or any(map(str.strip, row[len(names) :])):
                raise PasslError(
                    f"{file}:{number}: has {len(row)} column{'s' if len(row) > 1 else ''}, the "
                    f"first line {len(names)}; put text that holds the separator in double "
                    "quotation marks"
                )
            path, text = (row[place] for place in places)
            if not is_utf8(text):
                raise not_utf8(file, number)
            yield number, path, texts_of(text)
    except csv.Error as error:
        raise PasslError(f"{file}:{begin}: {_no_row(error, reader.line_num - begin)}") from None


def _has_rows_within(row: Sequence[str], separator: str, place: int) -> bool:
    """Tells whether a cell has swallowed other rows, as one does whose quotation mark is text."""
    for cell in row:
        for line in cell.split("\n")[1:]:
            cells = line.split(separator)
            if place < len(cells) and len(cells) > 1 and is_image_name(cells[place].strip()):
                return True
    return False


def _runaway(lines: int) -> str:
    return (
        f"a quotation mark begins a cell that goes on for {lines:,} lines; where quotation marks "
        "are part of the text, set quotes: false"
    )


def _no_row(error: csv.Error, lines: int) -> str:
    if lines > _MOST_LINES:
        return _runaway(lines)
    return (
        f"is no row of a table ({error}); where quotation marks are part of the text, set "
        "quotes: false"
    )


def _tokens(file: Path) -> Iterator[Row]:
    """Reads ``1000092795.jpg#0``, a tab and a caption: Flickr30k's and Flickr8k's own lists."""
    for number, line in read_lines(file):
        if not line.strip():
            continue
        match = re.fullmatch(r"(.+)#[0-9]+\t(.*)", line)
        if match is None:
            raise PasslError(
                f"{file}:{number}: a line is the name of an image, # and a number, a tab and a "
                f"caption, not {shown(line[:60])}"
            )
        if not is_utf8(match[2]):
            raise not_utf8(file, number)
        yield number, match[1], texts_of(match[2])


def _json_lines(file: Path, columns: Columns) -> Iterator[Row]:
    names: Optional[Tuple[str, str]] = None
    for number, line in read_lines(file):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise PasslError(f"{file}:{number}: is no JSON ({error})") from None
        if not isinstance(row, dict):
            raise PasslError(f'{file}:{number}: is no object, {{"image": …, "caption": …}}')
        if names is None:
            keys = list(row)
            image, caption = (keys[place] for place in _columns(file, keys, columns))
            names = image, caption
        for name in names:
            if name not in row:
                raise PasslError(f"{file}:{number}: has no '{name}', but {listing(list(row))}")
        if not is_utf8(line):
            raise not_utf8(file, number)
        yield _row(file, number, names, row[names[0]], row[names[1]])


def _parquet(file: Path, columns: Columns) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise PasslError(f"{file}: needs pyarrow to be read: pip install pyarrow") from None
    try:
        table = parquet.ParquetFile(file)
        found = table.schema_arrow.names
        image, caption = (found[place] for place in _columns(file, found, columns))
        number = 0
        for batch in table.iter_batches(columns=[image, caption]):
            for path, text in zip(*(batch.column(name).to_pylist() for name in (image, caption))):
                number += 1
                yield _row(file, number, (image, caption), path, text)
    except OSError as error:
        raise explain_os_error(error, file, "read") from None
    except ArrowException as error:
        raise PasslError(f"{file}: is no whole parquet file ({error})") from None


def _row(file: Path, number: int, names: Tuple[str, str], path: Any, text: Any) -> Row:
    if isinstance(path, (bytes, dict, list)):
        what = "the image itself" if isinstance(path, (bytes, dict)) else "a list"
        raise PasslError(
            f"{file}:{number}: '{names[0]}' holds {what}, and no path of a file; write the images "
            "into files, or with their captions into shards for ImageTextShards"
        )
    try:
        texts = texts_of(text)
    except ValueError as error:
        raise PasslError(
            f"{file}:{number}: '{names[1]}' is {error}; name another with caption_column"
        ) from None
    if path is None or path != path:  # NaN
        return number, "", texts
    path = str(path)
    if "\0" in path or any("\ud800" <= c <= "\udbff" for c in path):
        raise PasslError(f"{file}:{number}: no file can have the name {path!r}")
    return number, path, texts


def _columns(
    file: Path, names: Sequence[str], columns: Columns, separator: Optional[str] = None
) -> Tuple[int, int]:
    """Returns the places of the two columns.

    Raises:
        PasslError: one is not there, or none of the usual names is.
    """
    found: List[int] = []
    for given, usual, argument in (
        (columns.image, _IMAGE_COLUMNS, "image_column"),
        (columns.caption, _CAPTION_COLUMNS, "caption_column"),
    ):
        wanted = [given] if given is not None else list(usual)
        place = next((names.index(name) for name in wanted if name in names), None)
        if place is None:
            what = f"'{given}'" if given is not None else f"called {' or '.join(usual[:4])}"
            raise PasslError(
                f"{file}: has no column {what}, but {first_of(list(names), 8) or 'none at all'}; "
                f"name it with {argument}{_hint(names, separator)}"
            )
        if names.count(names[place]) > 1:
            raise PasslError(
                f"{file}: has several columns called '{names[place]}'; give each a name of its own"
            )
        if place in found:
            raise PasslError(
                f"{file}: image_column and caption_column are the same one, '{names[place]}'"
            )
        found.append(place)
    return found[0], found[1]


def _hint(names: Sequence[str], separator: Optional[str]) -> str:
    """Says what may be wrong with the first line of a csv or tsv."""
    if separator is not None and any(map(is_image_name, names)):
        return "; the first line seems to be a row: put one before it that names the columns"
    if separator is None or len(names) != 1:
        return ""
    for other, called in _SEPARATORS.items():
        if other in names[0]:
            return f"; its columns seem to have {called} between them: set separator"
    return ""
