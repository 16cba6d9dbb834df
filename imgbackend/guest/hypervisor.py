"""libvirt: the only module that imports it.

A connection is made when it is first needed, and anew where it was lost; every call that is
repeated then is one that may be.  What libvirt reports becomes one of our errors.
"""

import contextlib
import enum
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar
from xml.etree import ElementTree as ET

from imgbackend import errors
from imgbackend.guest.spec import Nic
from imgbackend.state import domain_xml
from imgbackend.types import Owner

T = TypeVar("T")

_FAILED, _SYSTEM, _NO_DOMAIN, _NO_NETWORK, _INVALID, _NO_METADATA = 9, 38, 42, 43, 55, 80
"""libvirt's numbers, of virErrorNumber: OPERATION_FAILED, SYSTEM_ERROR, NO_DOMAIN, NO_NETWORK, OPERATION_INVALID,
NO_DOMAIN_METADATA."""
_LINKS: Final = "/sys/class/net"
_OPEN_VSWITCH: Final = "/sys/module/openvswitch"


class DomainState(enum.StrEnum):
    """Of a domain."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    """The guest is shutting itself down."""
    OFF = "off"
    CRASHED = "crashed"


OFF: Final = (None, DomainState.OFF, DomainState.CRASHED)
"""States in which no guest runs; None: there is no domain."""
_STATES: Final = {
    0: DomainState.RUNNING,
    1: DomainState.RUNNING,
    2: DomainState.RUNNING,  # blocked: it waits for I/O
    3: DomainState.PAUSED,
    4: DomainState.STOPPING,
    5: DomainState.OFF,
    6: DomainState.CRASHED,
    7: DomainState.PAUSED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundDomain:
    """A domain that libvirt knows."""

    name: str
    uuid: str
    state: DomainState
    instance: str | None
    """The instance that it is the domain of, by its metadata; None: imgbackend did not make it."""
    owner: Owner | None
    """Whose that instance is, by the metadata; None: that was not noted."""


class Hypervisor:
    """One libvirtd.  May be used from any number of threads; making one connects to nothing."""

    def __init__(self, uri: str) -> None:
        """``uri`` as libvirt has it: ``qemu:///system``."""
        self.uri = uri
        self._connection: Any = None
        self._guard = threading.RLock()

    def close(self) -> None:
        """Close the connection.  Twice is no error."""
        with self._guard:
            connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(_libvirt().libvirtError):  # it was lost before
                connection.close()

    def check(self) -> None:
        """See that libvirtd answers.

        :raises HypervisorUnavailable: if it does not.
        :raises ConfigError: if libvirt's own library is missing, or the URI is none.
        """
        self._call(lambda connection: connection.getLibVersion())

    def find(self, name: str) -> FoundDomain | None:
        """A domain by its name; None: there is none."""
        return self._call(lambda connection: _unless_gone(lambda: _found(connection.lookupByName(name))))

    def find_uuid(self, uuid: str) -> FoundDomain | None:
        """A domain by its uuid; None: there is none."""
        return self._call(lambda connection: _unless_gone(lambda: _found(connection.lookupByUUIDString(uuid))))

    def domains(self) -> Iterator[FoundDomain]:
        """All domains that imgbackend made, for whichever folder of instances, by name."""

        def look(connection: Any) -> list[FoundDomain | None]:
            return [_unless_gone(partial(_found, domain)) for domain in connection.listAllDomains()]

        made = [found for found in self._call(look) if found is not None and found.instance is not None]
        yield from sorted(made, key=lambda found: found.name)

    def definitions(self) -> list[tuple[str, str]]:
        """The name and the XML of every domain, ours or not; of one that runs also how it will start the next time."""

        def look(connection: Any) -> list[tuple[str, str]]:
            return [
                definition
                for domain in connection.listAllDomains()
                for definition in _unless_gone(partial(_definitions, domain)) or []
            ]

        return self._call(look)

    def xml(self, name: str, *, next_start: bool = False) -> str:
        """How libvirt has a domain now, or, with ``next_start``, all that it was defined with.

        :raises InstanceNotFound: if there is none.
        """
        libvirt = _libvirt()
        kinds = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE if next_start else 0
        return str(self._on(name, lambda domain: domain.XMLDesc(kinds)))

    def define(self, xml: str) -> None:
        """Make a domain known, or change it; it is started by :meth:`start`.

        :raises InstanceError: if another domain has its name.
        """
        self._call(lambda connection: connection.defineXML(xml))

    def start(self, name: str) -> None:
        """Start a domain; one that runs is no error.

        :raises HypervisorError: if the hypervisor refuses its disks, devices or files.
        """

        def start(domain: Any) -> None:
            if not domain.isActive():
                self._unless_invalid(domain.create)

        self._on(name, start)

    def state(self, name: str) -> DomainState | None:
        """None: there is no such domain."""
        found = self.find(name)
        return None if found is None else found.state

    def shut_down(self, name: str) -> None:
        """Ask the guest to shut down, as by its power button; one that is off is no error."""
        self._on(name, lambda domain: self._unless_invalid(domain.shutdown))

    def reboot(self, name: str) -> None:
        """Ask the guest to boot again.

        :raises HypervisorError: if it does not run.
        """
        self._on(name, lambda domain: domain.reboot())

    def reset(self, name: str) -> None:
        """Boot again without asking the guest."""
        self._on(name, lambda domain: domain.reset())

    def force_off(self, name: str) -> None:
        """End a domain at once; one that is off or gone is no error."""

        def end(connection: Any) -> None:
            domain = self._lookup(connection, name)
            if domain is not None:
                self._unless_invalid(domain.destroy)

        self._call(end)

    def has_saved_state(self, name: str) -> bool:
        """Whether libvirt keeps the memory of a guest, with which the domain goes on when it is started."""
        return bool(self._on(name, lambda domain: domain.hasManagedSaveImage()))

    def forget(self, name: str) -> None:
        """Have libvirt forget a domain that is off, its firmware's variables and a saved memory; absent is no error."""

        def undefine(connection: Any) -> None:
            domain = self._lookup(connection, name)
            if domain is not None:
                libvirt = _libvirt()
                flags = libvirt.VIR_DOMAIN_UNDEFINE_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                _unless_gone(lambda: domain.undefineFlags(flags))

        self._call(undefine)

    def set_owner(self, name: str, owner: Owner) -> None:
        """Note in the domain of the instance ``name`` that it is ``owner``'s now."""
        libvirt = _libvirt()

        def note(domain: Any) -> None:
            element = domain_xml.instance_element(name, owner)
            element.tag = element.tag.rpartition("}")[2]  # libvirt itself puts the prefix before it
            kinds = libvirt.VIR_DOMAIN_AFFECT_CONFIG | (libvirt.VIR_DOMAIN_AFFECT_LIVE if domain.isActive() else 0)
            text = ET.tostring(element, encoding="unicode")
            domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, text, "imgbackend", domain_xml.NAMESPACE, kinds)

        self._on(name, note)

    def grow_disk(self, name: str, target: str, size: int) -> None:
        """Have a guest that runs see its disk ``target``, such as ``vda``, as ``size`` bytes large.

        :raises HypervisorError: if the hypervisor cannot.
        """
        in_bytes = _libvirt().VIR_DOMAIN_BLOCK_RESIZE_BYTES
        self._on(name, lambda domain: domain.blockResize(target, size, in_bytes))

    def check_link(self, nic: Nic) -> None:
        """See that what an interface is to be connected to is there.

        :raises ConfigError: if it is not; it names the bridge or network.
        """
        if nic.kind == "bridge":
            _check_bridge(nic.name)
        if nic.kind == "network":

            def look(connection: Any) -> bool:
                return bool(connection.networkLookupByName(nic.name).isActive())

            if not self._call(look):
                raise errors.ConfigError(f"nic: libvirt's network {nic.name} is not active: virsh net-start {nic.name}")

    # The connection

    def _call(self, work: Callable[[Any], T]) -> T:
        """Do it; once more on a new connection where the old one was lost."""
        libvirt = _libvirt()
        connection = self._opened()
        try:
            return work(connection)
        except libvirt.libvirtError as exc:
            if self._lives(connection):
                raise _translated(exc) from exc
        self._drop(connection)
        connection = self._opened()
        try:
            return work(connection)
        except libvirt.libvirtError as exc:
            if self._lives(connection):
                raise _translated(exc) from exc
            raise errors.HypervisorUnavailable(f"libvirtd broke off: {_line(exc)}", exc.get_error_code()) from exc

    def _on(self, name: str, work: Callable[[Any], T]) -> T:
        def look(connection: Any) -> T:
            domain = self._lookup(connection, name)
            if domain is None:
                raise errors.InstanceNotFound(f"libvirt knows no domain {name}")
            return work(domain)

        return self._call(look)

    def _opened(self) -> Any:
        libvirt = _libvirt()
        with self._guard:
            if self._connection is None:
                try:
                    self._connection = libvirt.open(self.uri)
                except libvirt.libvirtError as exc:
                    raise errors.HypervisorUnavailable(
                        f"cannot reach libvirt at {self.uri}: {_line(exc)}; see that libvirtd runs, "
                        "and that this user may use it (group libvirt)",
                        exc.get_error_code(),
                    ) from exc
            return self._connection

    def _lives(self, connection: Any) -> bool:
        try:
            return bool(connection.isAlive())
        except _libvirt().libvirtError:
            return False

    def _drop(self, lost: Any) -> None:
        with self._guard:
            if self._connection is lost:
                self._connection = None
        with contextlib.suppress(_libvirt().libvirtError):
            lost.close()

    @staticmethod
    def _lookup(connection: Any, name: str) -> Any:
        return _unless_gone(lambda: connection.lookupByName(name))

    @staticmethod
    def _unless_invalid(work: Callable[[], Any]) -> None:
        """Not an error where the domain is in that state already, or has gone."""
        libvirt = _libvirt()
        try:
            work()
        except libvirt.libvirtError as exc:
            if exc.get_error_code() not in (_INVALID, _NO_DOMAIN):
                raise


