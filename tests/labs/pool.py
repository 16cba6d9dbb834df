"""A driver for a store that hosts share: raw files of a folder, with a note beside each of whose it is."""

import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, ClassVar

import pytest
from oslo_config import cfg

from imgbackend import Engine, errors
from imgbackend.config import plugins
from imgbackend.driver.abilities import CarriesHandover, IdentifiesStore, Marked
from imgbackend.driver.file_disk import FileBackend, FileDisk
from imgbackend.driver.template import Base
from imgbackend.system import files
from imgbackend.types import DiskId, Mark, Owner, Traits


class PoolDisk(FileDisk["PoolBackend"], Marked, CarriesHandover):
    """A raw file, and a note of whose it is."""

    @property
    def path(self) -> Path:
        return self.backend.folder / f"{self.id.instance}_{self.id.name}"

    @property
    def unfinished(self) -> Path:
        return self.backend.folder / f".{self.id.instance}_{self.id.name}.part"

    @property
    def note(self) -> Path:
        return self.path.with_name(f"{self.path.name}.mark")

    def publish(self, fd: int, base: Base) -> None:
        assert self.recorded is not None
        assert self.recorded.owner is not None
        assert self.recorded.identity is not None
        self.write_note(Mark(owner=self.recorded.owner, identity=self.recorded.identity))
        super().publish(fd, base)

    def write_note(self, mark: Mark) -> None:
        owner = {"host": mark.owner.host, "folder": mark.owner.folder} if mark.owner is not None else None
        files.write_whole(self.note, json.dumps({"owner": owner, "identity": mark.identity}).encode())

    def mark(self) -> Mark | None:
        if self.find() is None:
            return None
        try:
            noted = json.loads(self.note.read_text())
        except FileNotFoundError:
            return Mark(owner=None, identity=f"inode {os.stat(self.path).st_ino}")
        owner = Owner(**noted["owner"]) if noted["owner"] is not None else None
        return Mark(owner=owner, identity=noted["identity"])

    def set_mark(self, before: Mark, owner: Owner) -> None:
        if self.mark() != before:
            raise errors.DiskElsewhere(f"{self.id} is another's meanwhile")
        self.write_note(Mark(owner=owner, identity=before.identity))

    @property
    def handed_over(self) -> Path:
        return self.path.with_name(f"{self.path.name}.handover.mark")

    def handover(self) -> str | None:
        return self.handed_over.read_text() if self.handed_over.exists() else None

    def set_handover(self, text: str | None) -> None:
        if text is None:
            self.handed_over.unlink(missing_ok=True)
        else:
            files.write_whole(self.handed_over, text.encode())

    def remove_image(self) -> None:
        """As a real store: what has no note is removed only where it is on record."""
        if self.find() is not None and not self.note.exists() and self.recorded is None:
            raise errors.DiskError(f"{self.id} was made by another program, and is not on record here")
        super().remove_image()
        self.note.unlink(missing_ok=True)
        self.handed_over.unlink(missing_ok=True)


class PoolBackend(FileBackend, IdentifiesStore):
    """A folder that several folders of instances share."""

    disk_type = PoolDisk
    traits = Traits(shared=True)
    opts: ClassVar[Sequence[cfg.Opt]] = (cfg.StrOpt("folder", help="Keep disks here."),)

    @property
    def folder(self) -> Path:
        if self.conf.folder is None:
            raise errors.ConfigError(f"[{self.name}] folder: is not set")
        return Path(self.conf.folder)

    store_options: ClassVar[Sequence[str]] = ("folder",)

    def store_identity(self) -> str:
        if self._there is None:
            raise errors.StorageUnavailable(f"{self.folder} was not there when the backend was opened")
        return f"folder {self._there[1]} of the file system {self._there[0]}"

    def list_disks(self) -> Iterator[DiskId]:
        self.expect_folder()
        for path in sorted(self.folder.iterdir()):
            instance, underscore, name = path.name.partition("_")
            if underscore and not path.name.startswith(".") and path.suffix != ".mark":
                yield DiskId(instance=instance, name=name)


class SilentBackend(PoolBackend):
    """A store that does not answer."""

    def list_disks(self) -> Iterator[DiskId]:
        raise errors.StorageUnavailable("the pool does not answer")


MakeHost = Callable[..., Engine]


@pytest.fixture
def pool_folder(tmp_path: Path) -> Path:
    """The store."""
    folder = tmp_path / "pool"
    folder.mkdir(mode=0o755)
    return folder


@pytest.fixture
def pool_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver ``pool`` is installed, and ``silent``, whose store does not answer."""
    kinds = {"pool": PoolBackend, "silent": SilentBackend}
    load, installed = plugins.load_driver, plugins.drivers
    monkeypatch.setattr(plugins, "load_driver", lambda name: kinds.get(name) or load(name))

    def drivers(group: str = plugins.BACKENDS) -> list[plugins.DriverInfo]:
        ours = [
            plugins.DriverInfo(name=name, distribution="tests", version="0", target=f"labs.pool:{kind.__name__}")
            for name, kind in kinds.items()
        ]
        return installed(group) + (ours if group == plugins.BACKENDS else [])

    monkeypatch.setattr(plugins, "drivers", drivers)


@pytest.fixture
def make_host(tmp_path: Path, pool_folder: Path, pool_driver: None) -> Iterator[MakeHost]:
    """Hosts with a folder of instances each, on one store: ``make_host("a")``."""
    with ExitStack() as stack:

        def make(name: str, **overrides: Any) -> Engine:
            folder = tmp_path / f"instances-{name}"
            folder.mkdir(mode=0o711, exist_ok=True)
            told = {"instances_path": str(folder), "host": name, "images_type": "pool", "pool.folder": str(pool_folder)}
            engine: AbstractContextManager[Engine] = Engine.from_config([], told | overrides)
            return stack.enter_context(engine)

        yield make


def disk_of_nova(folder: Path, instance: str, size: int) -> Path:
    """A disk that another program made: the store has no note of whose it is."""
    path = folder / f"{instance}_disk"
    path.write_bytes(secrets.token_bytes(512) + bytes(size - 512))
    return path
