"""What an image is had from that its source has no more: the base folder of another host, which is not trusted."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from imgbackend import Engine, errors
from imgbackend.sources.peer import HOST
from imgbackend.state.digests import content_digest
from imgbackend.types import Mi, base_name
from labs import images as making
from labs import ssh as ssh_lab
from labs.webserver import Certificates, File, Site

pytestmark = pytest.mark.slow

OTHER = "127.0.0.1"


@dataclass
class Hosts:
    """Two hosts, and a web server that both have an image from."""

    web: Site
    folder: Path
    engines: list[Engine]
    ref: str
    image_id: str
    content: Path

    @property
    def base(self) -> str:
        return base_name(self.image_id)

    @property
    def bases(self) -> Path:
        """Of the other host."""
        return self.folder / "other" / "_base"

    def engine(self, name: str = "here", **overrides: Any) -> Engine:
        options = {
            "instances_path": str(self.folder / name),
            "sources.num_retries": 1,
            "sources.retry_delay": 0.01,
            "sources.fallback_url": self.web.url("/bases").replace(OTHER, "{host}"),
        }
        made = Engine.from_config([], options | {key.replace("__", "."): value for key, value in overrides.items()})
        self.engines.append(made)
        return made

    def serve(self) -> None:
        """Have the other host serve its bases."""
        for path in self.bases.iterdir():
            self.web.files[f"/bases/{path.name}"] = File(path.read_bytes())

    def forge(self, **fields: Any) -> None:
        """Change what the other host's manifest says."""
        file = self.web.files[f"/bases/{self.base}.json"]
        file.data = json.dumps({**json.loads(file.data), **fields}).encode()

    def lose(self) -> None:
        """Have the source have the image no more."""
        self.web.files["/tiny.qcow2"] = File(status=404, head=404)

    def made(self, engine: Engine, **told: Any) -> Path:
        """A raw disk of the image."""
        image = engine.image(self.ref, fallback_from_host=OTHER, **told)
        engine.disk("vm1", images_type="raw").cache(image, image.filename)
        return engine.host.instances / "vm1" / "disk"


