"""What a driver may use of the machine: paths, commands under limits, flush and publish."""

import grp
import os
import pwd
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imgbackend import errors
from imgbackend.state.pins import Pins
from imgbackend.state.records import Records
from imgbackend.system import files, runner
from imgbackend.system.counters import Metrics
from imgbackend.system.locks import Locks
from imgbackend.system.runner import CommandLimits
from imgbackend.system.space import Space
from imgbackend.types import DiskId

DISK_MODE: Final = 0o640
"""Of disks: their owner writes, the hypervisor's group reads."""
BASE_MODE: Final = 0o440
"""Of bases: nobody writes."""
SECRET_MODE: Final = 0o600
"""Of what is one instance's secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The engine's options, as far as drivers and bases are concerned; read once."""

    instances: Path
    """``instances_path``"""
    bases: str = "_base"
    """The name of the folder of the bases in it."""
    durable: bool = True
    """``durable_disks``: when a call has returned, a power cut takes nothing of what it did."""
    force_raw: bool = True
    """``force_raw_images``: bases are converted to raw when they are fetched."""
    preallocate: bool = False
    """``preallocate_images = space``: a disk takes all its room when it is made."""
    unprivileged_user: str = "nobody"
    group: str | None = None
    max_virtual_size: int = 2 << 40
    vmdk_types: tuple[str, ...] = ("streamOptimized", "monolithicSparse")
    cpu_seconds: int = 30
    address_space: int = 2 << 30
    convert_address_space: int = 4 << 30
    stall_seconds: int = 60
    max_bases: int | None = None
    """``[image_cache] max_size``: bytes that the bases of the folder may take."""
    min_free: int = 0
    """``[image_cache] min_free``: bytes that a fetch leaves of the file system."""
    hostname: str = "localhost"
    """``host``: the name by which other hosts of a shared ``instances_path`` know this one."""
    counted: bool = False
    """Somebody reads metrics: what the cache does is counted."""


class Host:
    """This machine, as one engine sees it.  Making one touches nothing."""

    def __init__(self, settings: Settings) -> None:
        """Keep the settings."""
        self.settings = settings
        """The engine's options."""
        self.instances = settings.instances
        """The folder ``instances_path``."""
        self.bases = settings.instances / settings.bases
        """The folder of the bases."""
        self.locks = Locks(settings.instances / "locks", self.bases)
        """The engine's; a driver takes none."""
        self.records = Records(settings.instances, self.locks)
        """What is known of all disks; a driver that has no tags of its own lists them by ``records.kept_by(name)``."""
        self.pins = Pins(self.bases)
        """The engine's: bases that are kept whether or not they are used."""
        self.space = Space(settings.instances / "locks", self.locks, settings.hostname)
        """Room that is promised to others: ``with space.reserved(file, bytes):`` around a copy to a file;
        see :meth:`imgbackend.system.space.Space.reserved`."""
        self.metrics = Metrics(settings.instances / "locks", settings.hostname, counted=settings.counted)
        """The engine's: what the cache did, counted over all processes of this host."""
        self._gid: int | None = None

    def folder(self, disk: DiskId) -> Path:
        """The folder of a disk's instance; the engine has made it before a driver is called."""
        return self.instances / disk.instance

    def path(self, disk: DiskId) -> Path:
        """Where a disk that is a file is kept."""
        return self.instances.joinpath(disk.instance, disk.name)

    def unfinished(self, disk: DiskId) -> Path:
        """Where a disk that is a file is made; under the disk's lock there is one at most."""
        return self.instances.joinpath(disk.instance, f".{disk.name}.part")

    def make_folder(self, path: Path) -> None:
        """Make a folder, and those above it, that others may pass through but not list.

        Their names are flushed, where disks are durable; there already, it costs one look.
        """
        self.flush_folders(self.new_folder(path))

    def new_folder(self, path: Path) -> list[Path]:
        """As :meth:`make_folder`, but nothing is flushed.

        The folders that have new names in them are returned: give them to
        :meth:`flush_folders` before your hook returns, at best with the last file that you publish.
        """
        return files.make_folders(path)

    def flush_folders(self, folders: Sequence[Path]) -> None:
        """Put the names in these folders on stable storage, where disks are durable."""
        for folder in folders if self.settings.durable else ():
            files.flush_folder(folder)

    def group(self) -> int:
        """The group that the hypervisor reads disks by; -1: leave it as it is.

        :raises ConfigError: if ``hypervisor_group`` is not on this host.
        """
        if self._gid is None:
            name = self.settings.group
            try:
                self._gid = -1 if name is None else grp.getgrnam(name).gr_gid
            except KeyError as exc:
                raise errors.ConfigError(f"hypervisor_group: there is no group {name} on this host") from exc
        return self._gid

    def finish(self, fd: int, *, mode: int = DISK_MODE, durable: bool | None = None) -> None:
        """Give a file its last mode and group, and flush it; it is whole now.

        :raises ConfigError: if this user may not give files to ``hypervisor_group``, being neither root nor in it, or
            being root whom a server takes for somebody else.
        """
        if self.group() != -1:
            try:
                os.fchown(fd, -1, self.group())
            except PermissionError as exc:
                raise errors.ConfigError(f"hypervisor_group: {self._refusal()}") from exc
        os.fchmod(fd, mode)
        if self.settings.durable if durable is None else durable:
            files.flush(fd)

    def _refusal(self) -> str:
        """Why this user may give no file to ``hypervisor_group``, and what to do."""
        if os.geteuid() != 0:
            return f"this user is not in the group {self.settings.group}; add it to the group, and log in again"
        return (
            f"root may give no file to the group {self.settings.group} here, so the server of the file system takes "
            "root for somebody else (root_squash); export it with no_root_squash"
        )

    def publish(self, disk: DiskId) -> None:
        """Rename a finished disk from :meth:`unfinished` to :meth:`path`."""
        files.publish(self.unfinished(disk), self.path(disk), durable=self.settings.durable)

    def preallocate(self, fd: int, size: int) -> bool:
        """Reserve the whole of a file where ``preallocate_images = space``; whether it did."""
        if self.settings.preallocate and size:
            os.posix_fallocate(fd, 0, size)
            return True
        return False

    def unprivileged(self) -> tuple[int, int] | None:
        """``(uid, gid)`` that foreign images are read as; None: this process is no root already.

        :raises ConfigError: if ``unprivileged_user`` is not on this host, or is root.
        """
        if os.geteuid() != 0:
            return None
        name = self.settings.unprivileged_user
        try:
            found = pwd.getpwnam(name)
        except KeyError as exc:
            raise errors.ConfigError(f"unprivileged_user: there is no user {name} on this host") from exc
        if found.pw_uid == 0:
            raise errors.ConfigError("unprivileged_user must not be root: qemu-img reads foreign images as this user")
        return found.pw_uid, found.pw_gid

    def run(
        self,
        argv: Sequence[str],
        *,
        limits: CommandLimits,
        pass_fds: Sequence[int] = (),
        identity: runner.UnixIdentity | None = None,
        watch: Callable[[str], None] | None = None,
    ) -> str:
        """What a command prints; see :func:`imgbackend.system.runner.run`."""
        return runner.run(argv, limits=limits, pass_fds=pass_fds, identity=identity, watch=watch)
