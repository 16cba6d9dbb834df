"""Two folders of instances in one volume group: each keeps off what is the other's."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from imgbackend import Engine, errors
from imgbackend.types import Mi
from imgbackend_lvm.volume_names import IDENTITY, OWNER
from labs.engines import MakeEngine
from labs.lvm import Group, lvm
from labs.templates import Template
from labs.volumes import options


@pytest.fixture
def elsewhere(make_engine: MakeEngine, lvm_group: Group, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Another folder of this host, on the same section."""
    folder = tmp_path_factory.mktemp("elsewhere") / "instances"
    return make_engine({"instances_path": str(folder), "images_type": "lvm", **options(lvm_group)})


def untagged(group: Group, engine: Engine) -> None:
    """As an older version left the disk of web1: without tags that say whose it is."""
    tags = lvm("lvs", "--noheadings", "-o", "lv_tags", f"{group.name}/web1_disk").strip().split(",")
    owners = [tag for tag in tags if tag.startswith((f"{OWNER}=", f"{IDENTITY}="))]
    lvm("lvchange", *(word for tag in owners for word in ("--deltag", tag)), f"{group.name}/web1_disk")
    records = engine.host.instances / "web1" / "disks.json"
    content = json.loads(records.read_text())
    del content["owner"], content["identities"]
    records.write_text(json.dumps(content))


def test_disk_of_another_folder_is_neither_taken_nor_changed(
    thin: Engine, elsewhere: Engine, raw_image: Template
) -> None:
    disk: Any = thin.disk("web1")
    theirs = elsewhere.disk("web1")
    disk.cache(raw_image, raw_image.name)
    changes: tuple[Callable[[], object], ...] = (
        lambda: theirs.cache(raw_image, raw_image.name),
        lambda: theirs.resize(64 * Mi),
        theirs.remove,
    )
    for change in changes:
        with pytest.raises(errors.DiskElsewhere):
            change()
    assert disk.source().path.read_bytes()[: 8 * Mi] == raw_image.content.read_bytes()
    disk.remove()


def test_disk_of_an_older_version_is_its_folders(
    thin: Engine, elsewhere: Engine, raw_image: Template, lvm_group: Group
) -> None:
    disk: Any = thin.disk("web1")
    disk.cache(raw_image, raw_image.name)
    untagged(lvm_group, thin)
    with pytest.raises(errors.DiskElsewhere, match="does not tell whose it is"):
        elsewhere.disk("web1").remove()
    disk.create_snap("first")
    disk.rollback_to_snap("first")
    disk.resize(64 * Mi)
    disk.remove()
    assert not disk.exists()


def test_disk_of_an_older_version_without_a_record_is_taken_over_by_creating_it(
    thin: Engine, raw_image: Template, lvm_group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    thin.disk("web1").cache(raw_image, raw_image.name)
    untagged(lvm_group, thin)
    (thin.host.instances / "web1" / "disks.json").unlink()
    disk: Any = thin.disk("web1")
    with disk.source().path.open("rb"), pytest.raises(errors.DiskBusy):
        disk.cache(raw_image, raw_image.name)
    assert disk.cache(raw_image, raw_image.name).way == "exists"
    assert "is taken over by this host" in caplog.text
    with disk.reading():
        mark = disk.mark()
    assert mark is not None
    assert mark.owner == thin.owners.me()
    disk.remove()
