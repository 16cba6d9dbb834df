"""Fixtures with a real libvirtd and QEMU; ``libvirt-lab.sh`` in this folder runs it.

The daemon that all tests share knows their domains apart by their names, which begin with a
word of the test's own.  A test that does harm (kills) starts a daemon of its own.
"""

import contextlib
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest

from imgbackend import Engine
from imgbackend.guest.instances import Instances
from imgbackend.guest.spec import InstanceSpec
from imgbackend.state import folder_marker
from imgbackend.types import Mi
from labs import bootsector
from labs.leaks import FAILED
from labs.require import require
from labs.sharing import owner, shared

_SCRIPT: Final = Path(__file__).with_name("libvirt-lab.sh")
_TIMEOUT: Final = 120.0
_SECONDS: Final = 120.0
"""No guest of these tests takes longer to say its word, on any machine."""


class LibvirtError(Exception):
    """The lab did not do what the test needs; the message says why."""


class Libvirt:
    """A libvirtd on a folder of its own."""

    def __init__(self, folder: Path, *, user: str = "root", group: str = "") -> None:
        """Guests run as ``user``; ``group``, where there is one, may use it alone."""
        self.folder = folder
        self._settings = {
            "LIBVIRT_LAB_OWNER": str(owner()),
            "LIBVIRT_LAB_USER": user,
            "LIBVIRT_LAB_GROUP": group,
        }
        self.uri = ""

    def start(self) -> None:
        """Start it, also again after a kill: its domains stay."""
        self.uri = self._run("start").strip()

    def stop(self) -> None:
        """With its domains; twice is no error."""
        self._run("stop")

    def kill(self) -> None:
        """SIGKILL; its guests run on."""
        pid = int((self.folder / "libvirtd.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + _TIMEOUT
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < end, "libvirtd does not end"
            time.sleep(0.01)

    def virsh(self, *words: str) -> str:
        """What virsh prints."""
        done = subprocess.run(
            ["virsh", "-q", "-c", self.uri, *words], capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
        if done.returncode:
            raise LibvirtError(done.stderr.strip())
        return done.stdout

    def domains(self, prefix: str = "") -> set[str]:
        """The names of all domains, running or not, that begin so."""
        return {name for name in self.virsh("list", "--all", "--name").split() if name.startswith(prefix)}

    def _run(self, command: str) -> str:
        try:
            with (self.folder / f"{command}.err").open("w+") as err:  # not a pipe: the daemon would keep it open
                done = subprocess.run(
                    [_SCRIPT, command, self.folder],
                    env={**os.environ, **self._settings},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=err,
                    text=True,
                    timeout=_TIMEOUT,
                    check=False,
                )
                err.seek(0)
                said = err.read()
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise LibvirtError(str(exc)) from exc
        if done.returncode:
            raise LibvirtError(said.strip().replace("\n", "; ") or f"status {done.returncode}")
        return done.stdout


def _need_module() -> None:
    if find_spec("libvirt") is None:
        require("libvirt", "libvirt-python is not installed")


@pytest.fixture(scope="session")
def libvirt_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Libvirt]:
    """A libvirtd for tests that do it no harm."""
    _need_module()

    def stop(folder: Path) -> None:
        Libvirt(folder).stop()

    with shared(tmp_path_factory, "libvirt", lambda folder: Libvirt(folder).start(), stop, LibvirtError) as folder:
        lab = Libvirt(folder)
        lab.start()  # it runs: this tells its address
        yield lab


@pytest.fixture
def libvirt_own_daemon(tmp_path: Path) -> Iterator[Callable[..., Libvirt]]:
    """Starts a libvirtd for this test alone, with the settings of :class:`Libvirt`, on a folder below ``place``."""
    _need_module()
    with contextlib.ExitStack() as stack:

        def make(place: Path | None = None, *, user: str = "root", group: str = "") -> Libvirt:
            folder = (place or tmp_path) / "libvirt"
            folder.mkdir()
            lab = Libvirt(folder, user=user, group=group)
            stack.callback(lab.stop)
            try:
                lab.start()
            except LibvirtError as exc:
                require("libvirt", str(exc))
            return lab

        yield make


@dataclass(kw_only=True)
class Guests:
    """Instances of one test: an engine on its folder, names of its own, an image that boots."""

    lab: Libvirt
    instances_path: Path
    image: Path
    """Boots from its first sector, and says ``BOOT OK`` and its disk's size."""
    overrides: dict[str, Any] = field(default_factory=dict)
    conf: str = ""
    """A configuration file, for what no override can say."""
    word: str = field(default_factory=lambda: f"t{secrets.token_hex(4)}")
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def options(self) -> dict[str, Any]:
        """Of an engine whose instances these are."""
        ours = {
            "instances_path": str(self.instances_path),
            "libvirt.connection_uri": self.lab.uri,
            "libvirt.virt_type": "qemu",
            "sources.folder_path": str(self.image.parent),
        }
        return ours | self.overrides

    def engine(self) -> Engine:
        """A new one."""
        files = []
        if self.conf:
            files = [self.instances_path.parent / f"{self.word}.conf"]
            files[0].write_text(self.conf)
        return self._stack.enter_context(Engine.from_config(files, self.options()))

    def instances(self, engine: Engine | None = None) -> Instances:
        """Of an engine of their own, or of one that is given."""
        return (engine or self.engine()).instances

    def name(self, label: str = "a") -> str:
        """Of an instance of this test."""
        return f"{self.word}-{label}"

    def spec(self, label: str = "a", **values: Any) -> InstanceSpec:
        """A small instance that boots the test's image, unless ``values`` say otherwise."""
        told: dict[str, Any] = {"image": str(self.image), "memory": 64 * Mi}
        return InstanceSpec(id=self.name(label), **(told | values))

    def console(self, label: str = "a") -> str:
        """What a guest said so far."""
        path = self.instances_path / self.name(label) / "console.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def until(self, word: str, label: str = "a") -> str:
        """What a guest said, as soon as ``word`` is in it."""
        end = time.monotonic() + _SECONDS
        while word not in (said := self.console(label)):
            assert time.monotonic() < end, f"the guest did not say {word!r}; it said {said[-2000:]!r}"
            time.sleep(0.02)
        return said

    def sectors(self, label: str = "a") -> int:
        """How many sectors the guest of the test's image sees on its disk."""
        found, end = None, time.monotonic() + _SECONDS
        while (found := bootsector.sectors_in(self.console(label))) is None:
            assert time.monotonic() < end, f"the guest did not tell its disk's size; it said {self.console(label)!r}"
            time.sleep(0.02)
        return found

    def domains(self) -> set[str]:
        """Labels of the test's domains that libvirt knows."""
        return {name.removeprefix(f"{self.word}-") for name in self.lab.domains(self.word)}

    def left(self) -> set[str]:
        """All that is below ``instances_path`` but bases, locks of bases, lists of the cache, and its marker."""
        skipped = [self.instances_path / name for name in ("locks", "_base", folder_marker.NAME)]
        found = {path for path in self.instances_path.rglob("*") if not any(path.is_relative_to(s) for s in skipped)}
        found |= {path for path in (self.instances_path / "locks").glob("*") if self.word in path.name}
        return {str(path.relative_to(self.instances_path)) for path in found}

    def close(self) -> None:
        """End what a test that failed left."""
        self._stack.close()
        for name in self.lab.domains(self.word):
            for words in (("destroy", name), ("undefine", "--nvram", name)):
                with contextlib.suppress(LibvirtError):
                    self.lab.virsh(*words)


MakeGuests = Callable[..., Guests]


@pytest.fixture
def boot_image(tmp_path: Path) -> Path:
    """A qcow2 of 16 MiB that boots."""
    folder = tmp_path / "bootable"
    folder.mkdir(mode=0o755)
    path = folder / "tiny.qcow2"
    bootsector.write_disk(path, 16 * Mi, format="qcow2")
    return path


@pytest.fixture
def make_guests(request: pytest.FixtureRequest, tmp_path: Path, boot_image: Path) -> Iterator[MakeGuests]:
    """Instances on a daemon: ``make_guests(lab, images_type="raw")``; a test that passes leaves no domain."""
    _open_up(tmp_path)
    made: list[Guests] = []

    def make(lab: Libvirt, *, path: Path | None = None, overrides: dict[str, Any] | None = None) -> Guests:
        if path is None:
            path = tmp_path / "instances"
            path.mkdir(mode=0o711, exist_ok=True)
        made.append(Guests(lab=lab, instances_path=path, image=boot_image, overrides=overrides or {}))
        return made[-1]

    yield make
    failed = request.node.stash.get(FAILED, False)
    left = {name for guests in made if not failed for name in guests.domains()}
    for guests in made:
        guests.close()
    assert not left, f"the test left domains: {', '.join(sorted(left))}"


@pytest.fixture
def guests(make_guests: MakeGuests, libvirt_daemon: Libvirt) -> Guests:
    """Instances on the daemon that all tests share."""
    return make_guests(libvirt_daemon)


def _open_up(folder: Path) -> None:
    """Let the user that reads images for root through a test's folder."""
    folder.chmod(0o755)
