"""What only a folder that is shared by NFS asks for, and what is told of it."""

import grp
import os
from pathlib import Path

import pytest

from imgbackend import errors
from imgbackend.cli.doctor_storage import shared_storage_findings as sharing
from imgbackend.guest import destroy
from imgbackend.system import files, holes
from imgbackend.types import Mi
from labs.images import qcow2
from labs.nfs import MakeMount
from labs.shares import Share
from labs.templates import Template
from shares.promises import EngineOn, engine_on, sparse_image

__all__ = ["engine_on", "sparse_image"]


def test_lease_of_any_length_is_fine_on_a_file_system_of_this_host(
    nfs_share: Share, tmp_path: Path, engine_on: EngineOn
) -> None:
    (tmp_path / "instances").mkdir()
    assert engine_on(tmp_path / "instances", {"image_cache.lease_seconds": 0}).cache.prune().faults == []


def test_raw_disk_is_sparse_where_the_protocol_tells_no_holes(
    nfs_mount: MakeMount, engine_on: EngineOn, sparse_image: Template
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
    images_type: str, squashed: Path, engine_on: EngineOn, sparse_image: Template, tmp_path: Path
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
    squashed: Path, engine_on: EngineOn
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
    squashed: Path, engine_on: EngineOn, sparse_image: Template
) -> None:
    engine = engine_on(squashed, {"hypervisor_group": grp.getgrgid(1).gr_name})
    with pytest.raises(errors.ConfigError, match=r"hypervisor_group: .*root_squash.*no_root_squash"):
        engine.disk("web1").cache(sparse_image, sparse_image.name, None)


def test_user_that_no_file_can_be_lent_to_names_the_cause_where_root_is_squashed(
    squashed: Path, engine_on: EngineOn, sparse_image: Template, tmp_path: Path
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
    nfs_share: Share, engine_on: EngineOn, sparse_image: Template
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
