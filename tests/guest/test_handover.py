"""An instance that one host releases and another takes: by a folder that they share, or by a store alone."""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from guest.test_other_hosts import host_a, host_b, second_libvirt
from imgbackend import Engine, errors
from imgbackend.guest.hypervisor import DomainState
from imgbackend.state import domain_xml
from imgbackend.testing import children
from imgbackend.types import RELEASED, DiskId, Mi, Owner
from labs.engines import qcow2_content, raw_content, raw_image
from labs.libvirt import Guests, Libvirt
from labs.pool import MakeHost, PoolDisk, make_host, pool_driver, pool_folder
from labs.templates import Template

__all__ = [
    "host_a",
    "host_b",
    "make_host",
    "pool_driver",
    "pool_folder",
    "qcow2_content",
    "raw_content",
    "raw_image",
    "second_libvirt",
]

NO_LIBVIRT = {"libvirt.connection_uri": "qemu+unix:///system?socket=/nonexistent"}


# One folder, two libvirtds


@pytest.fixture
def released(host_a: Guests) -> str:
    """The name of an instance that the host ``a`` gave away."""
    host_a.instances().spawn(host_a.spec(swap=16 * Mi))
    host_a.until("BOOT OK")
    host_a.instances().stop(host_a.name(), seconds=0)
    host_a.instances().release(host_a.name())
    return host_a.name()


@pytest.fixture
def nothing_left(host_b: Guests, host_a: Guests) -> Iterator[None]:
    yield
    for guests in (host_a, host_b):
        for found in list(guests.instances().list()):
            guests.instances().destroy(found.id)
        assert guests.domains() == set()
    assert host_a.left() == set()


@pytest.mark.usefixtures("nothing_left")
def test_released_instance_is_nobodys_and_runs_where_it_is_taken(host_a: Guests, host_b: Guests, released: str) -> None:
    assert host_a.domains() == set()
    for guests in (host_a, host_b):
        instances = guests.instances()
        assert list(instances.list()) == []
        assert [str(each.owner) for each in instances.list(all_hosts=True)] == ["nobody"]
        spawn = functools.partial(instances.spawn, guests.spec())
        for verb in (
            *(functools.partial(call, released) for call in (instances.start, instances.destroy, instances.stop)),
            spawn,
        ):
            with pytest.raises(
                errors.InstanceElsewhere, match="is nobody's: it was released; imgbackend instance take"
            ):
                verb()
        with pytest.raises(errors.DiskElsewhere, match=f"imgbackend instance take {released}"):
            guests.engine().disk(released).remove()
    theirs = host_b.instances()
    theirs.take(released)
    theirs.take(released)
    theirs.start(released)
    assert theirs.show(released).state is DomainState.RUNNING
    assert [str(each.owner)[:10] for each in theirs.list()] == ["the host b"]
    with pytest.raises(errors.InstanceElsewhere, match="the host b"):
        host_a.instances().take(released)
    with pytest.raises(errors.InstanceElsewhere, match="the host b"):
        host_a.instances().release(released)


@pytest.mark.usefixtures("nothing_left")
def test_released_instance_can_be_taken_back(host_a: Guests, released: str) -> None:
    host_a.instances().take(released)
    host_a.instances().start(released)
    assert host_a.instances().show(released).state is DomainState.RUNNING


@pytest.mark.usefixtures("nothing_left")
def test_instance_that_runs_is_not_released_and_what_is_not_released_is_not_taken(
    host_a: Guests, host_b: Guests
) -> None:
    name = host_a.name()
    host_a.instances().spawn(host_a.spec())
    with pytest.raises((errors.InstanceError, errors.DiskBusy), match=r"stop it first|stop its guest"):
        host_a.instances().release(name)
    with pytest.raises(errors.InstanceElsewhere, match=f"imgbackend instance release {name} there"):
        host_b.instances().take(name)
    assert host_a.instances().show(name).state is DomainState.RUNNING
    host_a.instances().stop(name, seconds=0)
    with pytest.raises(errors.InstanceElsewhere):
        host_b.instances().take(name)
    with pytest.raises(errors.InstanceElsewhere):
        host_b.instances().release(name)
    host_a.instances().start(name)


