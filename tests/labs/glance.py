"""Fixtures with a real Glance; ``glance-lab.sh`` in this folder runs it.

A lab that does harm to the server (kills, stops) is the test's own; the others are
shared by all workers of a session, and end with the last of them.
"""

import contextlib
import hashlib
import http.client
import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

import pytest

from labs.ceph import Cluster
from labs.freezing import freeze, thaw
from labs.require import require
from labs.sharing import locked, shared

_SCRIPT: Final = Path(__file__).with_name("glance-lab.sh")
_TIMEOUT: Final = 90.0
_STARTING: Final = 250.0
"""Inside the lab of LVM, on a machine that others use, it takes a minute and more."""

Auth = Literal["none", "token"]
Shown = Literal["yes", "direct", "locations", "no"]


class GlanceError(Exception):
    """The lab's Glance did not do what the test needs; the message says why."""


class Glance:
    """A Glance on a folder of its own."""

    def __init__(
        self, folder: Path, *, auth: Auth = "none", locations: Shown = "yes", ceph: Cluster | None = None
    ) -> None:
        """With ``ceph``, images are kept in its pool ``images``."""
        self.folder = folder
        self._settings: dict[str, str] = {"GLANCE_AUTH": auth, "GLANCE_LOCATIONS": locations}
        if ceph is not None:
            self._settings["GLANCE_CEPH_CONF"] = str(ceph.conf)
        self.url = ""
        self._added: list[str] = []

    def start(self) -> None:
        """Start it, also again after a stop: the URL and all images stay."""
        self.url = self._run("start").strip()

    def stop(self) -> None:
        self._run("stop")

    def _run(self, command: str) -> str:
        try:
            done = subprocess.run(
                [_SCRIPT, command, self.folder],
                env={**os.environ, **self._settings},
                capture_output=True,
                text=True,
                timeout=_STARTING,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise GlanceError(str(exc)) from exc
        if done.returncode:
            raise GlanceError(done.stderr.strip().replace("\n", "; ") or f"status {done.returncode}")
        return done.stdout

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        caller: str = "admin",
        kind: str = "application/json",
        store: str | None = None,
    ) -> Any:
        """One request to the API; what it answers, read as JSON, or the bytes of an image."""
        host = self.url.removeprefix("http://")
        with contextlib.ExitStack() as stack:
            if method != "GET":
                stack.enter_context(self._writing())
            connection = stack.enter_context(contextlib.closing(http.client.HTTPConnection(host, timeout=_TIMEOUT)))
            data = json.dumps(body).encode() if isinstance(body, dict | list) else body
            headers = {"Content-Type": kind, "X-Auth-Token": caller} | ({"X-Image-Meta-Store": store} if store else {})
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            content = answer.read()
        if answer.status >= 300:
            raise GlanceError(f"{method} {path}: {answer.status} {content[:300]!r}")
        if answer.headers.get_content_type() == "application/octet-stream":
            return content
        return json.loads(content) if content else None

    def add(
        self,
        name: str,
        data: bytes | Path | None,
        *,
        caller: str = "admin",
        disk_format: str = "raw",
        store: Literal["files", "ceph"] | None = None,
        **facts: Any,
    ) -> str:
        """Make an image, with ``data`` unless that is None; its id.  ``store`` None: the lab's first."""
        told = {"name": name, "disk_format": disk_format, "container_format": "bare", **facts}
        image_id = str(self.call("POST", "/v2/images", told, caller=caller)["id"])
        self._added.append(image_id)
        if data is not None:
            content = data if isinstance(data, bytes) else data.read_bytes()
            where = f"/v2/images/{image_id}/file"
            self.call("PUT", where, content, caller=caller, kind="application/octet-stream", store=store)
        return image_id

    def place(self, image_id: str, url: str) -> None:
        """Tell an image that has no data where they are, as Nova does of a snapshot that it made in the store."""
        added = {"op": "add", "path": "/locations/-", "value": {"url": url, "metadata": {"store": "ceph"}}}
        kind = "application/openstack-images-v2.1-json-patch"
        self.call("PATCH", f"/v2/images/{image_id}", json.dumps([added]).encode(), kind=kind)

    def plant(self, name: str, data: bytes, disk_format: str) -> str:
        """Make an image of bytes that Glance itself might refuse; its id."""
        image_id = self.add(name, b"x")
        self.stored(image_id).write_bytes(data)
        sums = hashlib.md5(data, usedforsecurity=False).hexdigest(), hashlib.sha512(data).hexdigest()
        facts = "size = ?, checksum = ?, os_hash_value = ?, disk_format = ?"
        database = sqlite3.connect(self.folder / "glance.db", timeout=_TIMEOUT)
        with self._writing(), contextlib.closing(database), database:
            database.execute(f"update images set {facts} where id = ?", (len(data), *sums, disk_format, image_id))  # noqa: S608 - our own words
        return image_id

    def forget(self) -> None:
        """Delete the images that were added through this object, but for those that something hangs on."""
        for image_id in self._added:
            with contextlib.suppress(GlanceError):
                self.call("DELETE", f"/v2/images/{image_id}")
        self._added.clear()

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        """One writer at a time: two transactions of SQLite that turn to writing fail, they do not wait."""
        return locked(self.folder / "writing")

    def deactivate(self, image_id: str) -> None:
        self.call("POST", f"/v2/images/{image_id}/actions/deactivate")

    def stored(self, image_id: str) -> Path:
        """The file that holds the image's bytes; a test may spoil it."""
        return self.folder / "store" / image_id

    def downloads(self, image_id: str) -> int:
        """How often somebody began to read the image's bytes."""
        asked = f'"GET /v2/images/{image_id}/file '
        return (self.folder / "access.log").read_text().count(asked)

    def _master(self) -> int:
        return int((self.folder / "pid").read_text())

    def _workers(self) -> list[int]:
        master = self._master()
        return [int(pid) for pid in Path(f"/proc/{master}/task/{master}/children").read_text().split()]

    def kill_worker(self) -> None:
        """SIGKILL what serves; gunicorn starts another after a moment."""
        for pid in self._workers():
            os.kill(pid, signal.SIGKILL)

    def freeze(self) -> None:
        """Nothing answers any more, and nothing is closed."""
        freeze(self._workers())

    def thaw(self) -> None:
        thaw(self._workers())

    def kill(self) -> None:
        """SIGKILL all of it at once."""
        os.killpg(self._master(), signal.SIGKILL)
        end = time.monotonic() + _TIMEOUT
        while time.monotonic() < end:
            try:
                self.call("GET", "/healthcheck")
            except OSError:
                return
            except (GlanceError, http.client.HTTPException, ValueError):
                time.sleep(0.01)


