"""How Glance is reached: configuration, clouds.yaml, Keystone, and what is wrong with them."""

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from imgbackend import Engine
from imgbackend.config.options import load, register
from imgbackend.errors import ConfigError, Error, SourceDenied, SourceUnavailable
from imgbackend.sources.glance import GlanceSource
from imgbackend.types import ignore
from labs.webserver import Certificates, File, Site

MakeConf = Callable[..., cfg.ConfigOpts]

_ID = "6f1e2d3c-0000-4000-8000-0123456789ab"
_JSON = "application/json"


def _ask(conf: cfg.ConfigOpts) -> str | None:
    """What the configuration leads to: the size that is declared of the image, or an error."""
    with contextlib.closing(GlanceSource(conf)) as source:
        return str(source.find(_ID).declared.size)


def _glance(site: Site, prefix: str = "") -> None:
    """The two answers of a Glance that its client wants."""
    record: dict[str, Any] = {"id": _ID, "name": "it", "status": "active", "size": 4242, "disk_format": "raw"}
    record |= {"container_format": "bare", "min_disk": 0, "checksum": "0" * 32, "tags": []}
    schema = {"name": "image", "properties": {}, "additionalProperties": {"type": "string"}}
    site.files[f"{prefix}/v2/schemas/image"] = File(json.dumps(schema).encode(), type=_JSON)
    site.files[f"{prefix}/v2/images/{_ID}"] = File(json.dumps(record).encode(), type=_JSON)


def _keystone(site: Site, *, endpoint: str | None) -> None:
    """As much of Keystone as a login by password needs; it answers POST as it answers GET."""
    version = {"id": "v3.14", "status": "stable", "links": [{"rel": "self", "href": site.url("/identity/v3/")}]}
    site.files["/identity"] = File(json.dumps({"version": version}).encode(), type=_JSON)
    endpoints = (
        [] if endpoint is None else [{"interface": "public", "region": "R1", "region_id": "R1", "url": endpoint}]
    )
    catalog = [{"type": "image", "name": "glance", "endpoints": endpoints}]
    token = {"expires_at": "2999-01-01T00:00:00.000000Z", "issued_at": "2020-01-01T00:00:00.000000Z"}
    body = json.dumps({"token": {**token, "methods": ["password"], "user": {"id": "u"}, "catalog": catalog}})
    headers = {"X-Subject-Token": "t0ken"}
    site.files["/identity/v3/auth/tokens"] = File(body.encode(), type=_JSON, headers=headers)


_LOGIN = {"username": "joe", "password": "s3cret", "project_name": "p"}
_DOMAINS = {"user_domain_name": "Default", "project_domain_name": "Default"}


def _password(site: Site, **more: Any) -> dict[str, Any]:
    return {"auth_type": "password", "auth_url": site.url("/identity"), **_LOGIN, **_DOMAINS, **more}


def test_password_leads_through_the_catalogue(make_conf: MakeConf, web: Site) -> None:
    _glance(web, "/image")
    _keystone(web, endpoint=web.url("/image/v2"))
    assert _ask(make_conf(glance=_password(web))) == "4242"
    asked = web.asked("GET", f"/image/v2/images/{_ID}")
    assert asked[0].headers["X-Auth-Token"] == "t0ken"


def test_file_of_the_operator_is_read_as_nova_reads_it(web: Site, tmp_path: Path) -> None:
    _glance(web)
    _keystone(web, endpoint=web.url(""))
    lines = [f"{key} = {value}" for key, value in _password(web, region_name="R1").items()]
    text = "\n".join(["[glance]", "auth_section = service", "[service]", *lines]).replace("username", "user_name")
    (tmp_path / "nova.conf").write_text(text)
    conf = load([tmp_path / "nova.conf"])
    register(conf, GlanceSource.group, GlanceSource.opts)
    assert _ask(conf) == "4242"


def test_plugin_with_options_of_its_own(make_conf: MakeConf, web: Site, tmp_path: Path) -> None:
    _glance(web)
    _keystone(web, endpoint=web.url(""))
    text = f"[glance]\nauth_type = v3applicationcredential\nauth_url = {web.url('/identity')}\n"
    (tmp_path / "c.conf").write_text(f"{text}application_credential_id = i\napplication_credential_secret = s\n")
    conf = load([tmp_path / "c.conf"])
    register(conf, GlanceSource.group, GlanceSource.opts)
    assert _ask(conf) == "4242"


