"""A domain that goes between two calls of libvirt, and a connection that breaks; a stand-in is connected to."""

from collections.abc import Callable
from typing import Any

import libvirt  # type: ignore[import-untyped]  # libvirt-python ships no types
import pytest

from imgbackend import errors
from imgbackend.guest.hypervisor import Hypervisor
from imgbackend.state import domain_xml


class LibvirtFailure(libvirt.libvirtError):  # type: ignore[misc]  # libvirt-python ships no types
    """An error of libvirt with a number."""

    def __init__(self, code: int) -> None:
        Exception.__init__(self, f"error {code}")
        self._code = code

    def get_error_code(self) -> int:
        return self._code


class StandInDomain:
    """Answers until its method ``fails_at`` is called, which fails with ``code``."""

    def __init__(self, name: str, fails_at: str = "", code: int = 42) -> None:
        self._name, self._fails_at, self._code = name, fails_at, code

    def _met(self, call: str) -> None:
        if call == self._fails_at:
            raise LibvirtFailure(self._code)

    def name(self) -> str:
        self._met("name")
        return self._name

    def UUIDString(self) -> str:  # noqa: N802 - libvirt's name
        self._met("UUIDString")
        return "u"

    def state(self) -> list[int]:
        self._met("state")
        return [1, 0]

    def metadata(self, _kind: int, uri: str) -> str:
        self._met("metadata")
        return f"<x xmlns='{uri}'>{self._name}</x>"


class StandInConnection:
    """Has domains; ``alive`` says whether it is still there."""

    def __init__(self, *domains: StandInDomain, alive: bool = True) -> None:
        self._domains, self._alive = domains, alive

    def isAlive(self) -> bool:  # noqa: N802 - libvirt's name
        return self._alive

    def listAllDomains(self) -> list[StandInDomain]:  # noqa: N802 - libvirt's name
        return list(self._domains)

    def lookupByName(self, name: str) -> StandInDomain:  # noqa: N802 - libvirt's name
        return next(domain for domain in self._domains if domain._name == name)

    def close(self) -> None:
        pass


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Hypervisor]:
    def make(connection: StandInConnection) -> Hypervisor:
        monkeypatch.setattr(libvirt, "open", lambda _uri: connection)
        return Hypervisor("stand-in:///")

    return make


@pytest.mark.parametrize("call", ["name", "UUIDString", "state", "metadata"])
def test_list_leaves_out_a_domain_that_vanishes_meanwhile(connected: Callable[[Any], Hypervisor], call: str) -> None:
    hypervisor = connected(StandInConnection(StandInDomain("vm1"), StandInDomain("gone", fails_at=call)))
    assert [found.name for found in hypervisor.domains()] == ["vm1"]
    assert hypervisor.find("gone") is None


def test_domain_without_our_metadata_is_none_of_ours(connected: Callable[[Any], Hypervisor]) -> None:
    hypervisor = connected(StandInConnection(StandInDomain("others", "metadata", libvirt.VIR_ERR_NO_DOMAIN_METADATA)))
    assert list(hypervisor.domains()) == []
    found = hypervisor.find("others")
    assert found is not None
    assert found.instance is None


def test_domain_that_cannot_be_asked_is_not_called_another_programs(connected: Callable[[Any], Hypervisor]) -> None:
    hypervisor = connected(StandInConnection(StandInDomain("vm1", "metadata", libvirt.VIR_ERR_INTERNAL_ERROR)))
    with pytest.raises(errors.HypervisorError):
        list(hypervisor.domains())


def test_connection_that_breaks_hides_no_domain(connected: Callable[[Any], Hypervisor]) -> None:
    domain = StandInDomain("vm1", "metadata", libvirt.VIR_ERR_INTERNAL_ERROR)
    hypervisor = connected(StandInConnection(domain, alive=False))
    for call in (lambda: list(hypervisor.domains()), lambda: hypervisor.find("vm1")):
        with pytest.raises(errors.HypervisorUnavailable):
            call()


def test_namespace_of_the_metadata_stays(connected: Callable[[Any], Hypervisor]) -> None:
    """Domains that were made before are known by it."""
    assert domain_xml.NAMESPACE == "urn:imgbackend:instance:1"
    [found] = connected(StandInConnection(StandInDomain("vm1"))).domains()
    assert (found.instance, found.owner) == ("vm1", None)
