"""The folder source: names, paths, and everything that is no image file."""

import contextlib
import gzip
import hashlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from oslo_config import cfg

from imgbackend.errors import (
    ConfigError,
    ImageNotFound,
    SourceDenied,
    SourceUnavailable,
    TemplateCorrupt,
    TemplateTooLarge,
)
from imgbackend.sources.folder import FolderSource
from imgbackend.types import Mi, ignore
from labs.images import qcow2
from labs.told import CancelledError, Told


@pytest.fixture
def source(make_conf: Callable[..., cfg.ConfigOpts], images: Path) -> FolderSource:
    return FolderSource(make_conf())


_DATA = os.urandom(Mi) + bytes(2 * Mi) + os.urandom(99)


def _sums(folder: Path, name: str, data: bytes) -> None:
    (folder / "SHA256SUMS").write_text(f"{hashlib.sha256(data).hexdigest()} *{name}\n")


def test_bare_name_is_looked_up_in_the_folder(source: FolderSource, images: Path, target: Path) -> None:
    (images / "a.raw").write_bytes(_DATA)
    image = source.find("a.raw")
    assert image.name == "a.raw"
    assert image.declared.format == "raw"
    assert image.declared.size == image.declared.virtual_size == len(_DATA)
    assert image(target, ignore).size == len(_DATA)
    assert target.read_bytes() == _DATA
    assert target.stat().st_mode & 0o777 == 0o600


def test_folder_colon_name_is_the_same(source: FolderSource, images: Path) -> None:
    (images / "a.raw").write_bytes(b"x")
    assert source.find("folder:a.raw").id == source.find("a.raw").id


@pytest.mark.parametrize("form", ["{0}", "file://{0}", "file://localhost{0}"])
def test_paths_and_file_urls(source: FolderSource, tmp_path: Path, form: str) -> None:
    file = tmp_path / "with space,and 'quotes'.raw"
    file.write_bytes(b"x")
    ref = form.format(file)
    assert source.find(ref.replace(" ", "%20") if ":" in ref else ref).declared.source == str(file)


