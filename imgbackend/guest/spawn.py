"""From a spec to a running instance; where that fails, what this call made goes again, and nothing else."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from imgbackend import errors
from imgbackend.disks.same_image import other_image
from imgbackend.guest import console, differences
from imgbackend.guest.config_drive import ConfigDriveImage
from imgbackend.guest.domain import Alter, Domain, to_xml
from imgbackend.guest.file_import import import_file
from imgbackend.guest.hypervisor import OFF, DomainState, Hypervisor
from imgbackend.guest.own_instances import OwnInstances
from imgbackend.guest.plan import Layout, Making
from imgbackend.guest.settings import GuestSettings
from imgbackend.state.records import DOMAIN
from imgbackend.system import files
from imgbackend.system.host import Host
from imgbackend.system.parallel import all_at_once
from imgbackend.types import Cached, DiskSource, Owner, Progress, ignore

LOG = logging.getLogger(__name__)

_POLL: Final = 0.5
_FIRST_POLLS: Final = (0.01, 0.05, 0.1)
"""A guest that starts as usual is not waited for half a second."""
_XML_MODE: Final = 0o640

ProgressOf = Callable[[str], Progress]
"""The progress of a disk, by its name; and by :data:`STARTING`."""
STARTING: Final = "start"
"""Of the domain's start, and of the wait for another call that works on the instance."""


def silent(_name: str) -> Progress:
    """Nobody looks."""
    return ignore


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawned:
    """What a spawn did."""

    id: str
    uuid: str
    disks: dict[str, Cached]
    """By the disks' names."""
    existed: bool
    """It ran already, and nothing was changed."""
    seconds: float
    changed: tuple[str, ...] = ()
    """In what an instance that was off is otherwise now: a line for each, with what it had and what it has."""


class Spawning:
    """One spawn, with the instance's lock held."""

    def __init__(
        self,
        host: Host,
        settings: GuestSettings,
        hypervisor: Hypervisor,
        own: OwnInstances,
        layout: Layout,
        bounded: "Bounded",
    ) -> None:
        """``bounded`` is entered around the making of each disk."""
        self._host, self._settings, self._hypervisor, self._layout = host, settings, hypervisor, layout
        self._own, self._bounded = own, bounded
        self._spec = layout.spec
        self._folder = host.instances / layout.spec.id
        self._undo = contextlib.ExitStack()

    def run(self, progress_of: ProgressOf, alter: Alter | None) -> Spawned:
        """Spawn it.

        :raises InstanceError: if the name or the uuid is another domain's, or the instance does not come to run.
        :raises Error: whatever a disk, an image or the hypervisor failed with.
        """
        started, spec = time.monotonic(), self._spec
        for nic in spec.nics:
            self._hypervisor.check_link(nic)
        state = self._state()
        self._own.check_uuid(spec.id, spec.uuid)
        self._check_images()
        if state is DomainState.RUNNING:
            self._check_disks()
            self._check_domain(alter)
            return Spawned(id=spec.id, uuid=spec.uuid, disks={}, existed=True, seconds=time.monotonic() - started)
        with self._undo:
            disks = self._disks(progress_of)
            changed = self._define(alter, state)
            self._hypervisor.start(spec.id)
            self._wait(progress_of(STARTING))
            self._undo.pop_all()
            with translating_errors(self._host):
                console.drop(console.path_of(self._host, spec.id))
        LOG.info("Instance %s spawned successfully", spec.id)
        seconds = time.monotonic() - started
        return Spawned(id=spec.id, uuid=spec.uuid, disks=disks, existed=False, seconds=seconds, changed=tuple(changed))

    def _state(self) -> DomainState | None:
        """Of the instance's domain, if there is one; another's of that name is refused."""
        spec, found = self._spec, self._own.domain(self._spec.id)
        if found is None:
            return None
        if found.uuid != spec.uuid:
            raise errors.InstanceError(f"the instance {spec.id} has the uuid {found.uuid}, not {spec.uuid}")
        return found.state

    def _check_disks(self) -> None:
        """Of an instance that runs: it could run on files that somebody has unlinked."""
        for making in self._layout.makings:
            if not making.disk.exists():
                raise errors.InstanceError(f"{self._spec.id} runs, and has no {making.disk.id.name}; destroy it first")

    def _check_images(self) -> None:
        """A disk that exists is used as it is: it has to be what is asked for."""
        for making in self._layout.makings:
            if not making.disk.exists():
                continue
            differing = other_image(making.disk, making.template, making.filename)
            if differing is not None:
                had, asked = differing
                self._refuse([f"{making.disk.id.name} of the image {had}, not {asked}"])
            if isinstance(making.template, ConfigDriveImage) and not making.imported:
                self._refuse(self._on_drive(making))

    def _on_drive(self, making: Making) -> list[str]:
        path = self._host.path(making.disk.id)
        try:
            return differences.of_config_drive(path, self._spec)
        except PermissionError:
            LOG.debug("What %s tells the guest cannot be read by this user", path)
            return []

    def _check_domain(self, alter: Alter | None) -> None:
        """Of an instance that runs."""
        asked = to_xml(domain_of(self._host, self._settings, self._layout, self._own.me()), alter)
        differing = differences.of_domains(self._hypervisor.xml(self._spec.id), asked)
        self._refuse([f"{what} {before}, not {after}" for what, (before, after) in differing.items()])

    def _refuse(self, differing: list[str]) -> None:
        if differing:
            raise errors.InstanceError(
                f"the instance {self._spec.id} exists, with {'; '.join(differing)}; ask for what it has, or destroy it"
            )

    def _disks(self, progress_of: ProgressOf) -> dict[str, Cached]:
        """Make all disks, side by side."""
        makings = self._layout.makings
        with translating_errors(self._host):
            changed = self._host.new_folder(self._folder)
            if changed:
                self._undo.callback(self._remove_folder)
            self._host.flush_folders(changed)
        jobs = [partial(self._made, making) for making in makings]
        made = all_at_once(jobs, [progress_of(making.disk.id.name) for making in makings])
        return {making.disk.id.name: cached for making, cached in zip(makings, made, strict=True)}

    def _made(self, making: Making, progress: Progress) -> Cached:
        with self._bounded(progress):
            if making.imported:
                done = import_file(making.disk, making.template, progress)
            else:
                done = making.disk.cache(making.template, making.filename, making.size, progress=progress)
        if done.way != "exists":
            self._undo.callback(partial(making.disk.remove, force=True))  # a libvirt.xml that was there may name it
        return done

    def _define(self, alter: Alter | None, state: DomainState | None) -> list[str]:
        """Write libvirt.xml and make the domain known; ``state`` is that of the one that is known.

        Returns in what the guest differs from the one that was known.
        """
        name, kept = self._spec.id, self._own.kept_xml(self._spec.id)
        defined = self._hypervisor.xml(name, next_start=True) if state is not None else None
        xml = to_xml(domain_of(self._host, self._settings, self._layout, self._own.me()), alter)
        with translating_errors(self._host):
            if state in OFF:
                console.begin(console.path_of(self._host, name))
                self._undo.callback(self._restore_console)
            self._undo.callback(partial(self._restore_xml, kept))
            write_xml(self._host, name, xml)
        if state in OFF:
            self._undo.callback(partial(self._end_domain, defined))
        self._hypervisor.define(xml)
        differing = differences.of_domains(defined, xml) if defined is not None else {}
        return [f"{what} {after}, before {before}" for what, (before, after) in differing.items()]

    def _wait(self, progress: Progress) -> None:
        """Until it runs.

        :raises InstanceFailed: if it ends first, or takes too long; with the end of its console.
        """
        name, end, polls = self._spec.id, time.monotonic() + self._settings.start_seconds, iter(_FIRST_POLLS)
        while True:
            state = self._hypervisor.state(name)
            if state is DomainState.RUNNING:
                LOG.info("Instance %s is running", name)
                return
            said = console.tail(console.path_of(self._host, name))
            if state in OFF:
                raise errors.InstanceFailed(f"the instance {name} ended before it ran ({state or 'gone'})", said)
            if time.monotonic() > end:
                raise errors.InstanceFailed(
                    f"the instance {name} did not run in {self._settings.start_seconds} s", said
                )
            progress("wait", 0, None)
            time.sleep(next(polls, _POLL))

    # Undoing: what fails here must not hide why the instance was not spawned.

    def _end_domain(self, before: str | None) -> None:
        """Have the domain be as it was; where that fails it may run, and what it runs on has to stay."""
        try:
            self._hypervisor.force_off(self._spec.id)
            if before is None:
                self._hypervisor.forget(self._spec.id)
            else:
                self._hypervisor.define(before)
        except errors.Error as exc:
            LOG.warning(
                "The domain %s cannot be ended (%s), so its disks are left; spawn it again, or destroy it",
                self._spec.id,
                str(exc),
            )
            self._undo.pop_all()

    def _restore_xml(self, before: str | None) -> None:
        with contextlib.suppress(OSError):
            if before is not None:
                write_xml(self._host, self._spec.id, before)
            else:
                (self._folder / DOMAIN).unlink(missing_ok=True)

    def _restore_console(self) -> None:
        with contextlib.suppress(OSError):
            console.restore(console.path_of(self._host, self._spec.id))

    def _remove_folder(self) -> None:
        with contextlib.suppress(OSError):
            self._folder.rmdir()


