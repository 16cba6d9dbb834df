"""The HTTP source against real servers: good ones, broken ones, lying ones."""

import gzip
import hashlib
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from oslo_config import cfg

from imgbackend.errors import (
    ConfigError,
    Error,
    ImageNotFound,
    SourceDenied,
    SourceError,
    SourceUnavailable,
    TemplateCorrupt,
    TemplateError,
    TemplateTooLarge,
)
from imgbackend.sources.filenames import sum_of
from imgbackend.sources.http import HttpImage, HttpSource
from imgbackend.types import Mi, ignore
from labs.told import CancelledError, Told
from labs.webserver import Certificates, File, Site

MakeConf = Callable[..., cfg.ConfigOpts]

_DATA = os.urandom(Mi) + bytes(2 * Mi) + os.urandom(4321)
_SHA256 = hashlib.sha256(_DATA).hexdigest()
_PIN = f"#sha256:{_SHA256}"


@pytest.fixture
def find(make_conf: MakeConf) -> Callable[[str], HttpImage]:
    return HttpSource(make_conf(http_timeout=30.0)).find


Find = Callable[[str], HttpImage]


def test_image_arrives_with_what_the_server_tells(find: Find, web: Site, target: Path) -> None:
    web.files["/pub/a.raw"] = File(_DATA)
    image = find(web.url("/pub/a.raw"))
    declared = image.declared
    assert (declared.format, declared.size, declared.virtual_size) == ("raw", len(_DATA), len(_DATA))
    assert declared.source == web.url("/pub/a.raw")
    assert image.name == "a.raw"
    delivered = image(target, ignore)
    assert target.read_bytes() == _DATA
    assert target.stat().st_blocks * 512 < 2 * Mi
    assert delivered.digests == (("sha256", _SHA256),)


def test_pinned_url_asks_nobody_for_its_id(find: Find) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        image = find(f"http://127.0.0.1:{taken.getsockname()[1]}/a.raw{_PIN}")
    assert image.id.endswith(f"/a.raw:sha256={_SHA256}")
    assert len(image.filename) == 40
    assert image.role == "image"


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_pin_is_checked(find: Find, web: Site, target: Path, algorithm: str) -> None:
    web.files["/a.raw"] = File(_DATA)
    good = hashlib.new(algorithm, _DATA).hexdigest()
    find(web.url(f"/a.raw#{algorithm}:{good}"))(target, ignore)
    assert target.read_bytes() == _DATA
    target.unlink()
    with pytest.raises(TemplateCorrupt, match=algorithm):
        find(web.url(f"/a.raw#{algorithm}:{'0' * len(good)}"))(target, ignore)


@pytest.mark.parametrize("fragment", ["sha256:12", "md5:" + "0" * 32, "top", "sha512:" + "0" * 64])
def test_bad_pin_is_refused(find: Find, web: Site, fragment: str) -> None:
    with pytest.raises(ConfigError, match="pin"):
        find(web.url(f"/a.raw#{fragment}"))
    assert web.requests == []


def test_published_digest_is_used_and_makes_the_id(find: Find, web: Site, target: Path) -> None:
    web.files["/pub/a.raw?mirror=1"] = File(_DATA, etag=None)
    web.files["/pub/SHA256SUMS"] = File(f"{'0' * 64}  b.raw\n{_SHA256} *a.raw\n".encode(), type="text/plain")
    image = find(web.url("/pub/a.raw?mirror=1"))
    assert image.id.endswith(f":sha256={_SHA256}")
    assert image.declared.digests == (("sha256", _SHA256),)
    image(target, ignore)
    web.files["/pub/a.raw?mirror=1"].data = os.urandom(len(_DATA))
    target.unlink()
    with pytest.raises(TemplateCorrupt):
        image(target, ignore)


def test_sums_without_the_name_or_as_a_page_are_ignored(find: Find, web: Site) -> None:
    web.files["/a.raw"] = File(_DATA)
    for sums in (File(f"{_SHA256}  other.raw\n".encode()), File(b"<html>", type="text/html"), File(b"", status=403)):
        web.files["/SHA256SUMS"] = sums
        assert find(web.url("/a.raw")).declared.digests == ()


