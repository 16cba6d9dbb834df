"""What a folder that is shared by NFS asks for, and what is told of it."""

import grp
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imgbackend import Engine, errors
from imgbackend.cli.doctor_storage import shared_storage_findings as sharing
from imgbackend.guest import destroy
from imgbackend.system import files, holes
from imgbackend.types import Mi
from labs.images import qcow2, scattered, sparse_raw
from labs.nfs import MakeMount, Share
from labs.templates import Template

_SHORT = {"image_cache.lease_seconds": 119}


@pytest.fixture
def engine_on() -> Iterator[Callable[..., Engine]]:
    """Engines on a folder; closed after the test."""
    opened = []

    def make(instances: Path, overrides: dict[str, Any] | None = None) -> Engine:
        opened.append(Engine.from_config([], {"instances_path": str(instances), "host": "a", **(overrides or {})}))
        return opened[-1]

    yield make
    for engine in opened:
        engine.close()


@pytest.fixture
def sparse_image(tmp_path: Path) -> Template:
    """Of 16 MiB, an eighth of it data."""
    content = sparse_raw(tmp_path / "content.raw", 16 * Mi, data=scattered(16 * Mi, 0.125))
    return Template(content=content, image_id="sparse", format="raw")


def test_pass_with_a_lease_shorter_than_what_caches_hide_is_refused(
    nfs_share: Share, engine_on: Callable[..., Engine]
) -> None:
    engine = engine_on(nfs_share.a, _SHORT)
    for removing in (
        engine.cache.prune,
        lambda: engine.cache.leftovers(remove=True),
        lambda: engine.cache.make_room(1),
    ):
        with pytest.raises(errors.ConfigError, match=r"lease_seconds is 119.*nfs4.*60 s late.*make it 120 or more"):
            removing()
    assert engine.cache.leftovers().leftovers == []
    assert engine_on(nfs_share.a, {"image_cache.lease_seconds": 120}).cache.prune().faults == []


def test_lease_of_any_length_is_fine_on_a_file_system_of_this_host(
    nfs_share: Share, tmp_path: Path, engine_on: Callable[..., Engine]
) -> None:
    (tmp_path / "instances").mkdir()
    assert engine_on(tmp_path / "instances", {"image_cache.lease_seconds": 0}).cache.prune().faults == []


def test_doctor_tells_of_a_lease_that_is_too_short_and_of_files_that_are_this_users(nfs_share: Share) -> None:
    short, owner = sharing(nfs_share.a, nfs_share.a / "_base", lease=119)
    assert (short.verdict, short.advice) == ("error", "make it 120 or more: no pass is made so")
    assert owner.verdict == "ok"
    assert next(sharing(nfs_share.a, nfs_share.a / "_base", lease=120)).verdict == "ok"
    assert list(nfs_share.server.iterdir()) == []


def test_raw_disk_is_sparse_where_the_protocol_tells_no_holes(
    nfs_mount: MakeMount, engine_on: Callable[..., Engine], sparse_image: Template
) -> None:
    instances = nfs_mount(version="4.1")
    engine_on(instances, {"images_type": "raw"}).disk("web1").cache(sparse_image, sparse_image.name, None)
    disk = instances / "web1/disk"
    with files.open_fd(disk, os.O_RDONLY) as fd:
        assert list(holes.told_ranges(fd, 16 * Mi)) == [(0, 16 * Mi)]
    assert disk.read_bytes() == sparse_image.content.read_bytes()
    assert files.allocated(disk) < 4 * Mi


@pytest.fixture
def squashed(nfs_mount: MakeMount) -> Path:
    """A folder of a server that takes root for nobody."""
    folder = nfs_mount("squashed")
    assert folder.stat().st_uid == 65534
    return folder


@pytest.mark.parametrize("images_type", ["raw", "qcow2"])
def test_disks_are_made_and_passes_are_noted_where_root_is_squashed(
    images_type: str, squashed: Path, engine_on: Callable[..., Engine], sparse_image: Template, tmp_path: Path
) -> None:
    content = qcow2(tmp_path / "content.qcow2", 16 * Mi, content=sparse_image.content)
    image = Template(content=content, image_id="container", format="qcow2")
    engine = engine_on(squashed, {"images_type": images_type})
    engine.disk("web1").cache(image, image.name, 32 * Mi)
    engine.disk("web1").resize(64 * Mi)
    target = tmp_path / "seen.raw"
    engine.disk("web1").extract(target, "raw")
    assert target.read_bytes()[: 16 * Mi] == sparse_image.content.read_bytes()
    assert engine.cache.prune().faults == []
    assert [host.name for host in engine.cache.hosts()] == ["a"]
    engine.disk("web1").remove()


def test_pass_over_a_folder_of_another_user_is_noted_where_root_is_squashed(
    squashed: Path, engine_on: Callable[..., Engine]
) -> None:
    """The folder is a Nova's: the list of the hosts was to be given to that user, which root may not."""
    exported = Path("/run/scratch/squashed") / squashed.name
    os.chown(exported, 107, 107)
    exported.chmod(0o777)
    engine = engine_on(squashed)
    engine.host.make_folder(engine.host.bases)  # of a pass over an empty folder nobody is told
    assert engine.cache.prune().faults == []
    assert [host.name for host in engine.cache.hosts()] == ["a"]


