"""What is this file, and is it safe?

An image is a stranger's.  oslo.utils' inspectors read it in this process first, QEMU's
tools only what they let pass, as the format that they found; both must agree.  What is
refused: references to other files (backing file, data file, VMDK extents), features that
nobody knows, two formats at once, and content that is not what was declared.
"""

import contextlib
import importlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from imgbackend import errors
from imgbackend.bases import container_checks
from imgbackend.system import files, qcow2, qemu_img
from imgbackend.system.host import Host
from imgbackend.types import ImageInfo

NAME: Final = "oslo.utils format_inspector"
"""What the manifests say inspected a base."""
_AS_RAW: Final = frozenset({"raw", "gpt", "iso"})
_KNOWN: Final = _AS_RAW | {"qcow2", "vmdk", "vhd", "vhdx", "vdi"}
_CHECKED: Final = frozenset({"qcow2", "vmdk", "vdi"})
"""Containers that qemu-img can check."""
UNTYPED: Final = frozenset({"ami", "aki", "ari"})
"""Declared formats that say nothing of the content: it is taken as raw."""
SECTOR: Final = 512
_INSPECTORS: Final = "oslo_utils.imageutils.format_inspector"
_FIRST_STEP: Final = 1 << 12
_LAST_STEP: Final = 1 << 20


@contextlib.contextmanager
def loaded_meanwhile() -> Iterator[None]:
    """Import the inspectors, 60 ms, on a thread of their own while an image arrives."""
    if _INSPECTORS in sys.modules:
        yield
        return
    loading = threading.Thread(target=importlib.import_module, args=(_INSPECTORS,), name="imgbackend-import")
    loading.start()
    try:
        yield
    finally:
        loading.join()


def rounded(size: int, granularity: int = SECTOR) -> int:
    """``size`` rounded up to whole sectors, as the guest sees it."""
    return -(-size // granularity) * granularity


def inspect(host: Host, path: Path, declared: str | None) -> tuple[ImageInfo, int]:
    """What an image is, and how many bytes a raw copy of it takes at least.

    :raises TemplateUnsafe: if it must not be used.
    :raises TemplateCorrupt: if it is broken or empty.
    """
    length = os.stat(path).st_size
    if not length:
        raise errors.TemplateCorrupt("the image is empty")
    if declared in UNTYPED:
        return ImageInfo(format="raw", virtual_size=rounded(length)), length
    found, size = _detected(path)
    if declared in {"vhd", "vpc"} and found in _AS_RAW and _ends_as_vhd(path):
        found = "vhd"  # of fixed size: only its end tells, so nothing undeclared is taken for one
    _compare(found, declared)
    if found in _AS_RAW:
        return ImageInfo(format="raw", virtual_size=rounded(length)), length
    return _container(host, path, found, size)


def looks_like_container(path: Path) -> bool:
    """Whether some tool may take this for anything else than a raw disk."""
    try:
        return _detected(path)[0] not in _AS_RAW
    except errors.TemplateError:
        return True


def _detected(path: Path) -> tuple[str, int]:
    """The one format that matches, and its virtual size; it has passed its safety checks."""
    from oslo_utils.imageutils import format_inspector  # 90 ms: only when an image is new

    try:
        with path.open("rb") as file:
            wrapper = format_inspector.InspectWrapper(file)
            step = _FIRST_STEP
            while not wrapper.formats and wrapper.read(step):
                step = min(step * 2, _LAST_STEP)  # some are known by their end alone: all of it is read
            wrapper.close()
        matches = {str(match): match for match in wrapper.formats or ()}
        if set(matches) == {"iso", "gpt"}:  # a bootable ISO has a partition table too
            return "iso", os.stat(path).st_size
        if len(matches) != 1:
            raise errors.TemplateUnsafe(f"the image is of several formats at once: {', '.join(sorted(matches))}")
        [(name, match)] = matches.items()
        if name not in _KNOWN:
            raise errors.TemplateUnsafe(f"the image is a {name}, which is not accepted; convert it to qcow2 or raw")
        if name not in _AS_RAW:  # what a raw disk has in its first sector is its guest's alone
            _check_safety(match, name)
        return name, int(match.virtual_size) if name not in _AS_RAW else 0
    except format_inspector.SafetyCheckFailed as exc:
        told = "; ".join(f"{name}: {failure}" for name, failure in exc.failures.items())
        raise errors.TemplateUnsafe(f"the image is refused: {told}".replace("\n", " ")) from exc
    except format_inspector.ImageFormatError as exc:
        raise errors.TemplateUnsafe(f"the image is refused: {exc}") from exc


def _check_safety(match: Any, name: str) -> None:
    """The inspector's own checks; of a qcow2's features ours decide, for it lacks extended L2 entries."""
    from oslo_utils.imageutils import format_inspector

    try:
        match.safety_check()
    except format_inspector.SafetyCheckFailed as exc:
        version = getattr(match, "qemu_header_info", {}).get("version")
        if name != "qcow2" or version != 3 or set(exc.failures) != {"unknown_features"}:
            raise


def _ends_as_vhd(path: Path) -> bool:
    with files.open_fd(path, os.O_RDONLY) as fd:
        return container_checks.is_fixed_vhd(fd)


def _compare(found: str, declared: str | None) -> None:
    accepted = {"raw": _AS_RAW, "iso": {"iso"}, "vpc": {"vhd"}}.get(declared or "", {declared})
    if declared is not None and found not in accepted:
        raise errors.TemplateUnsafe(
            f"the image is declared as {declared}, and is {found}; correct the declaration, or the image"
        )


def _container(host: Host, path: Path, found: str, size: int) -> tuple[ImageInfo, int]:
    """QEMU's own view of a container, which must be the inspector's."""
    with files.open_fd(path, os.O_RDONLY) as fd:
        size = container_checks.check(fd, found, size)
        if size > host.settings.max_virtual_size:
            raise errors.TemplateTooLarge(size, host.settings.max_virtual_size, limit="max_image_virtual_size")
        _agree(host, qemu_img.info(host, (fd, found)), found, size)
        data = qemu_img.check(host, (fd, found)) if found in _CHECKED else 0
        cluster = qcow2.parse(os.pread(fd, 1 << 16, 0), "the image").cluster_size if found == "qcow2" else None
        return ImageInfo(format=found, virtual_size=rounded(size), cluster_size=cluster), data


def _agree(host: Host, told: dict[str, Any], found: str, size: int) -> None:
    special = told.get("format-specific", {}).get("data", {})
    if told.get("backing-filename") or special.get("data-file"):
        raise errors.TemplateUnsafe("the image refers to another file")
    if told.get("virtual-size") not in (size, rounded(size)):
        raise errors.TemplateUnsafe(f"two readers differ over its size: {size} and {told.get('virtual-size')} bytes")
    if found == "vmdk" and special.get("create-type") not in host.settings.vmdk_types:
        kinds = ", ".join(host.settings.vmdk_types) or "none"
        raise errors.TemplateUnsafe(f"the image is a VMDK of type {special.get('create-type')}; accepted are: {kinds}")