@pytest.mark.parametrize(
    "text",
    [
        "{0}  a b.raw",
        "{0} *a b.raw",
        "{0}  ./a b.raw",
        "SHA256 (a b.raw) = {0}",
        "# a comment\n\n{0}  a b.raw\n",
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{0}  a b.raw\r\n",
    ],
)
def test_sums_are_read_in_their_known_forms(text: str) -> None:
    assert sum_of(text.format(_SHA256.upper()), "a b.raw") == _SHA256
    assert sum_of(text.format(_SHA256), "b.raw") is None


def test_escaped_name_in_sums() -> None:
    assert sum_of(f"\\{_SHA256}  a\\nb\\\\c", "a\nb\\c") == _SHA256


def test_id_is_of_the_etag_else_of_the_date_else_refused(find: Find, web: Site) -> None:
    web.files["/a.raw"] = file = File(_DATA, etag='"v1"', modified="Mon, 01 Jan 2024 00:00:00 GMT")
    ids = [find(web.url("/a.raw")).id]
    assert '"v1"' in ids[0]
    file.etag = '"v2"'
    ids.append(find(web.url("/a.raw")).id)
    file.etag = None
    ids.append(find(web.url("/a.raw")).id)
    file.modified = "Mon, 01 Jan 2024 00:00:01 GMT"
    ids.append(find(web.url("/a.raw")).id)
    assert len(set(ids)) == 4
    file.modified = None
    with pytest.raises(SourceError, match="#sha256:"):
        find(web.url("/a.raw"))


def test_get_stands_in_where_head_is_refused(find: Find, web: Site) -> None:
    for status in (403, 405, 501):
        web.files["/a.raw"] = File(_DATA, head=status)
        assert find(web.url("/a.raw")).declared.size == len(_DATA)


@pytest.mark.parametrize("resumable", [True, False], ids=["pinned", "not pinned"])
def test_broken_body_is_resumed_only_with_a_digest(find: Find, web: Site, target: Path, resumable: bool) -> None:
    web.files["/a.raw"] = File(_DATA, cuts=[Mi + 7, 1000])
    image = find(web.url("/a.raw" + (_PIN if resumable else "")))
    assert image.resumable is resumable
    image(target, ignore)
    assert target.read_bytes() == _DATA
    gets = [request.headers.get("Range") for request in web.asked("GET", "/a.raw")]
    assert gets == ([None, f"bytes={Mi + 7}-", f"bytes={Mi + 1007}-"] if resumable else [None, None, None])
    if resumable:
        assert web.asked("GET", "/a.raw")[1].headers["If-Range"] == '"one"'


def test_later_call_resumes_what_is_left(find: Find, web: Site, target: Path) -> None:
    web.files["/a.raw"] = File(_DATA, cuts=[Mi, 0, 0])
    image = find(web.url("/a.raw" + _PIN))
    with pytest.raises(SourceUnavailable, match=f"{Mi} of {len(_DATA)}|broke off"):
        image(target, ignore)
    assert target.stat().st_size == Mi
    image(target, ignore)
    assert web.asked("GET", "/a.raw")[-1].headers["Range"] == f"bytes={Mi}-"
    assert target.read_bytes() == _DATA


def test_server_without_ranges_is_asked_from_the_beginning(find: Find, web: Site, target: Path) -> None:
    web.files["/a.raw"] = File(_DATA, cuts=[Mi], ranges=False)
    find(web.url("/a.raw" + _PIN))(target, ignore)
    assert target.read_bytes() == _DATA


def test_file_that_changes_midway_is_not_pieced_together(find: Find, web: Site, target: Path) -> None:
    """If-Range: the server sends the new file from its beginning, and the digest refuses it."""
    other = os.urandom(len(_DATA))

    def change(file: File) -> None:
        if not file.cuts:
            file.data, file.etag = other, '"two"'

    web.files["/a.raw"] = File(_DATA, cuts=[Mi], on_get=change)
    with pytest.raises(TemplateCorrupt, match="sha256"):
        find(web.url("/a.raw" + _PIN))(target, ignore)
    assert target.read_bytes() == other


def test_file_that_changes_without_a_digest_is_refused(find: Find, web: Site, target: Path) -> None:
    web.files["/a.raw"] = File(_DATA)
    image = find(web.url("/a.raw"))
    web.files["/a.raw"] = File(os.urandom(len(_DATA)), etag='"two"')
    with pytest.raises(SourceUnavailable, match="changed"):
        image(target, ignore)
    assert not target.exists()


