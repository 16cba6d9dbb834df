"""Instances whose image is gone from its source, and is on another host."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbackend import Engine, errors
from imgbackend.guest import spec_file
from imgbackend.guest.hypervisor import DomainState
from imgbackend.types import Mi
from labs.libvirt import Guests, Libvirt, MakeGuests
from labs.webserver import File, Site, site

OTHER = "127.0.0.1"


@pytest.fixture
def web() -> Iterator[Site]:
    with site() as made:
        yield made


@pytest.fixture
def far(make_guests: MakeGuests, libvirt_daemon: Libvirt, web: Site) -> Guests:
    """Instances whose image a web server has, which has their own host's and another host's bases too."""
    template = web.url("/bases").replace(OTHER, "{host}")
    guests = make_guests(libvirt_daemon, overrides={"sources.fallback_url": template, "sources.num_retries": 0})
    web.files["/tiny.qcow2"] = File(guests.image.read_bytes())
    return guests


def _elsewhere(far: Guests, web: Site, tmp_path: Path) -> None:
    """Have another host have the base, and the source have it no more."""
    options = far.options() | {"instances_path": str(tmp_path / "elsewhere")}
    with Engine.from_config([], options) as other:
        image = other.image(web.url("/tiny.qcow2"))
        other.disk("vm0").cache(image, image.filename)
        for path in other.host.bases.iterdir():
            web.files[f"/bases/{path.name}"] = File(path.read_bytes())
    web.files["/tiny.qcow2"] = File(status=404, head=404)


def test_instance_whose_base_and_image_are_gone_starts_from_another_hosts_base(
    far: Guests, web: Site, tmp_path: Path
) -> None:
    """As where an instance was moved here: what its image's id was is in the record of its disk."""
    instances, spec = far.instances(), far.spec(image=web.url("/tiny.qcow2"))
    instances.spawn(spec)
    instances.stop(far.name(), seconds=0)
    for path in (far.instances_path / "_base").iterdir():
        path.unlink()
    _elsewhere(far, web, tmp_path)
    with pytest.raises(errors.ImageNotFound, match=r"tiny\.qcow2"):
        instances.spawn(spec)
    again = instances.spawn(far.spec(image=web.url("/tiny.qcow2"), fallback_from_host=OTHER))
    assert again.disks["disk"].fetched
    assert instances.show(far.name()).state is DomainState.RUNNING
    assert far.sectors() == 16 * Mi // 512
    instances.destroy(far.name())
    assert (far.domains(), far.left()) == (set(), set())


def test_image_that_no_host_has_leaves_nothing(far: Guests, web: Site) -> None:
    web.files["/tiny.qcow2"] = File(status=404, head=404)
    with pytest.raises(errors.ImageNotFound, match="what its id was is not known"):
        far.instances().spawn(far.spec(image=web.url("/tiny.qcow2"), fallback_from_host=OTHER, swap=Mi))
    digest = "0" * 64
    with pytest.raises(errors.ImageNotFound, match=r"no such image \(404\); and .*/bases/"):
        far.instances().spawn(
            far.spec(image=f"{web.url('/tiny.qcow2')}#sha256:{digest}", fallback_from_host=OTHER, swap=Mi)
        )
    assert (far.domains(), far.left()) == (set(), set())


def test_host_is_a_name_and_no_option() -> None:
    with pytest.raises(errors.ConfigError, match="fallback_from_host: '-oX' has characters"):
        spec_file.parse({"id": "web1", "image": "jammy", "fallback_from_host": "-oX"})
    assert spec_file.parse({"id": "a", "image": "b", "fallback_from_host": "c.d"}).fallback_from_host == "c.d"
