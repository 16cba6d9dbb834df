"""Templates that are no disk images: kernels, what this host generates, and secrets; and the modes of files."""

import os
import stat
from pathlib import Path

import pytest

from imgbackend import Engine, errors
from imgbackend.bases.store import generated_name
from imgbackend.types import FileSource, Mi
from labs.contents import bytes_of, entries
from labs.engines import MakeEngine
from labs.images import qcow2, qemu_img
from labs.templates import Template

SWAP = generated_name("swap", 4 * Mi)


@pytest.fixture
def swap(tmp_path: Path) -> Template:
    """What mkswap would make, 4 MiB."""
    path = tmp_path / "swap"
    path.write_bytes(os.urandom(4096).ljust(4 * Mi, b"\0"))
    return Template(content=path, image_id="", role="generated")


@pytest.fixture
def secret(tmp_path: Path) -> Template:
    """A config drive, of 2 KiB sectors."""
    path = tmp_path / "config"
    path.write_bytes(b"secret".ljust(6144, b"\1"))
    return Template(content=path, image_id="", role="private")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("content", [b"\x1f\x8bgzip", b"QFI\xfb" + bytes(600), b"k" * 4097, b"x"])
def test_kernel_is_kept_byte_for_byte(make_engine: MakeEngine, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(content)
    kernel = Template(content=path, image_id="kernel", role="boot-file")
    disk = make_engine({"images_type": "raw"}).disk("web1", "kernel")
    cached = disk.cache(kernel, kernel.name)
    assert (tmp_path / "instances" / "web1" / "kernel").read_bytes() == content
    assert cached.size == len(content)
    assert disk.cache(kernel, kernel.name).way == "exists"


def test_kernel_takes_no_size(engine: Engine, raw_image: Template) -> None:
    kernel = raw_image.but(role="boot-file", format=None)
    with pytest.raises(errors.DiskError, match="has no size of its own"):
        engine.disk("web1", "kernel").cache(kernel, kernel.name, Mi)
    assert kernel.fetches == 0


def test_kernel_on_overlays_is_refused_since_they_are_not_its_bytes(
    make_engine: MakeEngine, instances: Path, raw_image: Template
) -> None:
    kernel = raw_image.but(role="boot-file", format=None)
    with pytest.raises(errors.ConfigError, match="keep this disk on raw"):
        make_engine({"images_type": "qcow2"}).disk("web1", "kernel").cache(kernel, kernel.name)
    assert kernel.fetches == 0
    assert entries(instances) == set()


def test_what_was_cached_as_a_kernel_is_no_disk_image(
    make_engine: MakeEngine, instances: Path, qcow2_image: Template
) -> None:
    """It was not inspected."""
    engine = make_engine({"images_type": "raw"})
    kernel = qcow2_image.but(role="boot-file", format=None)
    engine.disk("web1", "kernel").cache(kernel, kernel.name)
    with pytest.raises(errors.TemplateUnsafe, match="byte for byte"):
        engine.disk("web1").cache(qcow2_image, qcow2_image.name)
    assert engine.disk("web1").exists() is False


def test_what_was_converted_is_no_kernel(make_engine: MakeEngine, qcow2_image: Template) -> None:
    engine = make_engine({"images_type": "raw"})
    engine.disk("web1").cache(qcow2_image, qcow2_image.name)
    with pytest.raises(errors.TemplateUnsafe, match="no kernel"):
        engine.disk("web1", "kernel").cache(qcow2_image.but(role="boot-file", format=None), qcow2_image.name)


def test_raw_generates_in_place_and_keeps_no_base(make_engine: MakeEngine, instances: Path, swap: Template) -> None:
    disk = make_engine({"images_type": "raw"}).disk("web1", "disk.swap")
    cached = disk.cache(swap, SWAP, 6 * Mi)
    assert (cached.way, cached.base, cached.fetched, cached.size) == ("generate", None, True, 6 * Mi)
    assert bytes_of(disk) == swap.content.read_bytes() + bytes(2 * Mi)
    assert not (instances / "_base").exists()
    record = make_engine({"images_type": "raw"}).disk("web1", "disk.swap").recorded
    assert record is not None
    assert (record.way, record.base, record.digest) == ("generate", None, None)


def test_qcow2_generates_a_base_once(make_engine: MakeEngine, instances: Path, swap: Template) -> None:
    engine = make_engine({"images_type": "qcow2"})
    ways = []
    for instance in ("web1", "web2"):
        disk = engine.disk(instance, "disk.swap")
        cached = disk.cache(swap, SWAP, 4 * Mi)
        ways.append((cached.way, cached.base, cached.fetched))
        assert bytes_of(disk) == swap.content.read_bytes()
    assert ways == [("overlay", SWAP, True), ("overlay", SWAP, False)]
    assert [base.name for base in engine.bases()] == [SWAP]


@pytest.mark.parametrize("role", ["generated", "private"])
def test_what_is_larger_than_its_disk_is_refused_and_leaves_nothing(
    make_engine: MakeEngine, instances: Path, swap: Template, role: str
) -> None:
    disk = make_engine({"images_type": "raw"}).disk("web1", "disk.swap")
    with pytest.raises(errors.TemplateTooLarge) as caught:
        disk.cache(swap.but(role=role), SWAP, Mi)
    assert (caught.value.needed, caught.value.allowed) == (4 * Mi, Mi)
    assert entries(instances) == set()


@pytest.mark.parametrize("length", [1, 513, 1000])
def test_generated_of_odd_length_becomes_whole_sectors(
    engine: Engine, images_type: str, tmp_path: Path, length: int
) -> None:
    (tmp_path / "odd").write_bytes(b"o" * length)
    odd = Template(content=tmp_path / "odd", image_id="", role="generated")
    disk = engine.disk("web1", "disk.swap")
    whole = -(-length // 512) * 512
    assert disk.cache(odd, SWAP).size == whole == disk.info().size
    assert bytes_of(disk) == (b"o" * length).ljust(whole, b"\0")


def test_secret_is_in_the_disk_alone_and_for_its_owner_alone(
    make_engine: MakeEngine, instances: Path, secret: Template
) -> None:
    engine = make_engine({"images_type": "raw"})
    disk = engine.disk("web1", "disk.config")
    cached = disk.cache(secret, "")
    assert (cached.way, cached.base) == ("generate", None)
    path = instances / "web1" / "disk.config"
    assert path.read_bytes() == secret.content.read_bytes()
    assert mode(path) == 0o600
    assert list(engine.bases()) == []
    record = engine.disk("web1", "disk.config").recorded
    assert record is not None
    assert (record.base, record.digest, record.image_id) == (None, None, None)


def test_secret_is_for_its_owner_alone_from_the_first_byte(
    make_engine: MakeEngine, instances: Path, secret: Template
) -> None:
    """Also where a caller's function makes the file, whatever the umask."""
    seen: list[int] = []

    def look(phase: str, done: int, total: int | None) -> None:
        if done:
            seen.append(mode(instances / "web1" / ".disk.config.part"))

    before = os.umask(0)
    try:
        make_engine({"images_type": "raw"}).disk("web1", "disk.config").cache(secret, "", progress=look)
    finally:
        os.umask(before)
    assert seen == [0o600]


def test_secret_on_overlays_is_refused_before_it_is_written_anywhere(
    make_engine: MakeEngine, instances: Path, secret: Template
) -> None:
    with pytest.raises(errors.ConfigError, match="keep this disk on raw"):
        make_engine({"images_type": "qcow2"}).disk("web1", "disk.config").cache(secret, "")
    assert secret.fetches == 0
    assert entries(instances) == set()


def test_files_have_their_modes_whatever_the_umask(
    make_engine: MakeEngine, images_type: str, tmp_path: Path, raw_image: Template
) -> None:
    instances = tmp_path / "not" / "there"
    before = os.umask(0o027)
    try:
        engine = make_engine({"images_type": images_type, "instances_path": str(instances)})
        engine.disk("web1").cache(raw_image, raw_image.name)
    finally:
        os.umask(before)
    folders = [instances.parent, instances, *(instances / name for name in ("web1", "_base", "locks"))]
    assert {str(path): oct(mode(path)) for path in folders} == {str(path): "0o711" for path in folders}
    assert mode(instances / "_base" / raw_image.name) == 0o440
    assert mode(instances / "web1" / "disk") == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to give files to another group")
def test_files_are_the_hypervisors_groups(
    make_engine: MakeEngine, images_type: str, instances: Path, raw_image: Template
) -> None:
    import grp

    gid = grp.getgrnam("daemon").gr_gid
    disk = make_engine({"images_type": images_type, "hypervisor_group": "daemon"}).disk("web1")
    disk.cache(raw_image, raw_image.name)
    disk.resize(9 * Mi)
    for path in (instances / "_base" / raw_image.name, instances / "web1" / "disk"):
        assert (path.stat().st_uid, path.stat().st_gid) == (0, gid)


def test_unknown_group_is_for_the_operator_to_change(
    make_engine: MakeEngine, images_type: str, instances: Path, raw_image: Template
) -> None:
    engine = make_engine({"images_type": images_type, "hypervisor_group": "no-such-group"})
    with pytest.raises(errors.ConfigError, match="no group no-such-group"):
        engine.disk("web1").cache(raw_image, raw_image.name)
    assert entries(instances) == set()


def test_preallocated_disk_has_its_room_and_is_whole(
    make_engine: MakeEngine, images_type: str, instances: Path, raw_image: Template, raw_content: Path
) -> None:
    disk = make_engine({"images_type": images_type, "preallocate_images": "space"}).disk("web1")
    disk.cache(raw_image, raw_image.name, 10 * Mi)
    path = instances / "web1" / "disk"
    assert path.stat().st_blocks * 512 >= 10 * Mi
    disk.resize(12 * Mi)
    assert path.stat().st_blocks * 512 >= 12 * Mi
    assert bytes_of(disk) == raw_content.read_bytes() + bytes(4 * Mi)
    if images_type == "qcow2":
        qemu_img("check", "-q", "-f", "qcow2", str(path))


def test_disk_without_preallocation_takes_what_it_needs(engine: Engine, raw_image: Template) -> None:
    disk = engine.disk("web1")
    disk.cache(raw_image, raw_image.name, 1 << 30)
    assert disk.info().allocated < 4 * Mi


@pytest.mark.parametrize("force_raw", [True, False])
def test_looking_at_a_disk_starts_no_process(
    make_engine: MakeEngine,
    images_type: str,
    qcow2_image: Template,
    monkeypatch: pytest.MonkeyPatch,
    force_raw: bool,
) -> None:
    engine = make_engine({"images_type": images_type, "force_raw_images": force_raw})
    engine.disk("web1").cache(qcow2_image, qcow2_image.name, 16 * Mi)
    monkeypatch.setenv("PATH", "")
    disk = engine.disk("web1")
    assert (disk.info().size, disk.exists()) == (16 * Mi, True)
    assert [str(found.id) for found in engine.disks()] == ["web1/disk"]
    assert [base.name for base in engine.bases()] == [qcow2_image.name]
    assert isinstance(disk.source(), FileSource)


def test_further_disk_starts_no_process(engine: Engine, qcow2_image: Template, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.disk("web1").cache(qcow2_image, qcow2_image.name, 16 * Mi)
    monkeypatch.setenv("PATH", "")
    assert engine.disk("web2").cache(qcow2_image, qcow2_image.name, 16 * Mi).size == 16 * Mi


@pytest.mark.parametrize("durable", [True, False])
def test_further_disk_is_flushed_where_disks_are_durable_and_not_else(
    make_engine: MakeEngine, images_type: str, raw_image: Template, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    engine = make_engine({"images_type": images_type, "durable_disks": durable})
    engine.disk("web1").cache(raw_image, raw_image.name)
    flushed: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{fd}").rpartition("/")[2])
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    engine.disk("web2").cache(raw_image, raw_image.name)
    if durable:
        assert {".disk.part", "web2", "instances"} <= set(flushed)
    else:
        assert flushed == []


def test_flat_qcow2_has_the_size_and_is_not_padded(
    make_engine: MakeEngine, instances: Path, qcow2_image: Template, raw_content: Path
) -> None:
    """Fault G of the peer: it grows the container with -f raw first."""
    engine = make_engine({"images_type": "raw", "force_raw_images": False})
    disk = engine.disk("web1")
    cached = disk.cache(qcow2_image, qcow2_image.name, 64 * Mi)
    path = instances / "web1" / "disk"
    assert (cached.size, disk.info().format) == (64 * Mi, "qcow2")
    assert path.stat().st_size < 16 * Mi
    disk.resize(128 * Mi)
    assert disk.info().size == 128 * Mi
    assert path.stat().st_size < 16 * Mi
    assert bytes_of(disk) == raw_content.read_bytes() + bytes(120 * Mi)
    qemu_img("check", "-q", "-f", "qcow2", str(path))


def test_container_that_is_no_qcow2_is_converted_for_raw_whatever_force_raw_images_says(
    make_engine: MakeEngine, tmp_path: Path, raw_content: Path, images_type: str
) -> None:
    """No driver here keeps a disk as vmdk."""
    path = tmp_path / "content.vmdk"
    qemu_img("convert", "-f", "raw", "-O", "vmdk", str(raw_content), str(path))
    vmdk = Template(content=path, image_id="vmdk", format="vmdk")
    disk = make_engine({"images_type": images_type, "force_raw_images": False}).disk("web1")
    disk.cache(vmdk, vmdk.name)
    assert bytes_of(disk) == raw_content.read_bytes()


def test_qcow2_base_gives_its_cluster_size_to_overlays(
    make_engine: MakeEngine, instances: Path, tmp_path: Path, raw_content: Path
) -> None:
    image = Template(
        content=qcow2(tmp_path / "small", 8 * Mi, content=raw_content, cluster_size=4096), image_id="s", format="qcow2"
    )
    disk = make_engine({"images_type": "qcow2", "force_raw_images": False}).disk("web1")
    disk.cache(image, image.name)
    told = qemu_img("info", "-f", "qcow2", str(instances / "web1" / "disk"))
    assert "cluster_size: 4096" in told
    assert "backing file format: qcow2" in told
    assert bytes_of(disk) == raw_content.read_bytes()
