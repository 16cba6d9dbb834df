"""Sizes as people write them; bytes everywhere else."""

import re
from decimal import Decimal
from typing import Final

_SIZE: Final = re.compile(r"([0-9]+)(\.[0-9]+)?[ ]*(?:([KMGTP])(?:i?B)?|B)?", re.ASCII | re.IGNORECASE)
_UNITS: Final = "KMGTP"
_LARGEST: Final = (1 << 63) - 1


def parse_size(text: str) -> int:
    """Bytes of a size such as ``512``, ``20G``, ``1.5 GiB``; units are binary, whichever way they are written.

    A fraction is rounded up to a whole byte.

    :raises ValueError: if it is no size, is zero, or is more than a file can have.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or (match[2] and not match[3]):
        raise ValueError(f"not a size: {text!r}; write bytes, or a number and K, M, G or T, such as 20G or 1.5G")
    factor = 1 << 10 * (_UNITS.index(match[3].upper()) + 1) if match[3] else 1
    exact = Decimal(match[1] + (match[2] or "")) * factor if len(match[0]) <= 40 else Decimal(_LARGEST + 1)
    size = int(exact) + (exact != int(exact))
    if not 0 < size <= _LARGEST:
        raise ValueError(f"not a size: {text!r}; it must be above 0 and below 8192P")
    return size