def _release(options: dict[str, Any], name: str) -> None:
    with Engine.from_config([], options) as engine:
        engine.instances.release(name)


def _take(options: dict[str, Any], name: str) -> None:
    with Engine.from_config([], options) as engine:
        engine.instances.take(name)


@pytest.mark.usefixtures("nothing_left")
def test_release_and_taking_that_are_killed_at_any_step_go_on(host_a: Guests, host_b: Guests) -> None:
    """Before each step of either; nobody has the instance twice, and no disk is lost."""
    name, path = host_a.name(), host_a.instances_path / host_a.name() / "disk"
    host_a.instances().spawn(host_a.spec())
    host_a.instances().stop(name, seconds=0)
    wanted = path.read_bytes()
    hosts = [host_a, host_b]

    def there_and_back(kill_release: int | None, kill_take: int | None) -> tuple[int, int]:
        giver, taker = hosts
        release = functools.partial(_release, giver.options(), name)
        take = functools.partial(_take, taker.options(), name)
        first = children.run(release, kill_release, libraries=("libvirt",))
        if first.killed:
            giver.instances().release(name)
        second = children.run(take, kill_take, libraries=("libvirt",))
        if second.killed:
            taker.instances().take(name)
        assert (first.error, second.error) == (None, None)
        assert taker.engine().host.records.owner(name) == taker.engine().owners.me()
        assert path.read_bytes() == wanted
        hosts.reverse()
        return len(first.steps), len(second.steps)

    steps = there_and_back(None, None)
    there_and_back(None, None)
    assert min(steps) > 3
    for point in range(max(steps)):
        there_and_back(point, point)
    hosts[0].instances().start(name)
    assert hosts[0].instances().show(name).state is DomainState.RUNNING


# One store, a folder for each host


@pytest.fixture
def pool(make_host: MakeHost) -> Callable[[str], Engine]:
    return lambda name: make_host(name, **NO_LIBVIRT)


def _made(engine: Engine, image: Template) -> None:
    for disk in ("disk", "disk.eph0"):
        engine.disk("web1", disk).cache(image, image.name)


def _owner(engine: Engine, name: str = "disk") -> Owner | None:
    """As the store has it."""
    disk = engine.disk("web1", name)
    assert isinstance(disk, PoolDisk)
    mark = disk.mark()
    return mark.owner if mark is not None else None


def test_disks_of_a_store_go_to_another_folder_with_their_records(
    pool: Callable[[str], Engine], raw_image: Template, pool_folder: Path
) -> None:
    host_a, host_b = pool("a"), pool("b")
    _made(host_a, raw_image)
    before = host_a.host.records.all("web1")
    host_a.instances.release("web1")
    assert not (host_a.host.instances / "web1").exists()
    with pytest.raises(errors.DiskElsewhere, match="nobody's"):
        host_b.disk("web1").remove()
    host_b.instances.take("web1")
    after = host_b.host.records.all("web1")
    assert {record.owner for record in after.values()} == {host_b.owners.me()}
    assert {name: (record.identity, record.base, record.time, record.way) for name, record in after.items()} == {
        name: (record.identity, record.base, record.time, record.way) for name, record in before.items()
    }
    assert host_b.disk("web1").cache(raw_image, raw_image.name).way == "exists"
    assert not list(pool_folder.glob("*.handover.mark"))
    with pytest.raises(errors.InstanceElsewhere, match="the host b"):
        host_a.instances.take("web1")
    for name in after:
        host_b.disk("web1", name).remove()
    assert list(pool_folder.iterdir()) == []