def _clouds(folder: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"auth_url": site.url("/identity"), "username": "joe", "project_name": "p", **_DOMAINS}
    clouds = {"clouds": {"lab": {"auth": told, "region_name": "R1"}, "flat": {"profile": "vendor"}}}
    (folder / "clouds.yaml").write_text(json.dumps(clouds))  # JSON is YAML too
    (folder / "secure.yaml").write_text("clouds: {lab: {auth: {password: s3cret}}}\n")
    monkeypatch.chdir(folder)
    for name in ("OS_CLIENT_CONFIG_FILE", "OS_CLIENT_SECURE_FILE"):
        monkeypatch.delenv(name, raising=False)


def test_cloud_of_clouds_yaml(make_conf: MakeConf, web: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _glance(web)
    _keystone(web, endpoint=web.url(""))
    _clouds(tmp_path, web, monkeypatch)
    assert _ask(make_conf(glance={"cloud": "lab"})) == "4242"


@pytest.mark.parametrize(("name", "told"), [("other", "it has: flat, lab"), ("flat", "profile")])
def test_cloud_that_cannot_be_used(
    make_conf: MakeConf, web: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, told: str
) -> None:
    _clouds(tmp_path, web, monkeypatch)
    with pytest.raises(ConfigError, match=told):
        _ask(make_conf(glance={"cloud": name}))


@pytest.mark.parametrize("text", ["", "clouds: [", "clouds: 5", "just text", "clouds: {lab: 5}"])
def test_broken_clouds_yaml_is_one_line(
    make_conf: MakeConf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(tmp_path / "c.yaml"))
    with pytest.raises(ConfigError) as caught:
        _ask(make_conf(glance={"cloud": "lab"}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "no Glance is configured"),
        ({"endpoint_override": "http://127.0.0.1:1"}, "no Glance is configured"),
        ({"auth_type": "none"}, "endpoint_override"),
        ({"auth_type": "none", "endpoint_override": "127.0.0.1:9292"}, "not the URL"),
        ({"auth_type": "whirl"}, "whirl"),
        ({"auth_type": "password"}, "auth_url|auth-url"),
        ({"auth_type": "none", "endpoint_override": "https://h", "cafile": "/nowhere.pem"}, "/nowhere.pem"),
    ],
)
def test_lacking_configuration_is_one_line(make_conf: MakeConf, options: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        _ask(make_conf(glance=options))
    assert "\n" not in str(caught.value)


def test_catalogue_without_glance_says_what_to_set(make_conf: MakeConf, web: Site) -> None:
    _keystone(web, endpoint=None)
    with pytest.raises(ConfigError, match="endpoint_override"):
        _ask(make_conf(glance=_password(web)))


def test_region_without_glance_says_which(make_conf: MakeConf, web: Site) -> None:
    _keystone(web, endpoint=web.url(""))
    with pytest.raises(ConfigError, match="R2"):
        _ask(make_conf(glance=_password(web, region_name="R2")))


@pytest.mark.parametrize(
    ("status", "error"), [(401, SourceDenied), (403, SourceDenied), (500, SourceUnavailable), (503, SourceUnavailable)]
)
def test_keystone_that_refuses(make_conf: MakeConf, web: Site, status: int, error: type[Error]) -> None:
    _keystone(web, endpoint=web.url(""))
    web.files["/identity/v3/auth/tokens"].status = status
    with pytest.raises(error, match="Keystone") as caught:
        _ask(make_conf(glance=_password(web)))
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_keystone_that_is_not_there(make_conf: MakeConf) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        options = {"auth_type": "password", "auth_url": f"http://127.0.0.1:{taken.getsockname()[1]}/v3"}
        with pytest.raises(SourceUnavailable, match="does not answer") as caught:
            _ask(make_conf(glance={**options, **_LOGIN, **_DOMAINS}))
    assert "\n" not in str(caught.value)


def test_glance_that_is_not_there(make_conf: MakeConf) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SourceUnavailable, match=r"does not answer.*\(3 tries\)"):
            _ask(make_conf(glance={"auth_type": "none", "endpoint_override": url}))


def test_untrusted_certificate_is_for_the_operator(make_conf: MakeConf, tls_web: Site, lab_ca: Certificates) -> None:
    _glance(tls_web)
    options = {"auth_type": "none", "endpoint_override": tls_web.url("")}
    with pytest.raises(ConfigError, match="cafile"):
        _ask(make_conf(glance=options))
    assert _ask(make_conf(glance={**options, "cafile": str(lab_ca.ca)})) == "4242"


