"""The whole of an image in a file, as raw or as qcow2."""

import os
import tempfile
from pathlib import Path

from imgbackend.system import files, qemu_img
from imgbackend.types import Progress
from imgbackend_rbd import images
from imgbackend_rbd.pool import PoolBackend


def write(backend: PoolBackend, image: str, target: Path, format: str, *, compress: bool, progress: Progress) -> None:
    """Fill an empty file; for qcow2 by way of one without a name beside it, which qemu-img then converts."""
    if format == "raw":
        with files.open_fd(target, os.O_RDWR) as out:
            _drain(backend, image, out, progress, "extract")
        return
    with (
        tempfile.TemporaryFile(dir=target.parent, prefix=".export-") as file,  # NFS and CephFS know no O_TMPFILE
        files.open_fd(target, os.O_RDWR) as out,
    ):
        read = file.fileno()
        _drain(backend, image, read, progress, "copy")
        size = os.fstat(read).st_size
        qemu_img.convert(
            backend.host, [(read, "raw")], out, format, size=size, compress=compress, progress=progress, phase="extract"
        )


def _drain(backend: PoolBackend, image: str, target: int, progress: Progress, phase: str) -> None:
    with backend.cluster.image(backend.pool, image, read_only=True) as opened:
        images.drain(opened, target, progress, phase)
