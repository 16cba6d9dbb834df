"""The Glance source against a real Glance: what it tells, and how its images fail."""

import contextlib
import hashlib
import http.client
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from keystoneauth1 import token_endpoint
from keystoneauth1.session import Session
from oslo_config import cfg

from imgbackend.errors import (
    ImageNotFound,
    SourceDenied,
    SourceUnavailable,
    TemplateCorrupt,
    TemplateError,
    TemplateTooLarge,
)
from imgbackend.sources import sparse_file
from imgbackend.sources.glance import GlanceSource
from imgbackend.types import Gi, Location, Mi, ignore
from labs.glance import Glance
from labs.images import qcow2
from labs.told import CancelledError, Told

MakeConf = Callable[..., cfg.ConfigOpts]

_DATA = os.urandom(Mi) + bytes(2 * Mi) + os.urandom(4321)
_LARGE = os.urandom(Mi) * 32
"""More than the sockets between the server and us hold."""


Connect = Callable[..., GlanceSource]


@pytest.fixture
def connect(make_conf: MakeConf) -> Iterator[Connect]:
    """Makes a source for a lab: ``connect(lab, timeout=1.0, num_retries=0)``."""
    with contextlib.ExitStack() as stack:

        def make(lab: Glance, *, timeout: float = 30.0, **more: Any) -> GlanceSource:
            options = {"auth_type": "none", "endpoint_override": lab.url, "timeout": timeout}
            return stack.enter_context(contextlib.closing(GlanceSource(make_conf(glance=options, **more))))

        yield make


@pytest.fixture
def source(connect: Connect, glance: Glance) -> GlanceSource:
    return connect(glance)


@pytest.fixture
def login() -> Iterator[Callable[..., Session]]:
    """Makes a caller's own session: ``login(lab, token)``."""
    with contextlib.ExitStack() as stack:

        def make(lab: Glance, token: str, path: str = "") -> Session:
            session = Session(auth=token_endpoint.Token(lab.url + path, token), timeout=30.0)
            stack.callback(lambda: session.session.close())
            return session

        yield make


Login = Callable[..., Session]


def test_image_arrives_with_all_that_glance_tells(
    source: GlanceSource, glance: Glance, target: Path, tmp_path: Path
) -> None:
    file = qcow2(tmp_path / "a.qcow2", 77 * Mi)
    kernel = glance.add("kernel", b"a kernel", disk_format="aki", container_format="aki")
    facts: dict[str, Any] = {"min_disk": 3, "kernel_id": kernel, "hw_disk_bus": "scsi", "os_type": "linux"}
    image_id = glance.add("a web server", file, disk_format="qcow2", **facts)
    image = source.find(f"glance:{image_id}")
    declared = image.declared
    assert (image.id, image.name, image.kernel_id, image.ramdisk_id) == (image_id, "a web server", kernel, None)
    assert image.properties == {"hw_disk_bus": "scsi", "os_type": "linux"}
    assert image.filename == hashlib.sha1(image_id.encode(), usedforsecurity=False).hexdigest()
    assert (declared.source, declared.format) == (f"glance:{image_id}", "qcow2")
    assert (declared.size, declared.virtual_size, declared.min_disk) == (file.stat().st_size, 77 * Mi, 3 * Gi)
    digests = (("sha512", hashlib.sha512(file.read_bytes()).hexdigest()),)
    assert declared.digests == digests
    url = f"file://{glance.stored(image_id)}"
    assert declared.locations == (Location(url=url, format="qcow2", virtual_size=77 * Mi),)
    delivered = image(target, ignore)
    assert (delivered.size, delivered.digests) == (declared.size, digests)
    assert target.read_bytes() == file.read_bytes()


def test_image_by_id_asks_nobody_before_it_has_to(make_conf: MakeConf) -> None:
    conf = make_conf(glance={"auth_type": "none", "endpoint_override": "http://127.0.0.1:1"}, num_retries=0)
    image = GlanceSource(conf).find("glance:6F1E2D3C-0000-4000-8000-0123456789AB")
    assert image.id == "6f1e2d3c-0000-4000-8000-0123456789ab"
    assert (len(image.filename), image.role, image.as_boot_file().role) == (40, "image", "boot-file")
    with pytest.raises(SourceUnavailable):
        _ = image.declared