def test_leftover_longer_than_the_file_is_started_again(find: Find, web: Site, target: Path) -> None:
    web.files["/a.raw"] = File(_DATA, chunked=True)
    target.write_bytes(bytes(len(_DATA) + 5))
    find(web.url("/a.raw" + _PIN))(target, ignore)
    assert target.read_bytes() == _DATA


def test_stalled_server_times_out_and_is_tried_again(make_conf: MakeConf, web: Site, target: Path) -> None:
    web.files["/a.raw"] = File(_DATA, stalls=[Mi])
    find = HttpSource(make_conf(http_timeout=2.0)).find
    find(web.url("/a.raw" + _PIN))(target, ignore)
    assert len(web.asked("GET", "/a.raw")) == 2
    assert target.read_bytes() == _DATA


def test_server_that_keeps_stalling_is_given_up(make_conf: MakeConf, web: Site, target: Path) -> None:
    web.files["/a.raw"] = File(_DATA, stalls=[10, 10])
    find = HttpSource(make_conf(http_timeout=0.3, num_retries=1)).find
    with pytest.raises(SourceUnavailable, match=r"timed out \(2 tries\)"):
        find(web.url("/a.raw" + _PIN))(target, ignore)


@pytest.mark.parametrize("told", [len(_DATA) + 1000, len(_DATA) - 1000], ids=["too much", "too little"])
def test_lie_about_the_length_is_not_believed(find: Find, web: Site, target: Path, told: int) -> None:
    web.files["/a.raw"] = File(_DATA, length=told)
    with pytest.raises((SourceUnavailable, TemplateCorrupt)):
        find(web.url("/a.raw" + _PIN))(target, ignore)


def test_body_in_chunks_without_a_length(find: Find, web: Site, target: Path) -> None:
    web.files["/a.raw"] = File(_DATA, chunked=True)
    image = find(web.url("/a.raw"))
    assert image.declared.size is None
    image(target, ignore)
    assert target.read_bytes() == _DATA


def test_chunked_body_that_breaks_is_never_taken_as_whole(make_conf: MakeConf, web: Site, target: Path) -> None:
    web.files["/a.raw"] = File(_DATA, chunked=True, cuts=[0, 0])
    with pytest.raises(SourceUnavailable):
        HttpSource(make_conf(num_retries=1)).find(web.url("/a.raw"))(target, ignore)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_passing_trouble_is_tried_again(find: Find, web: Site, target: Path, status: int) -> None:
    def heal(file: File) -> None:
        file.status = 200 if len(web.asked("GET", "/a.raw")) > 1 else status

    web.files["/a.raw"] = File(_DATA, on_get=heal)
    find(web.url("/a.raw" + _PIN))(target, ignore)
    assert target.read_bytes() == _DATA


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, SourceDenied),
        (403, SourceDenied),
        (404, ImageNotFound),
        (410, ImageNotFound),
        (416, SourceUnavailable),
        (204, SourceUnavailable),
    ],
)
def test_refusal_is_told_at_once(find: Find, web: Site, target: Path, status: int, error: type[Error]) -> None:
    web.files["/a.raw"] = File(b"", status=status)
    with pytest.raises(error, match=str(status)) as caught:
        find(web.url("/a.raw" + _PIN))(target, ignore)
    assert len(web.asked("GET", "/a.raw")) == 1
    assert "\n" not in str(caught.value)
    assert not target.exists()


def test_missing_image_is_told_when_it_is_looked_for(find: Find, web: Site) -> None:
    with pytest.raises(ImageNotFound, match="404"):
        find(web.url("/nothing.raw"))


def test_nobody_there_is_tried_again_and_told(make_conf: MakeConf) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a.raw"
        with pytest.raises(SourceUnavailable, match=r"refused \(3 tries\)"):
            HttpSource(make_conf()).find(url)


def test_unknown_host_is_told(make_conf: MakeConf) -> None:
    with pytest.raises(SourceUnavailable, match=r"http://no-such-host\.invalid/a\.raw"):
        HttpSource(make_conf(num_retries=0)).find("http://no-such-host.invalid/a.raw")


