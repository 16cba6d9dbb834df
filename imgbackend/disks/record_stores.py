"""In which store a disk is: whether what its backend's options lead to now is the store that it was made in.

Options name a store, such as a pool or a volume group, and something else may have that name tomorrow: a pool that was
made anew, a group on another disk, what a mistyped option leads to.  It has none of the disks, which says nothing of
them.  So the record of a disk keeps what its store says of itself
(:class:`~imgbackend.driver.abilities.IdentifiesStore`), and whoever takes a record for a leftover, or makes, changes or
removes a disk by it, is refused where that differs.
"""

from typing import TYPE_CHECKING, Any, TypeAlias

from imgbackend import errors
from imgbackend.disks.owners import elsewhere
from imgbackend.driver.abilities import IdentifiesStore
from imgbackend.state.records import GOING
from imgbackend.system import audit
from imgbackend.types import Record, ignore

if TYPE_CHECKING:
    from imgbackend.driver.contract import Backend, Disk

    AnyDisk: TypeAlias = Disk[Any]


def identity_of(backend: "Backend") -> str | None:
    """What the store of a backend says of itself; None: its driver tells nothing."""
    return backend.store_identity() if isinstance(backend, IdentifiesStore) else None


def is_other(backend: "Backend", record: Record) -> bool:
    """Whether a disk was made in another store than the backend's is now; an older record says nothing of that."""
    return record.store is not None and record.store != identity_of(backend)


def expect_same(disk: "AnyDisk", record: Record) -> None:
    """Refuse a disk that was made in another store, before anybody looks for it in this one.

    :raises WrongStore: with both stores.
    :raises DiskElsewhere: if it is another host's, whose store of that name is its own.
    """
    if not is_other(disk.backend, record):
        return
    if not disk.backend.attached.owners.is_mine(disk.id.instance, record.owner):
        raise elsewhere(disk, record.owner)
    raise _wrong(disk, record)


def expect_reached(disk: "AnyDisk") -> None:
    """Refuse a disk that was made in another store, whoever's it is: before it is taken over.

    :raises WrongStore: with both stores.
    """
    if disk.recorded is not None and is_other(disk.backend, disk.recorded):
        raise _wrong(disk, disk.recorded)


def forget(disk: "AnyDisk") -> None:
    """Forget a disk whose store is gone for good; nothing is touched in the store that has its name now.

    :raises DiskElsewhere: if it is another host's, or another folder's.
    :raises DiskError: if its store is not another one: then the disk is to be removed.
    """
    host, owners = disk.backend.host, disk.backend.attached.owners
    owners.expect_mounted()
    with host.locks.disk(disk.id, ignore) as held:
        record = host.records.of(disk.id)
        if record is None or not is_other(disk.backend, record):
            raise errors.DiskError(f"the store of {disk.id} is the one that it was made in; remove the disk")
        if not owners.is_mine(disk.id.instance, record.owner):
            raise elsewhere(disk, record.owner)
        host.records.forget(disk.id, durable=host.settings.durable)
        why = f"its store is said to be gone: {record.store}"
        audit.log(
            "forget",
            host=host.settings.hostname,
            what=str(disk.id),
            store=disk.backend.name,
            identity=record.identity,
            why=why,
        )
        held.forget()


def _wrong(disk: "AnyDisk", record: Record) -> errors.WrongStore:
    backend = disk.backend
    options = " and ".join(backend.store_options) if isinstance(backend, IdentifiesStore) else "the driver"
    if disk.given_record is None:
        way = f"imgbackend disk delete --force {disk.id.instance} --name {disk.id.name} forgets the disk"
    else:  # of an instance whose destruction was broken off
        way = f"remove {backend.host.instances / disk.id.instance}{GOING}"
    return errors.WrongStore(
        f"{disk.id} was made in another store ({record.store}) than the backend {backend.name} has now "
        f"({identity_of(backend) or 'which tells nothing of itself'}), and nothing was changed: see to {options} in "
        f"[{backend.name}], or bring that store back; if it is gone for good, {way}"
    )
