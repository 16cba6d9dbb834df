"""Overlays that we write without qemu-img are what qemu-img would have written, for every kind of base."""

import os
import subprocess
from pathlib import Path

import pytest

from imgbackend import Engine, errors
from imgbackend.types import ImageInfo, Mi, Ti
from imgbackend_qcow2.empty import empty_overlay, largest
from labs.contents import entries
from labs.engines import MakeEngine
from labs.images import qcow2, qemu_img, same_for_guest, scattered, sparse_raw
from labs.templates import Template

CLUSTERS = [512 << step for step in range(13)]  # 512 bytes to 2 MiB
_SIZE = 4 * Mi


@pytest.fixture
def content(tmp_path: Path) -> Path:
    return sparse_raw(tmp_path / "content", _SIZE, data=scattered(_SIZE, 0.3, extent=4096))


@pytest.fixture
def engine(make_engine: MakeEngine) -> Engine:
    """It keeps qcow2 bases as they are, so that overlays inherit their clusters."""
    return make_engine({"images_type": "qcow2", "force_raw_images": False})


def clustered(content: Path, cluster_size: int) -> Template:
    path = qcow2(content.with_name(f"c{cluster_size}"), _SIZE, content=content, cluster_size=cluster_size)
    return Template(content=path, image_id=f"clusters of {cluster_size}", format="qcow2")


@pytest.mark.slow
@pytest.mark.parametrize("cluster_size", CLUSTERS)
def test_overlay_is_sound_and_reads_as_its_image_for_every_cluster_size(
    engine: Engine, instances: Path, content: Path, cluster_size: int
) -> None:
    image = clustered(content, cluster_size)
    sizes = [None, _SIZE + 1, _SIZE + 511, _SIZE + 512, _SIZE + 513, _SIZE + cluster_size, 64 * Mi + 1]
    for number, size in enumerate(sizes):
        disk = engine.disk(f"web{number}")
        cached = disk.cache(image, image.name, size)
        path = instances / f"web{number}" / "disk"
        assert cached.size == -(-(size or _SIZE) // 512) * 512
        qemu_img("check", "-q", "-f", "qcow2", str(path))
        assert same_for_guest(path, "qcow2", content, "raw"), size
        assert f"cluster_size: {cluster_size}\n" in qemu_img("info", "-f", "qcow2", str(path))


@pytest.mark.parametrize("cluster_size", [None, 512, 4096, 65536, 2 * Mi])
def test_overlay_is_byte_for_byte_what_qemu_img_makes(engine: Engine, tmp_path: Path, cluster_size: int | None) -> None:
    base = tmp_path / "base, of it"
    sparse_raw(base, Mi)
    for size in (Mi, Mi + 512, 1 << 30, largest(cluster_size) // 4):
        info = ImageInfo(format="raw", virtual_size=Mi, cluster_size=cluster_size)
        length, pages = empty_overlay(engine.host, base, info, size)
        ours = tmp_path / "ours"
        with ours.open("wb") as file:
            file.truncate(length)
            for at, page in pages:
                file.seek(at)
                file.write(page)
        option = [] if cluster_size is None else ["-o", f"cluster_size={cluster_size}"]
        theirs = tmp_path / "theirs"
        theirs.unlink(missing_ok=True)
        command = ["create", "-q", "-f", "qcow2", *option, "-b", str(base), "-F", "raw", str(theirs), str(size)]
        qemu_img(*command)
        assert ours.read_bytes() == theirs.read_bytes(), size


@pytest.mark.slow
@pytest.mark.parametrize("cluster_size", [512, 4096])
def test_overlay_of_the_largest_size_is_sound_and_a_larger_one_a_clear_error(
    make_engine: MakeEngine, instances: Path, content: Path, cluster_size: int
) -> None:
    """Clusters of 4 KiB stop at 8 TiB."""
    engine = make_engine({"images_type": "qcow2", "force_raw_images": False})
    image = clustered(content, cluster_size)
    most = largest(cluster_size)
    assert most == {512: 128 << 30, 4096: 8 * Ti}[cluster_size]
    engine.disk("web1").cache(image, image.name, most)
    path = instances / "web1" / "disk"
    qemu_img("check", "-q", "-f", "qcow2", str(path))
    assert same_for_guest(path, "qcow2", content, "raw")
    with pytest.raises(errors.DiskError, match=f"clusters of {cluster_size} bytes.*holds {most} bytes at most"):
        engine.disk("web2").cache(image, image.name, most + 1)
    assert not any(name.startswith("web2/") for name in entries(instances))
    with pytest.raises(errors.Error) as caught:
        engine.disk("web1").resize(most + 512)
    assert "\n" not in str(caught.value)
    assert engine.disk("web1").info().size == most


@pytest.mark.parametrize("cluster_size", [512, 4096, 65536, 2 * Mi])
def test_the_limit_is_qemu_imgs_own(tmp_path: Path, cluster_size: int) -> None:
    most, path = largest(cluster_size), tmp_path / "disk"
    option = f"-ocluster_size={cluster_size}"
    if cluster_size > 512:  # each is written out in full; one of 128 GiB is made above
        qemu_img("create", "-q", "-f", "qcow2", option, str(path), str(min(most, 1 << 50)))
    with pytest.raises(subprocess.CalledProcessError):
        qemu_img("create", "-q", "-f", "qcow2", option, str(path), str(most + cluster_size))


def test_further_overlays_of_other_bases_refer_each_to_its_own(
    make_engine: MakeEngine, instances: Path, tmp_path: Path
) -> None:
    """What is remembered of one base's overlays is never used for another's."""
    engine = make_engine({"images_type": "qcow2"})
    images = []
    for number in range(3):
        path = tmp_path / f"image{number}"
        path.write_bytes(os.urandom(Mi))
        images.append(Template(content=path, image_id=f"image{number}", format="raw"))
    for number in range(9):
        image = images[number % 3]
        engine.disk(f"web{number}").cache(image, image.name, 2 * Mi)
        assert same_for_guest(instances / f"web{number}" / "disk", "qcow2", image.content, "raw")
