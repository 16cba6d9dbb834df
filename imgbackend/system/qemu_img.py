"""qemu-img under limits: it is told every format, and never guesses one.

Files are handed over as open descriptors in a JSON block-device specification that names
the driver and the backing node of each layer, so that no name in a header is followed and
no character in a path means anything.  Where this process is root, qemu-img runs as
``unprivileged_user``; files that this user could not open again are lent to it meanwhile.
"""

import contextlib
import errno
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from imgbackend import errors
from imgbackend.system import files, image_lock
from imgbackend.system.host import Host
from imgbackend.system.runner import CommandLimits, UnixIdentity
from imgbackend.types import Gi, Progress, ignore

Layer: TypeAlias = tuple[int, str]
"""``(descriptor, format)`` of an image; its backing image is the next in a sequence."""

NAMES: Final = {"vhd": "vpc"}
"""Formats that QEMU calls by another name."""
_CHAINED: Final = frozenset({"qcow2", "qcow", "qed", "vmdk"})
_OPTIONS: Final = {"vhd": {"force_size_calc": "current_size"}}
"""The size that the footer states, whoever made it: see :mod:`imgbackend.bases.container_checks`."""
_PERCENT: Final = re.compile(r"\((\d+(?:\.\d+)?)/100%\)")
_HEADROOM: Final = 1 << 20
"""Bytes that a file may be larger than what is allowed: a last block, a header."""


def info(host: Host, layer: Layer) -> dict[str, Any]:
    """What qemu-img says of one image, as a dictionary.

    :raises TemplateCorrupt: if it cannot be read as that format.
    :raises CommandFailed: if a limit fired.
    """
    try:
        text = _run(host, ["info", "--output=json", _spec([layer])], read=[layer[0]])
    except errors.CommandFailed as exc:
        raise blamed(exc, layer[1]) from exc
    found: dict[str, Any] = json.loads(text)
    return found


