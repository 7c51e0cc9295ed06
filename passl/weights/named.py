"""Which file is meant: a path, the name of a release, or an address; fetched where it must be."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import os
import re
import time
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Tuple
from urllib.parse import quote, unquote, urlsplit

from passl.utils import zoo
from passl.utils.cache import cache_folder
from passl.utils.errors import PasslError, listing
from passl.utils.logging import logger
from passl.utils.whole_files import replacing, sha256_of
from passl.weights.fetching import fetch, shown_address

OFFLINE, MIRROR, HF_ENDPOINT = "PASSL_OFFLINE", "PASSL_WEIGHTS_MIRROR", "HF_ENDPOINT"
_ADDRESS = re.compile(r"https?://", re.I)
# As torch.hub has it in names: resnet18-f37072fd.pth. Eight digits may also be a date.
_DIGITS = re.compile(r"-([0-9a-f]{8,64})(?:\.[a-z]+)+")
_DATE = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])")
_LONGEST = 150  # bytes of a file's name


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a file of the cache comes from.

    Attributes:
        address: that it was fetched from, or that it belongs to; without what may be secret.
        sha256: of its content.
        release, by: of the zoo, and whose file of it; ``""`` for an address of the user's.
    """

    address: str
    sha256: str
    release: str = ""
    by: str = ""

    def __str__(self) -> str:
        name = f"{self.release} ({self.by})" if self.release else self.address
        return f"{name}, SHA-256 {self.sha256}"


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """A file of the cache, and how to get it."""

    path: Path
    address: Optional[str]  # None: there is only a page
    page: str
    digits: Optional[str]
    release: str = ""
    by: str = ""


def is_named(given: Any) -> bool:
    """Tells whether a text names a release or an address, and no file or folder that is there."""
    return (
        isinstance(given, str)
        and not os.path.lexists(given)
        and (bool(_ADDRESS.match(given)) or given.partition("@")[0] in zoo.releases())
    )


def named_file(given: str, check: Callable[[Path], None]) -> Tuple[str, Source]:
    """Returns the file that a name means, and where it comes from.

    It stands in the cache, in ``weights/<release>/<file>``, with a record of what it was beside it,
    and is fetched where it is not there.

    Args:
        given: a release of the zoo, ``NAME``, or one publisher's file of it, ``NAME@PUBLISHER``
            (or ``NAME@FILE``); or an address, ``https://…``.
        check: raises a PasslError for a file that holds no weights.

    Raises:
        PasslError: it cannot be had, or is not what it was.
    """
    wanted = _of_address(given) if _ADDRESS.match(given) else _of_release(given)
    if not wanted.path.exists():
        fetch(
            _address(given, wanted), wanted.path, _by_hand(wanted), wanted.digits, check,
            functools.partial(_record, wanted),
        )  # fmt: skip
    return str(wanted.path), _source(wanted)


def hint(given: str) -> str:
    """Returns what may have been meant by a file that is not there, for its message."""
    name = given.partition("@")[0]
    of_network = zoo.networks().get(name)
    if of_network:
        return f", and it is no release but a network, whose releases are {listing(of_network)}"
    near = difflib.get_close_matches(name, zoo.releases(), 1, 0.8)
    return f", and no release is called so (did you mean '{near[0]}'?)" if near else ""


# ------------------------------------------------ which file


def _of_release(given: str) -> _Wanted:
    name, _, whose = given.partition("@")
    release = zoo.get_release(name)
    files = [file for file in release.files if whose in ("", file.by, file.name)]
    if not files:
        raise PasslError(
            f"{name} has no file by '{whose}'; there are those by "
            f"{listing({file.by for file in release.files})}"
        )
    folder = _folder() / name
    # What there is only a page for may have been put there by hand.
    there = [file for file in files if file.address() or (folder / file.name).exists()]
    file = (there or files)[0]
    return _Wanted(folder / file.name, file.address(), file.url, file.sha256, name, file.by)


