"""Whether somebody has the disks of a folder open: a guest that our libvirt does not know, such as another host's."""

import contextlib
import logging
from collections.abc import Iterator

from imgbackend import errors
from imgbackend.state.records import GOING
from imgbackend.system import image_lock
from imgbackend.system.host import Host

LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def kept_closed(host: Host, folder: str) -> Iterator[None]:
    """Let nobody open the disks that are files of a folder of an instance meanwhile.

    They are told by its records, whoever wrote those.

    :raises DiskBusy: if somebody has one open; it is named.
    """
    path = host.instances / folder
    names = {*host.records.all(folder), *host.records.nova_formats(folder)}
    with contextlib.ExitStack() as stack:
        for name in sorted(names):
            if not (path / name).is_file():
                continue
            try:
                stack.enter_context(image_lock.kept_closed(path / name))
            except errors.DiskBusy as exc:
                raise errors.DiskBusy(f"{folder.removesuffix(GOING)}/{name}: {exc}") from exc
            except PermissionError:
                LOG.debug("Whether somebody has %s open cannot be told by this user", path / name)
        yield
