"""A file from an address, whole or not at all; what was cut off goes on."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import time
from pathlib import Path
from typing import Any, Callable, Optional
from urllib.parse import urljoin, urlsplit

from tqdm import tqdm

from passl.utils.errors import PasslError
from passl.utils.logging import interactive, logger
from passl.utils.system_errors import explain_os_error
from passl.utils.taking_turns import taking_turns
from passl.utils.version import __version__
from passl.utils.whole_files import replacing, sha256_of

TIMEOUT = "PASSL_FETCH_TIMEOUT"
_SECONDS = 30.0  # without an answer or a byte
_TRIES = 5  # without getting further
_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds; doubled each time
_FURTHER = 1 << 20  # bytes: with so many more, a try does not count as failed
_BLOCK = 1 << 18
_BUSY = (429, 500, 502, 503, 504)
_PAGE = re.compile(rb"\s*<(!doctype|!--|html|head|body|\?xml)", re.I)
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class _Cut(Exception):
    """The transfer ended early, and may go on.

    Args:
        why: for the message, if it ends there.
        pause: seconds that the server asks to wait; None where it does not.
    """

    def __init__(self, why: str, pause: Optional[float] = None):
        super().__init__(why)
        self.pause = pause


def fetch(
    address: str,
    target: Path,
    by_hand: str,
    digits: Optional[str] = None,
    check: Optional[Callable[[Path], None]] = None,
    finish: Optional[Callable[[Path, str], None]] = None,
) -> None:
    """Fetches a file, unless it is there.

    One process at a time fetches to a path; others, on other machines as well, wait for it. What
    was cut off, by the network or by the end of the process, goes on where it was if the server can
    and has the same file still.

    Args:
        address: ``https://…`` or ``http://…``. Redirects are followed, but none from https to http.
        target: where to; the folder is made. Beside it stand ``<name>.part``, what came so far, and
            ``<name>.part.json``, what that belongs to.
        by_hand: what to do where the address cannot be reached, for messages.
        digits: the first hexadecimal digits of the SHA-256, where they are known.
        check: raises a PasslError for a file that is not what was wanted.
        finish: is called with the file, aside, and its SHA-256, before it takes its place.

    Raises:
        PasslError: it cannot be had, or is not what was wanted; then nothing is at ``target``.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = target.with_name(f"{target.name}.lock")
        with taking_turns(lock, lambda: _size(part), f"fetching {target.name}") as alone:
            if target.exists():
                return
            with contextlib.ExitStack() as afterwards:
                if not alone:  # another process may write to the same part
                    part = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
                    afterwards.callback(_forget, part)
                _Transfer(address, target, part, by_hand).run()
                digest = sha256_of(part)
                problem = _problem(part, digest, digits, check)
                if problem:
                    _forget(part)
                    raise PasslError(f"{shown_address(address)}: {problem}; it was not kept")
                if finish is not None:
                    finish(part, digest)
                os.replace(part, target)
                _forget(part)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _forget(part)  # others need the room
        raise explain_os_error(error, target) from None


def shown_address(address: str) -> str:
    """Returns an address for messages and records: without passwords, and what may hold tokens."""
    return re.sub(r"//[^/]*@", "//", re.split("[?#]", address)[0])


def _problem(
    part: Path, digest: str, digits: Optional[str], check: Optional[Callable[[Path], None]]
) -> Optional[str]:
    if digits and not digest.startswith(digits):
        return f"what came has the SHA-256 {digest}, where {digits}… is right"
    try:
        if check is not None:
            check(part)
    except PasslError as error:
        return f"what came {str(error).replace(f'{part}: ', '', 1)}"
    return None


def _state_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _forget(part: Path) -> None:
    for path in (part, _state_of(part)):
        path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