def test_login_page_of_a_proxy_is_no_glance(make_conf: MakeConf, web: Site, target: Path) -> None:
    """A page with status 200 for everything, as captive portals send it."""
    for path in ("/v2/schemas/image", f"/v2/images/{_ID}", f"/v2/images/{_ID}/file"):
        web.files[path] = File(b"<html>Log in", type="text/html")
    conf = make_conf(glance={"auth_type": "none", "endpoint_override": web.url("")})
    with pytest.raises(SourceUnavailable, match="no Glance"):
        _ask(conf)
    _glance(web)
    with contextlib.closing(GlanceSource(conf)) as source:
        image = source.find(_ID)
        with pytest.raises(SourceUnavailable, match="no Glance"):
            image(target, ignore)
    assert not target.exists()


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
def test_passing_trouble_of_glance_is_tried_again(make_conf: MakeConf, web: Site, status: int) -> None:
    _glance(web)
    file = web.files[f"/v2/images/{_ID}"]

    def heal(file: File) -> None:
        healed = len(web.asked("GET", f"/v2/images/{_ID}")) > 1
        file.status, file.type = (200, _JSON) if healed else (status, "text/plain")

    file.on_get = heal
    assert _ask(make_conf(glance={"auth_type": "none", "endpoint_override": web.url("")})) == "4242"


def test_digest_of_an_unknown_name_is_left_for_the_checksum(make_conf: MakeConf, web: Site) -> None:
    _glance(web)
    file = web.files[f"/v2/images/{_ID}"]
    file.data = json.dumps({**json.loads(file.data), "os_hash_algo": "whirl9", "os_hash_value": "00"}).encode()
    conf = make_conf(glance={"auth_type": "none", "endpoint_override": web.url("")})
    with contextlib.closing(GlanceSource(conf)) as source:
        assert source.find(_ID).declared.digests == (("md5", "0" * 32),)


# Options that a caller sets, of a plugin that only others of them name


@pytest.fixture
def make_engine(instances: Path) -> Iterator[Callable[[dict[str, str]], Engine]]:
    with contextlib.ExitStack() as stack:

        def make(overrides: dict[str, str]) -> Engine:
            told = {"instances_path": str(instances), **overrides}
            return stack.enter_context(Engine.from_config([], told))

        yield make


def _own_options(site: Site, section: str) -> dict[str, str]:
    told = {"auth_type": "v3applicationcredential", "auth_url": site.url("/identity")}
    told |= {"application_credential_id": "me", "application_credential_secret": "s"}
    return {f"{section}.{name}": value for name, value in told.items()}


@pytest.mark.parametrize("section", ["glance", "service"])
def test_options_of_a_plugin_that_are_set_reach_keystone(
    make_engine: Callable[[dict[str, str]], Engine], web: Site, section: str
) -> None:
    _glance(web)
    _keystone(web, endpoint=web.url(""))
    engine = make_engine({"glance.auth_section": section} | _own_options(web, section))
    assert engine.image(f"glance:{_ID}").declared.size == 4242
    [asked] = web.asked("POST", "/identity/v3/auth/tokens")
    assert json.loads(asked.body)["auth"]["identity"]["application_credential"] == {"id": "me", "secret": "s"}


@pytest.mark.parametrize("section", ["glance", "service"])
def test_option_that_no_plugin_has_is_refused_by_its_name(
    make_engine: Callable[[dict[str, str]], Engine], web: Site, section: str
) -> None:
    told = {"glance.auth_section": section} | _own_options(web, section) | {f"{section}.application_id": "me"}
    with pytest.raises(ConfigError, match=rf"there is no option {section}\.application_id"):
        make_engine(told).image(f"glance:{_ID}")
    assert not web.requests


def test_option_of_another_plugin_is_refused_by_its_name(
    make_engine: Callable[[dict[str, str]], Engine], web: Site
) -> None:
    told = _own_options(web, "glance") | {"glance.auth_type": "password"}
    with pytest.raises(ConfigError, match=r"no option glance\.application_credential_id; there are: .*auth_url"):
        make_engine(told).image(f"glance:{_ID}")


def test_plugin_that_is_not_there_is_told(make_engine: Callable[[dict[str, str]], Engine], web: Site) -> None:
    told = {"glance.auth_type": "nosuch", "glance.auth_url": web.url("/identity")}
    with pytest.raises(ConfigError, match="nosuch"):
        _ = make_engine(told).image(f"glance:{_ID}").declared
    with pytest.raises(ConfigError, match=r"glance\.token"):
        make_engine(told | {"glance.token": "t"}).image(f"glance:{_ID}")
