"""The cache of a folder that the real Nova filled is managed by us, and one that we filled by Nova."""

import json
import os
import threading
import time
from pathlib import Path

import pytest

from imgbackend import Engine
from imgbackend.bases.store import generated_name
from imgbackend.cache.sharing_hosts import SharingHosts
from imgbackend.types import Mi, base_name
from labs.images import same_for_guest
from labs.nova import Nova
from labs.templates import Template
from takeover.conftest import Host, MakeEngine

_DAYS = 9 * 86400


def age(folder: Path) -> None:
    """Let nothing in a base folder have been used for days."""
    then = time.time() - _DAYS
    for path in folder.iterdir():
        os.utime(path, (then, then))


def image_of(host: Host) -> Template:
    return Template(content=host.images["raw"], image_id="ours", format="raw")


def test_pass_over_nova_s_folder_removes_what_no_disk_hangs_on(host: Host, make_engine: MakeEngine) -> None:
    """Its instances are in nobody's database here; the disks themselves tell."""
    engine: Engine = make_engine()
    bases = host.instances / "_base"
    age(bases)
    done = engine.cache.prune()
    assert done.faults == []
    removed = {each.base.name for each in done.outcomes if each.action == "removed"}
    # A flat disk needs no base, a kernel neither, nor does what was enlarged need what it was made of.
    assert removed == {base_name("qcow2"), base_name("kernel")}
    for which, kept in host.disks.items():
        assert same_for_guest(host.instances / which, kept, host.seen[which], "raw")


def test_folder_that_two_manage_keeps_what_is_used(host: Host, make_engine: MakeEngine, nova: Nova) -> None:
    """Nova goes by the time of a base's last change: our pass sets it, and Nova's own removal shows what for."""
    engine, image = make_engine(), image_of(host)
    engine.disk("web1").cache(image, image.name)
    base = host.instances / "_base" / image.name
    age(base.parent)
    engine.cache.prune()
    nova.do("manage_cache")
    assert base.exists()
    assert engine.disk("web1").info().size == 2 * Mi
    age(base.parent)
    nova.do("manage_cache")
    assert not base.exists(), "Nova did not remove it, and the touch proves nothing"


def test_hosts_of_nova_and_ours_see_each_other(host: Host, make_engine: MakeEngine, nova: Nova) -> None:
    """In one file, under one lock: nobody's registration is lost while both register as fast as they can."""
    engine = make_engine(host="ours")
    engine.cache.prune()
    nova.do("register", host="nova1")
    assert set(nova.do("storage_users")) == {"ours", "nova1"}
    assert {each.name for each in engine.cache.hosts() if each.alive} == {"ours", "nova1"}
    made_by = {each.name: each.made_by for each in engine.cache.hosts() if each.alive}
    assert made_by == {"ours": "imgbackend", "nova1": "Nova"}
    hosts, numbers = SharingHosts(engine.host, time.time), range(200)

    def register() -> None:
        for number in numbers:
            hosts.register(time.time())
            hosts.forget(f"none{number}")

    ours = threading.Thread(target=register)
    ours.start()
    nova.do("register", host="nova2", times=200)
    ours.join(60)
    assert set(nova.do("storage_users")) == {"ours", "nova1", "nova2"}


def test_late_nova_beside_us_keeps_what_only_it_may_see_in_use(host: Host, make_engine: MakeEngine, nova: Nova) -> None:
    engine = make_engine(host="ours", image_cache__remove_unused_original_minimum_age_seconds=7200)
    image = image_of(host)
    engine.disk("web1").cache(image, image.name)
    engine.disk("web1").remove()
    base = host.instances / "_base" / image.name
    then = time.time() - 3 * 3600
    for path in (base, base.with_name(f"{base.name}.json")):
        os.utime(path, (then, then))
    (host.instances / "compute_nodes").write_text(json.dumps({"nova1": then - 3600}))
    assert nova.do("storage_users") == ["nova1"]
    kept = {each.base.name: each.reason for each in engine.cache.prune().outcomes}
    assert "the host nova1" in kept[image.name]
    nova.do("register", host="nova1")
    engine.cache.prune()
    assert not base.exists()


def test_nova_leaves_what_we_generate_and_our_pins(host: Host, make_engine: MakeEngine, nova: Nova) -> None:
    engine, name = make_engine(), generated_name("swap", 2 * Mi)
    swap = image_of(host).but(role="generated", image_id="")
    engine.disk("web1", "disk.swap").cache(swap, name)
    engine.cache.pin(name)
    age(host.instances / "_base")
    nova.do("manage_cache")
    assert (host.instances / "_base" / name).exists()
    [pin] = engine.cache.pins()
    assert pin.name == name


@pytest.mark.parametrize("removed_by", ["nova", "us"])
def test_base_that_either_removed_is_fetched_again_by_the_other(
    host: Host, make_engine: MakeEngine, nova: Nova, removed_by: str
) -> None:
    engine, image = make_engine(), image_of(host)
    engine.disk("web1").cache(image, image.name)
    engine.disk("web1").remove()
    base = host.instances / "_base" / image.name
    age(base.parent)
    if removed_by == "nova":
        nova.do("manage_cache")
        assert not base.exists()
        assert engine.disk("web2").cache(image, image.name).fetched
    else:
        engine.cache.prune()
        assert not base.exists()
        nova.do("image", id="ours", path=str(image.content), disk_format="raw")
        nova.do("disk", backend="qcow2", instance="0a1b-new", name="disk", image_id="ours", size=4 * Mi)
    assert base.exists()
