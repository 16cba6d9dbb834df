"""Empty overlays: qemu-img makes each kind once per process, the next ones start none.

An empty overlay is a pure function of its base's path and format, the cluster size and the
virtual size.  qemu-img makes it in a memfd; what is kept are its length and the few pages
that are not zero.
"""

import functools
import os
from pathlib import Path
from typing import Final, TypeAlias

from imgbackend.system import qemu_img
from imgbackend.system.host import Host
from imgbackend.types import ImageInfo

Pages: TypeAlias = tuple[tuple[int, bytes], ...]

_PAGE: Final = 4096
_DEFAULT_CLUSTER: Final = 1 << 16
_L1_LIMIT: Final = 32 << 20
"""Bytes that QEMU allows the first-level table of a qcow2 (QCOW_MAX_L1_SIZE)."""


def largest(cluster_size: int | None) -> int:
    """The largest virtual size that QEMU allows with this cluster size, in bytes.

    An entry of the first-level table stands for a cluster of 8-byte entries of clusters.
    """
    cluster = cluster_size or _DEFAULT_CLUSTER
    return _L1_LIMIT // 8 * (cluster // 8) * cluster


def empty_overlay(host: Host, base: Path, info: ImageInfo, size: int) -> tuple[int, Pages]:
    """The length of an empty overlay's file, and ``(offset, bytes)`` of what is not zero in it.

    :raises CommandFailed: if qemu-img cannot make it.
    """
    return _made(host, base, info.format, info.cluster_size, size)


@functools.lru_cache(maxsize=256)
def _made(host: Host, base: Path, format: str, cluster_size: int | None, size: int) -> tuple[int, Pages]:
    fd = os.memfd_create("imgbackend-overlay", os.MFD_CLOEXEC)  # no file: a kill leaves nothing
    try:
        qemu_img.overlay(host, fd, base, format, cluster_size, size)
        length = os.fstat(fd).st_size
        data = os.pread(fd, length, 0)
    finally:
        os.close(fd)
    pages: list[tuple[int, bytes]] = []
    for at in range(0, length, _PAGE):
        page = data[at : at + _PAGE]
        if page.count(0) == len(page):
            continue
        if pages and pages[-1][0] + len(pages[-1][1]) == at:
            pages[-1] = (pages[-1][0], pages[-1][1] + page)
        else:
            pages.append((at, page))
    return length, tuple(pages)