class _Transfer:
    """The bytes of an address, on their way to a file.

    Args:
        address, by_hand: see ``fetch``.
        target: for messages.
        part: where the bytes go.
    """

    def __init__(self, address: str, target: Path, part: Path, by_hand: str):
        self._address, self._target, self._part = address, target, part
        self._shown, self._by_hand = shown_address(address), by_hand
        # Of the file at the address: its size, and what tells that it is the same one.
        self._whole: Optional[int] = None
        self._validator: Optional[str] = None
        self._was_met = False

    def run(self) -> None:
        """Returns when all of it is there."""
        have = self._read_state()
        if have and have == self._whole:  # the process ended before the last step
            return
        session, fails, most = _session(), 0, have
        with session, tqdm(
            desc=self._target.name, unit="B", unit_scale=True, leave=False,
            disable=not interactive(),
        ) as bar:  # fmt: skip
            while True:
                try:
                    with self._ask(session, have) as answer:
                        self._take(answer, have, bar)
                    return
                except _Cut as cut:
                    now = _size(self._part)
                    fails = 1 if now >= most + _FURTHER else fails + 1
                    most = max(most, now)
                    have = now if self._validator else 0
                    if fails == _TRIES:
                        raise self._error(f"{cut}, {_TRIES} times") from None
                    pause = min(cut.pause or _PAUSE * 2 ** (fails - 1), _LONGEST_PAUSE)
                    logger.info("%s: %s; again in %.0f s", self._shown, cut, pause)
                    time.sleep(pause)

    def _error(self, why: str) -> PasslError:
        return PasslError(f"{self._shown}: {why}; {self._by_hand}")

    # ------------------------------------------------ what came before

    def _read_state(self) -> int:
        """Returns how many bytes of the file are there."""
        try:
            state = json.loads(_state_of(self._part).read_text(encoding="utf-8"))
            if state["address"] != self._shown:
                return 0
            validator, whole = state["validator"], state["size"]
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        if not isinstance(validator, str):
            return 0
        self._validator, self._whole = validator, whole
        return _size(self._part)

    def _write_state(self) -> None:
        state = {"address": self._shown, "validator": self._validator, "size": self._whole}
        with replacing(_state_of(self._part)) as aside:
            aside.write_text(json.dumps(state), encoding="utf-8")

    # ------------------------------------------------ asking

    def _ask(self, session: Any, have: int) -> Any:
        import requests
        from urllib3.exceptions import NewConnectionError

        # Not packed for the way: sizes and ranges would be those of the packed file.
        headers = {"User-Agent": f"passl/{__version__}", "Accept-Encoding": "identity"}
        if have:
            headers.update({"Range": f"bytes={have}-", "If-Range": str(self._validator)})
        seconds = _timeout()
        try:
            answer = session.get(self._address, headers=headers, stream=True, timeout=seconds)
        except requests.exceptions.TooManyRedirects:
            raise self._error("leads in a circle of redirects") from None
        except requests.exceptions.SSLError as error:
            raise self._error(
                f"its certificate cannot be verified ({_reason(error)}); where a proxy has one of "
                "its own, name that with REQUESTS_CA_BUNDLE=FILE"
            ) from None
        except requests.exceptions.ProxyError as error:
            raise self._error(
                f"the proxy cannot be reached, or does not let through ({_reason(error)}); see "
                "HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
            ) from None
        except requests.exceptions.ReadTimeout:
            raise _Cut(f"no answer for {seconds:g} s") from None
        except requests.exceptions.ConnectionError as error:
            inner = getattr(error.args[0] if error.args else None, "reason", None)
            nobody = isinstance(inner, NewConnectionError)
            if not self._was_met and (
                nobody or isinstance(error, requests.exceptions.ConnectTimeout)
            ):
                raise self._error(f"cannot be reached ({_reason(error)})") from None
            raise _Cut(f"the connection was lost ({_reason(error)})") from None
        except (requests.exceptions.RequestException, UnicodeError) as error:
            raise self._error(f"cannot be fetched ({_reason(error)})") from None
        self._was_met = True
        return answer

    # ------------------------------------------------ taking

    def _take(self, answer: Any, have: int, bar: tqdm) -> None:
        status = f"the server says {answer.status_code} {answer.reason}"
        if answer.status_code in _BUSY:
            asked = answer.headers.get("Retry-After", "")
            raise _Cut(status, float(asked) if asked.isdecimal() else None)
        goes_on = answer.status_code == 206 and self._goes_on(answer, have)
        if answer.status_code == 416 or (answer.status_code == 206 and not goes_on):
            self._validator = None  # so the next time all of it is asked for
            raise _Cut("the server has another file than before")
        if answer.status_code not in (200, 206):
            raise self._error(status)
        block = _read(answer)
        if not goes_on:
            have = 0
            if _is_page(answer, block):
                raise self._error(
                    "gives a web page in the place of a file (one to log in, or where files are "
                    "listed?)"
                )
            size = answer.headers.get("Content-Length", "")
            self._whole = int(size) if size.isdecimal() else None
            self._validator = _validator_of(answer)
        self._check_room()
        logger.info(
            "fetching %s%s%s", self._shown,
            f", {self._whole / 1e6:,.1f} MB" if self._whole else "",
            f", from {have / 1e6:,.1f} MB on" if have else "",
        )  # fmt: skip
        bar.total = self._whole
        bar.update(have - bar.n)
        with open(self._part, "r+b") if goes_on else open(self._part, "wb") as file:
            if not goes_on:
                self._write_state()
            file.seek(have)
            while block:
                file.write(block)
                bar.update(len(block))
                block = _read(answer)
            file.flush()
            os.fsync(file.fileno())
            have = file.tell()
        if self._whole is not None and have != self._whole:
            raise _Cut(f"the connection ended after {have:,} of {self._whole:,} bytes")

    def _goes_on(self, answer: Any, have: int) -> bool:
        """Tells whether an answer is the rest of the very file whose beginning is there."""
        found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != have or not have:
            return False
        whole = None if found[2] == "*" else int(found[2])
        if None not in (whole, self._whole) and whole != self._whole:
            return False
        self._whole = self._whole if whole is None else whole
        return _validator_of(answer) in (self._validator, None)

    def _check_room(self) -> None:
        if self._whole is not None:
            free = shutil.disk_usage(self._part.parent).free
            if self._whole > free + _size(self._part):
                full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._target))
                raise explain_os_error(full)