def test_nothing_heavy_is_imported_before_an_image_is_asked_for() -> None:
    program = """
import sys
from imgbackend.config import options as conf
from imgbackend.sources import folder, glance, http
made = conf.load([])
for source in (folder.FolderSource, http.HttpSource, glance.GlanceSource):
    conf.register(made, source.group, source.opts)
    source(made)
glance.GlanceSource(made).find("glance:6f1e2d3c-0000-4000-8000-0123456789ab").filename
print(sorted({"keystoneauth1", "glanceclient", "requests", "urllib3", "zstandard", "yaml"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() in ("[]", "['yaml']")  # oslo.config's own


def test_zeroes_become_holes(source: GlanceSource, glance: Glance, target: Path) -> None:
    source.find(glance.add("sparse", bytes(8 * Mi) + b"end"))(target, ignore)
    assert target.read_bytes() == bytes(8 * Mi) + b"end"
    assert target.stat().st_blocks * 512 <= 64 * 1024


def test_boot_file_is_declared_without_a_format(source: GlanceSource, glance: Glance, target: Path) -> None:
    image = source.find(glance.add("initrd", b"an initrd", disk_format="ari", container_format="ari")).as_boot_file()
    assert (image.declared.role, image.declared.format, image.declared.size) == ("boot-file", None, 9)
    image(target, ignore)
    assert target.read_bytes() == b"an initrd"


def test_locations_are_told_only_where_glance_shows_them(
    connect: Connect, glance_of_my_own: Callable[..., Glance]
) -> None:
    lab = glance_of_my_own(locations="no")
    assert connect(lab).find(lab.add("a", _DATA)).declared.locations == ()


def test_image_by_name(source: GlanceSource, glance: Glance) -> None:
    name = f"täst, with {os.urandom(4).hex()}"
    image_id = glance.add(name, _DATA)
    glance.add(name, None)  # not yet there: it does not make the name ambiguous
    assert source.find(f"glance:{name}").id == image_id


def test_two_images_of_one_name_are_refused_with_their_ids(source: GlanceSource, glance: Glance) -> None:
    name = f"twice {os.urandom(4).hex()}"
    ids = {glance.add(name, _DATA), glance.add(name, _DATA)}
    with pytest.raises(ImageNotFound, match="2 images") as caught:
        source.find(f"glance:{name}")
    assert all(f"glance:{image_id}" in str(caught.value) for image_id in ids)


@pytest.mark.parametrize("name", ["no such name", "in:a,b", "", "../v2/images", "a\nb", "x" * 300])
def test_unknown_name_is_one_line(source: GlanceSource, name: str) -> None:
    with pytest.raises((ImageNotFound, SourceUnavailable)) as caught:
        source.find(f"glance:{name}")
    assert "\n" not in str(caught.value)


def test_list_has_the_active_images(source: GlanceSource, glance: Glance) -> None:
    there, queued = glance.add("there", _DATA), glance.add("queued", None)
    found = {image.id: image for image in source.images()}
    assert found[there].declared.size == len(_DATA)
    assert queued not in found


def test_missing_image_is_not_found(source: GlanceSource) -> None:
    with pytest.raises(ImageNotFound, match="no such image"):
        _ = source.find("glance:6f1e2d3c-0000-4000-8000-0123456789ab").declared


def test_queued_image_says_so(source: GlanceSource, glance: Glance, target: Path) -> None:
    image = source.find(glance.add("queued", None))
    for ask in (lambda: image.declared, lambda: image(target, ignore)):
        with pytest.raises(ImageNotFound, match=r"no data yet .*queued"):
            ask()
    assert image.name == "queued"
    assert not target.exists()


def test_deactivated_image_says_so(login: Login, source: GlanceSource, glance: Glance, target: Path) -> None:
    image_id = glance.add("held back", _DATA)
    glance.deactivate(image_id)
    with pytest.raises(SourceDenied, match="deactivated"):
        source.find(image_id)(target, ignore)
    with pytest.raises(SourceDenied, match="deactivated"):
        source.find(image_id, session=login(glance, "anybody"))


def test_image_deactivated_after_it_was_asked_for_is_denied(
    login: Login, connect: Connect, glance_with_tokens: Glance, target: Path
) -> None:
    lab = glance_with_tokens
    image_id = lab.add("soon held back", _DATA, caller="project:p", visibility="private")
    image = connect(lab).find(image_id, session=login(lab, "project:p"))
    lab.deactivate(image_id)
    with pytest.raises(SourceDenied, match="403"):
        image(target, ignore)


def test_image_whose_file_vanished_says_so(source: GlanceSource, glance: Glance, target: Path) -> None:
    image_id = glance.add("vanished", _DATA)
    glance.stored(image_id).unlink()
    with pytest.raises(ImageNotFound, match="has no data"):
        source.find(image_id)(target, ignore)
    assert not target.exists()


def test_truncated_file_is_never_taken_as_whole(source: GlanceSource, glance: Glance, target: Path) -> None:
    image_id = glance.add("truncated", _DATA)
    os.truncate(glance.stored(image_id), len(_DATA) - 1000)
    with pytest.raises((SourceUnavailable, TemplateCorrupt)):
        source.find(image_id)(target, ignore)


def test_flipped_bit_is_corrupt_by_sha512(source: GlanceSource, glance: Glance, target: Path) -> None:
    image_id = glance.add("flipped", _DATA)
    with glance.stored(image_id).open("r+b") as file:
        file.seek(len(_DATA) - 7)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(TemplateCorrupt, match="sha512"):
        source.find(image_id)(target, ignore)


def test_empty_image_is_refused(source: GlanceSource, glance: Glance, target: Path) -> None:
    with pytest.raises((TemplateCorrupt, ImageNotFound), match=r"empty|no data"):
        source.find(glance.add("empty", b""))(target, ignore)


@pytest.mark.parametrize("container", ["ova", "docker", "compressed"])
def test_container_of_images_is_refused(source: GlanceSource, glance: Glance, container: str) -> None:
    image_id = glance.add("contains", b"whatever", container_format=container)
    with pytest.raises(TemplateError, match=container):
        _ = source.find(image_id).declared


def test_too_large_is_refused_before_it_is_fetched(connect: Connect, glance: Glance, target: Path) -> None:
    image_id = glance.add("large", _DATA)
    source = connect(glance, DEFAULT={"max_image_virtual_size": Mi})
    with pytest.raises(TemplateTooLarge):
        source.find(image_id)(target, ignore)
    assert not target.exists()


def test_leftover_is_resumed(source: GlanceSource, glance: Glance, target: Path) -> None:
    target.write_bytes(_DATA[:1_000_001])
    image = source.find(glance.add("resumed", _DATA))
    assert image.resumable
    told = Told()
    image(target, told)
    assert min(done for done, _ in told.of("fetch")) == 1_000_001
    assert target.read_bytes() == _DATA


def test_foreign_leftover_is_fetched_anew(source: GlanceSource, glance: Glance, target: Path) -> None:
    target.write_bytes(b"other bytes")
    source.find(glance.add("anew", _DATA))(target, ignore)
    assert target.read_bytes() == _DATA


@pytest.fixture
def every_step_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress of each piece: what breaks in must not come after a fetch that was quick is over."""
    monkeypatch.setattr(sparse_file, "_INTERVAL", 0.0)


