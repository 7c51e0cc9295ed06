"""A file from an address is whole or not there, whatever network and server do on the way."""

import errno
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
from weight_server import PEM, Answer, Site, without_proxies

from passl.utils import file_locks
from passl.utils import taking_turns as turns
from passl.utils.errors import PasslError
from passl.weights import fetching
from passl.weights.fetching import fetch

CONTENT = np.random.default_rng(0).bytes(3 << 20)
OTHER = np.random.default_rng(1).bytes(3 << 20)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MIDDLE = 1 << 20
BY_HAND = "or put it there by hand"


@pytest.fixture
def site(monkeypatch):
    without_proxies(monkeypatch)
    monkeypatch.setattr(fetching, "_PAUSE", 0.01)
    with Site() as site:
        site.files["/file.bin"] = CONTENT
        yield site


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "file.bin"


def got(site, target, **options):
    fetch(f"{site.address}/file.bin", target, BY_HAND, **options)
    return target.read_bytes()


def fails(site, target, words, path="/file.bin", **options):
    with pytest.raises(PasslError, match=words) as error:
        fetch(f"{site.address}{path}", target, BY_HAND, **options)
    assert not target.exists() and "\n" not in str(error.value)
    return str(error.value)


def left(target):
    return sorted(path.name for path in target.parent.iterdir())


@pytest.mark.smoke
def test_a_whole_file_and_no_second_request(site, target):
    assert got(site, target) == CONTENT
    assert got(site, target) == CONTENT
    assert len(site.requests) == 1 and left(target) == ["file.bin"]
    assert site.requests[0][1]["Accept-Encoding"] == "identity"


def test_a_cut_download_goes_on_where_it_was(site, target):
    site.answers = [Answer(cut=MIDDLE), Answer(cut=MIDDLE)]
    assert got(site, target) == CONTENT
    assert site.sent == len(CONTENT), "no byte twice"
    ranges = [headers.get("Range") for _, headers in site.requests]
    assert ranges == [None, f"bytes={MIDDLE}-", f"bytes={2 * MIDDLE}-"]
    assert left(target) == ["file.bin"]


def test_a_server_without_ranges_begins_anew(site, target):
    site.answers = [Answer(cut=MIDDLE), Answer(ranges=False)]
    assert got(site, target) == CONTENT
    assert site.sent == len(CONTENT) + MIDDLE


def test_without_anything_that_tells_files_apart_it_begins_anew(site, target):
    site.answers = [Answer(cut=MIDDLE, tag=None), Answer(tag=None)]
    assert got(site, target) == CONTENT
    assert "Range" not in site.requests[1][1]


def test_the_time_of_change_tells_files_apart_too_and_a_weak_tag_does_not(site, target):
    when = "Wed, 21 Oct 2015 07:28:00 GMT"
    site.answers = [Answer(cut=MIDDLE, tag='W/"x"', Last_Modified=when)]
    assert got(site, target) == CONTENT
    assert site.requests[1][1]["If-Range"] == when


@pytest.mark.parametrize("other", [OTHER, OTHER[:1000]], ids=["as long", "shorter"])
def test_a_file_that_has_changed_in_between_begins_anew(site, target, other):
    site.answers = [Answer(cut=MIDDLE)]
    site.files["/file.bin"] = CONTENT

    def change():
        while len(site.requests) < 1 or site.sent < MIDDLE:
            time.sleep(0.001)
        site.files["/file.bin"] = other

    thread = threading.Thread(target=change)
    thread.start()
    assert got(site, target) == other
    thread.join()


@pytest.mark.parametrize(
    "answer",
    [
        Answer(206, OTHER[MIDDLE:], tag='"other"', Content_Range=f"bytes {MIDDLE}-3145727/3145728"),
        Answer(206, OTHER[MIDDLE:], tag=None, Content_Range=f"bytes {MIDDLE}-4145727/4145728"),
        Answer(206, OTHER, tag=None, Content_Range="bytes 0-3145727/3145728"),
        Answer(206, OTHER, tag=None),
        Answer(416, b""),
    ],
    ids=["tag", "size", "place", "nothing", "refused"],
)
def test_a_part_of_another_file_is_not_put_to_the_first(site, target, answer):
    """From servers that do not heed If-Range."""
    site.answers = [Answer(cut=MIDDLE), answer]
    assert got(site, target) == CONTENT
    assert "Range" not in site.requests[2][1]


def test_it_gives_up_where_it_gets_no_further(site, target):
    site.usual = Answer(cut=1000)
    words = fails(
        site, target, r"the connection (ended|was lost).*5 times; or put it there by hand"
    )
    assert len(site.requests) == 5 and words.startswith(f"{site.address}/file.bin: ")
    # What came stays for the next time.
    site.usual = Answer()
    assert got(site, target) == CONTENT and site.sent == len(CONTENT)


