"""Disks on btrfs: a subvolume each, with snapshots and rollback by the file system."""

from imgbackend_btrfs.driver import BtrfsBackend as BtrfsBackend

__all__ = ["BtrfsBackend"]
