"""A web server that behaves as a test tells it to: well, or in any way that breaks a download."""

import contextlib
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

_PATIENCE = 60.0
"""Seconds that a stalled answer waits at most."""


@dataclass
class File:
    """What the server has at a path, and how it sends it."""

    data: bytes = b""
    etag: str | None = '"one"'
    modified: str | None = None
    type: str = "application/octet-stream"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    head: int = 200
    """Status of HEAD; GET has ``status``."""
    length: int | None = None
    """A ``Content-Length`` that is not the true one."""
    chunked: bool = False
    """Sent in chunks, its length not told."""
    cuts: list[int] = field(default_factory=list)
    """Of each GET in turn: after so many bytes of the body the connection is closed."""
    stalls: list[int] = field(default_factory=list)
    """Of each GET in turn: after so many bytes nothing more comes."""
    on_get: Callable[["File"], None] | None = None
    """Called before each GET is answered."""


class Request(NamedTuple):
    """What was asked."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


class Site:
    """A running server."""

    def __init__(self, certificate: tuple[Path, Path] | None = None) -> None:
        self.files: dict[str, File] = {}
        self.requests: list[Request] = []
        self.released = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self._scheme = "https"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def url(self, path: str, *, login: str = "") -> str:
        return f"{self._scheme}://{login}127.0.0.1:{self.port}{path}"

    def asked(self, method: str, path: str) -> list[Request]:
        return [request for request in self.requests if (request.method, request.path) == (method, path)]

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is what many tests are about."""


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = _PATIENCE
        body = b""

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            file = self._file()
            self._begin(file, file.head, file.data if file.head == 200 else b"")

        def do_GET(self) -> None:
            file = self._file()
            if file.on_get is not None:
                file.on_get(file)
            status, body, more = _part(file, self.headers.get("Range"), self.headers.get("If-Range"))
            self._begin(file, status, body, more)
            self._send(file, body)

        def do_POST(self) -> None:
            self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.do_GET()

        def _file(self) -> File:
            site.requests.append(Request(self.command, self.path, dict(self.headers), self.body))
            return site.files.get(self.path) or File(b"nothing here\n", status=404, head=404, etag=None)

        def _begin(self, file: File, status: int, body: bytes, more: dict[str, str] | None = None) -> None:
            self.close_connection = True
            self.send_response(status)
            told = {"Content-Type": file.type, "ETag": file.etag, "Last-Modified": file.modified}
            if file.chunked:
                told["Transfer-Encoding"] = "chunked"
            else:
                told["Content-Length"] = str(len(body) if file.length is None else file.length)
            for name, value in {**told, **file.headers, **(more or {}), "Connection": "close"}.items():
                if value is not None:
                    self.send_header(name, value)
            self.end_headers()

        def _send(self, file: File, body: bytes) -> None:
            if file.cuts:
                self.wfile.write(body[: file.cuts.pop(0)])
                return
            if file.stalls:
                self.wfile.write(body[: file.stalls.pop(0)])
                site.released.wait(_PATIENCE)
                return
            if not file.chunked:
                self.wfile.write(body)
                return
            for at in range(0, len(body), 5000):
                piece = body[at : at + 5000]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")

    return Handler


def _part(file: File, wanted: str | None, condition: str | None) -> tuple[int, bytes, dict[str, str]]:
    if file.status != 200 or wanted is None or not file.ranges or condition not in (None, file.etag):
        return file.status, file.data, {}
    start = int(wanted.removeprefix("bytes=").removesuffix("-"))
    size = len(file.data)
    if start >= size:
        return 416, b"", {"Content-Range": f"bytes */{size}"}
    return 206, file.data[start:], {"Content-Range": f"bytes {start}-{size - 1}/{size}"}


@contextlib.contextmanager
def site(certificate: tuple[Path, Path] | None = None) -> Iterator[Site]:
    """A server with nothing in it yet."""
    made = Site(certificate)
    try:
        yield made
    finally:
        made.close()


class Certificates(NamedTuple):
    """Of a CA of the test's own, and of 127.0.0.1."""

    ca: Path
    certificate: Path
    key: Path


def certificates(folder: Path) -> Certificates:
    """Made by openssl(1), valid for a day."""
    made = Certificates(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    ca_key = folder / "ca-key.pem"
    new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    _openssl(*new, "-keyout", str(ca_key), "-out", str(made.ca), "-subj", "/CN=Lab CA")
    signed = ["-CA", str(made.ca), "-CAkey", str(ca_key), "-addext", "subjectAltName=IP:127.0.0.1"]
    signed += ["-addext", "basicConstraints=critical,CA:FALSE"]
    _openssl(*new, "-keyout", str(made.key), "-out", str(made.certificate), "-subj", "/CN=127.0.0.1", *signed)
    return made


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)