def test_getting_further_is_no_failure(site, target):
    site.files["/file.bin"] = big = CONTENT * 3
    site.usual = Answer(cut=MIDDLE)  # nine times
    assert got(site, target) == big and len(site.requests) == 9


def test_getting_as_far_again_is_one(site, target):
    """Where every try begins anew."""
    site.usual = Answer(cut=2 * MIDDLE, tag=None)
    fails(site, target, "5 times")
    assert len(site.requests) == 5


def test_a_length_that_is_too_long_is_never_whole(site, target):
    site.usual = Answer(Content_Length=str(len(CONTENT) + 10), ranges=False)
    fails(site, target, "10 more were to come|3,145,728 of 3,145,738 bytes")


def test_what_came_is_looked_at_before_it_takes_its_place(site, target):
    """As with a length that is too short, after which nothing more is read."""

    def check(path):
        if path.stat().st_size < len(CONTENT):
            raise PasslError(f"{path}: is damaged")

    site.usual = Answer(Content_Length=str(MIDDLE))
    words = fails(site, target, "what came is damaged; it was not kept", check=check)
    assert str(target) not in words and left(target) == []
    site.usual = Answer()
    assert got(site, target, check=check) == CONTENT


def test_hashes(site, target):
    words = fails(site, target, "it was not kept", digits="0" * 8)
    assert SHA256 in words and "00000000…" in words and left(target) == []
    found = []
    assert got(site, target, digits=SHA256[:8], finish=lambda *a: found.append(a)) == CONTENT
    assert found == [(target.with_name("file.bin.part"), SHA256)]


@pytest.mark.parametrize(
    "page",
    [Answer(200, b"<!DOCTYPE html><p>Log in", Content_Type="text/html; charset=utf-8"),
     Answer(200, b"\n <html>"), Answer(200, b"please log in", Content_Type="text/html")],
)  # fmt: skip
def test_a_page_in_the_place_of_a_file(site, target, page):
    site.answers = [page]
    fails(site, target, "gives a web page in the place of a file.*or put it there by hand")
    assert len(site.requests) == 1
    # One that comes in the middle does not cost what was there: a portal's, at a hotel.
    site.answers = [Answer(cut=MIDDLE), page]
    fails(site, target, "web page")
    site.sent = 0
    assert got(site, target) == CONTENT and site.sent == len(CONTENT) - MIDDLE


def test_a_file_that_begins_nearly_as_a_page_does(site, target):
    """The length of a header, 15,392 bytes, as .safetensors files write it."""
    site.files["/file.bin"] = (15392).to_bytes(8, "little") + b"{" + CONTENT
    assert got(site, target)[:4] == b" <\0\0"


def test_what_is_not_there_is_asked_for_once(site, target):
    fails(site, target, "says 404 Not Found; or put it there by hand", path="/nothing")
    site.usual = Answer(403)
    fails(site, target, "says 403 Forbidden")
    assert len(site.requests) == 2


def test_busy_servers_are_asked_again_after_the_time_they_name(site, target, monkeypatch):
    pauses = []
    monkeypatch.setattr(fetching, "time", SimpleNamespace(sleep=pauses.append))
    site.answers = [
        Answer(503),
        Answer(429, Retry_After="7"),
        Answer(500),
        Answer(502, Retry_After="soon"),
    ]
    assert got(site, target) == CONTENT
    assert pauses == pytest.approx([0.01, 7, 0.04, 0.08])
    site.usual = Answer(503)
    target.unlink()
    fails(site, target, "503 Service Unavailable, 5 times")


def test_redirects(site, target):
    site.answers = [Answer(302, b"", Location="/elsewhere")]
    site.files["/elsewhere"] = CONTENT
    assert got(site, target) == CONTENT
    assert [path for path, _ in site.requests] == ["/file.bin", "/elsewhere"]
    target.unlink()
    site.usual = Answer(302, b"", Location="/file.bin")
    fails(site, target, "circle of redirects")
    site.usual = Answer(302, b"", Location="ftp://127.0.0.1/file")
    fails(site, target, "cannot be fetched")
    site.usual = Answer(302, b"", Location="file:///etc/passwd")
    fails(site, target, "cannot be fetched")


