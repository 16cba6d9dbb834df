"""Which instances are this host's and this folder's: what else libvirt or the folder has is left alone.

Several folders of instances may use one libvirtd, and several hosts one folder.  So an instance is known by its records
first; by ``libvirt.xml`` in its folder where it has no disks of its own; and by what its domain notes where the
folder is gone.
"""

import os
from collections.abc import Callable

from imgbackend import errors
from imgbackend.disks.owners import Owners
from imgbackend.guest.hypervisor import FoundDomain, Hypervisor
from imgbackend.state.records import DOMAIN, GOING, OURS
from imgbackend.system import files
from imgbackend.system.host import Host
from imgbackend.types import RELEASED, Owner


class OwnInstances:
    """Tells own instances from others', for one folder and one libvirtd."""

    def __init__(self, host: Host, owners: Owners, hypervisor: Hypervisor) -> None:
        """Keep them; nothing is touched."""
        self._host, self._owners, self._hypervisor = host, owners, hypervisor

    def me(self) -> Owner:
        """This host and this folder."""
        return self._owners.me()

    def owner(self, folder: str) -> Owner | None:
        """Whose the instance in a folder of ``instances_path`` is; None: nobody noted it.

        :raises DiskError: if its records are broken.
        """
        return self._owners.owner_of(folder)

    def kept_xml(self, folder: str) -> str | None:
        """What ``libvirt.xml`` in a folder says; None: there is none.

        :raises StorageError: if it cannot be read, or ConfigError.
        """
        path = self._host.instances / folder / DOMAIN
        try:
            return path.read_text(errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise files.as_error(exc, path) from exc

    def has_folder(self, name: str) -> bool:
        """Whether imgbackend made something in the folder of that name; False where it may not be looked into."""
        folder = self._host.instances / name
        return os.path.isfile(folder / OURS) or os.path.isfile(folder / DOMAIN)

    def is_mine(self, name: str) -> bool:
        """Whether the instance in the folder of that name may be changed here."""
        return self._owners.is_mine(name, self.owner(name))

    def check(self, name: str) -> None:
        """Refuse an instance that is another's, or one of that name that another is destroying.

        :raises InstanceElsewhere: with whose it is.
        """
        for folder in (name, f"{name}{GOING}"):
            owner = self.owner(folder)
            if not self._owners.is_mine(name, owner):
                raise _elsewhere(
                    f"the instance {name}" if folder == name else f"{folder}, which is being destroyed,", owner
                )

    def has_domain(self, found: FoundDomain) -> bool:
        """Whether a domain is an own instance's.

        The folder's records decide where they are there, for they say who took an instance over.  An older version
        noted nothing in the domain: then it is whoever's folder has the instance.
        """
        name, me = found.name, self._owners.known_me()
        if found.instance != name:
            return False
        if found.owner is not None and (me is None or found.owner.folder != me.folder):
            return self._owners.is_mine(name, found.owner)
        folders = [folder for folder in (name, f"{name}{GOING}") if self.has_folder(folder)]
        noted = [owner for folder in folders if (owner := self.owner(folder)) is not None]
        if noted:
            return self._owners.is_mine(name, noted[0])
        return self._owners.is_mine(name, found.owner) if found.owner is not None else bool(folders)

    def domain(self, name: str) -> FoundDomain | None:
        """The domain of an own instance; None: there is none.

        :raises InstanceElsewhere: if the domain of that name is another host's, or another folder's.
        :raises InstanceError: if imgbackend did not make it, or nothing tells for which folder.
        """
        found = self._hypervisor.find(name)
        if found is None or self.has_domain(found):
            return found
        raise self._refused(found)

    def reached(self, name: str, find: Callable[[str], FoundDomain | None]) -> FoundDomain | None:
        """What ``find`` says of an instance's domain; where it never had one, libvirt need not be there."""
        try:
            return find(name)
        except (errors.ConfigError, errors.HypervisorUnavailable):
            if self.kept_xml(name) is not None:
                raise
            return None

    def check_uuid(self, name: str, uuid: str) -> None:
        """Refuse a uuid that another domain has.

        :raises InstanceError: with the other's name, and whose it is.
        """
        found = self._hypervisor.find_uuid(uuid)
        if found is not None and found.name != name:
            whose = f", which is {found.owner}'s" if found.owner is not None else ""
            raise errors.InstanceError(
                f"libvirt has the uuid {uuid} already, for the domain {found.name}{whose}; give {name} another uuid"
            )

    def _refused(self, found: FoundDomain) -> errors.InstanceError:
        if found.instance == found.name and found.owner is not None:
            return _elsewhere(f"libvirt's domain {found.name}", found.owner)
        made = "did not make" if found.instance is None else "made for another folder"
        return errors.InstanceError(
            f"libvirt has a domain {found.name} that imgbackend {made}; it is left alone: use another name, "
            "or undefine it"
        )


def _elsewhere(what: str, owner: Owner | None) -> errors.InstanceElsewhere:
    if owner == RELEASED:
        return errors.InstanceElsewhere(
            f"{what} is nobody's: it was released; imgbackend instance take makes it this host's"
        )
    return errors.InstanceElsewhere(f"{what} is {owner}'s; call it there, or take it over with --take-over")
