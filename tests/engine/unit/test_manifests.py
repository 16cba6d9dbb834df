"""Manifests and the content digest, against an implementation that is slow and plain."""

import json
import os
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgbackend.state import digests, manifests
from imgbackend.state.manifests import FileIdentity, Manifest
from imgbackend.system import files
from imgbackend.types import Ki, Mi

_BLOCK = 1 << 20


def slow_digest(content: bytes) -> str:
    """The definition, word by word."""
    digests = b""
    for at in range(0, len(content), _BLOCK):
        digests += blake3(content[at : at + _BLOCK].ljust(_BLOCK, b"\0")).digest()
    return blake3(len(content).to_bytes(8, "big") + digests).hexdigest()


def digest_of(path: Path) -> str:
    with files.open_fd(path, os.O_RDONLY) as fd:
        return digests.content_digest(fd)


EXTENTS = st.lists(
    st.tuples(st.integers(0, 5 * Mi), st.integers(1, Mi + 9), st.sampled_from([b"\0", b"x", b"\xff\0"])), max_size=4
)


@given(size=st.integers(0, 5 * Mi), extents=EXTENTS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_digest_is_the_definition_however_the_bytes_are_laid_out(
    tmp_path: Path, size: int, extents: list[tuple[int, int, bytes]]
) -> None:
    content = bytearray(size)
    sparse, full = tmp_path / "sparse", tmp_path / "full"
    with sparse.open("wb") as file:
        file.truncate(size)
        for start, length, what in extents:
            piece = (what * length)[: max(min(length, size - start), 0)]
            content[start : start + len(piece)] = piece
            if piece:
                file.seek(start)
                file.write(piece)
    full.write_bytes(content)
    wanted = slow_digest(bytes(content))
    assert digest_of(sparse) == wanted
    assert digest_of(full) == wanted


def test_digest_does_not_read_holes(tmp_path: Path) -> None:
    """4 TiB of nothing but a few bytes take no time."""
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(1 << 42)
        file.seek(1 << 41)
        file.write(b"x")
    told: list[int] = []
    with files.open_fd(path, os.O_RDONLY) as fd:
        digests.content_digest(fd, lambda _phase, done, _total: told.append(done))
    assert told == [(1 << 41) + _BLOCK, 1 << 42], "one block, and the end"


@pytest.mark.parametrize("size", [0, 1, _BLOCK - 1, _BLOCK, _BLOCK + 1])
def test_digest_tells_zeroes_of_different_lengths_apart(tmp_path: Path, size: int) -> None:
    (tmp_path / "one").write_bytes(bytes(size))
    (tmp_path / "other").write_bytes(bytes(size + 1))
    assert digest_of(tmp_path / "one") == slow_digest(bytes(size))
    assert digest_of(tmp_path / "one") != digest_of(tmp_path / "other")


@pytest.mark.parametrize("at", [0, 1, 64 * Ki, _BLOCK - 1, _BLOCK, 3 * _BLOCK - 1])
def test_digest_sees_one_changed_bit(tmp_path: Path, at: int) -> None:
    path = tmp_path / "base"
    path.write_bytes(os.urandom(3 * _BLOCK))
    before = digest_of(path)
    with path.open("r+b") as file:
        file.seek(at)
        old = file.read(1)
        file.seek(at)
        file.write(bytes([old[0] ^ 1]))
    assert digest_of(path) != before


def made(path: Path) -> Manifest:
    with files.open_fd(path, os.O_RDONLY) as fd:
        identity = FileIdentity.of(fd)
    return Manifest(
        image_id="image",
        source="test",
        role="image",
        format="raw",
        virtual_size=512,
        identity=identity,
        inspected_by="test",
        inspected_at=1.0,
        digest="d",
        delivered_digests=(("sha256", "ab"),),
    )


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / ("a" * 40)
    path.write_bytes(b"base" * 128)
    return path


def test_a_manifest_is_read_as_it_was_written(base: Path) -> None:
    manifests.write(base, made(base))
    assert manifests.read(base) == made(base)
    assert [path.name for path in base.parent.iterdir() if path.name.startswith(".")] == []


def test_a_base_without_a_manifest_has_none(base: Path) -> None:
    assert manifests.read(base) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"5", b"\xff\xfe", b'{"identity": 1}'])
def test_a_broken_manifest_is_none(base: Path, content: bytes) -> None:
    """It is not believed; the base is adopted again, or refused."""
    manifests.path_of(base).write_bytes(content)
    assert manifests.read(base) is None


@pytest.mark.parametrize("change", [{"digest_algorithm": "md5"}, {"unheard_of": 1}, {"identity": {"inode": 1}}])
def test_a_manifest_of_another_form_is_none(base: Path, change: dict[str, object]) -> None:
    manifests.write(base, made(base))
    told = json.loads(manifests.path_of(base).read_text())
    manifests.path_of(base).write_text(json.dumps({**told, **change}))
    assert manifests.read(base) is None


def test_identity_changes_with_the_first_bytes_the_length_and_the_file_but_not_with_time(base: Path) -> None:
    before = made(base).identity
    os.utime(base, (1, 1))
    assert made(base).identity == before
    base.write_bytes(b"Base" + b"base" * 127)
    assert made(base).identity != before
    base.write_bytes(b"base" * 129)
    assert made(base).identity != before
    whole = base.with_name("copy")
    whole.write_bytes(b"base" * 128)
    whole.rename(base)
    assert made(base).identity != before


def test_touch_renews_the_lease_and_the_time_that_nova_looks_at(base: Path) -> None:
    manifests.write(base, made(base))
    for path in (base, manifests.path_of(base)):
        os.utime(path, (1, 1))
    manifests.touch(base)
    assert manifests.last_used(base) > 1
    assert base.stat().st_mtime > 1


def test_touch_that_is_denied_is_no_error_but_others_are(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifests.write(base, made(base))

    def denied(*_: object) -> None:
        raise PermissionError(13, "denied")

    monkeypatch.setattr(os, "utime", denied)
    manifests.touch(base)

    def broken(*_: object) -> None:
        raise OSError(5, "broken")

    monkeypatch.setattr(os, "utime", broken)
    with pytest.raises(OSError, match="broken"):
        manifests.touch(base)
