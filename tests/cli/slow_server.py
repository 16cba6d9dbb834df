"""An HTTP server on this host that stops in the middle of an image until it is told to go on."""

import subprocess
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

WAIT = 60
"""Seconds that it stands still at most."""


class SlowServer:
    """Serves ``content`` under any name: the first half at once, the rest after :attr:`go_on`."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.half_way, self.go_on = threading.Event(), threading.Event()
        self.trickle = False
        """Send the rest in pieces instead, over a second: long enough for progress to be shown."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/image.raw"

    def reached_by(self, process: "subprocess.Popen[Any]") -> bool:
        """Whether the process gets half of the image, before it ends."""
        deadline = time.monotonic() + WAIT
        while not self.half_way.wait(0.05):
            if process.poll() is not None or time.monotonic() > deadline:
                return False
        return True

    def __enter__(self) -> "SlowServer":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._thread.join(WAIT)
        self._server.server_close()


def _handler(server: SlowServer) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._head()

        def do_GET(self) -> None:
            if not self.path.endswith("/image.raw"):
                self.send_error(404)
                return
            self._head()
            middle = len(server.content) // 2
            try:
                self.wfile.write(server.content[:middle])
                self.wfile.flush()
                server.half_way.set()
                self._rest(server.content[middle:])
            except ConnectionError:
                self.close_connection = True

        def _rest(self, data: bytes) -> None:
            if not server.trickle:
                server.go_on.wait(WAIT)
                self.wfile.write(data)
                return
            step = len(data) // 5 + 1
            for at in range(0, len(data), step):
                time.sleep(0.2)
                self.wfile.write(data[at : at + step])
                self.wfile.flush()

        def _head(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(server.content)))
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("ETag", '"one"')
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: pytest captures what matters."""

    return Handler