def test_group_that_no_file_can_be_given_to_names_the_cause_where_root_is_squashed(
    squashed: Path, engine_on: Callable[..., Engine], sparse_image: Template
) -> None:
    engine = engine_on(squashed, {"hypervisor_group": grp.getgrgid(1).gr_name})
    with pytest.raises(errors.ConfigError, match=r"hypervisor_group: .*root_squash.*no_root_squash"):
        engine.disk("web1").cache(sparse_image, sparse_image.name, None)


def test_user_that_no_file_can_be_lent_to_names_the_cause_where_root_is_squashed(
    squashed: Path, engine_on: Callable[..., Engine], sparse_image: Template, tmp_path: Path
) -> None:
    content = qcow2(tmp_path / "content.qcow2", 16 * Mi, content=sparse_image.content)
    engine = engine_on(squashed, {"unprivileged_user": "daemon"})
    image = Template(content=content, image_id="container", format="qcow2")
    with pytest.raises(errors.ConfigError, match=r"unprivileged_user.*root_squash.*no_root_squash"):
        engine.disk("web1").cache(image, image.name, None)


def test_doctor_tells_whom_the_server_takes_root_for(squashed: Path) -> None:
    _, owner = sharing(squashed, squashed / "_base", lease=3600)
    assert owner.verdict == "warning"
    assert owner.found == "uid 65534, and this user is uid 0: the server takes it for another (root_squash)"
    assert "no_root_squash" in owner.advice


def test_disk_that_is_removed_while_it_is_open_is_told_as_such_and_stays_until_it_is_closed(
    nfs_share: Share, engine_on: Callable[..., Engine], sparse_image: Template
) -> None:
    engine = engine_on(nfs_share.a, {"images_type": "raw"})
    engine.disk("web1").cache(sparse_image, sparse_image.name, None)
    with files.open_fd(nfs_share.a / "web1/disk", os.O_RDONLY):
        engine.disk("web1").remove()
        [left] = engine.cache.leftovers(remove=True).leftovers
        assert (left.kind, left.dead, left.removed) == ("open file", False, False)
        assert left.name.startswith("web1/.nfs")
        assert "kept by NFS until it is closed" in left.reason
        assert [path.name for path in (nfs_share.server / "web1").iterdir()] == [left.name.removeprefix("web1/")]
    assert engine.cache.leftovers().leftovers == []


def test_folder_with_an_open_file_is_not_removed_and_the_error_says_what_to_do(nfs_share: Share) -> None:
    folder = nfs_share.a / "web1_del"
    folder.mkdir()
    (folder / "disk").touch()
    with (
        files.open_fd(folder / "disk", os.O_RDONLY),
        pytest.raises(errors.DiskBusy, match=r"a file in .*web1_del is open on this host.*stop what has it open"),
    ):
        destroy._remove_folder(folder)
    destroy._remove_folder(folder)
    assert not folder.exists()


@pytest.fixture
def bases_alone(nfs_share: Share, tmp_path: Path) -> Iterator[Path]:
    """An ``instances_path`` of the host's own, with a base folder that is mounted from the server."""
    bases = tmp_path / "own" / "_base"
    bases.mkdir(parents=True)
    subprocess.run(["mount", "--bind", nfs_share.a, bases], check=True)
    yield bases.parent
    subprocess.run(["umount", bases], check=True)


def test_bases_that_hosts_share_without_a_place_for_locks_are_refused(
    bases_alone: Path, sparse_image: Template, engine_on: Callable[..., Engine]
) -> None:
    engine = engine_on(bases_alone)
    said = r"_base is mounted from a server by nfs4, .* make .*_base a link to /shared/_base"
    with pytest.raises(errors.ConfigError, match=said):
        engine.disk("web1").cache(sparse_image, sparse_image.name)
    assert list((bases_alone / "_base").iterdir()) == []
    locks, _ = sharing(bases_alone, engine.host.bases, lease=3600)
    assert (locks.check, locks.verdict) == ("locks of bases", "error")


def test_bases_beside_which_locks_are_shared_may_be_linked(
    nfs_share: Share, tmp_path: Path, sparse_image: Template, engine_on: Callable[..., Engine]
) -> None:
    (nfs_share.a / "_base").mkdir()
    own = tmp_path / "own"
    own.mkdir()
    (own / "_base").symlink_to(nfs_share.a / "_base")
    engine = engine_on(own)
    engine.disk("web1").cache(sparse_image, sparse_image.name)
    assert [path.name for path in (nfs_share.a / "locks").glob("nova-*")]
    assert [(found.check, found.verdict) for found in sharing(own, engine.host.bases, lease=119)] == [
        ("lease_seconds", "error")
    ]
    with pytest.raises(errors.ConfigError, match=r"lease_seconds is 119.*_base: on nfs4"):
        engine_on(own, _SHORT).cache.prune()
