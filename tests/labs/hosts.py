"""Hosts that share folders, on one machine: each a set of namespaces with a name and a boot of its own.

A host here has its own mounts, so that a folder may be at another place than on the next host,
its own name, its own process numbers, its own boot id and machine id, and a clock that may be wrong.
Where two hosts are given the same boot, they are two containers of one kernel.
Nothing of it outlives the process that was started: the kernel ends them all with it.
"""

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from labs.require import require

SECONDS: Final = 120
"""No command of a test takes longer, on any machine."""
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_MACHINE_ID: Final = Path("/etc/machine-id")
_NAMESPACES: Final = ("--mount", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child")
_ENTER: Final = """
set -e
while [ "$1" != -- ]; do
    mount --bind "$1" "$2"
    shift 2
done
hostname "$2"
shift 2
exec "$@"
"""
_WITH_A_CLOCK: Final = """
import runpy, sys, time
seconds, how, what = float(sys.argv[1]), *sys.argv[2:4]
now, now_ns = time.time, time.time_ns
time.time = lambda: now() + seconds
time.time_ns = lambda: now_ns() + int(seconds * 1e9)
del sys.argv[1:4]
if how == "-c":
    exec(what)
else:
    runpy.run_module(what, run_name="__main__", alter_sys=True)
"""
"""Runs Python's ``-c CODE`` or ``-m MODULE`` with a clock that is ahead by so many seconds."""


@dataclass(frozen=True, kw_only=True)
class SharingHost:
    """One host."""

    name: str
    folder: Path
    """For what is its own: its ids, and the command's state."""
    mounts: dict[Path, Path]
    """What it sees at other places: the folder or file to be seen, by its place."""
    clock: float = 0.0
    """Seconds by which its clock is ahead; the file systems go by the true time."""
    boot: str | None = field(default_factory=lambda: str(uuid.uuid4()))
    """Its kernel's boot id; None: that of this machine, as a container has it."""
    machine: str | None = field(default_factory=lambda: uuid.uuid4().hex)
    """Its machine id; None: that of this machine."""

    @classmethod
    def new(cls, name: str, own: Path, mounts: dict[Path, Path]) -> "SharingHost":
        """A host with a folder for what is its own in ``own``, with a boot id and a machine id that nobody else has."""
        folder = own / f"host-{name}-{len(list(own.iterdir()))}"
        folder.mkdir()
        return cls(name=name, folder=folder, mounts=mounts)

    def command(self, *words: str | Path, options: Sequence[str] = ()) -> list[str]:
        """``imgbackend WORDS`` on this host; ``options`` come before the words."""
        return self.python("-m", "imgbackend.cli", "-q", *options, *words)

    def python(self, *words: str | Path) -> list[str]:
        """Python with ``-c CODE`` or ``-m MODULE``, on this host."""
        clock = ("-c", _WITH_A_CLOCK, str(self.clock), *map(str, words))
        return [*self.enter(), sys.executable, *clock]

    def enter(self) -> list[str]:
        """What is put before a command, so that it runs on this host; its clock is the machine's own."""
        mounts = dict(self.mounts)
        for own, place in ((self.boot, _BOOT_ID), (self.machine, _MACHINE_ID)):
            if own is not None and place.exists():
                mounts[place] = self._file(place.name, f"{own}\n")
        bound = [str(path) for place, source in mounts.items() for path in (source, place)]
        return ["unshare", *_NAMESPACES, "sh", "-c", _ENTER, "sh", *bound, "--", self.name]

    def run(self, *words: str | Path, options: Sequence[str] = ()) -> "subprocess.CompletedProcess[str]":
        """The command, to its end, whatever that is."""
        return self._run(self.command(*words, options=options))

    def evaluate(self, code: str, *words: str | Path) -> str:
        """What Python code prints on this host; it has to succeed."""
        done = self._run(self.python("-c", code, *words))
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextlib.contextmanager
    def running(self, code: str, *words: str | Path) -> Iterator["subprocess.Popen[str]"]:
        """Python code that is at work on this host, once it has printed a line; killed at the end, with its host."""
        process = subprocess.Popen(
            self.python("-c", code, *words),
            env=self._environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline(), process.communicate(timeout=SECONDS)[1]
            yield process
        finally:
            process.kill()
            process.wait(SECONDS)  # its host is gone too, before it could see that its input ends
            process.communicate(timeout=SECONDS)

    def _run(self, argv: list[str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            argv, env=self._environment(), capture_output=True, text=True, timeout=SECONDS, cwd=self.folder
        )

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR", "PYTHONPATH") if name in os.environ}
        home = {"HOME": str(self.folder), "XDG_STATE_HOME": str(self.folder), "XDG_CACHE_HOME": str(self.folder)}
        return kept | home

    def _file(self, name: str, content: str) -> Path:
        path = self.folder / f"{self.name}.{name}"
        path.write_text(content)
        return path


@functools.cache
def _refusal() -> str | None:
    """Why this machine lets nobody make hosts; None: it does."""
    if os.geteuid() != 0:
        return "root is needed to make namespaces"
    if shutil.which("unshare") is None:
        return "unshare is not installed"
    argv = ["unshare", *_NAMESPACES, "mount", "--bind", "/proc/version", str(_BOOT_ID)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS)
    return done.stderr.strip() if done.returncode else None


def expect_hosts() -> None:
    """Require the lab ``hosts``, as :func:`labs.require.require` does, where this machine lets nobody make hosts."""
    refusal = _refusal()
    if refusal is not None:
        require("hosts", refusal)


class SharedFolder:
    """One folder, and the hosts that share it."""

    def __init__(self, folder: Path) -> None:
        """Both in ``folder``: the shared one, and what is each host's own."""
        self.folder = folder
        self.instances = folder / "shared"
        """The shared ``instances_path``, as this machine sees it."""
        self.instances.mkdir(mode=0o711)
        (self.instances / "_base").mkdir(mode=0o711)  # it was used before: of a pass over an empty one nobody is told

    def host(
        self,
        name: str,
        *,
        place: Path | None = None,
        clock: float = 0.0,
        boot: str | None = "",
        machine: str | None = "",
    ) -> SharingHost:
        """A host that has the shared folder at ``place`` (None: where it is); empty ids are made up."""
        own = self.folder / f"host-{name}-{len(list(self.folder.iterdir()))}"
        own.mkdir()
        if place is not None:
            place.mkdir(exist_ok=True)
        return SharingHost(
            name=name,
            folder=own,
            mounts={} if place is None else {place: self.instances},
            clock=clock,
            boot=str(uuid.uuid4()) if boot == "" else boot,
            machine=uuid.uuid4().hex if machine == "" else machine,
        )


@pytest.fixture
def shared_folder(tmp_path: Path) -> SharedFolder:
    """A folder for hosts to share."""
    expect_hosts()
    tmp_path.chmod(0o755)
    return SharedFolder(tmp_path)
