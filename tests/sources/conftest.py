"""What the tests of the sources share."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from imgbackend.config import options
from imgbackend.sources.contract import Source
from imgbackend.sources.folder import FolderSource
from imgbackend.sources.glance import GlanceSource
from imgbackend.sources.http import HttpSource
from labs.glance import glance, glance_of_my_own, glance_with_tokens
from labs.ssh import ssh_host
from labs.webserver import Certificates, Site, certificates, site

__all__ = ["glance", "glance_of_my_own", "glance_with_tokens", "ssh_host"]

MakeConf = Callable[..., cfg.ConfigOpts]


@pytest.fixture
def make_conf(tmp_path: Path) -> MakeConf:
    """A configuration: ``make_conf(num_retries=1, glance={...}, DEFAULT={...})``; plain names are of ``[sources]``."""

    def make(**overrides: Any) -> cfg.ConfigOpts:
        conf = options.load([])
        sources: tuple[type[Source], ...] = (FolderSource, HttpSource, GlanceSource)
        for source in sources:
            options.register(conf, source.group, source.opts)
        told: dict[str, Any] = {"folder_path": str(tmp_path / "images"), "num_retries": 2, "retry_delay": 0.01}
        for group in ("DEFAULT", "glance"):
            for name, value in overrides.pop(group, {}).items():
                conf.set_override(name, value, None if group == "DEFAULT" else group)
        for name, value in {**told, **overrides}.items():
            conf.set_override(name, value, "sources")
        return conf

    return make


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """The folder that bare names are looked up in."""
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where a fetch puts its bytes; nothing is there."""
    folder = tmp_path / "target"
    folder.mkdir()
    return folder / "base.part"


@pytest.fixture
def web() -> Iterator[Site]:
    """A web server with nothing on it."""
    with site() as made:
        yield made


@pytest.fixture
def lab_ca(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A CA, and the certificate that it gave to 127.0.0.1."""
    return certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def tls_web(lab_ca: Certificates) -> Iterator[Site]:
    """The same over TLS, by the lab's own CA."""
    with site((lab_ca.certificate, lab_ca.key)) as made:
        yield made
