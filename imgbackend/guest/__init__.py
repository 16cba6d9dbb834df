"""Instances: what they are to be, how their disks are attached, and the domain they become."""

from typing import Final

XML: Final = "libvirt.xml"
"""The domain of an instance, in its folder: what has it was spawned by libvirt."""