def test_domain_goes_with_the_disks_and_its_paths_are_those_of_the_new_folder(
    make_host: MakeHost, libvirt_daemon: Libvirt, second_libvirt: Libvirt, host_a: Guests, raw_image: Template
) -> None:
    del raw_image
    made: dict[str, Any] = {"libvirt.virt_type": "qemu", "sources.folder_path": str(host_a.image.parent)}
    giver = make_host("a", **made, **{"libvirt.connection_uri": libvirt_daemon.uri})
    taker = make_host("b", **made, **{"libvirt.connection_uri": second_libvirt.uri})
    name = host_a.name()
    giver.instances.spawn(host_a.spec())
    giver.instances.stop(name, seconds=0)
    giver.instances.release(name)
    assert host_a.domains() == set()
    taker.instances.take(name)
    kept = (taker.host.instances / name / "libvirt.xml").read_text()
    assert str(giver.host.instances) not in kept
    assert domain_xml.owner_in(kept) == taker.owners.me()
    taker.instances.start(name)
    assert taker.instances.show(name).state is DomainState.RUNNING
    taker.instances.destroy(name)
    assert second_libvirt.domains(host_a.word) == set()


def test_taking_waits_for_a_release_that_was_broken_off(
    pool: Callable[[str], Engine], raw_image: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    host_a, host_b = pool("a"), pool("b")
    _made(host_a, raw_image)
    kind = PoolDisk
    set_mark, marked = kind.set_mark, list[DiskId]()

    def broken_off(disk: Any, before: Any, owner: Any) -> None:
        if marked:
            raise KeyboardInterrupt
        marked.append(disk.id)
        set_mark(disk, before, owner)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "set_mark", broken_off)
        with pytest.raises(KeyboardInterrupt):
            host_a.instances.release("web1")
    with pytest.raises(errors.InstanceElsewhere, match="or not to the end"):
        host_b.instances.take("web1")
    host_a.instances.release("web1")
    host_b.instances.take("web1")
    assert set(host_b.host.records.all("web1")) == {"disk", "disk.eph0"}


def test_of_hosts_that_take_one_instance_at_once_one_has_all_of_it(
    pool: Callable[[str], Engine], raw_image: Template
) -> None:
    names = ("b", "c", "d")
    hosts = {name: pool(name) for name in names}
    _made(hosts["b"], raw_image)

    def take(name: str) -> str:
        for _ in range(100):
            try:
                hosts[name].instances.take("web1")
            except errors.DiskBusy:
                continue  # another has a look at it just now
            except (errors.InstanceElsewhere, errors.DiskElsewhere):
                return ""
            return name
        return ""

    giver = "b"
    for _ in range(10):
        hosts[giver].instances.release("web1")
        with ThreadPoolExecutor(len(names)) as threads:
            had = [name for name in threads.map(take, names) if name]
        assert len(had) == 1
        [giver] = had
        owners = {_owner(hosts[giver], name) for name in ("disk", "disk.eph0")}
        assert owners == {hosts[giver].owners.me()}
        assert [name for name in names if (hosts[name].host.instances / "web1").exists()] == [giver]


def test_release_and_taking_of_a_store_that_are_killed_at_any_step_go_on(
    pool: Callable[[str], Engine], raw_image: Template
) -> None:
    hosts = [pool("a"), pool("b")]
    _made(hosts[0], raw_image)
    wanted = {name: (record.identity, record.base) for name, record in hosts[0].host.records.all("web1").items()}

    def there_and_back(kill_release: int | None, kill_take: int | None) -> tuple[int, int]:
        giver, taker = hosts
        first = children.run(lambda: giver.instances.release("web1"), kill_release)
        if first.killed:
            with contextlib.suppress(errors.InstanceNotFound):  # all was done but for the empty folder
                giver.instances.release("web1")
        second = children.run(lambda: taker.instances.take("web1"), kill_take)
        if second.killed:
            taker.instances.take("web1")
        assert (first.error, second.error) == (None, None)
        found = taker.host.records.all("web1")
        assert {name: (record.identity, record.base) for name, record in found.items()} == wanted
        assert {record.owner for record in found.values()} == {taker.owners.me()}
        assert not (giver.host.instances / "web1").exists()
        hosts.reverse()
        return len(first.steps), len(second.steps)

    steps = there_and_back(None, None)
    assert min(steps) > 5
    for point in range(max(steps)):
        there_and_back(point, point)


