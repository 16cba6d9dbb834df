"""What instances there are: by their domains and by their folders."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imgbackend import errors
from imgbackend.guest.hypervisor import DomainState, FoundDomain, Hypervisor
from imgbackend.guest.own_instances import OwnInstances
from imgbackend.state import instance_names
from imgbackend.state.records import DOMAIN
from imgbackend.system.host import Host
from imgbackend.types import DiskId, Owner

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """An instance, as it is listed."""

    id: str
    uuid: str | None
    """None: it has no domain."""
    state: DomainState | None
    folder: Path
    owner: Owner | None = None
    """Whose it is; None: nobody noted it, and it is whoever's folder has it."""


class Listing:
    """Looks at the instances of one folder and one libvirtd; changes nothing."""

    def __init__(self, host: Host, hypervisor: Hypervisor, own: OwnInstances) -> None:
        """Keep them; nothing is touched."""
        self._host, self._hypervisor, self._own = host, hypervisor, own

    def list(self, *, all_hosts: bool) -> Iterator[Instance]:
        """See :meth:`imgbackend.guest.instances.Instances.list`."""
        domains = {found.name: found for found in self._hypervisor.domains()}
        folders = {path.parent.name for path in self._host.instances.glob(f"*/{DOMAIN}")}
        for name in sorted({*domains, *(name for name in folders if is_name(name))}):
            try:
                found, mine = self._seen(name, domains.get(name))
                owner = self._own.owner(name) or (found.owner if found is not None else None)
            except (errors.Error, OSError) as exc:
                LOG.warning("Cannot tell whose the instance %s is: %s", name, exc)
                found, mine, owner = domains.get(name), True, None
            if mine or all_hosts:
                yield self._told(name, found, owner)

    def _seen(self, name: str, found: FoundDomain | None) -> tuple[FoundDomain | None, bool]:
        """The domain to be listed, and whether the instance is an own one."""
        if found is not None and self._own.has_domain(found):
            return found, True
        if self._own.has_folder(name):  # a domain of that name is another folder's
            return None, self._own.is_mine(name)
        return found, False

    def show(self, name: str) -> Instance:
        """See :meth:`imgbackend.guest.instances.Instances.show`."""
        found = self._hypervisor.find(name)
        if found is not None and not self._own.has_domain(found):
            found = None
        if found is None and not self._own.has_folder(name):
            raise errors.InstanceNotFound(f"there is no instance {name}")
        return self._told(name, found, self._own.owner(name) or (found.owner if found is not None else None))

    def name_of(self, text: str) -> str:
        """The name of the instance that ``text`` names, or whose uuid it is; the text itself where there is none.

        :raises ConfigError: if no instance can have such a name.
        """
        if not is_name(text):
            raise errors.ConfigError(f"not a name for an instance: {text!r}")
        if not instance_names.is_uuid(text) or self._own.has_folder(text):
            return text
        found = self._hypervisor.find(text) or self._hypervisor.find_uuid(text)
        if found is not None and self._own.has_domain(found):
            return found.name
        return instance_names.by_uuid(self._host.instances, text) or text

    def _told(self, name: str, found: FoundDomain | None, owner: Owner | None) -> Instance:
        return Instance(
            id=name,
            uuid=found.uuid if found is not None else None,
            state=found.state if found is not None else None,
            folder=self._host.instances / name,
            owner=owner,
        )


def is_name(name: str) -> bool:
    """Whether an instance can have this name."""
    return _is_id(name, "disk")


def is_disk_name(name: str) -> bool:
    """Whether a disk can have this name: Nova's disk.info may have others."""
    return _is_id("a", name)


def _is_id(instance: str, name: str) -> bool:
    try:
        DiskId(instance=instance, name=name)
    except ValueError:
        return False
    return True