def _once(do: Callable[[], object]) -> Callable[[str, int], None]:
    left = [do]

    def then(phase: str, done: int) -> None:
        if done and left:
            left.pop()()

    return then


@pytest.mark.usefixtures("every_step_told")
def test_killed_server_is_resumed_from_where_it_died(
    connect: Connect, glance_of_my_own: Callable[..., Glance], target: Path
) -> None:
    lab = glance_of_my_own()
    image = connect(lab, num_retries=20, retry_delay=0.2).find(lab.add("large", _LARGE))
    told = Told(_once(lab.kill_worker))
    image(target, told)
    assert told.of("wait")
    done = [at for at, _ in told.of("fetch")]
    assert done == sorted(done)
    assert target.read_bytes() == _LARGE


@pytest.mark.usefixtures("every_step_told")
def test_server_that_died_for_good_keeps_what_came_for_the_next_call(
    connect: Connect, glance_of_my_own: Callable[..., Glance], target: Path
) -> None:
    lab = glance_of_my_own()
    image = connect(lab, num_retries=1).find(lab.add("large", _LARGE))
    with pytest.raises(SourceUnavailable, match=r"\(2 tries\)"):
        image(target, Told(_once(lab.kill)))
    came = target.stat().st_size
    assert 0 < came < len(_LARGE)
    assert target.read_bytes() == _LARGE[:came]
    lab.start()
    told = Told()
    image(target, told)
    assert min(done for done, _ in told.of("fetch")) == came
    assert target.read_bytes() == _LARGE


