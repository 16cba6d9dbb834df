"""Disks as images of a Ceph pool: clones of a base that the pool keeps once, for all hosts."""

from imgbackend_rbd.driver import RbdBackend as RbdBackend

__all__ = ["RbdBackend"]