def _session() -> Any:
    # Imported late: it takes a tenth of a second, which commands without a network need not wait.
    import requests

    class Session(requests.Session):
        def get_redirect_target(self, response: Any) -> Optional[str]:
            target = super().get_redirect_target(response)
            if target and response.url.startswith("https:"):
                there = urljoin(response.url, target)
                if urlsplit(there).scheme != "https":
                    raise PasslError(
                        f"{shown_address(response.url)}: leads to {shown_address(there)}, which is "
                        "not encrypted, and is not followed"
                    )
            return target

    return Session()


def _timeout() -> float:
    given = os.environ.get(TIMEOUT) or _SECONDS
    with contextlib.suppress(ValueError):
        if 0 < float(given) < float("inf"):
            return float(given)
    raise PasslError(f"{TIMEOUT}={given}: is a number of seconds, such as 30")


def _read(answer: Any) -> bytes:
    """Returns the next bytes of an answer, as they were sent; none at its end."""
    from urllib3.exceptions import HTTPError, ReadTimeoutError

    try:
        return answer.raw.read(_BLOCK, decode_content=False)
    except ReadTimeoutError:
        raise _Cut(f"nothing came for {_timeout():g} s") from None
    except (HTTPError, OSError) as error:
        raise _Cut(f"the connection was lost ({_reason(error)})") from None


def _validator_of(answer: Any) -> Optional[str]:
    """Returns what a server says to tell its files apart: a strong ETag, or the time of change."""
    tag = answer.headers.get("ETag", "")
    if tag.startswith('"'):
        return tag
    return answer.headers.get("Last-Modified")


def _is_page(answer: Any, block: bytes) -> bool:
    kind = answer.headers.get("Content-Type", "")
    return kind.startswith("text/html") or bool(_PAGE.match(block))


def _reason(error: BaseException) -> str:
    """Returns the cause out of the long texts of the network's libraries."""
    text = str(error)
    found = re.search(r"\[Errno -?\d+\] ([^'\")]+)", text) or re.search(
        r"certificate verify failed: ([^(]+)", text
    )
    if found:
        return found[1].strip()
    found = re.search(r"IncompleteRead\((\d+) bytes read, (\d+) more", text)
    if found:
        return f"{int(found[1]):,} bytes came, {int(found[2]):,} more were to come"
    inner: Any = error
    while inner.args and isinstance(inner.args[-1], BaseException):
        inner = getattr(inner.args[-1], "reason", None) or inner.args[-1]
    return str(inner).rpartition(": ")[2][:120] or type(inner).__name__