def _unless_gone(work: Callable[[], T]) -> T | None:
    """What ``work`` tells of a domain; None where there is no such domain, or it goes meanwhile."""
    libvirt = _libvirt()
    try:
        return work()
    except libvirt.libvirtError as exc:
        if exc.get_error_code() != _NO_DOMAIN:
            raise
        return None


def _check_bridge(name: str) -> None:
    link = f"{_LINKS}/{name}"
    if not os.path.isdir(link):
        raise errors.ConfigError(f"nic: there is no bridge {name} on this host; make it, or use another")
    if not os.path.isdir(f"{link}/bridge") and not os.path.isdir(_OPEN_VSWITCH):  # whose bridges cannot be told
        raise errors.ConfigError(f"nic: {name} is no bridge, but another interface of this host; use a bridge")


def _libvirt() -> Any:
    """libvirt's module, silenced: what it would print is in its errors."""
    try:
        import libvirt  # type: ignore[import-untyped]  # libvirt-python ships no types
    except ImportError as exc:
        raise errors.ConfigError(
            "libvirt-python is not installed; install imgbackend[libvirt], or Debian's python3-libvirt"
        ) from exc
    libvirt.registerErrorHandler(_silent, None)
    return libvirt


def _silent(_context: object, _error: object) -> None:
    return None


