"""Whether somebody has the disks of a folder open: a guest that our libvirt does not know, such as another host's."""

import contextlib
import logging
from collections.abc import Iterator

from imgbackend.state.records import GOING, RESIZED
from imgbackend.system import image_lock
from imgbackend.system.host import Host

LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def kept_closed(host: Host, folder: str) -> Iterator[None]:
    """Let nobody open the disks that are files of a folder of an instance meanwhile.

    They are told by its records, whoever wrote those.

    :raises DiskOpen: if somebody has one open; it is named.
    :raises StorageUnavailable: if one is a link to nothing.
    """
    path = host.instances / folder
    names = {*host.records.all(folder), *host.records.nova_formats(folder)}
    with contextlib.ExitStack() as stack:
        for name in sorted(names):
            if not (path / name).is_file() and not (path / name).is_symlink():
                continue
            try:
                with image_lock.naming(f"{folder}/{name}", folder.removesuffix(GOING).removesuffix(RESIZED)):
                    stack.enter_context(image_lock.kept_closed(path / name))
            except PermissionError:
                LOG.debug("Whether somebody has %s open cannot be told by this user", path / name)
        yield
