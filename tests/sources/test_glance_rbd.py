"""What Glance tells of an image that it keeps in Ceph, and to whom."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from keystoneauth1 import token_endpoint
from keystoneauth1.session import Session
from oslo_config import cfg

from imgbackend.errors import ImageNotFound
from imgbackend.sources.glance import GlanceSource
from imgbackend.types import Location, Mi, ignore
from labs.ceph import Cluster
from labs.glance import Glance
from labs.images import qcow2

MakeConf = Callable[..., cfg.ConfigOpts]
_DATA = os.urandom(Mi) + bytes(9 * Mi)


@pytest.fixture
def source(make_conf: MakeConf) -> Iterator[GlanceSource]:
    with contextlib.closing(GlanceSource(make_conf(glance={"auth_type": "none"}))) as made:
        yield made


@pytest.fixture
def login(rbd_glance: Glance) -> Iterator[Callable[[str], Session]]:
    """Makes a caller's own session."""
    with contextlib.ExitStack() as stack:

        def make(token: str) -> Session:
            session = Session(auth=token_endpoint.Token(rbd_glance.url, token), timeout=60.0)
            stack.callback(lambda: session.session.close())
            return session

        yield make


Login = Callable[[str], Session]


def _place(cluster: Cluster, image_id: str) -> str:
    return f"rbd://{cluster.fsid}/images/{image_id}/snap"


def test_image_in_ceph_declares_its_snapshot(
    rbd_cluster: Cluster, rbd_glance: Glance, source: GlanceSource, login: Login, target: Path
) -> None:
    image_id = rbd_glance.add("raw", _DATA)
    image = source.find(image_id, session=login("admin"))
    place = Location(url=_place(rbd_cluster, image_id), format="raw", virtual_size=len(_DATA))
    assert image.declared.locations == (place,)
    image(target, ignore)
    assert target.read_bytes() == _DATA


@pytest.mark.parametrize("shown", ["direct", "locations"])
def test_either_way_of_showing_the_place_will_do(
    rbd_cluster: Cluster, glance_of_my_own: Callable[..., Glance], make_conf: MakeConf, shown: str
) -> None:
    lab = glance_of_my_own(locations=shown, ceph=rbd_cluster)
    image_id = lab.add("raw", _DATA)
    told = lab.call("GET", f"/v2/images/{image_id}")
    assert ("direct_url" in told, "locations" in told) == (shown == "direct", shown == "locations")
    options = {"auth_type": "none", "endpoint_override": lab.url}
    with contextlib.closing(GlanceSource(make_conf(glance=options))) as source:
        locations = source.find(image_id).declared.locations
    lab.forget()
    assert [location.url for location in locations] == [_place(rbd_cluster, image_id)]


def test_member_who_sees_the_image_sees_its_place(
    rbd_cluster: Cluster, rbd_glance: Glance, source: GlanceSource, login: Login
) -> None:
    own = rbd_glance.add("own", _DATA, caller="project:aaa")
    public = rbd_glance.add("public", _DATA, visibility="public")
    for image_id in (own, public):
        declared = source.find(image_id, session=login("project:aaa")).declared
        assert [location.url for location in declared.locations] == [_place(rbd_cluster, image_id)]
    with pytest.raises(ImageNotFound):
        source.find(own, session=login("project:bbb"))


def test_image_that_is_no_raw_declares_its_format_with_its_place(
    rbd_glance: Glance, source: GlanceSource, login: Login, tmp_path: Path
) -> None:
    """Ceph keeps the bytes as they were uploaded: who clones them has to know what they are."""
    image_id = rbd_glance.add("qcow2", qcow2(tmp_path / "a.qcow2", 64 * Mi), disk_format="qcow2")
    (location,) = source.find(image_id, session=login("admin")).declared.locations
    assert location.format == "qcow2"


def test_image_in_a_store_of_files_beside_it_declares_its_file(
    rbd_glance: Glance, source: GlanceSource, login: Login
) -> None:
    image_id = rbd_glance.add("raw", _DATA, store="files")
    (location,) = source.find(image_id, session=login("admin")).declared.locations
    assert location.url == f"file://{rbd_glance.stored(image_id)}"