Bounded = Callable[[Progress], contextlib.AbstractContextManager[None]]


def domain_of(host: Host, settings: GuestSettings, layout: Layout, owner: Owner | None) -> Domain:
    """The domain of an instance, which is ``owner``'s; its disks need not be there."""
    spec = layout.spec
    kernel, ramdisk = layout.disk(f"kernel{spec.suffix}"), layout.disk(f"ramdisk{spec.suffix}")
    volumes = {f"volume{number}": volume.source for number, volume in enumerate(spec.volumes)}
    return Domain(
        spec=spec,
        devices=layout.devices,
        sources={making.disk.id.name: _source(making) for making in layout.makings} | volumes,
        console_log=console.path_of(host, spec.id),
        machine=layout.machine,
        properties=layout.properties,
        virt_type=settings.virt_type,
        kernel=host.path(kernel.id) if kernel is not None else None,
        ramdisk=host.path(ramdisk.id) if ramdisk is not None else None,
        modes=settings.modes(host.instances),
        owner=owner,
    )


def _source(making: Making) -> DiskSource:
    with making.disk.reading():
        found: DiskSource = making.disk.source()
        return found


@contextlib.contextmanager
def translating_errors(host: Host) -> Iterator[None]:
    """Let no ``OSError`` of the folder of the instances out; nothing of the caller's is called within."""
    try:
        yield
    except OSError as exc:
        raise files.as_error(exc, host.instances) from exc


def xml_path(host: Host, instance: str) -> Path:
    """Where the XML of an instance is kept."""
    return host.instances / instance / DOMAIN


def write_xml(host: Host, instance: str, xml: str) -> None:
    """Keep the XML of an instance."""
    files.write_whole(xml_path(host, instance), xml.encode(), mode=_XML_MODE, durable=host.settings.durable)
