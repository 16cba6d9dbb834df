"""Images that are files of this host: a folder of them, or any path."""

import contextlib
import errno
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from oslo_config import cfg

from imgbackend.errors import (
    ConfigError,
    ImageNotFound,
    SourceDenied,
    SourceError,
    SourceUnavailable,
    TemplateCorrupt,
    TemplateError,
    TemplateTooLarge,
)
from imgbackend.sources.contract import Image, Source
from imgbackend.sources.filenames import SUMS, Suffixes, suffixes, sum_of
from imgbackend.sources.retry import Retry
from imgbackend.sources.sparse_file import CHUNK
from imgbackend.sources.stream import StreamOrder, TransferLimits, fetch
from imgbackend.system import files
from imgbackend.types import Declared, Delivered, Mi, Progress

_QCOW2_MAGIC = b"QFI\xfb"
_LARGEST_SUMS = 4 * Mi
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class ImageFileIdentity(NamedTuple):
    """What changes when a file is written or replaced."""

    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, fd: int) -> "ImageFileIdentity":
        """Of an open file."""
        status = os.fstat(fd)
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor of the regular file at ``path``; nothing here waits for a writer.

    :raises ImageNotFound: if there is nothing, or what is there is no regular file.
    :raises SourceDenied: if this user may not read it.
    :raises SourceUnavailable: if the storage below does not answer.
    """
    try:
        # Looked at before it is opened: opening some devices does something.
        status = os.stat(path)
        fd = os.open(path, _FLAGS) if stat.S_ISREG(status.st_mode) else -1
    except (OSError, ValueError) as exc:
        raise _refusal(path, exc) from exc
    if fd < 0:
        raise ImageNotFound(f"{str(path)!r} is {_kind(status.st_mode)}, not an image file")
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            raise ImageNotFound(f"{str(path)!r} is {_kind(mode)}, not an image file")
        yield fd
    finally:
        os.close(fd)


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a fifo",
        stat.S_IFSOCK: "a socket",
        stat.S_IFBLK: "a block device",
        stat.S_IFCHR: "a character device",
    }
    return kinds.get(stat.S_IFMT(mode), "something special")


def _refusal(path: Path, exc: OSError | ValueError) -> ImageNotFound | SourceDenied | SourceUnavailable:
    shown = repr(str(path))
    code = exc.errno if isinstance(exc, OSError) else None
    if code in (errno.EACCES, errno.EPERM):
        return SourceDenied(f"{shown} may not be read by this user; give it the permission")
    if code == errno.ELOOP:
        return ImageNotFound(f"{shown} is a loop of symbolic links")
    if code in (errno.ENOENT, errno.ENOTDIR):
        return ImageNotFound(f"there is no file {shown}")
    if code in (errno.ENAMETOOLONG, None):
        return ImageNotFound(f"{shown} is no name of a file")
    return SourceUnavailable(f"{shown} cannot be read: {exc.strerror if isinstance(exc, OSError) else exc}")


def _read(fd: int, path: Path, size: int, at: int = 0) -> bytes:
    try:
        return os.pread(fd, size, at)
    except OSError as exc:
        raise _refusal(path, exc) from exc


class FileImage(Image):
    """One image file, as it was when it was found."""

    def __init__(self, path: Path, conf: Any) -> None:
        """Looks at the file: its id is made of what it is now.

        :raises ImageNotFound: if there is no regular file at ``path``.
        """
        self._path, self._conf = path, conf
        with opened(path) as fd:
            self._identity = ImageFileIdentity.of(fd)
            self._header = _read(fd, path, 32)
        self._real = Path(os.path.realpath(path))
        self._suffixes = suffixes(path.name)
        self._sum: tuple[str | None] | None = None

    @property
    def id(self) -> str:
        """``file:<real path>:<inode>:<size>:<mtime in ns>``."""
        return f"file:{_text(self._real)}:{self._identity.inode}:{self._identity.size}:{self._identity.mtime_ns}"

    @property
    def name(self) -> str:
        """The file's name."""
        return self._path.name

    @property
    def declared(self) -> Declared:
        """What the name, the header of a qcow2 and a SHA256SUMS beside the file say."""
        told = self._told
        return Declared(
            image_id=self.id,
            source=_text(self._path.absolute()),
            role=self.role,
            format=told.format,
            size=None if told.wrapper else self._identity.size,
            virtual_size=self._virtual_size(),
            digests=self._digests(),
        )

    @property
    def _told(self) -> Suffixes:
        return self._suffixes if self.role == "image" else Suffixes(None, None)

    def _virtual_size(self) -> int | None:
        if self._told.wrapper:
            return None
        if self._told.format in ("raw", "iso"):
            return self._identity.size
        if self._told.format == "qcow2" and len(self._header) == 32 and self._header.startswith(_QCOW2_MAGIC):
            # QCowHeader of qemu's docs/interop/qcow2.txt: bytes 24 to 31, big-endian.
            size: int = struct.unpack_from(">Q", self._header, 24)[0]
            return size
        return None

    def _digests(self) -> tuple[tuple[str, str], ...]:
        if self._sum is None:
            self._sum = (self._listed(),)
        return (("sha256", self._sum[0]),) if self._sum[0] else ()

    def _listed(self) -> str | None:
        try:
            with opened(self._path.parent / SUMS) as fd:
                text = _read(fd, self._path.parent / SUMS, _LARGEST_SUMS).decode("utf-8", "replace")
        except ImageNotFound:
            return None
        return sum_of(text, self._path.name)

    def __call__(self, target: Path, progress: Progress, /) -> Delivered:
        """As :meth:`Image.__call__`; reflinked or copied in the kernel where there is nothing to check or unpack.

        :raises SourceUnavailable: if the file is being written meanwhile.
        """
        with opened(self._path) as fd:
            self._unchanged(fd)
            if self._digests() or self._told.wrapper:
                delivered = self._stream(fd, target, progress)
            else:
                delivered = self._copy(fd, target, progress)
            self._unchanged(fd)
        return delivered

    def _unchanged(self, fd: int) -> None:
        if ImageFileIdentity.of(fd) != self._identity:
            raise SourceUnavailable(f"{str(self._path)!r} is being written; try again when it is whole")

    def _copy(self, fd: int, target: Path, progress: Progress) -> Delivered:
        size, allowed = self._identity.size, TransferLimits.configured(self._conf).of(self._told.format)
        if not size:
            raise TemplateCorrupt(f"{str(self._path)!r} is empty")
        if size > allowed:
            raise TemplateTooLarge(size, allowed, limit="max_image_virtual_size")
        with files.new_file(target) as made:
            progress("fetch", 0, size)
            if files.reflink(fd, made):
                progress("fetch", size, size)
            else:
                files.copy(fd, made, progress, phase="fetch")
        return Delivered(size=size)

    def _stream(self, fd: int, target: Path, progress: Progress) -> Delivered:
        wanted = StreamOrder(
            name=repr(str(self._path)),
            size=self._identity.size,
            digests=self._digests(),
            format=self._told.format,
            wrapper=self._told.wrapper,
            limits=TransferLimits.configured(self._conf),
            resumable=False,
        )
        return fetch(target, lambda _offset: _FileBody(fd, self._path), wanted, Retry(times=0, delay=0), progress)