@pytest.mark.parametrize(
    "page", [b"<!DOCTYPE html><p>Log in", b"  \r\n<html lang=en>", b"\xef\xbb\xbf<!doctype HTML>"], ids=repr
)
def test_page_that_says_200_is_refused(find: Find, web: Site, target: Path, page: bytes) -> None:
    web.files["/said.raw"] = File(page, type="text/html; charset=utf-8")
    web.files["/unsaid.raw"] = File(page)
    with pytest.raises(ImageNotFound, match="web page"):
        find(web.url("/said.raw"))
    with pytest.raises(ImageNotFound, match="web page"):
        find(web.url("/unsaid.raw" + _PIN))(target, ignore)
    assert not target.exists()


def test_body_that_was_not_asked_for_packed_is_refused(find: Find, web: Site) -> None:
    web.files["/a.raw"] = File(_DATA, headers={"Content-Encoding": "gzip"})
    with pytest.raises(SourceUnavailable, match="packed"):
        find(web.url("/a.raw"))
    assert web.requests[-1].headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("coding", [{}, {"Content-Encoding": "x-gzip"}], ids=["plain", "x-gzip"])
def test_packed_file_is_unpacked_once(find: Find, web: Site, target: Path, coding: dict[str, str]) -> None:
    packed = gzip.compress(_DATA)
    web.files["/a.raw.gz"] = File(packed, headers=coding)
    image = find(web.url(f"/a.raw.gz#sha256:{hashlib.sha256(packed).hexdigest()}"))
    assert (image.declared.format, image.declared.size, image.resumable) == ("raw", None, False)
    image(target, ignore)
    assert target.read_bytes() == _DATA


def test_boot_file_is_not_unpacked(find: Find, web: Site, target: Path) -> None:
    web.files["/initrd.gz"] = File(gzip.compress(_DATA))
    find(web.url("/initrd.gz")).as_boot_file()(target, ignore)
    assert target.read_bytes() == web.files["/initrd.gz"].data


def test_archive_is_refused_before_it_is_asked_for(find: Find, web: Site) -> None:
    with pytest.raises(TemplateError, match="archive"):
        find(web.url("/disk.tar.gz"))
    assert web.requests == []


def test_too_large_is_refused_before_a_byte_is_asked_for(make_conf: MakeConf, web: Site, target: Path) -> None:
    web.files["/a.raw"] = File(_DATA)
    conf = make_conf(DEFAULT={"max_image_virtual_size": Mi})
    with pytest.raises(TemplateTooLarge):
        HttpSource(conf).find(web.url("/a.raw"))(target, ignore)
    assert web.asked("GET", "/a.raw") == []


def _redirect(to: str, status: int = 302) -> File:
    return File(b"", status=status, head=status, headers={"Location": to}, etag=None)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(find: Find, web: Site, target: Path, status: int) -> None:
    web.files["/a.raw"] = _redirect("pub/b", status)
    web.files["/pub/b"] = File(_DATA)
    find(web.url("/a.raw"))(target, ignore)
    assert target.read_bytes() == _DATA


def test_endless_redirects_end(find: Find, web: Site) -> None:
    web.files["/a.raw"] = _redirect("/a.raw")
    with pytest.raises(SourceUnavailable, match="redirects"):
        find(web.url("/a.raw"))


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/a", "gopher://x/"])
def test_redirect_to_no_web_server_is_refused(find: Find, web: Site, to: str) -> None:
    web.files["/a.raw"] = _redirect(to)
    with pytest.raises(SourceUnavailable, match="redirects to what"):
        find(web.url("/a.raw"))


def test_tls_with_an_own_ca(make_conf: MakeConf, tls_web: Site, lab_ca: Certificates, target: Path) -> None:
    tls_web.files["/a.raw"] = File(_DATA)
    HttpSource(make_conf(http_ca_file=str(lab_ca.ca))).find(tls_web.url("/a.raw"))(target, ignore)
    assert target.read_bytes() == _DATA


def test_unknown_ca_is_for_the_operator_and_not_tried_again(make_conf: MakeConf, tls_web: Site) -> None:
    tls_web.files["/a.raw"] = File(_DATA)
    with pytest.raises(ConfigError, match="http_ca_file"):
        HttpSource(make_conf(retry_delay=3600.0)).find(tls_web.url("/a.raw"))