@contextlib.contextmanager
def _running(lab: Glance) -> Iterator[Glance]:
    try:
        lab.start()
    except GlanceError as exc:
        require("glance", str(exc))
    try:
        yield lab
    finally:
        lab.stop()


@contextlib.contextmanager
def _shared(factory: pytest.TempPathFactory, make: Callable[[Path], Glance], kind: str) -> Iterator[Glance]:
    made: list[Glance] = []

    def start(folder: Path) -> None:
        made.append(make(folder))
        made[-1].start()

    with shared(factory, f"glance-{kind}", start, lambda _: made[-1].stop(), GlanceError):
        yield made[-1]


@pytest.fixture(scope="session")
def glance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Glance]:
    """A Glance to which everybody is an administrator; do it no harm."""
    with _shared(tmp_path_factory, Glance, "files") as lab:
        yield lab


@pytest.fixture(scope="session")
def glance_with_tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Glance]:
    """A Glance that wants a token: ``project:P``, ``bad``, or another (administrator); do it no harm."""
    with _shared(tmp_path_factory, lambda folder: Glance(folder, auth="token"), "token") as lab:
        yield lab


@pytest.fixture(scope="session")
def rbd_glances(tmp_path_factory: pytest.TempPathFactory, rbd_cluster: Cluster) -> Iterator[Glance]:
    """For :func:`rbd_glance`."""
    with _shared(tmp_path_factory, lambda folder: Glance(folder, auth="token", ceph=rbd_cluster), "rbd") as lab:
        yield lab


@pytest.fixture
def rbd_glance(rbd_glances: Glance) -> Iterator[Glance]:
    """A Glance that keeps images in ``rbd_cluster`` and wants a token, as ``glance_with_tokens``; do it no harm.

    What the test adds goes with it, for it would stay in memory.
    """
    yield rbd_glances
    rbd_glances.forget()


@pytest.fixture
def glance_of_my_own(tmp_path: Path) -> Iterator[Callable[..., Glance]]:
    """Starts a Glance for this test alone, with the settings of :class:`Glance`."""
    with contextlib.ExitStack() as stack:

        def make(**settings: Any) -> Glance:
            lab = Glance(tmp_path / "glance", **settings)
            return stack.enter_context(_running(lab))

        yield make