class _FileBody:
    """A :class:`~imgbackend.sources.stream.Body` of an open file."""

    start = 0

    def __init__(self, fd: int, path: Path) -> None:
        self._fd, self._path = fd, path

    def chunks(self) -> Iterator[bytes]:
        at = 0
        while True:
            chunk = _read(self._fd, self._path, CHUNK, at)
            if not chunk:
                return
            at += len(chunk)
            yield chunk

    def close(self) -> None:
        """The file is its opener's."""


class FolderSource(Source):
    """Names in ``[sources] folder_path``, and paths: absolute, relative, or ``file:///...``."""

    opts = (
        cfg.StrOpt(
            "folder_path",
            default="$state_path/images",
            help="The folder that a bare name of an image is looked up in.",
        ),
    )

    @property
    def folder(self) -> Path:
        """``[sources] folder_path``."""
        return Path(self.conf.sources.folder_path)

    def find(self, ref: str, *, session: Any | None = None) -> FileImage:  # noqa: ARG002 - files know no session
        """The image of a bare name, ``folder:NAME``, a path with a slash in it, or ``file:///path``."""
        if ref.startswith("file:"):
            return FileImage(_path_of(ref), self.conf)
        name = ref.removeprefix("folder:")
        if name == ref and "/" in ref:
            return FileImage(Path(ref), self.conf)
        if "/" in name or "\0" in name or name in ("", ".", ".."):
            raise ImageNotFound(
                f"{name!r} is no name of an image in {self.folder}; write a path as ./{name} or /{name}"
            )
        try:
            return FileImage(self.folder / name, self.conf)
        except ImageNotFound as exc:
            if os.path.lexists(self.folder / name):
                raise
            raise ImageNotFound(
                f"no image {name!r} in {self.folder}; a file elsewhere is named by its path, as {'./' + name!r}"
            ) from exc

    def images(self) -> Iterator[FileImage]:
        """The image files of the folder, by name: not hidden ones, archives, SHA256SUMS, nor what may not be read."""
        try:
            names = sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return
        except OSError as exc:
            raise ConfigError(f"[sources] folder_path {str(self.folder)!r} cannot be read: {exc.strerror}") from exc
        for name in names:
            if not name.startswith(".") and name != SUMS and (self.folder / name).is_file():
                with contextlib.suppress(SourceError, TemplateError):
                    yield FileImage(self.folder / name, self.conf)


def _text(path: Path) -> str:
    """The path as text that can be encoded, whatever bytes its name has."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _path_of(url: str) -> Path:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/") or parts.query or parts.fragment:
        raise ConfigError(f"not a URL of a file here: {url!r}; write file:///path/to/image")
    return Path(unquote(parts.path))