@pytest.fixture
def hosts(tmp_path: Path, web: Site) -> Iterator[Hosts]:
    content = making.sparse_raw(tmp_path / "content", 4 * Mi, data={0: b"boot", 3 * Mi: os.urandom(Mi // 2)})
    image = making.qcow2(tmp_path / "tiny.qcow2", 4 * Mi, content=content)
    web.files["/tiny.qcow2"] = File(image.read_bytes())
    ref = f"{web.url('/tiny.qcow2')}#sha256:{hashlib.sha256(image.read_bytes()).hexdigest()}"
    found = Hosts(web=web, folder=tmp_path, engines=[], ref=ref, image_id="", content=content)
    other = found.engine("other")
    found.image_id = other.image(ref).id
    other.disk("vm0").cache(other.image(ref), found.base)
    found.serve()
    yield found
    for engine in found.engines:
        engine.close()


def left(engine: Engine) -> list[Path]:
    """What a failed fetch must not leave."""
    found = [path for path in engine.host.instances.rglob("*") if path.is_file() and "locks" not in path.parts]
    return [path for path in found if path.suffix != ".json" or path.name == "disks.json"]


def test_image_gone_from_its_source_is_had_from_the_base_of_another_host(hosts: Hosts) -> None:
    hosts.lose()
    engine = hosts.engine()
    assert hosts.made(engine).read_bytes() == hosts.content.read_bytes()
    [base] = engine.bases()
    assert base.name == hosts.base
    assert base.manifest is not None
    assert (base.manifest.image_id, base.manifest.source) == (hosts.image_id, hosts.ref.partition("#")[0])
    with (hosts.bases / hosts.base).open("rb") as file:
        assert base.manifest.digest == content_digest(file.fileno())


def test_other_host_is_not_asked_while_the_source_has_it(hosts: Hosts) -> None:
    assert hosts.made(hosts.engine()).read_bytes() == hosts.content.read_bytes()
    assert not [request for request in hosts.web.requests if request.path.startswith("/bases")]


def test_other_host_is_not_asked_where_the_source_is_only_down(hosts: Hosts) -> None:
    hosts.web.files["/tiny.qcow2"] = File(status=503, head=503)
    with pytest.raises(errors.SourceUnavailable):
        hosts.made(hosts.engine())
    assert not [request for request in hosts.web.requests if request.path.startswith("/bases")]


def test_source_that_says_only_at_the_fetch_that_it_is_gone_is_left_too(hosts: Hosts) -> None:
    hosts.web.files["/tiny.qcow2"] = File(b"x" * 999, status=404, head=200)
    assert hosts.made(hosts.engine()).read_bytes() == hosts.content.read_bytes()


def test_neither_has_it(hosts: Hosts) -> None:
    hosts.lose()
    del hosts.web.files[f"/bases/{hosts.base}.json"]
    engine = hosts.engine()
    with pytest.raises(errors.ImageNotFound, match=r"tiny\.qcow2.*; and .*/bases/"):
        hosts.made(engine)
    assert left(engine) == []


def test_base_that_is_not_as_its_manifest_says_is_refused(hosts: Hosts) -> None:
    hosts.lose()
    file = hosts.web.files[f"/bases/{hosts.base}"]
    file.data = file.data[:-1] + b"!"
    engine = hosts.engine()
    with pytest.raises(errors.TemplateCorrupt, match="its manifest says"):
        hosts.made(engine)
    assert left(engine) == []


def test_base_without_a_digest_is_refused(hosts: Hosts) -> None:
    hosts.lose()
    hosts.forge(digest=None)
    with pytest.raises(errors.ImageNotFound, match=r"no digest of .*imgbackend cache verify"):
        hosts.made(hosts.engine())


def test_container_that_is_called_raw_is_refused(hosts: Hosts, tmp_path: Path) -> None:
    """Its digest is right: what is inspected here is not taken from another host."""
    hosts.lose()
    other = making.qcow2(tmp_path / "hostile", 64 * Mi)
    with other.open("rb") as file:
        hosts.forge(digest=content_digest(file.fileno()), identity={"size": other.stat().st_size})
    hosts.web.files[f"/bases/{hosts.base}"] = File(other.read_bytes())
    engine = hosts.engine()
    with pytest.raises(errors.TemplateUnsafe, match="declared as raw, and is qcow2"):
        hosts.made(engine)
    assert left(engine) == []


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"image_id": "another"}, errors.SourceError, "it is another image's"),
        ({"image_id": None}, errors.SourceError, "is no text"),
        ({"virtual_size": "large"}, errors.SourceError, "is no size"),
        ({"virtual_size": -1}, errors.SourceError, "is no size"),
        ({"identity": None}, errors.SourceError, "no manifest"),
        ({"format": "vmdk"}, errors.SourceError, "as 'vmdk'"),
        ({"digest": "../../etc"}, errors.SourceError, "is no digest"),
        ({"source": "a\nb"}, errors.SourceError, "is no text"),
        ({"role": "private"}, errors.SourceError, "of a 'private'"),
        ({"role": "boot-file"}, errors.ImageNotFound, "as a boot-file, and a image is wanted"),
        ({"virtual_size": 1 << 50}, errors.TemplateTooLarge, "max_image_virtual_size"),
    ],
)
def test_manifest_of_another_host_is_not_believed(
    hosts: Hosts, fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    hosts.lose()
    hosts.forge(**fields)
    engine = hosts.engine()
    with pytest.raises(error, match=message):
        hosts.made(engine)
    assert left(engine) == []


@pytest.mark.parametrize("data", [b"[]", b"{", b"\xff" * 3, b"{}" + b" " * 2 * Mi])
def test_what_is_no_manifest_is_told(hosts: Hosts, data: bytes) -> None:
    hosts.lose()
    hosts.web.files[f"/bases/{hosts.base}.json"] = File(data)
    with pytest.raises(errors.SourceError, match=r"no manifest|none of ours"):
        hosts.made(hosts.engine())


def test_base_kept_as_qcow2_is_compared_with_what_its_source_delivered(hosts: Hosts) -> None:
    kept = hosts.engine("kept", force_raw_images=False)
    kept.disk("vm0").cache(kept.image(hosts.ref), hosts.base)
    shutil.rmtree(hosts.bases)
    shutil.copytree(hosts.folder / "kept" / "_base", hosts.bases)
    hosts.serve()
    hosts.lose()
    assert hosts.made(hosts.engine()).read_bytes() == hosts.content.read_bytes()
    hosts.web.files[f"/bases/{hosts.base}"].data += b"!"
    with pytest.raises(errors.TemplateCorrupt):
        hosts.made(hosts.engine("again"))


def test_kernel_is_had_byte_for_byte(hosts: Hosts, tmp_path: Path) -> None:
    kernel = os.urandom(1001)
    hosts.web.files["/vmlinuz"] = File(kernel)
    ref = f"{hosts.web.url('/vmlinuz')}#sha256:{hashlib.sha256(kernel).hexdigest()}"
    other = hosts.engine("other")
    file = other.image(ref).as_boot_file()
    other.disk("vm0", "kernel", "raw").cache(file, file.filename)
    hosts.serve()
    hosts.web.files["/vmlinuz"] = File(status=404, head=404)
    engine = hosts.engine()
    again = engine.image(ref, fallback_from_host=OTHER).as_boot_file()
    engine.disk("vm1", "kernel", "raw").cache(again, again.filename)
    assert (engine.host.instances / "vm1" / "kernel").read_bytes() == kernel


def test_lost_base_of_a_disk_is_brought_back_with_its_content_or_not_at_all(hosts: Hosts) -> None:
    """The digest that the disk's record has is the one that counts."""
    engine = hosts.engine()
    engine.disk("vm1").cache(engine.image(hosts.ref), hosts.base)
    for path in engine.host.bases.iterdir():
        path.unlink()
    hosts.lose()
    image = engine.image(hosts.ref, fallback_from_host=OTHER)
    true = hosts.web.files[f"/bases/{hosts.base}"].data
    forged = b"evil" + true[4:]
    hosts.web.files[f"/bases/{hosts.base}"].data = forged
    whole = hosts.folder / "forged"
    whole.write_bytes(forged)
    with whole.open("rb") as file:
        hosts.forge(digest=content_digest(file.fileno()))
    with pytest.raises(errors.BaseMissing, match="other bytes"):
        engine.disk("vm1").cache(image, hosts.base)
    hosts.serve()
    image = engine.image(hosts.ref, fallback_from_host=OTHER)
    assert engine.disk("vm1").cache(image, hosts.base).fetched
    assert (engine.host.bases / hosts.base).read_bytes() == true


def test_other_host_is_known_by_the_ca_that_is_configured(hosts: Hosts, tls_web: Site, lab_ca: Certificates) -> None:
    hosts.lose()
    tls_web.files |= {path: file for path, file in hosts.web.files.items() if path.startswith("/bases")}
    url = tls_web.url("/bases").replace(OTHER, "{host}")
    engine = hosts.engine(sources__fallback_url=url, sources__http_ca_file=str(lab_ca.ca))
    assert hosts.made(engine).read_bytes() == hosts.content.read_bytes()
    with pytest.raises(errors.ConfigError, match="its certificate is not trusted"):
        hosts.made(hosts.engine("stranger", sources__fallback_url=url))


def test_id_that_only_the_source_knew_has_to_be_told(hosts: Hosts) -> None:
    ref = hosts.ref.partition("#")[0]
    other = hosts.engine("other")
    image = other.image(ref)
    other.disk("vm2").cache(image, image.filename)
    hosts.serve()
    hosts.lose()
    engine = hosts.engine()
    with pytest.raises(errors.ImageNotFound, match="what its id was is not known"):
        engine.image(ref, fallback_from_host=OTHER)
    again = engine.image(ref, fallback_from_host=OTHER, image_id=image.id)
    assert again.id == image.id
    engine.disk("vm1", images_type="raw").cache(again, again.filename)
    assert (engine.host.instances / "vm1" / "disk").read_bytes() == hosts.content.read_bytes()


def test_id_is_known_by_the_base_that_is_here_still(hosts: Hosts) -> None:
    ref, engine = hosts.ref.partition("#")[0], hosts.engine()
    image = engine.image(ref)
    engine.disk("vm0").cache(image, image.filename)
    hosts.lose()
    again = engine.image(ref, fallback_from_host=OTHER)
    assert again.id == image.id
    assert not engine.disk("vm1").cache(again, again.filename).fetched


def test_caller_with_a_session_of_its_own_cannot_use_another_hosts_base(hosts: Hosts) -> None:
    hosts.lose()
    with pytest.raises(errors.ConfigError, match="whether a caller may see an image"):
        hosts.engine().image(hosts.ref, object(), fallback_from_host=OTHER)
    with pytest.raises(errors.ConfigError, match="for the operator alone"):
        hosts.engine().image(f"peer://{OTHER}/{hosts.base}", object())


def test_base_of_another_host_is_a_reference_too(hosts: Hosts) -> None:
    engine = hosts.engine()
    image = engine.image(f"peer://{OTHER}/{hosts.base}")
    assert (image.id, image.filename) == (hosts.image_id, hosts.base)
    engine.disk("vm1").cache(image, image.filename)
    with pytest.raises(errors.ConfigError, match="peer://HOST/NAME"):
        engine.image(f"peer://{OTHER}/../{hosts.base}")


@pytest.mark.parametrize("host", ["-oProxyCommand=id", "a b", "", "a/b", "a@b", "a:1", "$(id)", "{host}", "a\n"])
def test_what_is_no_name_of_a_host_is_refused(hosts: Hosts, host: str) -> None:
    hosts.lose()
    assert not HOST.match(host)
    image = hosts.engine().image(hosts.ref, fallback_from_host=host)
    with pytest.raises(errors.ConfigError, match="no name of a host"):
        _ = image.declared


Ssh = Callable[..., Engine]


@pytest.fixture
def ssh(hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ssh:
    """An engine whose ssh is a script that gets the command line; what it is to do is given."""
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    hosts.lose()

    def make(script: str, timeout: int = 30) -> Engine:
        path = tools / "ssh"
        path.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" >{tmp_path}/words\nlast="${{@: -1}}"\n{script}\n')
        path.chmod(0o755)
        folder = tmp_path / 'it\'s $(touch no) a "folder"; & *'
        if not folder.exists():
            shutil.copytree(hosts.bases, folder)
        return hosts.engine(sources__fallback_url=f"ssh://me@{{host}}:2022{folder}", sources__fallback_timeout=timeout)

    return make


_SHELL = 'exec sh -c "$last"'
"""As sshd does with the command: it gives it to the user's shell."""


def test_base_is_had_by_ssh_whatever_its_path_is(hosts: Hosts, ssh: Ssh, tmp_path: Path) -> None:
    assert hosts.made(ssh(_SHELL)).read_bytes() == hosts.content.read_bytes()
    words = (tmp_path / "words").read_text().splitlines()
    assert "BatchMode=yes" in words
    assert words[words.index("-l") + 1] == "me"
    assert words[words.index("-p") + 1] == "2022"
    assert words[-3:-1] == ["--", OTHER]
    assert not list(tmp_path.rglob("no"))


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        ("echo 'Host key verification failed.' >&2; exit 255", errors.SourceDenied, "known_hosts"),
        ("echo 'me@x: Permission denied (publickey).' >&2; exit 255", errors.SourceDenied, "give this user a key"),
        ("echo 'connect: Connection refused' >&2; exit 255", errors.SourceUnavailable, r"refused.*\(2 tries\)"),
        ("echo 'cat: x: No such file or directory' >&2; exit 1", errors.ImageNotFound, "is not there"),
        ("echo 'cat: x: Permission denied' >&2; exit 1", errors.SourceDenied, "may not be read by the user there"),
        ("echo 'cat: x: Eingabefehler' >&2; exit 1", errors.SourceUnavailable, "Eingabefehler"),
        ("kill -9 $$", errors.SourceUnavailable, "tries"),
        ("sleep 60", errors.SourceUnavailable, "sent nothing for 1 s"),
    ],
)
def test_what_ssh_says_is_told(ssh: Ssh, hosts: Hosts, script: str, error: type[Exception], message: str) -> None:
    engine = ssh(script, 1 if "sleep" in script else 30)
    with pytest.raises(error, match=message):
        hosts.made(engine)
    assert left(engine) == []