def test_release_that_goes_on_when_the_next_host_has_the_instance_takes_nothing_from_it(
    pool: Callable[[str], Engine], raw_image: Template
) -> None:
    host_a, host_b = pool("a"), pool("b")
    _made(host_a, raw_image)
    folder = host_a.host.instances / "web1"
    before = (folder / "disks.json").read_bytes()
    host_a.instances.release("web1")
    host_b.instances.take("web1")
    folder.mkdir()
    (folder / "disks.json").write_bytes(before)  # killed when the store had noted it, and the folder had not
    host_a.instances.release("web1")
    assert not folder.exists()
    assert _owner(host_b) == host_b.owners.me()
    host_b.disk("web1").resize(64 * Mi)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"record": 5},
        {"disks": 5},
        {"domain": 5},
        {"record": {"backend": 5}},
        {"disks": ["disk", "gone"]},
    ],
    ids=str,
)
def test_what_was_left_with_a_disk_and_is_not_what_imgbackend_leaves_is_refused(
    pool: Callable[[str], Engine], raw_image: Template, pool_folder: Path, change: dict[str, object]
) -> None:
    host_a, host_b = pool("a"), pool("b")
    _made(host_a, raw_image)
    host_a.instances.release("web1")
    path = pool_folder / "web1_disk.handover.mark"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(errors.DiskError):
        host_b.instances.take("web1")
    assert _owner(host_b) == RELEASED
    host_b.instances.take_over("web1")
    assert host_b.disk("web1").cache(raw_image, raw_image.name).way == "exists"


def test_what_was_left_with_another_disk_is_not_believed(
    pool: Callable[[str], Engine], raw_image: Template, pool_folder: Path
) -> None:
    """An image that is a clone has the metadata of its parent."""
    host_a, host_b = pool("a"), pool("b")
    _made(host_a, raw_image)
    host_a.instances.release("web1")
    for name in ("disk", "disk.eph0"):
        path = pool_folder / f"web1_{name}.handover.mark"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"identity": "another"}))
    host_b.instances.take("web1")
    assert host_b.host.records.all("web1") == {}
    assert host_b.disk("web1").cache(raw_image, raw_image.name).way == "exists"
    assert host_b.host.records.of(DiskId(instance="web1", name="disk")) is not None


def test_name_that_nobody_released_is_told(pool: Callable[[str], Engine]) -> None:
    for verb in (pool("a").instances.release, pool("a").instances.take):
        with pytest.raises(errors.InstanceNotFound, match="there is no instance web1"):
            verb("web1")


def _local(engine: Engine, image: Template, *, backend: str = "raw") -> None:
    engine.disk("web1", images_type=backend).cache(image, image.name)


def test_released_disk_is_not_mixed_into_another_instance_of_the_name(
    pool: Callable[[str], Engine], raw_image: Template
) -> None:
    host_a, host_b = pool("a"), pool("b")
    _made(host_a, raw_image)
    _local(host_b, raw_image)
    host_a.instances.release("web1")
    with pytest.raises(errors.InstanceElsewhere, match="there is another instance web1 here"):
        host_b.instances.take("web1")
    with pytest.raises(errors.DiskError, match="another disk of that name is on record here"):
        host_b.instances.take_over("web1")
    assert set(host_b.host.records.all("web1")) == {"disk"}
    host_a.instances.take("web1")
    assert {_owner(host_a, name) for name in ("disk", "disk.eph0")} == {host_a.owners.me()}


def test_disk_of_a_name_that_is_on_record_for_another_store_hides_no_other_disk(
    pool: Callable[[str], Engine], raw_image: Template
) -> None:
    host_a, host_b = pool("a"), pool("b")
    _made(host_a, raw_image)
    host_a.disk("web2").cache(raw_image, raw_image.name)
    _local(host_b, raw_image)
    first, second = host_b.instances.take_over_host("a")
    assert (first.instance, "another disk of that name" in first.reason) == ("web1", True)
    assert (second.instance, second.reason) == ("web2", "")


def test_disk_whose_owner_nobody_noted_is_neither_released_nor_taken(
    pool: Callable[[str], Engine], raw_image: Template, pool_folder: Path
) -> None:
    host_a, host_b = pool("a"), pool("b")
    _made(host_a, raw_image)
    stranger = pool_folder / "web1_disk.eph1"
    stranger.write_bytes(bytes(Mi))
    host_a.instances.release("web1")
    host_b.instances.take("web1")
    assert not stranger.with_name("web1_disk.eph1.mark").exists()
    assert set(host_b.host.records.all("web1")) == {"disk", "disk.eph0"}


