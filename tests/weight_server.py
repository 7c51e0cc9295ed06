"""A server of files on this machine that misbehaves as it is told to, request by request."""

import contextlib
import hashlib
import re
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PEM = Path(__file__).parent / "weights" / "files" / "of_this_machine.pem"
PROXIES = [f"{name}_proxy" for name in ("http", "https", "no", "all")]


class Answer:
    """How one request is answered; without arguments as servers of files do.

    ``cut`` drops the connection after so many bytes of the body; ``wait`` is in seconds, before the
    first byte; ``ranges`` says whether parts are served; ``tag`` is the ETag, and None none.
    """

    def __init__(self, status=200, body=None, cut=None, ranges=True, tag="", wait=0, **headers):
        self.status, self.body, self.cut, self.ranges = status, body, cut, ranges
        self.tag, self.wait = tag, wait
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        site = self.server.site
        with site.lock:
            site.requests.append((self.path, dict(self.headers)))
            answer = site.answers.pop(0) if site.answers else site.usual
        time.sleep(answer.wait)
        body = site.files.get(self.path) if answer.body is None else answer.body
        status = answer.status
        if body is None and status == 200:
            status, body = 404, b"<html>no such file</html>"
        body = body or b""
        tag = answer.tag
        if tag == "":
            tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        headers = {} if tag is None else {"ETag": tag}
        begin = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if begin and status == 200 and answer.ranges and self.headers["If-Range"] == tag:
            begin, status = int(begin[1]), 206
            headers["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
            body = body[begin:]
        headers["Content-Length"] = str(len(body))
        if answer.cut is not None or answer.headers:
            headers["Connection"] = "close"
        headers.update(answer.headers)
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        sent = body[: answer.cut]
        with contextlib.suppress(OSError):
            for place in range(0, len(sent), 4096):
                self.wfile.write(sent[place : place + 4096])
                with site.lock:
                    site.sent += len(sent[place : place + 4096])
                time.sleep(site.pace)


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass


class Site:
    """A running server, as a context.

    Attributes:
        files: path -> bytes; answers: those of the next requests, afterwards as ``usual``.
        requests: path and headers of each so far; sent: bytes of bodies.
        pace: seconds after every 4096 bytes.
    """

    def __init__(self, secure=False):
        self.files, self.answers, self.requests, self.sent = {}, [], [], 0
        self.usual, self.pace = Answer(), 0
        self.lock = threading.Lock()
        self._server = _Quiet(("127.0.0.1", 0), _Handler)
        self._server.site = self
        scheme = "http"
        if secure:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(PEM)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            scheme = "https"
        self.address = f"{scheme}://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True).start()
        return self

    def __exit__(self, *error):
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


def without_proxies(monkeypatch):
    """Keeps the machine's own settings out of a test."""
    for name in PROXIES:
        for variable in (name, name.upper()):
            monkeypatch.delenv(variable, raising=False)
    for variable in ("PASSL_OFFLINE", "PASSL_WEIGHTS_MIRROR", "HF_ENDPOINT", "REQUESTS_CA_BUNDLE",
                     "CURL_CA_BUNDLE", "PASSL_FETCH_TIMEOUT"):  # fmt: skip
        monkeypatch.delenv(variable, raising=False)