def test_encrypted_addresses_stay_so(site, target, monkeypatch):
    with Site(secure=True) as secure:
        secure.files["/file.bin"] = CONTENT
        words = fails(secure, target, "certificate cannot be verified.*REQUESTS_CA_BUNDLE")
        assert "self" in words
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(PEM))
        assert got(secure, target) == CONTENT
        target.unlink()
        secure.usual = Answer(302, b"", Location=f"{site.address}/file.bin?token=secret")
        words = fails(secure, target, "which is not encrypted")
        assert "secret" not in words and not site.requests
        # The other way round is followed.
        secure.usual = Answer()
        site.usual = Answer(302, b"", Location=f"{secure.address}/file.bin")
        assert got(site, target) == CONTENT


def test_servers_that_do_not_answer(site, target, monkeypatch):
    monkeypatch.setenv("PASSL_FETCH_TIMEOUT", "0.5")
    site.answers = [Answer(wait=1.5)]
    assert got(site, target) == CONTENT and len(site.requests) == 2
    target.unlink()
    site.usual = Answer(wait=1)
    fails(site, target, r"no answer for 0\.5 s, 5 times")
    monkeypatch.setenv("PASSL_FETCH_TIMEOUT", "soon")
    fails(site, target, "PASSL_FETCH_TIMEOUT=soon: is a number of seconds")


def test_a_server_that_stops_sending(site, target, monkeypatch):
    monkeypatch.setenv("PASSL_FETCH_TIMEOUT", "0.3")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        for _ in range(2):
            connection = listener.accept()[0]
            connection.recv(10000)
            connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\nETag: "a"\r\n\r\nabc')
            held.append(connection)

    held = []
    monkeypatch.setattr(fetching, "_TRIES", 2)
    threading.Thread(target=serve, daemon=True).start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
    with pytest.raises(PasslError, match=r"(nothing came for 0\.3 s|lost).*2 times"):
        fetch(address, target, BY_HAND)
    listener.close()


def test_without_a_network_there_is_one_line_at_once(site, target, monkeypatch):
    def unknown(*arguments, **options):
        raise socket.gaierror(-2, "Name or service not known")

    with socket.create_server(("127.0.0.1", 0)) as free:
        closed = f"http://127.0.0.1:{free.getsockname()[1]}/file.bin"
    with pytest.raises(PasslError) as error:
        fetch(closed, target, BY_HAND)
    assert str(error.value) == f"{closed}: cannot be reached (Connection refused); {BY_HAND}"
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(PasslError) as error:
        fetch("https://weights.example/a.bin", target, BY_HAND)
    assert str(error.value) == (
        "https://weights.example/a.bin: cannot be reached (Name or service not known); " + BY_HAND
    )


@pytest.mark.parametrize(
    "address", ["https://", "http://[::1", "https://exa mple/x", "http://x:port/y"]
)
def test_what_is_no_address(site, target, address):
    with pytest.raises(PasslError, match="cannot be") as error:
        fetch(address, target, BY_HAND)
    assert "\n" not in str(error.value)


def test_proxies_are_used_and_left_out_as_the_environment_says(site, target, monkeypatch):
    asked = []

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.server_port}")
    fetch("http://weights.example/file.bin", target, BY_HAND)
    assert target.read_bytes() == CONTENT and asked == ["http://weights.example/file.bin"]
    target.unlink()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert got(site, target) == CONTENT and len(asked) == 1
    server.shutdown()
    server.server_close()
    target.unlink()
    with pytest.raises(PasslError, match="proxy cannot be reached.*NO_PROXY"):
        fetch("http://weights.example/file.bin", target, BY_HAND)


def test_a_full_disk(site, target, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, len(CONTENT) - 1))
    words = fails(site, target, "No space left on device.*make room there")
    assert words.startswith(str(target)) and left(target) == []
    part = target.with_name("file.bin.part")

    def just_enough(path):
        return usage(0, 0, len(CONTENT) - (part.stat().st_size if part.exists() else 0))

    monkeypatch.setattr(shutil, "disk_usage", just_enough)
    for ranges in (True, False):
        site.answers = [Answer(cut=MIDDLE), Answer(ranges=ranges)]
        assert got(site, target) == CONTENT
        target.unlink()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    fails(site, target, "No space left on device")
    assert left(target) == [], "others need the room"


def test_a_folder_that_cannot_be_written_to(site, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PasslError, match="name another place"):
        fetch(f"{site.address}/file.bin", tmp_path / "file" / "x" / "y", BY_HAND)


def test_secrets_are_not_shown(site, target):
    with pytest.raises(PasslError) as error:
        fetch(f"{site.address}/no?token=secret".replace("//", "//me:secret@"), target, BY_HAND)
    assert "404" in str(error.value) and "secret" not in str(error.value)


# ------------------------------------------------ several processes

FETCH = """
import sys
from pathlib import Path
from passl.weights.fetching import fetch
fetch(sys.argv[1], Path(sys.argv[2]), "by hand")
print("done")
"""