def test_relative_path_is_of_the_current_folder(
    source: FolderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here.raw").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert source.find("./here.raw").declared.source == str(tmp_path / "here.raw")
    with pytest.raises(ImageNotFound, match=r"as '\./here\.raw'"):
        source.find("here.raw")


def test_symlink_to_a_file_is_fine(source: FolderSource, images: Path, tmp_path: Path) -> None:
    (tmp_path / "real.raw").write_bytes(b"x")
    (images / "link.raw").symlink_to(tmp_path / "real.raw")
    assert source.find("link.raw").id.startswith(f"file:{tmp_path}/real.raw:")


@pytest.mark.parametrize("name", ["..", ".", "", "folder:../secret", "folder:/etc/passwd", "folder:a/../../b", "a\0b"])
def test_name_does_not_leave_the_folder(source: FolderSource, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    with pytest.raises(ImageNotFound):
        source.find(name)


@pytest.mark.parametrize("name", ["no\nsuch", "--option", "a,b", "n" * 300, "$(reboot)"])
def test_strange_name_is_only_not_found(source: FolderSource, name: str) -> None:
    with pytest.raises(ImageNotFound) as caught:
        source.find(name)
    assert "\n" not in str(caught.value)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(path.parent):
        made.bind(path.name)


_NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "fifo": (os.mkfifo, "a fifo"),
    "folder": (Path.mkdir, "a folder"),
    "socket": (_socket, "a socket"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "a character device"),
    "loop": (lambda path: path.symlink_to(path), "a loop"),
    "dangling": (lambda path: path.symlink_to("/nowhere/at/all"), "no file"),
    "below a file": (lambda path: path.symlink_to("/etc/passwd/x"), "no file"),
}


@pytest.mark.parametrize("kind", _NO_FILES)
def test_what_is_no_file_is_refused_without_waiting(source: FolderSource, images: Path, kind: str) -> None:
    make, told = _NO_FILES[kind]
    make(images / "it.raw")
    for ref in ("it.raw", str(images / "it.raw"), f"file://{images}/it.raw"):
        with pytest.raises(ImageNotFound) as caught:
            source.find(ref)
        if ref != "it.raw" or kind not in ("loop", "dangling", "below a file"):
            assert told in str(caught.value)
    assert list(source.images()) == []


def test_fifo_that_replaced_the_file_does_not_block_the_fetch(source: FolderSource, images: Path, target: Path) -> None:
    (images / "it.raw").write_bytes(b"x")
    image = source.find("it.raw")
    (images / "it.raw").unlink()
    os.mkfifo(images / "it.raw")
    with pytest.raises(ImageNotFound, match="a fifo"):
        image(target, ignore)
    assert not target.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file_is_denied(source: FolderSource, images: Path) -> None:
    (images / "it.raw").write_bytes(b"x")
    (images / "it.raw").chmod(0)
    with pytest.raises(SourceDenied, match="permission"):
        source.find("it.raw")


@pytest.mark.parametrize("ref", ["file://otherhost/a", "file:a", "file:///a?b", "file:///a#b"])
def test_bad_file_url_is_a_line(source: FolderSource, ref: str) -> None:
    with pytest.raises(ConfigError, match="file:///path"):
        source.find(ref)


def test_id_changes_when_the_bytes_do(source: FolderSource, images: Path) -> None:
    file = images / "a.raw"
    file.write_bytes(b"one")
    first = source.find("a.raw").id
    assert source.find("a.raw").id == first
    os.utime(file, ns=(0, 12345))
    second = source.find("a.raw").id
    file.unlink()
    file.write_bytes(b"one")
    os.utime(file, ns=(0, 12345))
    (images / "other").write_bytes(b"")
    assert len({first, second}) == 2


def test_name_of_any_bytes_has_an_id_that_can_be_encoded(source: FolderSource, images: Path, target: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.raw")
    (images / name).write_bytes(b"x")
    image = source.find(name)
    assert image.declared.source.encode()
    assert len(image.filename) == 40
    image(target, ignore)


@pytest.mark.parametrize("digest", [True, False], ids=["streamed", "copied"])
def test_file_that_is_written_meanwhile_is_refused(
    source: FolderSource, images: Path, target: Path, digest: bool
) -> None:
    file = images / "a.raw"
    file.write_bytes(_DATA)
    if digest:
        _sums(images, "a.raw", _DATA)

    def write(phase: str, done: int) -> None:
        with file.open("r+b") as handle:
            handle.write(b"!")
        os.utime(file, ns=(0, 1))

    image = source.find("a.raw")
    with pytest.raises((SourceUnavailable, TemplateCorrupt), match=r"being written|sha256"):
        image(target, Told(write))
    with pytest.raises(SourceUnavailable, match="being written"):
        image(target, ignore)


def test_digest_beside_it_is_checked(source: FolderSource, images: Path, target: Path) -> None:
    (images / "a.raw").write_bytes(_DATA)
    _sums(images, "a.raw", _DATA)
    image = source.find("a.raw")
    digest = ("sha256", hashlib.sha256(_DATA).hexdigest())
    assert image.declared.digests == (digest,)
    assert image(target, ignore).digests == (digest,)
    assert target.read_bytes() == _DATA


def test_wrong_digest_beside_it_refuses(source: FolderSource, images: Path, target: Path) -> None:
    (images / "a.raw").write_bytes(_DATA)
    _sums(images, "a.raw", b"other bytes")
    with pytest.raises(TemplateCorrupt, match="sha256"):
        source.find("a.raw")(target, ignore)


def test_copy_keeps_holes(source: FolderSource, images: Path, target: Path) -> None:
    with (images / "a.raw").open("wb") as file:
        file.truncate(64 * Mi)
        file.seek(10 * Mi)
        file.write(b"data")
    source.find("a.raw")(target, ignore)
    assert target.stat().st_size == 64 * Mi
    assert target.stat().st_blocks * 512 < Mi


def test_reflink_shares_the_bytes(xfs: Path, make_conf: Callable[..., cfg.ConfigOpts]) -> None:
    (xfs / "a.raw").write_bytes(_DATA)
    os.sync()
    free = os.statvfs(xfs).f_bfree
    FolderSource(make_conf()).find(str(xfs / "a.raw"))(xfs / "base.part", ignore)
    os.sync()
    assert (xfs / "base.part").read_bytes() == _DATA
    assert (free - os.statvfs(xfs).f_bfree) * os.statvfs(xfs).f_frsize < Mi


def test_packed_file_is_unpacked_and_its_size_not_declared(source: FolderSource, images: Path, target: Path) -> None:
    (images / "a.raw.gz").write_bytes(gzip.compress(_DATA))
    image = source.find("a.raw.gz")
    assert (image.declared.format, image.declared.size, image.declared.virtual_size) == ("raw", None, None)
    image(target, ignore)
    assert target.read_bytes() == _DATA


def test_boot_file_is_kept_byte_for_byte(source: FolderSource, images: Path, target: Path) -> None:
    packed = gzip.compress(_DATA)
    (images / "initrd.raw.gz").write_bytes(packed)
    image = source.find("initrd.raw.gz").as_boot_file()
    assert (image.role, image.declared.role, image.declared.format) == ("boot-file", "boot-file", None)
    image(target, ignore)
    assert target.read_bytes() == packed


def test_qcow2_declares_the_size_that_its_header_has(source: FolderSource, images: Path) -> None:
    qcow2(images / "a.qcow2", 77 * Mi)
    assert source.find("a.qcow2").declared.virtual_size == 77 * Mi
    (images / "false.qcow2").write_bytes(b"no header")
    assert source.find("false.qcow2").declared.virtual_size is None


def test_too_large_file_is_refused_before_it_is_copied(
    make_conf: Callable[..., cfg.ConfigOpts], images: Path, target: Path
) -> None:
    with (images / "a.raw").open("wb") as file:
        file.truncate(2 * Mi)
    conf = make_conf(DEFAULT={"max_image_virtual_size": Mi})
    with pytest.raises(TemplateTooLarge):
        FolderSource(conf).find("a.raw")(target, ignore)
    assert not target.exists()


def test_empty_file_is_refused(source: FolderSource, images: Path, target: Path) -> None:
    (images / "a.raw").touch()
    with pytest.raises(TemplateCorrupt, match="empty"):
        source.find("a.raw")(target, ignore)
    assert not target.exists()


def test_old_target_is_replaced_not_written_into(source: FolderSource, images: Path, target: Path) -> None:
    (images / "a.raw").write_bytes(_DATA)
    target.write_bytes(b"old")
    with target.open("rb") as old:
        source.find("a.raw")(target, ignore)
        assert old.read() == b"old"
    assert target.read_bytes() == _DATA


def test_copy_can_be_cancelled(source: FolderSource, images: Path, target: Path) -> None:
    (images / "a.raw").write_bytes(_DATA)

    def cancel(phase: str, done: int) -> None:
        raise CancelledError

    with pytest.raises(CancelledError):
        source.find("a.raw")(target, Told(cancel))


def test_list_has_files_only(source: FolderSource, images: Path) -> None:
    for name in ("b.qcow2", "a.raw", ".hidden", "SHA256SUMS", "c.tar.gz"):
        (images / name).write_bytes(b"x")
    (images / "folder").mkdir()
    assert [image.name for image in source.images()] == ["a.raw", "b.qcow2"]


def test_list_without_a_folder_is_empty(make_conf: Callable[..., cfg.ConfigOpts], tmp_path: Path) -> None:
    conf = make_conf(folder_path=str(tmp_path / "nowhere"))
    assert list(FolderSource(conf).images()) == []


def test_one_image_from_many_threads(source: FolderSource, images: Path, tmp_path: Path) -> None:
    (images / "a.raw").write_bytes(_DATA)
    _sums(images, "a.raw", _DATA)
    image = source.find("a.raw")
    threads = [threading.Thread(target=image, args=(tmp_path / f"t{n}", ignore)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((tmp_path / f"t{n}").read_bytes() == _DATA for n in range(4))
