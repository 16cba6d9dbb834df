"""An overlay and its base, as they are opened: what a header may refer to.

For any driver that keeps qcow2 overlays on bases.  A header is believed only as far as it
cannot lead to a file that is no base.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from imgbackend import errors
from imgbackend.state import manifests
from imgbackend.system import files, qcow2
from imgbackend.system.host import Host
from imgbackend.system.qemu_img import Layer


def header_of(path: Path) -> qcow2.Qcow2Header:
    """The header of an overlay.

    :raises DiskError: if it is no qcow2, or has what no disk of ours has.
    """
    header = qcow2.read(path)
    qcow2.refuse_foreign(header, str(path))
    return header


def backing_of(host: Host, path: Path) -> tuple[Path, str] | None:
    """The base of an overlay, and the format that its header states for it; None: it has none.

    :raises DiskError: if it refers to what is not directly in the base folder, or states no format.
    """
    header = header_of(path)
    if header.backing_file is None:
        return None
    base = Path(header.backing_file)
    if not base.is_absolute() or os.path.realpath(base.parent) != os.path.realpath(host.bases):
        raise errors.DiskError(f"{path} refers to {base}, which is no base of this host; it is refused")
    if header.backing_format is None:
        raise errors.DiskError(f"{path} does not state the format of its base; it is refused")
    return base, header.backing_format


@contextlib.contextmanager
def opened(host: Host, path: Path, flags: int, *, recorded: bool) -> Iterator[list[Layer]]:
    """The overlay, opened with ``flags``, and its base, for qemu-img.

    The format that the header states for the base must be the one in the base's manifest;
    where neither the disk nor the base is on record, only raw is believed.

    :raises DiskError: if the formats differ.
    :raises BaseMissing: if the base is gone.
    """
    with contextlib.ExitStack() as stack:
        layers: list[Layer] = [(stack.enter_context(files.open_fd(path, flags)), "qcow2")]
        backing = backing_of(host, path)
        if backing is not None:
            base, name = backing
            manifest = manifests.read(base)
            if manifest is not None and manifest.format != name:
                raise errors.DiskError(f"{path} takes its base for {name}, and it is {manifest.format}; it is refused")
            if manifest is None and name != "raw" and not recorded:
                raise errors.DiskError(f"neither {path} nor its base is on record; it is refused")
            try:
                layers.append((stack.enter_context(files.open_fd(base, os.O_RDONLY)), name))
            except FileNotFoundError as exc:
                raise errors.BaseMissing(f"the base {base.name} of {path} is gone; create the disk again") from exc
        yield layers
