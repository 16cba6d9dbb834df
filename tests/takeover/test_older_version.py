"""A folder that imgbackend 0.1.0 of folder format 1 wrote: without a marker, its records without owners.

``data/folder-format-1.tar.gz`` holds one: ``web1`` with two overlays and a snapshot, ``web2`` with a raw disk, their
pinned base, and the pass of a host ``old-host``.
"""

import json
import os
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from imgbackend import Engine, errors
from imgbackend.cli.doctor_versions import versions
from imgbackend.state import folder_marker
from imgbackend.testing import oracle
from imgbackend.types import Finding, Mi
from labs.older import older_pass, older_record

_DATA: Final = Path(__file__).parents[1] / "data" / "folder-format-1.tar.gz"
_BASE: Final = "1120725d2fb824d1bcbce861095831205a8c7466"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder, at a path of its own: overlays state the path of their base."""
    with tarfile.open(_DATA) as archive:
        archive.extractall(tmp_path, filter="tar")
    for name in ("disk", "disk.rescue"):
        overlay, base = tmp_path / "instances" / "web1" / name, tmp_path / "instances" / "_base" / _BASE
        command = ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", str(base), str(overlay)]
        subprocess.run(command, check=True, timeout=60)
    return tmp_path


@pytest.fixture(params=["old-host", "new-name"])
def engine(request: pytest.FixtureRequest, folder: Path) -> Iterator[Engine]:
    """On the host that wrote it, and on one that was renamed since."""
    overrides = {"instances_path": str(folder / "instances"), "host": request.param, "images_type": "qcow2"}
    with Engine.from_config([], overrides) as made:
        yield made


def _content(engine: Engine, instance: str, folder: Path) -> bytes:
    disk, target = engine.disk(instance), folder / f"{instance}.raw"
    disk.extract(target, "raw")
    return oracle.file_bytes(target, "raw", folder)


def test_disks_are_listed_and_read(engine: Engine, folder: Path) -> None:
    assert [str(disk.id) for disk in engine.disks()] == ["web1/disk", "web1/disk.rescue", "web2/disk"]
    image = (folder / "image.raw").read_bytes()
    assert _content(engine, "web1", folder) == image + bytes(Mi)
    assert _content(engine, "web2", folder) == image + bytes(Mi)
    assert not (folder / "instances" / folder_marker.NAME).exists()


def test_disks_are_changed_and_removed(engine: Engine, folder: Path) -> None:
    overlay: Any = engine.disk("web1")
    assert [snap.name for snap in overlay.snaps()] == ["kept"]
    overlay.rollback_to_snap("kept")
    overlay.remove_snap("kept")
    overlay.resize(4 * Mi)
    overlay.flatten()
    assert _content(engine, "web1", folder) == (folder / "image.raw").read_bytes() + bytes(3 * Mi)
    engine.disk("web2").resize(4 * Mi)
    for disk in list(engine.disks()):
        disk.remove()
    assert list(engine.disks()) == []


def test_disks_that_exist_are_kept_by_creating_them_again(engine: Engine, folder: Path) -> None:
    image = engine.image(str(folder / "image.raw"))
    assert engine.disk("web1").cache(image, _BASE).way == "exists"
    assert engine.disk("web3").cache(image, image.filename).way == "overlay"


def test_bases_and_passes_go_on(engine: Engine) -> None:
    [base] = engine.cache.bases().bases
    assert (base.name, base.pinned, sorted(base.disks)) == (_BASE, True, ["web1/disk", "web1/disk.rescue"])
    assert [verdict.found for verdict in engine.cache.verify()] == ["sound"]
    assert engine.cache.prune().faults == []
    engine.cache.unpin(_BASE)
    assert engine.cache.leftovers(remove=True).faults == []
    assert len(list(engine.disks())) == 3


def test_what_is_made_from_now_on_has_an_owner_and_the_older_keeps_its_ways(engine: Engine, folder: Path) -> None:
    image = engine.image(str(folder / "image.raw"))
    engine.disk("web3").cache(image, image.filename)
    owner = engine.host.records.owner("web3")
    assert owner is not None
    assert owner == engine.owners.known_me()
    overrides = {"instances_path": str(folder / "instances"), "host": "third"}
    with Engine.from_config([], overrides) as third:
        with pytest.raises(errors.DiskElsewhere):
            third.disk("web3").remove()
        third.disk("web2").remove()


def _findings(engine: Engine) -> dict[str, Finding]:
    return {finding.check: finding for finding in versions(engine)}


def _age(folder: Path, seconds: float) -> None:
    """Let the older version have written all of the folder so long ago."""
    then = time.time() - seconds
    for path in (folder / "instances").glob("*/disks.json"):
        content = json.loads(path.read_bytes())
        for record in content["disks"].values():
            record["time"] = then
        path.write_text(json.dumps(content))
        os.utime(path, (then, then))
    (folder / "instances" / "compute_nodes").write_text(json.dumps({"old-host": then}))


def test_folder_whose_hosts_were_all_updated_is_well(engine: Engine, folder: Path) -> None:
    _age(folder, 3600)
    engine.owners.me()
    engine.cache.prune()
    assert _findings(engine)["records"].verdict == "ok"
    formats = {host.name: host.format for host in engine.cache.hosts()}
    assert formats.pop(engine.host.settings.hostname) == folder_marker.FORMAT
    assert set(formats.values()) <= {None}  # of the host's former name


def test_host_that_was_not_updated_is_told_by_its_records(engine: Engine, folder: Path) -> None:
    """Those that it makes, and those of others that it writes once more; not those that it had from before."""
    _age(folder, 3600)
    image = engine.image(str(folder / "image.raw"))
    engine.disk("web3").cache(image, image.filename)
    engine.disk("web4").cache(image, image.filename)
    marker = folder / "instances" / folder_marker.NAME
    os.utime(marker, (time.time() - 60,) * 2)
    assert _findings(engine)["records"].verdict == "ok"
    older_record(folder / "instances", "web3", "disk.two")
    older_record(folder / "instances", "web9", "disk")
    (folder / "instances" / "web5").mkdir()
    (folder / "instances" / "web5" / "disks.json").write_text("{")
    found = [finding for finding in versions(engine) if finding.check == "records"]
    assert [finding.verdict for finding in found] == ["warning", "warning"]
    assert {name for name in ("web1", "web2", "web3", "web4", "web9") if name in found[0].found} == {"web3", "web9"}
    assert "--take-over" in found[0].advice
    assert "web5" in found[1].found


def test_record_that_is_old_and_was_copied_or_written_again_is_no_sign(engine: Engine, folder: Path) -> None:
    _age(folder, 3600)
    engine.owners.me()
    os.utime(folder / "instances" / folder_marker.NAME, (time.time() - 60,) * 2)
    for path in (folder / "instances").glob("*/disks.json"):
        path.touch()
    engine.disk("web2").resize(4 * Mi)
    assert _findings(engine)["records"].verdict == "ok"


def test_record_of_a_host_whose_clock_was_ahead_is_no_sign(engine: Engine, folder: Path) -> None:
    _age(folder, -3600)
    for path in (folder / "instances").glob("*/disks.json"):
        os.utime(path, (time.time() - 3600,) * 2)
    engine.owners.me()
    assert _findings(engine)["records"].verdict == "ok"


def test_host_that_was_not_updated_is_told_by_its_pass(engine: Engine, folder: Path) -> None:
    (folder / "instances" / "compute_nodes").unlink()
    engine.owners.me()
    engine.cache.prune()
    assert _findings(engine)["versions"].verdict == "ok"
    older_pass(folder / "instances", "third")
    found = _findings(engine)["versions"]
    assert (found.verdict, "third" in found.found) == ("warning", True)
    assert "update imgbackend" in found.advice


def test_pass_of_this_host_by_an_older_version_is_told(engine: Engine, folder: Path) -> None:
    """A service that was not started anew after the update."""
    (folder / "instances" / "compute_nodes").unlink()
    engine.owners.me()
    engine.cache.prune()
    older_pass(folder / "instances", engine.host.settings.hostname)
    assert "(this host)" in _findings(engine)["versions"].found
    engine.cache.prune()
    assert _findings(engine)["versions"].verdict == "ok"