def check(host: Host, layer: Layer) -> int:
    """Check a container's metadata; leaked clusters are allowed.  The bytes of data it holds, 0 if not told.

    :raises TemplateCorrupt: if it is corrupt, or refers to clusters beyond its end.
    :raises CommandFailed: if a limit fired.
    """
    fd, name = layer
    try:
        text = _run(host, ["check", "--output=json", _spec([layer])], read=[fd])
    except errors.CommandFailed as exc:
        if exc.reason is not None or exc.status not in (2, 3) or not exc.printed.startswith("{"):
            raise blamed(exc, name) from exc
        text = exc.printed
    found = json.loads(text)
    cluster, length = int(found.get("cluster-size", 1 << 16)), os.fstat(fd).st_size
    end = int(found.get("image-end-offset", 0))
    if found.get("corruptions") or found.get("check-errors"):
        raise errors.TemplateCorrupt(f"the {name} image is corrupt: qemu-img check finds errors in it")
    if end > -(-length // cluster) * cluster:  # the last cluster need not be there in full
        raise errors.TemplateCorrupt(f"the {name} image is cut off: it refers to byte {end}, and has {length}")
    return int(found.get("allocated-clusters", 0)) * cluster


def convert(
    host: Host,
    layers: Sequence[Layer],
    target: int,
    out: str,
    *,
    size: int,
    compress: bool = False,
    rate: int | None = None,
    progress: Progress = ignore,
    phase: str = "convert",
) -> None:
    """Write the image that ``layers`` make, as format ``out``, into ``target``: an empty file, or a block device.

    ``size`` is the virtual size, and the most that the file may have but for metadata.  Of a
    device the first ``size`` bytes are written, zeroes too.  The target is not flushed.
    ``rate``: no more bytes than so many in a second.

    :raises CommandFailed: if it cannot be read, or a limit fired.
    """
    device = _is_device(target)
    limits = CommandLimits(
        cpu_seconds=host.settings.cpu_seconds * (1 + size // Gi),
        address_space=host.settings.convert_address_space,
        file_size=None if device else size + (_HEADROOM if out == "raw" else size // 64 + 64 * _HEADROOM),
        stall_seconds=host.settings.stall_seconds,
    )
    options = [*(["-n", "-t", "none"] if device else []), *(["-c"] if compress else [])]
    options += [] if rate is None else ["-r", str(rate)]
    argv = ["convert", "-p", *options, "-O", out, _spec(layers), f"/proc/self/fd/{target}"]
    _run(
        host, argv, read=[fd for fd, _ in layers], write=[target], limits=limits, watch=_percent(progress, phase, size)
    )
    progress(phase, size, size)


def overlay(host: Host, target: int, base: Path, base_format: str, cluster_size: int | None, size: int) -> None:
    """Make an empty overlay on ``base`` in the empty file ``target``; the base is not opened.

    :raises CommandFailed: if the size is more than the cluster size allows.
    """
    option = [] if cluster_size is None else ["-o", f"cluster_size={cluster_size}"]
    backing = ["-u", "-b", str(base), "-F", NAMES.get(base_format, base_format)]
    argv = ["create", "-q", "-f", "qcow2", *option, *backing, f"/proc/self/fd/{target}", str(size)]
    _run(host, argv, write=[target])


def resize(host: Host, layers: Sequence[Layer], size: int) -> None:
    """Let the first of ``layers`` have ``size`` bytes.

    :raises DiskBusy: if a guest has it open.
    :raises CommandFailed: if it cannot.
    """
    _run(host, ["resize", "-q", _spec(layers), str(size)], read=_rest(layers), write=[layers[0][0]])


def rebase_to_nothing(host: Host, layers: Sequence[Layer], size: int, progress: Progress = ignore) -> None:
    """Copy into the first of ``layers`` what it takes from the others, and detach it.

    Killed at any point, it is an overlay still, with the same bytes.

    :raises DiskBusy: if a guest has it open.
    """
    limits = CommandLimits(
        cpu_seconds=host.settings.cpu_seconds * (1 + size // Gi),
        address_space=host.settings.convert_address_space,
        stall_seconds=host.settings.stall_seconds,
    )
    argv = ["rebase", "-p", "-b", "", _spec(layers)]
    _run(host, argv, read=_rest(layers), write=[layers[0][0]], limits=limits, watch=_percent(progress, "convert", size))


def snapshot(host: Host, layers: Sequence[Layer], action: str, name: str) -> None:
    """Create (``-c``), apply (``-a``) or delete (``-d``) an internal snapshot of a qcow2.

    :raises DiskBusy: if a guest has it open.
    """
    _run(host, ["snapshot", "-q", action, name, _spec(layers)], read=_rest(layers), write=[layers[0][0]])


def _rest(layers: Sequence[Layer]) -> list[int]:
    return [fd for fd, _ in layers[1:]]


def _spec(layers: Sequence[Layer]) -> str:
    """A ``json:`` file name: every driver is named, and nothing else is opened."""
    node: dict[str, Any] | None = None
    for fd, name in reversed(layers):
        file = {"driver": "host_device" if _is_device(fd) else "file", "filename": f"/proc/self/fd/{fd}"}
        made: dict[str, Any] = {"driver": NAMES.get(name, name), "file": file}
        if name in _CHAINED:
            made["backing"] = node
        made |= _OPTIONS.get(name, {})
        node = made
    return "json:" + json.dumps(node)


def _is_device(fd: int) -> bool:
    return stat.S_ISBLK(os.fstat(fd).st_mode)


def _percent(progress: Progress, phase: str, total: int) -> Callable[[str], None]:
    def watch(text: str) -> None:
        found = _PERCENT.findall(text)
        progress(phase, int(float(found[-1]) / 100 * total) if found else 0, total)

    return watch


def _run(
    host: Host,
    arguments: Sequence[str],
    *,
    read: Sequence[int] = (),
    write: Sequence[int] = (),
    limits: CommandLimits | None = None,
    watch: Callable[[str], None] | None = None,
) -> str:
    limits = limits or CommandLimits(
        cpu_seconds=host.settings.cpu_seconds,
        address_space=host.settings.address_space if not write else host.settings.convert_address_space,
        stall_seconds=host.settings.stall_seconds,
    )
    with _access(host, read, write) as identity:
        try:
            argv = ["qemu-img", *arguments]
            return host.run(argv, limits=limits, pass_fds=[*read, *write], identity=identity, watch=watch)
        except errors.CommandFailed as exc:
            if "Failed to get" in exc.output and "lock" in exc.output:
                raise errors.DiskOpen(image_lock.OPEN_ELSEWHERE) from exc
            if "Stale file handle" in exc.output:  # NFS: another host removed one of the files
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), _path_of((*read, *write)[0])) from exc
            if "No space left on device" in exc.output or "Disk quota exceeded" in exc.output:
                folder = Path(_path_of((*write, *read)[0])).parent
                is_quota = "Disk quota exceeded" in exc.output
                raise errors.StorageFull(str(folder), None, files.free_bytes(folder), is_quota=is_quota) from exc
            raise


@contextlib.contextmanager
def _access(host: Host, read: Sequence[int], write: Sequence[int]) -> Iterator[UnixIdentity | None]:
    """Let the unprivileged user open these files again, by their descriptors."""
    found = host.unprivileged()
    if found is None:
        yield None
        return
    uid, gid = found
    groups: set[int] = set()
    with contextlib.ExitStack() as lent:
        for fd, bits in [*((fd, 0o4) for fd in read), *((fd, 0o6) for fd in write)]:
            status = os.fstat(fd)
            if status.st_mode & bits == bits:
                continue
            if status.st_mode >> 3 & bits == bits and not stat.S_ISBLK(status.st_mode):  # its group has all disks
                groups.add(status.st_gid)
            else:
                _lend(lent, fd, status, uid)
        yield UnixIdentity(uid=uid, gid=gid, groups=tuple(sorted(groups)))


def _lend(lent: contextlib.ExitStack, fd: int, status: os.stat_result, uid: int) -> None:
    """Give a file to ``uid``; who was killed meanwhile is put right by :func:`take_back`."""
    owner = os.geteuid() if status.st_uid == uid else status.st_uid
    mode = stat.S_IMODE(status.st_mode)
    lent.callback(os.fchmod, fd, mode)
    try:
        if status.st_uid != uid:
            os.fchown(fd, uid, -1)
    except PermissionError as exc:
        raise errors.ConfigError(
            f"{_path_of(fd)}: root may not give it to unprivileged_user, whom qemu-img runs as, so the server of the "
            "file system takes root for somebody else (root_squash); export it with no_root_squash, or set "
            "unprivileged_user to the user that the server takes root for"
        ) from exc
    lent.callback(_hand_back, fd, owner)
    os.fchmod(fd, mode | 0o600)


def _hand_back(fd: int, owner: int) -> None:
    """Give a file its owner; a server that takes root for the unprivileged user has it be his already."""
    with contextlib.suppress(PermissionError):
        os.fchown(fd, owner, -1)


def take_back(host: Host, path: Path) -> None:
    """Give a file its owner again that a killed process had lent; under the lock of what it is.

    Where a server takes root for the unprivileged user, his are all files, and none was lent.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError, errors.ConfigError):
        user = host.unprivileged()
        if user is not None and os.lstat(path).st_uid == user[0]:
            os.chown(path, os.geteuid(), -1, follow_symlinks=False)


def _path_of(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


def blamed(exc: errors.CommandFailed, name: str) -> errors.Error:
    """What a failure to read an image means: it is the image's fault, unless a limit fired."""
    if exc.reason is not None:
        return errors.CommandFailed(exc.argv, exc.status, exc.output, reason=exc.reason)
    told = exc.output.strip().splitlines()[-1:] or ["no output"]
    return errors.TemplateCorrupt(f"the image cannot be read as {name}: {_plain(told[0])}")


def _plain(text: str) -> str:
    """qemu-img's words without the specification that it was given."""
    return re.sub(r"'?json:\{.*\}'?:?", "", text.removeprefix("qemu-img: ")).replace("Could not open ", "").strip(" :")
