"""What a file's name says of it, and what a SHA256SUMS says of a name."""

import re
from typing import NamedTuple

from imgbackend.errors import TemplateError

SUMS = "SHA256SUMS"
"""The file beside the images that tells their digests."""

_FORMATS = ("qcow2", "raw", "vmdk", "vhd", "vhdx", "vdi", "iso")
_WRAPPERS = ("gz", "xz", "zst")
_ARCHIVES = ("tar", "tgz", "zip", "7z", "ova")

_GNU = re.compile(r"(\\?)([0-9a-fA-F]{64}) [ *](.+)\Z")
_BSD = re.compile(r"SHA256 \((.+)\) = ([0-9a-fA-F]{64})\Z")


class Suffixes(NamedTuple):
    """What the suffixes of a file's name declare."""

    format: str | None
    """None: nothing (``.img``, no suffix, an unknown one)."""
    wrapper: str | None
    """``gz``, ``xz`` or ``zst`` around it; None: not packed."""


def suffixes(name: str) -> Suffixes:
    """What ``name`` declares: ``disk.qcow2.gz`` is qcow2, packed with gzip.

    :raises TemplateError: if the name is that of an archive, or of something packed twice.
    """
    parts = name.lower().split(".")[1:]
    wrapper = parts.pop() if parts and parts[-1] in _WRAPPERS else None
    last = parts[-1] if parts else None
    if last in _ARCHIVES:
        raise TemplateError(f"{name!r} is an archive, not an image; unpack it, and name the image in it")
    if wrapper and last in _WRAPPERS:
        raise TemplateError(f"{name!r} is packed twice; unpack it once")
    return Suffixes(last if last in _FORMATS else None, wrapper)


def sum_of(text: str, name: str) -> str | None:
    """The SHA-256, in lower-case hex, that a SHA256SUMS has for ``name``; None: it has none.

    Read as sha256sum(1) writes it, with ``*`` before binary files and ``\\`` before a
    name with escapes, and as BSD's ``sha256 --tag`` does.  A leading ``./`` is left out.
    """
    for line in text.splitlines():
        listed = _entry(line.strip())
        if listed is not None and listed[0].removeprefix("./") == name:
            return listed[1].lower()
    return None


def _entry(line: str) -> tuple[str, str] | None:
    if match := _GNU.match(line):
        escaped, digest, name = match.groups()
        if escaped:
            name = re.sub(r"\\([nr\\])", lambda m: {"n": "\n", "r": "\r", "\\": "\\"}[m[1]], name)
        return name, digest
    if match := _BSD.match(line):
        return match[1], match[2]
    return None
