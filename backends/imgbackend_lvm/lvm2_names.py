"""What lvm2 takes as a name and as a tag, checked before any command is run; lvm(8), VALID NAMES."""

import re
from collections.abc import Iterable
from typing import Final

from imgbackend import errors

_NAME: Final = re.compile(r"[A-Za-z0-9_+.][A-Za-z0-9_+.-]*\Z")
_TAG: Final = re.compile(r"[A-Za-z0-9_+./=!:&#][A-Za-z0-9_+./=!:&#-]*\Z")
_KEY: Final = re.compile(r"[A-Za-z0-9_.]+\Z")
_PLAIN: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+.-/=:")
"""What a value keeps as it is; ``&`` begins an escape."""
RESERVED_PREFIXES: Final = ("pvmove", "snapshot")
"""What lvm2 lets no name begin with."""
RESERVED_PARTS: Final = (
    *("_cdata", "_cmeta", "_corig", "_cpool", "_cvol", "_iorig", "_imeta", "_mimage", "_mlog", "_pmspare"),
    *("_rimage", "_rmeta", "_tdata", "_tmeta", "_vdata", "_vorigin", "_wcorig"),
)
"""What it lets be in no name: it names its hidden volumes with it."""
_LONGEST: Final = 127
"""Bytes of a name in device-mapper, DM_NAME_LEN without its end."""
_LONGEST_TAG: Final = 1024


def check_group(group: str) -> None:
    """See that ``group`` can be the name of a volume group.

    :raises ConfigError: if it cannot.
    """
    if not _NAME.match(group) or group in (".", "..") or len(group) > _LONGEST:
        raise errors.ConfigError(
            f"not a name for a volume group: {group!r}; use letters, digits and _+.-, and no hyphen at the beginning"
        )


def check_name(group: str, name: str) -> None:
    """See that ``name`` can be the name of a volume of ``group``, old and new.

    :raises ConfigError: if ``group`` is no name for a group.
    :raises DiskError: if ``name`` is none for a volume: its characters, lvm2's reserved words, its length.
    """
    check_group(group)
    if not _NAME.match(name) or name in (".", ".."):
        raise errors.DiskError(
            f"not a name for a volume: {name!r}; use letters, digits, and any of _+.-, not beginning with a hyphen"
        )
    reserved = [prefix for prefix in RESERVED_PREFIXES if name.startswith(prefix)] + [
        part for part in RESERVED_PARTS if part in name
    ]
    if reserved:
        raise errors.DiskError(
            f"not a name for a volume: {name}; lvm2 keeps {reserved[0]} for itself, use another name"
        )
    _check_length(group, name)


def _check_length(group: str, name: str) -> None:
    """device-mapper's name joins both with a hyphen, after doubling theirs; lvm2 counts three bytes more than both."""
    joined = max(len(device_name(group, name)), len(group) + len(name) + 3)
    if joined > _LONGEST:
        raise errors.DiskError(
            f"the name {name} is {joined - _LONGEST} bytes too long for a volume of {group}; use a shorter name"
        )


def device_name(group: str, name: str) -> str:
    """What device-mapper calls a volume."""
    return "-".join(part.replace("-", "--") for part in (group, name))


def check_tag(tag: str) -> None:
    """See that lvm2 takes ``tag``.

    :raises DiskError: if it does not.
    """
    if not _TAG.match(tag) or len(tag) > _LONGEST_TAG:
        raise errors.DiskError(f"lvm2 takes no such tag: {tag[:80]!r}; use up to {_LONGEST_TAG} of its characters")


def tag_of(key: str, value: str) -> str:
    """One tag that says ``key=value``, for any text: other bytes of its UTF-8 than lvm2's are ``&`` and two hex digits.

    :raises DiskError: if it is longer than a tag can be; :func:`tags_of` has room.
    """
    tag = f"{_checked(key)}={_escaped(value)}"
    check_tag(tag)
    return tag


def tags_of(key: str, value: str) -> tuple[str, ...]:
    """As many tags as it takes to say ``key=value``: ``key=...``, ``key!1=...`` and so on."""
    text = _escaped(value)
    room = _LONGEST_TAG - len(_checked(key)) - 8
    parts = [text[start : start + room] for start in range(0, len(text), room)] or [""]
    return tuple(f"{key}!{number}={part}" if number else f"{key}={part}" for number, part in enumerate(parts))


def value_of(tags: Iterable[str], key: str) -> str | None:
    """What :func:`tag_of` or :func:`tags_of` said of ``key``; None: nothing."""
    said = dict(tag.split("=", 1) for tag in tags if "=" in tag)
    if key not in said:
        return None
    text, number = said[key], 1
    while (more := said.get(f"{key}!{number}")) is not None:
        text, number = text + more, number + 1
    plain = re.sub(rb"&([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), text.encode())
    return plain.decode("utf-8", "surrogateescape")


def _checked(key: str) -> str:
    if not _KEY.match(key):
        raise ValueError(f"not a key of tags: {key!r}")
    return key


def _escaped(value: str) -> str:
    raw = value.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if byte in _PLAIN else f"&{byte:02x}" for byte in raw)