def start(site, target):
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, f"{site.address}/file.bin", str(target)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_of_several_processes_one_fetches(site, target):
    site.pace = 0.0005
    processes = [start(site, target) for _ in range(3)]
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, "done\n"), err
    assert target.read_bytes() == CONTENT
    assert len(site.requests) == 1 and left(target) == ["file.bin"]


def test_of_several_threads_one_fetches(site, target):
    threads = [threading.Thread(target=got, args=(site, target)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == CONTENT and len(site.requests) == 1


def test_after_a_kill_it_goes_on_and_nothing_is_in_the_way(site, target):
    site.pace = 0.002
    process = start(site, target)
    while site.sent < MIDDLE:
        time.sleep(0.005)
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    there = target.with_name("file.bin.part").stat().st_size
    assert 0 < there < len(CONTENT) and not target.exists()
    site.pace = 0
    time.sleep(0.1)  # until the server notices
    site.sent = 0
    begin = time.monotonic()
    assert got(site, target) == CONTENT
    assert site.sent == len(CONTENT) - there and time.monotonic() - begin < 60
    assert left(target) == ["file.bin"]


def test_a_part_of_another_address_or_of_an_unknown_one_is_not_taken(site, target):
    target.parent.mkdir()
    part, state = (target.with_name(f"file.bin.part{end}") for end in ("", ".json"))
    tag = f'"{hashlib.sha256(CONTENT).hexdigest()[:16]}"'
    address = f"{site.address}/file.bin"
    whole = {"address": address, "validator": tag, "size": len(CONTENT)}
    for text in (
        None, "", "[]", "null", "{}", json.dumps({**whole, "address": "http://x/file.bin"}),
        json.dumps({**whole, "validator": None}), json.dumps({**whole, "size": 10}),
    ):  # fmt: skip
        part.write_bytes(OTHER[:MIDDLE])
        state.unlink(missing_ok=True) if text is None else state.write_text(text)
        assert got(site, target) == CONTENT, text
        assert '"size": 10' in str(text) or "Range" not in site.requests[-1][1], text
        target.unlink()
    # A whole one, whose process ended before the last step, needs no server.
    part.write_bytes(CONTENT)
    state.write_text(json.dumps(whole))
    site.requests.clear()
    assert got(site, target) == CONTENT and not site.requests


HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "a+")
fcntl.lockf(file, fcntl.LOCK_EX)
file.write("process 7 on far\\n")
file.flush()
print("held", flush=True)
time.sleep(60)
"""


def test_who_holds_a_file_and_does_nothing_is_not_waited_for_for_ever(site, target, monkeypatch):
    monkeypatch.setattr(turns, "_PATIENCE", 1.5)
    target.parent.mkdir()
    lock, part = (target.with_name(f"file.bin.{end}") for end in ("lock", "part"))
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    begin = time.monotonic()
    words = fails(site, target, "is held by process 7 on far, which has got no further")
    assert words.startswith(str(lock)) and 1.4 < time.monotonic() - begin < 60
    # While it gets further it is waited for.
    stop = threading.Event()

    def work():
        for size in range(1, 8):
            part.write_bytes(bytes(size))
            time.sleep(0.3)
        stop.set()
        holder.kill()

    thread = threading.Thread(target=work)
    thread.start()
    assert got(site, target) == CONTENT and stop.is_set()
    thread.join()
    holder.communicate()


def test_a_lock_that_another_process_removed_is_taken_anew(tmp_path, monkeypatch):
    """As who was first removes it when it is done, between our opening and locking it."""
    lock, real, calls = tmp_path / "x.lock", file_locks.fcntl.lockf, []

    def lockf(file, how):
        real(file, how)
        calls.append(file)
        if len(calls) == 1:
            lock.unlink()

    monkeypatch.setattr(file_locks.fcntl, "lockf", lockf)
    with turns.taking_turns(lock, lambda: 0, "trying") as alone:
        assert alone and len(calls) == 2
        assert lock.read_text().startswith(f"process {os.getpid()} on ")
    assert not lock.exists()


@pytest.mark.parametrize("no_module", [False, True])
def test_a_file_system_without_locks(site, target, monkeypatch, no_module):
    def none(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    if no_module:
        monkeypatch.setattr(file_locks, "fcntl", None)
    else:
        monkeypatch.setattr(file_locks.fcntl, "lockf", none)
    site.answers = [Answer(cut=MIDDLE)]
    target.parent.mkdir()
    theirs = target.with_name("file.bin.part")
    theirs.write_bytes(b"of another process")
    assert got(site, target) == CONTENT and theirs.read_bytes() == b"of another process"
    assert left(target) == ["file.bin", "file.bin.part"]
