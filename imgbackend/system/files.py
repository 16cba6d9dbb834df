"""Reflink, sparse copy, flush and publish: what everything that is kept in files shares.

Nothing here takes a lock.  A file is made under a temporary name, flushed, and renamed
to its own; ``rename`` within a folder is what makes it appear whole.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Final

from imgbackend import errors
from imgbackend.system import stale
from imgbackend.system.holes import data_ranges as data_ranges
from imgbackend.types import Progress, ignore

FICLONE: Final = 0x40049409
"""``_IOW(0x94, 9, int)`` of linux/fs.h."""
FOLDER_MODE: Final = 0o711
"""Of folders that hypervisors pass through, and nobody lists."""
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
"""Of linux/fcntl.h and linux/fs.h; Python has no function for renameat2(2)."""
_SMALL: Final = 64 << 10
STEP: Final = 32 << 20
"""Bytes that are copied between two looks at progress."""
NOT_HERE: Final = frozenset(
    {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM, errno.EBADF}
)
"""What a kernel, or a file system, answers that lacks a way of doing something."""
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_KEPT_BY_NFS: Final = ".nfs"
"""How the names begin that NFS gives to files which are removed while they are open."""
_AWAY: Final = frozenset(
    {
        *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENODEV, errno.ENXIO),
        *(errno.ENOTCONN, errno.ECONNABORTED),  # FUSE: the client is gone, or went during the call
        errno.ESHUTDOWN,  # CephFS: the metadata server evicted this client
        errno.EHOSTDOWN,  # SMB: the server does not answer
    }
)


@contextlib.contextmanager
def open_fd(path: Path, flags: int, mode: int = 0o600) -> Iterator[int]:
    """A context manager: a descriptor of ``path``, closed at the end; never inherited by a child."""
    fd = os.open(path, flags | os.O_CLOEXEC, mode)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def new_file(path: Path, mode: int = 0o600) -> Iterator[int]:
    """A context manager: a descriptor of a file that was not there; what has the name already goes first.

    It is unlinked, not truncated: a process of a killed run may still write to it.
    """
    path.unlink(missing_ok=True)
    with open_fd(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode) as fd:
        os.fchmod(fd, mode)
        yield fd


def content(path: Path | str) -> bytes:
    """What is in a small file; in half the time that a file object takes, for who reads very many.

    One that another host replaces meanwhile is read anew.

    :raises OSError: as open and read do.
    """
    return stale.look_again(path, lambda: _content(path))


def _content(path: Path | str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would be waited for
    try:
        told = os.read(fd, _SMALL)
        if not told:
            return stale.past_the_cache(path, _SMALL)
        return told if len(told) < _SMALL else told + b"".join(iter(lambda: os.read(fd, _SMALL), b""))
    finally:
        os.close(fd)


def flush(fd: int) -> None:
    """Put the file's bytes and its size on stable storage."""
    os.fsync(fd)


def flush_folder(path: Path) -> None:
    """Put a folder's names on stable storage."""
    with open_fd(path, os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)


def make_folders(path: Path) -> list[Path]:
    """Make a folder, and those above it, that others may pass through but not list, whatever the umask.

    The folders that have new names in them are returned, to be flushed.
    """
    changed = []
    missing = [path] if not path.is_dir() else []
    while missing and not missing[-1].parent.is_dir():
        missing.append(missing[-1].parent)
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=FOLDER_MODE)
            folder.chmod(FOLDER_MODE)
        changed.append(folder.parent)
    return changed


def publish(temporary: Path, final: Path, *, durable: bool = True) -> None:
    """Give a whole, flushed file its own name; on return that survives a power cut."""
    os.rename(temporary, final)
    if durable:
        flush_folder(final.parent)


def exchange(one: Path, other: Path, *, durable: bool = True) -> None:
    """Let two names of a file system trade places, in one step; on return that survives a power cut.

    Both may be folders, with whatever is in them.

    :raises OSError: if one is missing, or the file system cannot; both stay as they are.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one), None, str(other))
    for folder in {one.parent, other.parent} if durable else ():
        flush_folder(folder)


def publish_new(temporary: Path, final: Path) -> None:
    """Give a whole, flushed file a name that nothing else has; the folder is flushed.

    :raises FileExistsError: if something has it; both stay as they are.
    """
    try:
        os.link(temporary, final)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(final):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final)) from None
        os.rename(temporary, final)
    temporary.unlink(missing_ok=True)
    flush_folder(final.parent)


def write_whole(path: Path, data: bytes, *, mode: int = 0o644, durable: bool = True) -> None:
    """Put ``data`` at ``path`` so that a reader sees the old file or the new one.

    The caller holds a lock: the temporary name, ``.<name>.tmp``, is fixed.  The folder
    is not flushed: that is done once, by whoever publishes last.
    """
    write_all({path: data}, mode=mode, durable=durable)


def write_all(contents: Mapping[Path, bytes], *, mode: int = 0o644, durable: bool = True) -> None:
    """:func:`write_whole` for several files: all are flushed before the first of them gets its name."""
    temporary = {path: path.with_name(f".{path.name}.tmp") for path in contents}
    try:
        with contextlib.ExitStack() as opened:
            fds = []
            for path, data in contents.items():
                fds.append(opened.enter_context(new_file(temporary[path], mode)))
                write_content(fds[-1], data)
            if durable:
                _flush_all(fds)
        for path in contents:
            os.rename(temporary[path], path)
    except BaseException:
        for path in temporary.values():
            path.unlink(missing_ok=True)
        raise


def write_content(fd: int, data: bytes) -> None:
    """Write all of ``data``; an almost full file system takes only a part at once."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _flush_all(fds: Sequence[int]) -> None:
    """Flush several files; their writing begins together, so that one commit of a journal takes them all."""
    if len(fds) > 1:
        for fd in fds:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    for fd in fds:
        flush(fd)


