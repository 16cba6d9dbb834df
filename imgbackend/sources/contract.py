"""Where images come from: the contract of the plugins in ``imgbackend.sources``.

A *source* finds an image by the reference that a user writes and hands out an
:class:`Image`: a callable that puts the image's bytes at a path, and that knows
beforehand what the source tells of them.  A source is found through its entry
point, whose name is the scheme of its references (``folder``, ``http``, ``https``,
``glance``); it is made once per engine, does no I/O when made, and may be used from
any thread.
"""

import abc
import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from oslo_config import cfg

from imgbackend.types import Declared, Delivered, Progress, Role, base_name


class Image(abc.ABC):
    """One image of a source: a :class:`~imgbackend.types.FetchFunc`, and its facts.

    Attributes that ask the source may raise ``SourceError``; ``id``, ``filename`` and
    ``role`` never ask, so that a disk of a cached base asks nobody.
    """

    role: Role = "image"

    @property
    @abc.abstractmethod
    def id(self) -> str:
        """Changes when the bytes do."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """As the source shows it to people."""

    @property
    @abc.abstractmethod
    def declared(self) -> Declared:
        """What the source says; asked once, then kept."""

    @property
    def kernel_id(self) -> str | None:
        """The id of the kernel image that this one boots with, in the same source."""
        return None

    @property
    def ramdisk_id(self) -> str | None:
        """The id of the ramdisk image that this one boots with, in the same source."""
        return None

    @property
    def properties(self) -> dict[str, str]:
        """Further facts that the source keeps, as text; for people and for ``guest``."""
        return {}

    @property
    def filename(self) -> str:
        """The name of the base made of it."""
        return base_name(self.id)

    @property
    def resumable(self) -> bool:
        """Whether a fetch that broke can go on: ranges, and a digest to check at the end."""
        return False

    def as_boot_file(self) -> Self:
        """The same image as a kernel or a ramdisk: kept byte for byte, never unpacked."""
        made = copy.copy(self)
        made.role = "boot-file"
        return made

    @abc.abstractmethod
    def __call__(self, target: Path, progress: Progress, /) -> Delivered:
        """Put all bytes of the image at ``target``, and check them against the source's digests.

        ``target`` is made with mode 0600 where it is absent; runs of zeroes become
        holes.  Where it is there (only if :attr:`resumable`), it holds the beginning
        of the bytes.  A source that breaks half-way was retried, ``num_retries``
        times with back-off, before an error is raised; on an error the target is
        left as it is, and the engine decides whether it is kept.

        :raises ImageNotFound: if it is gone.
        :raises SourceDenied: if the credentials are refused.
        :raises SourceUnavailable: if the source is down, or broke off.
        :raises TemplateCorrupt: if the bytes are not those that were promised.
        :raises TemplateTooLarge: if unpacking passes what is allowed.
        """


class Source(abc.ABC):
    """Something that offers images."""

    group: ClassVar[str] = "sources"
    """The section of the configuration that holds :attr:`opts`."""
    opts: ClassVar[Sequence[cfg.Opt]] = ()

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Keep the configuration, ``conf[group]`` and ``conf.sources`` in it; no I/O."""
        self.conf = conf

    @classmethod
    def further_opts(cls, conf: cfg.ConfigOpts) -> Mapping[str, Sequence[cfg.Opt]]:
        """Options by section that are there because of the values of others, as a plugin's are; no I/O.

        Asked for only where one is set that is none of :attr:`opts`, which ``conf`` has; and again, as long as
        what is set may lead to more.
        """
        del conf
        return {}

    @abc.abstractmethod
    def find(self, ref: str, *, session: Any | None = None) -> Image:
        """The image that ``ref`` names, the scheme included where the user wrote one.

        ``session`` is the caller's own way in (a keystoneauth session for Glance):
        with it the source is asked here and now whether this caller sees the image.

        :raises ConfigError: if the source lacks configuration, or ``ref`` is no reference of it.
        :raises ImageNotFound: if there is no such image; if two have this name, the
            error names their ids.
        :raises SourceDenied: if the credentials are refused.
        :raises SourceUnavailable: if the source is down.
        """

    @abc.abstractmethod
    def images(self) -> Iterator[Image]:
        """All images that the source offers; ConfigError where it cannot tell (http)."""

    def close(self) -> None:  # noqa: B027 - most sources keep no connection
        """Let go of connections.  Twice is no error."""