@pytest.mark.usefixtures("every_step_told")
def test_stalled_server_is_resumed_when_it_goes_on(
    connect: Connect, glance_of_my_own: Callable[..., Glance], target: Path
) -> None:
    lab = glance_of_my_own()
    image = connect(lab, timeout=1.0, num_retries=20, retry_delay=0.2).find(lab.add("large", _LARGE))
    freeze = _once(lab.freeze)

    def then(phase: str, done: int) -> None:
        freeze(phase, done)
        if phase == "wait":
            lab.thaw()

    told = Told(then)
    image(target, told)
    assert told.of("wait")
    assert target.read_bytes() == _LARGE


@pytest.mark.usefixtures("every_step_told")
def test_server_that_keeps_stalling_is_given_up(
    connect: Connect, glance_of_my_own: Callable[..., Glance], target: Path
) -> None:
    lab = glance_of_my_own()
    image = connect(lab, timeout=2.0, num_retries=1).find(lab.add("large", _LARGE))
    _ = image.declared
    with pytest.raises(SourceUnavailable, match=r"(?i)time.* out"):
        image(target, Told(_once(lab.freeze)))
    lab.thaw()


@pytest.mark.usefixtures("every_step_told")
def test_fetch_can_be_cancelled(source: GlanceSource, glance: Glance, target: Path) -> None:
    image = source.find(glance.add("large", _LARGE))

    def cancel() -> None:
        raise CancelledError

    with pytest.raises(CancelledError):
        image(target, Told(_once(cancel)))
    assert target.stat().st_size < len(_LARGE)


def test_token_that_is_refused_is_denied(
    login: Login, connect: Connect, glance_with_tokens: Glance, target: Path
) -> None:
    lab = glance_with_tokens
    image_id = lab.add("a", _DATA, visibility="public")
    with pytest.raises(SourceDenied, match="401"):
        connect(lab).find(image_id, session=login(lab, "bad"))


def test_image_of_another_project_is_not_shown(
    login: Login, connect: Connect, glance_with_tokens: Glance, target: Path
) -> None:
    lab = glance_with_tokens
    image_id = lab.add("secret", _DATA, caller="project:mine", visibility="private")
    source = connect(lab)
    for ref in (image_id, "glance:secret"):
        with pytest.raises(ImageNotFound):
            source.find(ref, session=login(lab, "project:yours"))
    source.find(image_id, session=login(lab, "project:mine"))(target, ignore)
    assert target.read_bytes() == _DATA


def test_session_asks_each_time(login: Login, connect: Connect, glance_with_tokens: Glance) -> None:
    lab = glance_with_tokens
    image_id = lab.add("soon gone", _DATA, caller="project:p", visibility="private")
    source, session = connect(lab), login(lab, "project:p")
    source.find(image_id, session=session)
    lab.call("DELETE", f"/v2/images/{image_id}")
    with pytest.raises(ImageNotFound):
        source.find(image_id, session=session)


def test_session_finds_the_endpoint_where_none_is_configured(login: Login, make_conf: MakeConf, glance: Glance) -> None:
    image_id = glance.add("a", _DATA)
    session = login(glance, "t", "/v2/")
    assert GlanceSource(make_conf()).find(image_id, session=session).declared.size == len(_DATA)


def test_lab_answers_as_glance_does(glance: Glance) -> None:
    """The lab is a real Glance: it lists its API's versions."""
    connection = http.client.HTTPConnection(glance.url.removeprefix("http://"), timeout=30)
    connection.request("GET", "/versions")
    answer = connection.getresponse()
    assert b'"v2.' in answer.read()
    connection.close()
