"""The instances of a host: spawned, looked at, stopped, started and destroyed."""

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from imgbackend import errors
from imgbackend.driver.contract import Disk
from imgbackend.guest import console, destroy, snapshots
from imgbackend.guest.domain import Alter, to_xml
from imgbackend.guest.grow import grow_running
from imgbackend.guest.hypervisor import OFF, Hypervisor
from imgbackend.guest.listing import Instance, Listing, is_disk_name
from imgbackend.guest.marked_disks import is_mine, joined, marked_disks
from imgbackend.guest.own_instances import OwnInstances
from imgbackend.guest.plan import Layout, Planned, explained, layout_of
from imgbackend.guest.release import Releasing
from imgbackend.guest.settings import settings_of
from imgbackend.guest.slots import at_most
from imgbackend.guest.spawn import (
    STARTING,
    ProgressOf,
    Spawned,
    Spawning,
    domain_of,
    silent,
    translating_errors,
)
from imgbackend.guest.spec import InstanceSpec
from imgbackend.guest.start import Starting
from imgbackend.guest.take import Taking
from imgbackend.guest.take_over import TakenOver, TakingOver, instances_of
from imgbackend.types import Progress, ignore

if TYPE_CHECKING:
    from imgbackend.cache.usage import DomainFile
    from imgbackend.engine import Engine

LOG = logging.getLogger(__name__)

_POLL: Final = 0.2