def test_instance_with_disks_that_are_kept_until_a_resize_is_confirmed_goes_whole(
    make_host: MakeHost, raw_image: Template
) -> None:
    host_a = make_host("a", images_type="raw", **NO_LIBVIRT)
    folder = host_a.host.instances
    host_b = make_host("b", images_type="raw", instances_path=str(folder), **NO_LIBVIRT)
    _local(host_a, raw_image)
    (folder / "web1").rename(folder / "web1_resize")
    _local(host_a, raw_image)
    host_a.instances.release("web1")
    assert host_a.host.records.owner("web1_resize") == RELEASED
    host_b.instances.take("web1")
    assert {host_b.host.records.owner(name) for name in ("web1", "web1_resize")} == {host_b.owners.me()}


def test_instance_with_a_disk_on_record_that_is_not_there_is_not_released(
    pool: Callable[[str], Engine], raw_image: Template, pool_folder: Path
) -> None:
    host_a = pool("a")
    _made(host_a, raw_image)
    (pool_folder / "web1_disk.eph0").unlink()
    with pytest.raises(errors.DiskError, match=r"web1/disk\.eph0 is on record, and is not there"):
        host_a.instances.release("web1")
    assert _owner(host_a) == host_a.owners.me()


def test_disk_that_is_made_while_an_instance_is_released_is_not_lost(
    pool: Callable[[str], Engine], raw_image: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    host_a, host_b = pool("a"), pool("b")
    _made(host_a, raw_image)
    set_mark, made = PoolDisk.set_mark, list[DiskId]()

    def beside(disk: PoolDisk, before: Any, owner: Owner) -> None:
        if not made:
            made.append(disk.id)
            with ThreadPoolExecutor(1) as other:
                other.submit(host_a.disk("web1", "disk.eph1").cache, raw_image, raw_image.name).result()
        set_mark(disk, before, owner)

    with monkeypatch.context() as patch:
        patch.setattr(PoolDisk, "set_mark", beside)
        with pytest.raises(errors.DiskBusy, match="a disk of web1 was made, or went, meanwhile"):
            host_a.instances.release("web1")
    host_a.instances.release("web1")
    host_b.instances.take("web1")
    assert set(host_b.host.records.all("web1")) == {"disk", "disk.eph0", "disk.eph1"}


def test_folder_of_an_earlier_release_is_not_taken_for_the_instance_of_now(
    pool: Callable[[str], Engine], raw_image: Template
) -> None:
    host_a, host_b = pool("a"), pool("b")
    _made(host_a, raw_image)
    records = host_a.host.instances / "web1" / "disks.json"
    former = json.loads(records.read_text()) | {"owner": {"host": RELEASED.host, "folder": RELEASED.folder}}
    host_a.instances.release("web1")
    host_b.instances.take("web1")
    for name in ("disk", "disk.eph0"):
        host_b.disk("web1", name).remove()
    _made(host_b, raw_image)
    records.parent.mkdir()
    records.write_text(json.dumps(former))  # a release that was killed when it cleared its folder away
    with pytest.raises(errors.InstanceElsewhere, match="the same call here clears away what is left"):
        host_a.instances.take("web1")
    host_b.instances.release("web1")
    with pytest.raises(errors.InstanceElsewhere, match="clear away what is left"):
        host_a.instances.take("web1")
    host_a.instances.release("web1")
    assert not records.parent.exists()
    host_a.instances.take("web1")
    assert host_a.disk("web1").cache(raw_image, raw_image.name).way == "exists"


def test_platform_that_decides_placement_can_release_what_it_moved_and_use_nothing_released(
    make_host: MakeHost, raw_image: Template
) -> None:
    class Everywhere:
        def is_here(self, instance: str, owner: Owner, me: Owner) -> bool:
            del instance, owner, me
            return True

    host_a = make_host("a", images_type="raw", **NO_LIBVIRT)
    _local(host_a, raw_image)
    overrides = {"host": "b", "instances_path": str(host_a.host.instances), "images_type": "raw", **NO_LIBVIRT}
    with Engine.from_config([], overrides, placement=Everywhere()) as host_b:
        host_b.instances.release("web1")
        assert host_b.host.records.owner("web1") == RELEASED
        with pytest.raises(errors.DiskElsewhere, match="nobody's"):
            host_b.disk("web1").remove()
    host_a.instances.take("web1")


def test_what_is_noted_nowhere_cannot_be_released(make_host: MakeHost) -> None:
    host_a = make_host("a", images_type="raw", **NO_LIBVIRT)
    folder = host_a.host.instances / "web1"
    folder.mkdir()
    (folder / "libvirt.xml").write_text("<domain/>")
    with pytest.raises(errors.InstanceError, match="nothing can say that it is nobody's"):
        host_a.instances.release("web1")


def test_released_instances_are_no_hosts_to_be_taken_over(pool: Callable[[str], Engine]) -> None:
    with pytest.raises(errors.ConfigError, match="is no host"):
        pool("a").instances.take_over_host(RELEASED.host)


@pytest.mark.usefixtures("nothing_left")
def test_domain_that_this_host_had_before_is_not_started_again_with_its_old_memory(
    host_a: Guests, host_b: Guests, released: str
) -> None:
    """It was this host's, another took it over, changed it, and gave it back."""
    ours, theirs = host_a.instances(), host_b.instances()
    ours.take(released)
    ours.start(released)
    host_a.lab.virsh("managedsave", released)
    theirs.take_over(released)
    theirs.spawn(host_b.spec(memory=96 * Mi, swap=16 * Mi))
    theirs.stop(released, seconds=0)
    theirs.release(released)
    ours.take(released)
    assert host_a.domains() == set()
    ours.start(released)
    assert "<memory unit='KiB'>98304</memory>" in ours.xml(released)
    host_a.until("BOOT OK")


@pytest.mark.usefixtures("nothing_left")
def test_instance_of_which_libvirt_knows_more_than_its_file_is_not_released(host_a: Guests, tmp_path: Path) -> None:
    name, instances = host_a.name(), host_a.instances()
    instances.spawn(host_a.spec())
    host_a.lab.virsh("managedsave", name)
    with pytest.raises(errors.InstanceError, match="libvirt keeps the memory"):
        instances.release(name)
    host_a.lab.virsh("managedsave-remove", name)
    extra = tmp_path / "extra.raw"
    extra.write_bytes(bytes(Mi))
    host_a.lab.virsh("attach-disk", name, str(extra), "vdz", "--config")
    with pytest.raises(errors.InstanceError, match=f"{extra}; detach it"):
        instances.release(name)
    host_a.lab.virsh("detach-disk", name, "vdz", "--config")
    kept = host_a.instances_path / name / "libvirt.xml"
    content = kept.read_text()
    kept.unlink()
    with pytest.raises(errors.InstanceError, match="virsh dumpxml --inactive"):
        instances.release(name)
    assert host_a.domains() == {"a"}
    kept.write_text(content)
    instances.release(name)
    instances.take(name)


def test_domain_that_this_host_had_before_others_changed_its_disks_in_a_pool_does_not_come_back(
    make_host: MakeHost, libvirt_daemon: Libvirt, second_libvirt: Libvirt, host_a: Guests
) -> None:
    """Its own folder says still that the instance is its own, with the memory that libvirt saved."""
    made: dict[str, Any] = {"libvirt.virt_type": "qemu", "sources.folder_path": str(host_a.image.parent)}
    first = make_host("a", **made, **{"libvirt.connection_uri": libvirt_daemon.uri})
    second = make_host("b", **made, **{"libvirt.connection_uri": second_libvirt.uri})
    name = host_a.name()
    first.instances.spawn(host_a.spec())
    host_a.lab.virsh("managedsave", name)
    second.instances.take_over(name)
    second.instances.spawn(host_a.spec(memory=96 * Mi))
    second.instances.stop(name, seconds=0)
    second.instances.release(name)
    first.instances.take(name)
    assert host_a.domains() == set()
    first.instances.start(name)
    assert "<memory unit='KiB'>98304</memory>" in first.instances.xml(name)
    first.instances.destroy(name)


def test_instance_is_not_taken_beside_one_of_the_name_that_is_being_destroyed(
    pool: Callable[[str], Engine], raw_image: Template
) -> None:
    host_a, host_b = pool("a"), pool("b")
    _made(host_a, raw_image)
    _local(host_b, raw_image)
    folder = host_b.host.instances / "web1"
    folder.rename(folder.with_name("web1_del"))
    host_a.instances.release("web1")
    with pytest.raises(errors.InstanceError, match="imgbackend instance destroy web1 finishes it"):
        host_b.instances.take("web1")
    assert _owner(host_b) == RELEASED


def test_instance_with_broken_records_hides_no_disk_of_a_store(
    pool: Callable[[str], Engine], raw_image: Template
) -> None:
    host_a, host_b = pool("a"), pool("b")
    _made(host_a, raw_image)
    _local(host_b, raw_image)
    host_b.disk("web2").cache(raw_image, raw_image.name)
    (host_b.host.instances / "web1").rename(host_b.host.instances / "web3")
    (host_b.host.instances / "web3" / "disks.json").write_text("{")
    host_a.instances.release("web1")
    host_b.instances.take("web1")
    assert set(host_b.host.records.all("web1")) == {"disk", "disk.eph0"}


def test_two_disks_of_one_name_are_told_before_anything_is_released(
    pool: Callable[[str], Engine], raw_image: Template
) -> None:
    host_a = pool("a")
    _made(host_a, raw_image)
    records = host_a.host.instances / "web1" / "disks.json"
    content = json.loads(records.read_text())
    content["disks"]["disk"] |= {"backend": "raw", "driver": "raw", "format": "raw"}
    (host_a.host.instances / "web1" / "disk").write_bytes(bytes(Mi))
    records.write_text(json.dumps(content))
    with pytest.raises(errors.DiskError, match="another disk of that name is on record here"):
        host_a.instances.release("web1")
    assert _owner(host_a, "disk.eph0") == host_a.owners.me()


def test_domain_that_somebody_altered_stays_where_it_is_until_its_disks_are_taken(
    make_host: MakeHost, libvirt_daemon: Libvirt, host_a: Guests, pool: Callable[[str], Engine]
) -> None:
    made: dict[str, Any] = {"libvirt.virt_type": "qemu", "sources.folder_path": str(host_a.image.parent)}
    giver, name = make_host("a", **made, **{"libvirt.connection_uri": libvirt_daemon.uri}), host_a.name()

    def alter(domain: ET.Element) -> None:
        ET.SubElement(domain, "description").text = "of our own"

    giver.instances.spawn(host_a.spec(), alter=alter)
    giver.instances.stop(name, seconds=0)
    giver.instances.release(name)
    kept = giver.host.instances / name / "libvirt.xml"
    assert "of our own" in kept.read_text()
    giver.instances.take(name)
    giver.instances.release(name)
    taker = pool("b")
    taker.instances.take(name)
    assert set(taker.host.records.all(name)) == {"disk"}
    assert not (taker.host.instances / name / "libvirt.xml").exists()
    giver.instances.release(name)
    assert not kept.parent.exists()
    taker.disk(name).remove()


def test_folder_of_a_released_instance_whose_disks_another_host_removed_is_cleared(
    pool: Callable[[str], Engine], raw_image: Template, pool_folder: Path
) -> None:
    host_a = pool("a")
    _made(host_a, raw_image)
    folder = host_a.host.instances / "web1"
    (folder / "kernel").write_bytes(b"kernel")
    records = json.loads((folder / "disks.json").read_text())
    records["disks"]["kernel"] = records["disks"]["disk"] | {"backend": "raw", "driver": "raw", "format": "raw"}
    (folder / "disks.json").write_text(json.dumps(records))
    host_a.instances.release("web1")
    assert folder.exists()
    for path in pool_folder.iterdir():
        path.unlink()
    host_a.instances.release("web1")
    assert not folder.exists()
