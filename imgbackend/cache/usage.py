"""What is in use: the disks of this host by the base that they hang on, in the base folder or in a store."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from imgbackend import errors
from imgbackend.bases.folders_seen import FoldersSeen
from imgbackend.bases.instance_folders import nothing
from imgbackend.bases.users import Overlay, OverlayUsers
from imgbackend.state import manifests
from imgbackend.system import qcow2
from imgbackend.system.host import Host
from imgbackend.types import is_base_name


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainFile:
    """A file that a domain of libvirt's opens."""

    domain: str
    path: str
    format: str | None = None
    """As the domain states it; None: raw, or no disk at all."""


Domains = Callable[[FoldersSeen], Iterable[DomainFile]]
"""Asks the hypervisor, if by what was seen in the folders there is one; an error of ours where it does not answer."""


def no_domains(_seen: FoldersSeen) -> Iterable[DomainFile]:
    """There is no hypervisor."""
    return ()


class Use:
    """What one look at all disks found."""

    def __init__(self, host: Host, domains: Domains = no_domains, alive: Callable[[], object] = nothing) -> None:
        """Look at every disk, and at what domains open; what cannot be read is told in :attr:`unseen`.

        ``alive`` is called before each folder of an instance, and may raise.
        """
        self._host, self._look, self._domains = host, OverlayUsers(host, alive), domains
        self._local: dict[str, dict[str, None]] = {}
        for overlay in self._look.overlays():
            self._note(overlay)
        self._ask()

    @property
    def unseen(self) -> list[str]:
        """What may hang on a base and could not be read, a line each."""
        return list(self._look.unseen)

    @property
    def foreign(self) -> list[str]:
        """Headers that refer to what is no base of this host, a line each."""
        return list(self._look.foreign)

    @property
    def seen(self) -> FoldersSeen:
        """What was in the folders of instances."""
        return self._look.seen

    @property
    def backends(self) -> set[str]:
        """The backends that records name with a base."""
        return {backend for backend, _ in self._look.named}

    def local(self) -> dict[str, list[str]]:
        """The disks that hang on each base of the base folder."""
        return {base: list(disks) for base, disks in self._local.items()}

    def disks(self, base: str, store: str | None = None, *, before: float | None = None) -> tuple[str, ...]:
        """The disks that hang on a base; on a store's, those whose records name it, and are older than ``before``."""
        if store is None:
            return tuple(self._local.get(base, ()))
        named = self._look.named.get((store, base), {})
        return tuple(disk for disk, made in named.items() if before is None or made < before)

    def again(self) -> None:
        """Look once more where something changed since."""
        for overlay in self._look.again():
            self._note(overlay)
        self._ask()

    def _ask(self) -> None:
        """Count what domains use, wherever its file is."""
        try:
            for file in self._domains(self._look.seen):
                base = self._look.base_under(file.path, file.format)
                if base is not None:
                    self._add(base, self._label(file))
        except errors.Error as exc:
            self._look.unseen[f"what the domains of libvirt use is not known: {exc}"] = None

    def _label(self, file: DomainFile) -> str:
        """A disk of an instance is called as in its folder, so that it counts once."""
        inside = os.path.relpath(os.path.realpath(file.path), os.path.realpath(self._host.instances))
        if inside.startswith(("../", f"{self._host.settings.bases}/")):
            return f"{file.domain} ({file.path})"
        return inside

    def _note(self, overlay: Overlay) -> None:
        self._add(overlay.base, f"{overlay.instance}/{overlay.name}")

    def _add(self, base: str, disk: str) -> None:
        known = self._local.get(base)
        if known is not None:
            known[disk] = None
            return
        self._local[base] = {disk: None}
        below = self._below(self._host.bases / base)
        if below is not None:
            self._add(below, disk)

    def _below(self, base: Path) -> str | None:
        """The base that a base refers to: none of ours does, and an older tool's may."""
        manifest = manifests.read(base)
        if manifest is not None and manifest.format == "raw":
            return None
        try:
            backing = qcow2.read(base).backing_file
        except (OSError, errors.DiskError):
            return None
        name = "" if backing is None else Path(backing).name
        return name if is_base_name(name) else None
