"""One folder as two hosts see it, whatever file system they share: what tests of shared folders are written against."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from labs.hosts import SECONDS, SharingHost, expect_hosts
from labs.templates import Template


@dataclass(frozen=True, kw_only=True)
class Share:
    """One folder, by the mounts of two hosts."""

    a: Path
    b: Path
    server: Path
    """What is really there, whatever a client has in its caches."""
    more: tuple[Path, ...] = ()
    """By mounts of further hosts, c and so on."""

    def hosts(self, own: Path, seen: Path) -> dict[str, SharingHost]:
        """Hosts with the folder at ``seen``, for they have one path for what they share, by name; and ``server``.

        ``own`` is a folder for what is theirs alone.  There are four at least, two by one mount if there are no more.
        """
        mounts = [self.a, self.b, *(self.more or (self.a, self.b))]
        views = {"server": self.server, **dict(zip("abcd", mounts, strict=True))}
        return {name: SharingHost.new(name, own, {seen: folder}) for name, folder in views.items()}


@pytest.fixture
def local_share(tmp_path: Path) -> Share:
    """A folder of this machine, which two hosts see without any cache between them: containers, or a cluster's disk."""
    expect_hosts()
    folder = tmp_path / "shared"
    folder.mkdir()
    return Share(a=folder, b=folder, server=folder)


def broken_disks(
    kept: Mapping[str, str], images: Sequence[Template], instances: Path, format: str, host: SharingHost
) -> Iterator[str]:
    """The disks, each of an instance and made of an image, that are not what they were made of as a host sees them."""
    contents = {image.image_id: image.content for image in images}
    for instance, image in kept.items():
        disk = str(instances / instance / "disk")
        command = [*host.enter(), "qemu-img", "compare", "-f", "raw", "-F", format, str(contents[image]), disk]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
        if done.returncode:
            yield f"{host.name} {instance}: {done.stdout}{done.stderr}"