def reflink(source: int, target: int) -> bool:
    """Let ``target`` share the whole of ``source``; False where the file system cannot.

    :raises OSError: ENOSPC, EDQUOT, EIO and the like.
    """
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError as exc:
        if exc.errno in NOT_HERE:
            return False
        raise
    return True


def nearest(path: Path) -> Path:
    """``path``, or the first above it that is there."""
    while not path.exists():
        path = path.parent
    return path


def can_reflink(folder: Path, *, into: Path | None = None) -> bool:
    """Whether files below ``into`` (None: below the same folder) can share blocks with files below ``folder``.

    It is tried, on two files that never have a name.

    :raises OSError: EIO, ENOSPC and the like: that could not be told.
    """
    try:
        with (
            open_fd(nearest(folder), os.O_RDWR | os.O_TMPFILE) as source,
            open_fd(nearest(into or folder), os.O_RDWR | os.O_TMPFILE) as target,
        ):
            os.write(source, bytes(4096))
            return reflink(source, target)
    except OSError as exc:
        if exc.errno in _AWAY | FULL:
            raise
        return False


def copy(source: int, target: int, progress: Progress = ignore, *, phase: str = "copy") -> None:
    """Copy a file's bytes into an empty one, keeping holes; in the kernel where that can be.

    Where the file system tells no holes, blocks of zeroes become some.

    ``target`` has the size of ``source`` at the end.

    :raises StorageFull: with the bytes that ``source`` takes, and what is free.
    :raises OSError: as read and write do; EIO if ``source`` became shorter meanwhile.
    """
    status = os.fstat(source)
    size = status.st_size
    os.ftruncate(target, size)
    step = _copy_in_kernel
    for start, end in data_ranges(source, size, status.st_dev):
        at = start
        while at < end:
            try:
                done = step(source, target, at, min(STEP, end - at))
            except OSError as exc:
                if exc.errno not in FULL:
                    raise
                folder = Path(os.readlink(f"/proc/self/fd/{target}")).parent
                raise as_error(exc, folder, os.fstat(source).st_blocks * 512) from exc
            if done is None:
                step = _copy_by_hand
                continue
            if not done:
                raise OSError(errno.EIO, "the file became shorter while it was copied")
            at += done
            progress(phase, at, size)
    progress(phase, size, size)


def _copy_in_kernel(source: int, target: int, at: int, count: int) -> int | None:
    try:
        return os.copy_file_range(source, target, count, at, at)
    except OSError as exc:
        if exc.errno in NOT_HERE:
            return None
        raise


def _copy_by_hand(source: int, target: int, at: int, count: int) -> int:
    data = os.pread(source, min(count, 1 << 20), at)
    view = memoryview(data)
    while view:
        done = os.pwrite(target, view, at)
        view, at = view[done:], at + done
    return len(data)


def allocated(path: Path) -> int:
    """Bytes that the file system spends on a file."""
    return os.stat(path).st_blocks * 512


def free_bytes(folder: Path) -> int:
    """What an unprivileged writer may still fill (``f_bavail``)."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def total_bytes(folder: Path) -> int:
    """All that unprivileged writers may fill, or have filled: what df(1) makes its percentages of."""
    status = os.statvfs(folder)
    return (status.f_blocks - status.f_bfree + status.f_bavail) * status.f_frsize


def folder_bytes(folder: Path, without: Set[str] = frozenset()) -> int:
    """Bytes that the file system spends on the files right in a folder, but for those of some names."""
    total = 0
    try:
        with os.scandir(folder) as found:
            for entry in found:
                with contextlib.suppress(FileNotFoundError):
                    if entry.name not in without and entry.is_file(follow_symlinks=False):
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
    except FileNotFoundError:
        return 0
    return total


@contextlib.contextmanager
def translating_errors(where: Path) -> Iterator[None]:
    """Let no ``OSError`` out, but the error of ours that it means of what is below ``where``."""
    try:
        yield
    except OSError as exc:
        raise as_error(exc, where) from exc


def as_error(exc: OSError, where: Path, need: int | None = None) -> errors.Error:
    """The error of ours that an ``OSError`` below ``where`` means."""
    name = where if not exc.filename or isinstance(exc.filename, int) else os.fsdecode(exc.filename)
    what = f"{name}: {exc.strerror or exc}"
    if exc.errno in FULL:
        have: int | None = None
        with contextlib.suppress(OSError):
            have = free_bytes(where if where.is_dir() else where.parent)
        return errors.StorageFull(str(where), need, have, is_quota=exc.errno == errno.EDQUOT)
    if exc.errno in _DENIED:
        return errors.ConfigError(f"{what}; give this user the permission, or use another folder")
    if exc.errno in _AWAY:
        return errors.StorageUnavailable(what)
    if exc.errno == errno.EBUSY and os.path.basename(name).startswith(_KEPT_BY_NFS):
        return errors.DiskBusy(
            f"a file in {where} is open on this host, which NFS keeps there as {os.path.basename(name)}; "
            "stop what has it open, and call again"
        )
    return errors.StorageError(what)
