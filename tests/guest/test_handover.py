"""An instance that one host releases and another takes: by a folder that they share, or by a store alone."""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

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