def _of_address(given: str) -> _Wanted:
    name = os.path.basename(unquote(urlsplit(given).path, errors="replace")).lstrip(".")
    name = "".join(letter if letter.isprintable() else "_" for letter in name)
    digits = _DIGITS.search(name)
    known = digits[1] if digits and not _DATE.fullmatch(digits[1]) else None
    # The end of a long name holds the suffix, and digits of the hash.
    name = name.encode()[-_LONGEST:].decode(errors="ignore") or "weights"
    key = hashlib.sha256(given.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return _Wanted(_folder() / "addresses" / key / name, given, given, known)


def _folder() -> Path:
    folder = cache_folder("weights")
    if folder is None:
        raise PasslError(
            "there is no place for weights that are fetched: set PASSL_CACHE to a folder, or HOME"
        )
    return folder.absolute()


# ------------------------------------------------ where from


def _address(given: str, wanted: _Wanted) -> str:
    """Returns where to fetch a file.

    Raises:
        PasslError: from nowhere; with what to do.
    """
    page = shown_address(wanted.address or wanted.page)
    if os.environ.get(OFFLINE, "").lower() not in ("", "0", "false", "no", "off"):
        raise PasslError(
            f"{shown_address(given) if not wanted.release else given}: is not in the cache, and "
            f"{OFFLINE} is set; put the file from {page} at {wanted.path}"
        )
    mirror = os.environ.get(MIRROR)
    if mirror and wanted.release:
        if not _ADDRESS.match(mirror):
            raise PasslError(f"{MIRROR}={mirror}: is the address of a server, https://…")
        return f"{mirror.rstrip('/')}/{wanted.release}/{quote(wanted.path.name)}"
    if wanted.address is None:
        raise PasslError(
            f"{given}: {wanted.path.name} stands behind a page that only people can use; get it "
            f"from {wanted.page} and give its path, or put it at {wanted.path}"
        )
    endpoint = os.environ.get(HF_ENDPOINT)
    if endpoint and wanted.release and wanted.address.startswith(zoo.HUGGING_FACE):
        return f"{endpoint.rstrip('/')}/{wanted.address[len(zoo.HUGGING_FACE) :]}"
    return wanted.address


def _by_hand(wanted: _Wanted) -> str:
    mirror = f" or {MIRROR}" if wanted.release else ""
    return (
        f"set HTTPS_PROXY{mirror}, or put the file from "
        f"{shown_address(wanted.address or wanted.page)} at {wanted.path}"
    )


# ------------------------------------------------ what it was


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _record(wanted: _Wanted, file: Path, digest: str) -> None:
    """Writes down what a file is, beside where it is to be."""
    before = _read_record(wanted.path).get("sha256", digest)
    if before != digest:
        logger.warning(
            "%s: is another file than the one that was fetched before (SHA-256 %s, then %s)",
            shown_address(wanted.address or wanted.page), digest, before,
        )  # fmt: skip
    status = file.stat()
    record = {
        "release": wanted.release,
        "by": wanted.by,
        "address": shown_address(wanted.address or wanted.page),
        "sha256": digest,
        "size": status.st_size,
        "changed": status.st_mtime_ns,
        "recorded": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    with replacing(_record_of(wanted.path)) as aside:
        aside.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _source(wanted: _Wanted) -> Source:
    """Returns where a file of the cache comes from, after a look at whether it is still the same.

    Raises:
        PasslError: it is another one than was recorded, or than its known hash says.
    """
    record = _read_record(wanted.path)
    status = wanted.path.stat()
    digest = record.get("sha256", "")
    if (status.st_size, status.st_mtime_ns) != (record.get("size"), record.get("changed")):
        found = sha256_of(wanted.path)
        right = digest or wanted.digits or ""
        if not found.startswith(right):
            raise PasslError(
                f"{wanted.path}: has the SHA-256 {found}, where {right}… is right; it was changed "
                "or is another file; remove it, and it is fetched again"
            )
        digest = found
        try:
            _record(wanted, wanted.path, digest)
        except OSError:  # a cache of others, which cannot be written to
            pass
    address = shown_address(wanted.address or wanted.page)
    return Source(address, digest, wanted.release, wanted.by)


def _read_record(path: Path) -> Dict[str, Any]:
    try:
        record = json.loads(_record_of(path).read_text(encoding="utf-8"))
        return record if isinstance(record["sha256"], str) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
