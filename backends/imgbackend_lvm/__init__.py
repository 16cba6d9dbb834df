"""Disks as logical volumes: snapshots in a thin pool, made at once whatever the image's size, or thick copies."""

from imgbackend_lvm.driver import LvmBackend as LvmBackend

__all__ = ["LvmBackend"]