def _found(domain: Any) -> FoundDomain:
    instance, owner = _noted(domain)
    return FoundDomain(
        name=str(domain.name()),
        uuid=str(domain.UUIDString()),
        state=_STATES.get(int(domain.state()[0]), DomainState.OFF),
        instance=instance,
        owner=owner,
    )


def _noted(domain: Any) -> tuple[str | None, Owner | None]:
    libvirt = _libvirt()
    try:
        text = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, domain_xml.NAMESPACE)
    except libvirt.libvirtError as exc:
        if exc.get_error_code() != _NO_METADATA:  # of a domain that cannot be asked nobody knows whose it is
            raise
        return None, None
    return domain_xml.read_element(ET.fromstring(text))  # noqa: S314 - libvirt's own answer, of what we gave it


def _definitions(domain: Any) -> list[tuple[str, str]]:
    kinds = (0, _libvirt().VIR_DOMAIN_XML_INACTIVE) if domain.isPersistent() else (0,)
    return [(str(domain.name()), str(domain.XMLDesc(kind))) for kind in kinds]


def _line(exc: Any) -> str:
    return " ".join(str(exc).split())


def _translated(exc: Any) -> errors.Error:
    code, said = exc.get_error_code(), _line(exc)
    if code == _NO_DOMAIN:
        return errors.InstanceNotFound(f"libvirt has no such domain: {said}")
    if code == _NO_NETWORK:
        return errors.ConfigError(f"nic: {said}; define it (virsh net-define), or use another")
    if code == _FAILED and "already exists with uuid" in said:
        return errors.InstanceError(f"another domain has this name: {said}")
    if code == _INVALID:
        return errors.InstanceError(f"the instance is in no state for that: {said}")
    if code == _SYSTEM and "Connection refused" in said:
        return errors.HypervisorUnavailable(f"libvirtd does not answer: {said}", code)
    return errors.HypervisorError(f"libvirt refuses: {said}", code)