def test_connection_that_breaks_off_is_made_anew(hosts: Hosts, ssh: Ssh, tmp_path: Path) -> None:
    script = f"[[ $last = *.json* || -e {tmp_path}/once ]] && {_SHELL}\ntouch {tmp_path}/once\n"
    script += 'sh -c "$last" | head -c 70000; exit 255'
    assert hosts.made(ssh(script)).read_bytes() == hosts.content.read_bytes()
    assert (tmp_path / "once").exists()


def test_missing_ssh_is_named(hosts: Hosts, ssh: Ssh, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    engine = ssh("")
    tools = tmp_path / "fewer"
    tools.mkdir()
    for name in ("prlimit", "setpriv"):
        (tools / name).symlink_to(shutil.which(name) or name)
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(errors.ConfigError, match="ssh is not installed; install openssh-client"):
        hosts.made(engine)


@pytest.mark.parametrize(
    "url", ["ssh://{host}", "ftp://{host}/x", "ssh://-o@{host}/x", "ssh://{host}:x/y", "{host}:/x"]
)
def test_url_that_is_none_is_refused(hosts: Hosts, url: str) -> None:
    hosts.lose()
    with pytest.raises(errors.ConfigError, match=r"not of the form|not a URL"):
        hosts.made(hosts.engine(sources__fallback_url=url))


def test_base_is_had_from_a_real_sshd(hosts: Hosts, ssh_host: ssh_lab.Ssh, tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s $(touch no) a "folder"; & *'
    shutil.copytree(hosts.bases, folder)
    hosts.lose()
    options = {"sources__fallback_url": f"ssh://{{host}}{folder}", "sources__fallback_ssh_config": str(ssh_host.config)}
    engine = hosts.engine(**options)
    image = engine.image(hosts.ref, fallback_from_host="there")
    engine.disk("vm1", images_type="raw").cache(image, image.filename)
    assert (engine.host.instances / "vm1" / "disk").read_bytes() == hosts.content.read_bytes()
    assert not list(tmp_path.rglob("no"))
    (folder / f"{hosts.base}.json").unlink()
    with pytest.raises(errors.ImageNotFound, match="is not there"):
        _ = hosts.engine("again", **options).image(hosts.ref, fallback_from_host="there").declared
    ssh_host.known_hosts.write_text("")
    with pytest.raises(errors.SourceDenied, match="known_hosts"):
        _ = hosts.engine("stranger", **options).image(hosts.ref, fallback_from_host="there").declared