class Instances:
    """All instances of one ``instances_path`` and one libvirtd; may be used from any number of threads.

    What is called ``name`` may be an instance's uuid as well.
    """

    def __init__(self, engine: "Engine", hypervisor: Hypervisor | None = None) -> None:
        """Read the options; nothing is connected to.  ``hypervisor`` None: that of the options.

        :raises ConfigError: if one has a value that it cannot have.
        """
        self._engine = engine
        self._settings = settings_of(engine.conf)
        self._snapshots = snapshots.folder_of(engine.host, self._settings.snapshots)
        self._hypervisor = hypervisor or Hypervisor(self._settings.uri)
        self._own = OwnInstances(engine.host, engine.owners, self._hypervisor)
        self._listing = Listing(engine.host, self._hypervisor, self._own)
        self._bounded = at_most(self._settings.most_disk_operations)

    def close(self) -> None:
        """Let go of libvirt.  Twice is no error."""
        self._hypervisor.close()

    def spawn(
        self,
        spec: InstanceSpec,
        *,
        progress: ProgressOf = silent,
        alter: Alter | None = None,
        take_over: bool = False,
    ) -> Spawned:
        """Make an instance's disks and its domain, and wait until it runs.

        Disks that are whole are used as they are; an instance that runs already is left
        alone.  ``progress`` gives the callable of each disk, by its name; raising from one
        cancels the spawn.  ``alter`` may change the domain's XML.  Where this raises,
        everything that the call made is gone, and nothing else.  ``take_over``: see :meth:`take_over`.

        :raises ConfigError: if something of the spec or of the host cannot be so.
        :raises SourceError: if an image cannot be had.
        :raises TemplateError: if an image is refused.
        :raises StorageError: if a storage fails.
        :raises DiskError: if a disk is another backend's.
        :raises InstanceElsewhere: if the instance is another host's, or another folder's.
        :raises InstanceError: if the name is another domain's, or the instance does not come to run.
        :raises HypervisorError: if libvirt refuses, or does not answer.
        """
        self._hypervisor.check()
        with self._held(spec.id, progress(STARTING)):
            with translating_errors(self._engine.host):
                if take_over:
                    with contextlib.suppress(errors.InstanceNotFound):
                        self._take_over(spec.id)
                self._own.check(spec.id)
                destroy.finish(self._engine, self._hypervisor, self._own, spec.id)
            layout = self.layout(spec)
            work = Spawning(self._engine.host, self._settings, self._hypervisor, self._own, layout, self._bounded)
            return work.run(progress, alter)

    def layout(self, spec: InstanceSpec) -> Layout:
        """What the instance would have; nothing is made."""
        return layout_of(self._engine, self._settings, spec)

    def to_xml(self, spec: InstanceSpec, alter: Alter | None = None) -> str:
        """The XML that the instance's domain would have, for whoever runs domains otherwise; libvirt is not needed.

        Its disks are where :meth:`layout` and ``cache`` make them.
        """
        owner = self._engine.owners.known_me()
        return to_xml(domain_of(self._engine.host, self._settings, self.layout(spec), owner), alter)

    def explain(self, spec: InstanceSpec) -> list[Planned]:
        """What :meth:`spawn` would do for each disk, without doing it."""
        return explained(self.layout(spec))

    def list(self, *, all_hosts: bool = False) -> Iterator[Instance]:
        """The own instances, by name: those with a domain, and those that have a folder only.

        ``all_hosts``: and those of other hosts and of other folders, as far as this libvirt and this folder know them.
        """
        return self._listing.list(all_hosts=all_hosts)

    def show(self, name: str) -> Instance:
        """One instance, own or not.

        :raises InstanceNotFound: if there is none.
        """
        return self._listing.show(self._listing.name_of(name))

    def files(self) -> "Iterator[DomainFile]":
        """The files that the domains of this libvirt open, ours or not, whether or not they run.

        :raises HypervisorUnavailable: if libvirtd does not answer.
        """
        from imgbackend.guest.domain_files import files_of  # a spawn does not need it, nor the cache

        for name, xml in self._hypervisor.definitions():
            yield from files_of(name, xml)

    def disks(self, name: str) -> Iterator[Disk[Any]]:
        """The instance's disks that exist."""
        return self._engine.disks(self._listing.name_of(name), all_hosts=True)

    def xml(self, name: str) -> str:
        """How libvirt has the instance now."""
        name = self._listing.name_of(name)
        self._expect_domain(name)
        return self._hypervisor.xml(name)

    # Each of these waits while another call works on the instance; raising from ``progress`` ends the wait.

    def take_over(self, name: str, *, progress: Progress = ignore) -> None:
        """Make an instance of another host, or of another folder, this one's; one that is own already is no error.

        The other must not use it any more.  What its stores, its records and its domain note is changed; nothing runs.

        :raises InstanceNotFound: if there is nothing to take over, here or in a store that notes whose its disks are.
        :raises DiskBusy: if somebody has a disk of it open.
        """
        name = self._listing.name_of(name)
        with self._held(name, progress), translating_errors(self._engine.host):
            self._take_over(name)

    def take_over_host(self, host: str, *, progress: Progress = ignore) -> Sequence[TakenOver]:
        """Make all instances of a host this one's: of one that died, was renamed, or was installed anew.

        It must use them no more.  What cannot be taken over is told, and stays as it is; calling again goes on.

        :raises ConfigError: if no host can have that name.
        """
        done = []
        for name, unknown in instances_of(host, self._engine.host, marked_disks(self._engine)).items():
            reason = unknown
            try:
                if not unknown:
                    self.take_over(name, progress=progress)
            except errors.Error as exc:
                reason = str(exc)
            done.append(TakenOver(instance=name, reason=reason))
        return done

    def release(self, name: str, *, progress: Progress = ignore) -> None:
        """Give an instance that is off away: it is nobody's until a host calls :meth:`take`; called again it goes on.

        Its domain goes.  Its folder stays for hosts that share it; where stores carry all that is needed, it goes too.

        :raises InstanceNotFound: if there is none.
        :raises InstanceElsewhere: if it is another host's, or another folder's.
        :raises InstanceError: if it runs, or is being destroyed.
        :raises DiskBusy: if somebody has a disk of it open.
        """
        name = self._listing.name_of(name)
        with self._held(name, progress), translating_errors(self._engine.host):
            engine, marked = self._engine, marked_disks(self._engine, name)
            disks = joined(self._recorded(name), (each for each in marked if is_mine(engine, each)))
            Releasing(engine.host, engine.owners, self._hypervisor, self._own, name, progress).run(disks)

    def take(self, name: str, *, progress: Progress = ignore) -> None:
        """Make an instance that a host released this one's, to be started here; one that is own already is no error.

        Of two hosts that do so at once one has it.  Killed, it goes on when it is called again.

        :raises InstanceNotFound: if there is nothing of it, here or in a store.
        :raises InstanceElsewhere: if it is a host's that did not release it.
        :raises DiskBusy: if somebody has a disk of it open.
        """
        name = self._listing.name_of(name)
        with self._held(name, progress), translating_errors(self._engine.host):
            engine = self._engine
            work = Taking(engine.host, engine.owners, self._hypervisor, self._own, name, progress)
            work.run(self._recorded(name), marked_disks(engine, name))

    def _take_over(self, name: str) -> None:
        host, owners = self._engine.host, self._engine.owners
        marked = (each for each in marked_disks(self._engine, name) if each.owner is not None)
        disks = joined(self._recorded(name), marked).values()
        TakingOver(host, owners, self._hypervisor, self._own, name).run(list(disks))

    def _recorded(self, name: str) -> dict[str, Disk[Any]]:
        """The disks of an instance that are on record here, by their names."""
        return {disk: self._engine.disk(name, disk) for disk in self._engine.host.records.all(name)}

    def grow(self, name: str, size: int, disk: str = "disk", *, progress: Progress = ignore) -> None:
        """Grow a disk to ``size`` bytes: through the hypervisor where the instance runs, and the guest sees it at once.

        :raises DiskError: if the disk is larger: it is never shrunk.
        :raises DiskNotFound: if there is none.
        :raises HypervisorError: if the hypervisor cannot grow it.
        """
        name = self.show(name).id  # what there is not cannot be locked
        with self._held(name, progress):
            self._own.check(name)
            found, grown = self._own.domain(name), self._engine.disk(name, disk)
            grown.info()  # one that is not there is not to be locked
            if found is None or found.state in OFF:
                grown.resize(size)
            else:
                grow_running(self._hypervisor, grown, size)

    def start(self, name: str, *, progress: Progress = ignore, take_over: bool = False) -> None:
        """Start an instance that is off; one that runs is no error.

        Where libvirt has forgotten it, it is told again, from ``libvirt.xml``.  Where this raises, the domain and
        the console are as they were.  ``take_over``: see :meth:`take_over`.

        :raises InstanceNotFound: if there is none.
        :raises InstanceElsewhere: if it is another host's, or another folder's.
        :raises DiskError: if a disk of it is gone.
        :raises InstanceFailed: if it does not come to run.
        """
        name = self.show(name).id
        with self._held(name, progress):
            if take_over:
                with translating_errors(self._engine.host):
                    self._take_over(name)
            self._own.check(name)
            self.show(name)
            records = self._engine.host.records
            names = sorted({*records.all(name), *records.nova_formats(name)})
            disks = [self._engine.disk(name, disk) for disk in names if is_disk_name(disk)]
            work = Starting(self._engine.host, self._hypervisor, self._own, name)
            work.run(disks, self._settings.start_seconds, progress)

    def stop(self, name: str, *, seconds: float | None = None, progress: Progress = ignore) -> bool:
        """Have the guest shut itself down, and end it where it does not; one that is off is no error.

        ``seconds`` None: ``[libvirt] wait_soft_reboot_seconds``; 0: end it at once.
        Returns whether the guest had to be ended.
        """
        name = self._listing.name_of(name)
        self._expect_domain(name)
        wait = self._settings.stop_seconds if seconds is None else seconds
        with self._held(name, progress):
            self._expect_domain(name)
            end, asked = time.monotonic() + wait, 0.0
            while self._hypervisor.state(name) not in OFF:
                if time.monotonic() >= end:
                    self._hypervisor.force_off(name)
                    return True
                if time.monotonic() - asked > 10:  # a guest that boots does not hear it yet
                    self._hypervisor.shut_down(name)
                    asked = time.monotonic()
                progress("wait", 0, None)
                time.sleep(_POLL)
        return False

    def reboot(self, name: str, *, hard: bool = False, progress: Progress = ignore) -> None:
        """Boot again: the guest is asked, or, where ``hard``, is not.

        :raises InstanceError: if it does not run.
        """
        name = self._listing.name_of(name)
        self._expect_domain(name)
        with self._held(name, progress):
            self._expect_domain(name)
            (self._hypervisor.reset if hard else self._hypervisor.reboot)(name)

    def destroy(self, name: str, *, progress: Progress = ignore, take_over: bool = False, force: bool = False) -> None:
        """Take an instance away: domain, disks and folder; what was gone before is no error.

        Once it has begun it asks ``progress`` no more.  ``take_over``: see :meth:`take_over`.  ``force``: also where
        the records of its disks are broken; disks in stores go then that those note as ours under its name.

        :raises InstanceNotFound: if nothing of it is there.
        :raises InstanceElsewhere: if it is another host's, or another folder's.
        :raises DiskBusy: if somebody else has a disk of it open.
        :raises InstanceError: if what has its name is not imgbackend's.
        """
        name = self._listing.name_of(name)
        with self._held(name, progress), translating_errors(self._engine.host):
            snapshots.sweep(self._snapshots, self._engine.host.settings.hostname)
            if force:
                self._engine.owners.put_aside_broken_records(name)
            if take_over:
                self._take_over(name)
            destroy.destroy(self._engine, self._hypervisor, self._own, name)

    @contextlib.contextmanager
    def snapshot(
        self,
        name: str,
        format: str = "qcow2",
        *,
        disk: str = "disk",
        compress: bool = False,
        progress: Progress = ignore,
    ) -> Iterator[Path]:
        """A context manager: a disk of an instance that is off, whole, in a file that goes at the end.

        The file is in ``[libvirt] snapshots_directory``, for this user alone: to be sent to where
        it is to stay.  What a killed process left there goes first.

        :raises InstanceError: if the instance runs.
        :raises DiskError: if it has no such disk, or the format is neither raw nor qcow2.
        :raises StorageFull: if there is no room for it.
        """
        name = self.show(name).id  # what there is not cannot be locked
        self._expect_off(name)
        with contextlib.ExitStack() as stack:
            with translating_errors(self._engine.host):
                room = stack.enter_context(snapshots.room(self._snapshots, name, self._engine.host.settings.hostname))
            target, made = room / f"{disk}.{format}", self._engine.disk(name, disk)
            with self._held(name, progress):  # nobody starts it meanwhile
                self._expect_off(name)
                made.info()  # one that is not there is not to be locked
                made.extract(target, format, compress=compress, progress=progress)
            yield target

    def finish(self, name: str) -> None:
        """Go on with a :meth:`destroy` that was killed; the caller holds the instance's lock.

        :raises InstanceError: if the domain of that name is not imgbackend's.
        """
        with translating_errors(self._engine.host):
            destroy.clear(self._engine, self._hypervisor, self._own, name)

    def console(self, name: str, *, follow: bool = False) -> Iterator[bytes]:
        """What the guest said so far; with ``follow``, and what it says until it is off."""
        name = self.show(name).id
        path = console.path_of(self._engine.host, name)
        if not path.exists():
            return iter(())
        return console.follow(path, lambda: not follow or self._hypervisor.state(name) in OFF)

    @contextlib.contextmanager
    def _held(self, name: str, progress: Progress) -> Iterator[None]:
        """The instance's lock, whose file goes when there is no such instance."""
        with contextlib.ExitStack() as stack:
            with translating_errors(self._engine.host):
                lock = stack.enter_context(self._engine.host.locks.instance(name, progress))
            try:
                yield
            finally:
                if not destroy.is_there(self._engine, name):
                    lock.forget()

    def _expect_off(self, name: str) -> None:
        """Refuse an instance that is another's, or that runs."""
        self._own.check(name)
        found = self._own.domain(name)
        if found is not None and found.state not in OFF:
            raise errors.InstanceError(f"the instance {name} runs; stop it first")

    def _expect_domain(self, name: str) -> None:
        """Refuse an instance that is another's, or has no domain."""
        self.show(name)
        self._own.check(name)
        if self._own.domain(name) is None:
            raise errors.InstanceNotFound(f"libvirt does not know the instance {name}; start it, or destroy it")