def test_missing_ca_file_is_for_the_operator(make_conf: MakeConf, tls_web: Site) -> None:
    with pytest.raises(ConfigError, match="http_ca_file"):
        HttpSource(make_conf(http_ca_file="/nowhere/ca.pem")).find(tls_web.url("/a.raw"))


def test_https_never_becomes_http(make_conf: MakeConf, tls_web: Site, web: Site, lab_ca: Certificates) -> None:
    web.files["/a.raw"] = File(_DATA)
    tls_web.files["/a.raw"] = _redirect(web.url("/a.raw"))
    with pytest.raises(SourceUnavailable, match="https to http"):
        HttpSource(make_conf(http_ca_file=str(lab_ca.ca))).find(tls_web.url("/a.raw"))
    assert web.requests == []


def test_login_is_sent_to_its_server_alone_and_never_shown(
    find: Find, web: Site, make_conf: MakeConf, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    web.files["/a.raw"] = File(_DATA)
    image = find(web.url("/a.raw", login="joe:s3cr%40t@") + _PIN)
    shown = [image.id, image.declared.source, image.name, repr(vars(image)), str(image.declared)]
    image(target, ignore)
    assert web.asked("GET", "/a.raw")[0].headers["Authorization"] == "Basic am9lOnMzY3JAdA=="
    web.files["/a.raw"].status = 404
    with pytest.raises(ImageNotFound) as caught:
        image(target.with_name("other"), ignore)
    assert not [text for text in (*shown, str(caught.value), caplog.text) if "s3cr" in text or "joe" in text]


def test_login_does_not_follow_to_another_server(find: Find, web: Site, tls_web: Site, make_conf: MakeConf) -> None:
    web.files["/a.raw"] = _redirect(web.url("/b").replace("127.0.0.1", "localhost"))
    web.files["/b"] = File(_DATA)
    find(web.url("/a.raw", login="joe:pw@"))
    assert "Authorization" in web.asked("HEAD", "/a.raw")[0].headers
    assert "Authorization" not in web.asked("HEAD", "/b")[0].headers


def test_signature_in_the_query_is_sent_but_not_shown(find: Find, web: Site) -> None:
    path = "/a.raw?X-Amz-Signature=abc123&versionId=7"
    web.files[path] = File(_DATA)
    image = find(web.url(path))
    assert "abc123" not in image.id + image.declared.source + repr(vars(image)["_url"])
    assert "versionId=7" in image.id


def test_proxy_of_the_configuration_is_used(make_conf: MakeConf, web: Site, target: Path) -> None:
    web.files["http://images.example/a.raw"] = File(_DATA)
    HttpSource(make_conf(http_proxy=web.url(""))).find("http://images.example/a.raw")(target, ignore)
    assert target.read_bytes() == _DATA


def test_proxy_of_the_environment_is_used(find: Find, web: Site, monkeypatch: pytest.MonkeyPatch, target: Path) -> None:
    monkeypatch.setenv("http_proxy", web.url(""))
    web.files["http://images.example/a.raw"] = File(_DATA)
    find("http://images.example/a.raw" + _PIN)(target, ignore)
    assert target.read_bytes() == _DATA


@pytest.mark.parametrize(
    "ref",
    ["http://", "http:///a", "https://host:99999/a", "http://[::1/a", "http://h/a b", "http://h/a\nb", "ftp://h/a"],
)
def test_what_is_no_url_is_a_line(find: Find, ref: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find(ref)
    assert "\n" not in str(caught.value)


def test_fetch_can_be_cancelled_and_keeps_what_came(find: Find, web: Site, target: Path) -> None:
    web.files["/a.raw"] = File(_DATA)

    def cancel(phase: str, done: int) -> None:
        if done:
            raise CancelledError

    with pytest.raises(CancelledError):
        find(web.url("/a.raw" + _PIN))(target, Told(cancel))
    assert target.read_bytes() == _DATA[: target.stat().st_size]


def test_list_is_refused(make_conf: MakeConf) -> None:
    with pytest.raises(ConfigError, match="cannot list"):
        next(HttpSource(make_conf()).images())
