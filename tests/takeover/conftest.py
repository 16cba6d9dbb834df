"""A host that Nova has used, and what its guests see."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from imgbackend import Engine
from imgbackend.types import Gi, Mi, base_name
from labs.corpus import content
from labs.images import qcow2, qemu_img, sparse_raw
from labs.nova import Nova, nova

__all__ = ["nova"]

MakeEngine = Callable[..., Engine]
OVERLAY = "0a1b2c3d-0000-4000-8000-000000000001"
FLAT = "0a1b2c3d-0000-4000-8000-000000000002"
ON_QCOW2 = "0a1b2c3d-0000-4000-8000-000000000003"
FLAT_QCOW2 = "0a1b2c3d-0000-4000-8000-000000000004"
LEGACY = "0a1b2c3d-0000-4000-8000-000000000005"
LEGACY_QCOW2 = "0a1b2c3d-0000-4000-8000-000000000006"


@dataclass
class Host:
    """A folder that the real Nova made."""

    instances: Path
    images: dict[str, Path]
    """The files that Nova fetched, by the images' ids."""
    disks: dict[str, str] = field(default_factory=dict)
    """The format of each disk, by ``instance/name``."""
    seen: dict[str, Path] = field(default_factory=dict)
    """What the guest of each disk sees, as a raw file."""

    def base(self, image_id: str) -> Path:
        return self.instances / "_base" / base_name(image_id)

    def add(self, instance: str, name: str, format: str, raw: Path, *, written: bool = True) -> None:
        """A disk that is there; its guest writes to it."""
        path = self.instances / instance / name
        if written:
            subprocess.run(
                ["qemu-io", "-f", format, "-c", "write -P 7 1M 64k", str(path)],
                check=True,
                capture_output=True,
                timeout=60,
            )
        qemu_img("convert", "-f", format, "-O", "raw", str(path), str(raw))
        self.disks[f"{instance}/{name}"] = format
        self.seen[f"{instance}/{name}"] = raw


@pytest.fixture(scope="session")
def _made(nova: Nova, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """Each kind of disk that Nova keeps in files, larger than its image, and written to.

    Made once, for it takes Nova seconds.  Paths are in its files, so that each test has its
    copy in the same place.
    """
    root = tmp_path_factory.mktemp("host")
    root.chmod(0o755)
    instances, images, seen = root / "instances", root / "images", root / "seen"
    for folder in (instances, images, seen):
        folder.mkdir()
    nova.do("place", path=str(instances))
    raw = sparse_raw(images / "image.raw", 2 * Mi, data={0: content(Mi)})
    container = qcow2(images / "image.qcow2", 2 * Mi, content=raw)
    made = Host(instances, {"raw": raw, "qcow2": container, "kept": container, "kernel": images / "vmlinuz"})
    made.images["kernel"].write_bytes(content(1001))
    formats = {"raw": "raw", "kernel": "aki"}
    for image_id, path in made.images.items():
        nova.do("image", id=image_id, path=str(path), disk_format=formats.get(image_id, "qcow2"))
    _fill(made, nova, seen)
    _copy(instances, root / "pristine")
    return made


def _fill(made: Host, nova: Nova, seen: Path) -> None:
    instances, size = made.instances, 8 * Mi
    nova.do("disk", backend="qcow2", instance=OVERLAY, name="disk", image_id="raw", size=size)
    nova.do("disk", backend="flat", instance=OVERLAY, name="kernel", image_id="kernel", size=None, boot=True)
    nova.do("swap", backend="qcow2", instance=OVERLAY, mib=4)
    nova.do("disk", backend="flat", instance=FLAT, name="disk", image_id="qcow2", size=size)
    nova.do("disk", backend="qcow2", instance=ON_QCOW2, name="disk", image_id="kept", size=size, force_raw=False)
    nova.do("disk", backend="flat", instance=FLAT_QCOW2, name="disk", image_id="kept", size=size, force_raw=False)
    nova.do("disk", backend="qcow2", instance=LEGACY, name="disk", image_id="raw", size=2 * Gi)
    nova.do("disk", backend="qcow2", instance=LEGACY_QCOW2, name="disk", image_id="kept", size=2 * Gi, force_raw=False)
    _hang_on_legacy(made, LEGACY, "raw", "raw")
    _hang_on_legacy(made, LEGACY_QCOW2, "kept", "qcow2")
    (instances / OVERLAY / "console.log").write_text("login:\n")
    (instances / "compute_nodes").write_text('{"host1": 1700000000.0}')
    for instance in (OVERLAY, ON_QCOW2, LEGACY, LEGACY_QCOW2):
        made.add(instance, "disk", "qcow2", seen / instance)
    made.add(OVERLAY, "disk.swap", "qcow2", seen / "swap")
    made.add(OVERLAY, "kernel", "raw", seen / "kernel", written=False)
    made.add(FLAT, "disk", "raw", seen / FLAT)
    made.add(FLAT_QCOW2, "disk", "qcow2", seen / FLAT_QCOW2)


def _copy(folder: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", "--sparse=always", folder, target], check=True, timeout=60)


@pytest.fixture
def instances(_made: Host) -> Path:
    """As Nova left it."""
    shutil.rmtree(_made.instances)
    _copy(_made.instances.with_name("pristine"), _made.instances)
    return _made.instances


@pytest.fixture
def host(_made: Host, instances: Path) -> Host:
    """The folder, and what its guests see."""
    return _made


def _hang_on_legacy(host: Host, instance: str, image_id: str, format: str) -> None:
    """As Nova did until 2012: the base was copied and enlarged to the flavor's size first."""
    base = host.base(image_id)
    legacy = base.with_name(f"{base.name}_2")
    legacy.write_bytes(base.read_bytes())
    qemu_img("resize", "-q", "-f", format, str(legacy), str(2 * Gi))
    disk = host.instances / instance / "disk"
    disk.unlink()
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"backing_file={legacy},backing_fmt={format}", str(disk))


@pytest.fixture
def make_engine(host: Host) -> Iterator[MakeEngine]:
    """``make_engine(images_type="raw")``: an engine on Nova's folder; a dot is written ``__``."""
    made: list[Engine] = []

    def make(files: tuple[Path, ...] = (), **overrides: object) -> Engine:
        told: dict[str, object] = {
            "instances_path": str(host.instances),
            "sources.folder_path": str(host.images["raw"].parent),
        }
        told |= {key.replace("__", "."): value for key, value in overrides.items()}
        made.append(Engine.from_config(files, told))
        return made[-1]

    yield make
    for engine in made:
        engine.close()
