"""Images that nobody should use: each names what is wrong with it, and how it is refused.

Made by the real qemu-img where that can make them, else by patching what it made.
"""

from labs.corpus import of_others, of_packed, of_qcow2, of_vmdk
from labs.corpus.making import ALL, SECRET, Hostile, content, filled, patch
from labs.corpus.of_packed import PACKERS

__all__ = [
    "ALL",
    "PACKERS",
    "SECRET",
    "Hostile",
    "content",
    "filled",
    "of_others",
    "of_packed",
    "of_qcow2",
    "of_vmdk",
    "patch",
]
