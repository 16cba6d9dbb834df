"""The start of an instance that is off; where it fails, all is as it was before."""

import contextlib
import logging
import time
from functools import partial
from typing import Any, Final

from imgbackend import errors
from imgbackend.driver.contract import Disk
from imgbackend.guest import console
from imgbackend.guest.hypervisor import OFF, DomainState, Hypervisor
from imgbackend.guest.own_instances import OwnInstances
from imgbackend.guest.spawn import translating_errors, xml_path
from imgbackend.state import domain_xml
from imgbackend.system.host import Host
from imgbackend.types import Progress

LOG = logging.getLogger(__name__)

_POLL: Final = 0.2


class Starting:
    """One start, with the instance's lock held."""

    def __init__(self, host: Host, hypervisor: Hypervisor, own: OwnInstances, name: str) -> None:
        """Keep them; nothing is touched."""
        self._host, self._hypervisor, self._own, self._name = host, hypervisor, own, name
        self._undo = contextlib.ExitStack()

    def run(self, disks: list[Disk[Any]], seconds: float, progress: Progress) -> None:
        """Look at those of ``disks`` that the domain has, start it, and wait ``seconds`` at most until it runs.

        :raises DiskError: if a disk is gone, or another's.
        :raises InstanceFailed: if it does not come to run.
        """
        found = self._own.domain(self._name)
        if found is not None and found.state not in OFF:
            self._hypervisor.start(self._name)
            self._wait(seconds, progress)
            return
        xml = self._hypervisor.xml(self._name) if found is not None else self._own.kept_xml(self._name)
        for disk in disks:
            with disk.reading():  # one in another store than its backend has now would not be known by its source
                source = disk.source()
            if xml is not None and domain_xml.names_disk(xml, source):
                disk.info()  # one that is not there is not to be locked
                with disk.locked():
                    disk.found()  # a driver finishes what was broken off before a guest sees the disk
        with self._undo:
            if found is None:
                self._define()
            with translating_errors(self._host):
                path = console.path_of(self._host, self._name)
                console.begin(path)
                self._undo.callback(self._restore_console)
            self._undo.callback(self._end)
            self._hypervisor.start(self._name)
            self._wait(seconds, progress)
            self._undo.pop_all()
            with translating_errors(self._host):
                console.drop(path)

    def _define(self) -> None:
        """Tell libvirt again what it has forgotten."""
        xml = self._own.kept_xml(self._name)
        if xml is None:
            path = xml_path(self._host, self._name)
            raise errors.InstanceError(f"libvirt does not know {self._name}, and there is no {path}; spawn it again")
        self._undo.callback(partial(self._quietly, self._hypervisor.forget))
        self._hypervisor.define(xml)

    def _wait(self, seconds: float, progress: Progress) -> None:
        name, end = self._name, time.monotonic() + seconds
        while (state := self._hypervisor.state(name)) is not DomainState.RUNNING:
            if state in OFF or time.monotonic() > end:
                said = console.tail(console.path_of(self._host, name))
                raise errors.InstanceFailed(f"the instance {name} did not come to run ({state or 'gone'})", said)
            progress("wait", 0, None)
            time.sleep(_POLL)

    # Undoing: what fails here must not hide why the instance was not started.

    def _end(self) -> None:
        self._quietly(self._hypervisor.force_off)

    def _quietly(self, work: Any) -> None:
        try:
            work(self._name)
        except errors.Error as exc:
            LOG.warning("The domain %s is left as it is (%s); start it again, or stop it", self._name, exc)

    def _restore_console(self) -> None:
        with contextlib.suppress(OSError):
            console.restore(console.path_of(self._host, self._name))
