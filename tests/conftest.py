"""Fixtures that all tests share, and the rule that a test leaves nothing behind."""

import contextlib
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Final, Literal

import pytest

from imgbackend.types import Mi
from labs import leaks, lvm, mounts, nfs
from labs.ceph import rbd_cluster, rbd_own_cluster, rbd_pool
from labs.cephfs import cephfs_clients, cephfs_cluster, cephfs_own_client, cephfs_share
from labs.glance import rbd_glance, rbd_glances
from labs.libvirt import boot_image, guests, libvirt_daemon, libvirt_own_daemon, make_guests
from labs.lvm import lvm_group, lvm_make_group
from labs.nfs import nfs_mount, nfs_share
from labs.require import require

__all__ = [
    "boot_image",
    "cephfs_clients",
    "cephfs_cluster",
    "cephfs_own_client",
    "cephfs_share",
    "guests",
    "libvirt_daemon",
    "libvirt_own_daemon",
    "lvm_group",
    "lvm_make_group",
    "make_guests",
    "nfs_mount",
    "nfs_share",
    "rbd_cluster",
    "rbd_glance",
    "rbd_glances",
    "rbd_own_cluster",
    "rbd_pool",
]

_HERE: Final = Path(__file__).parent
_LABS: Final = ("btrfs", "cephfs", "glance", "libvirt", "lvm_group", "lvm_make_group", "nfs", "nova", "rbd", "xfs")
_SLOW: Final = ("cli", "conformance", "engine/test_crash.py", "kit", "takeover", "trust")
"""Their tests start the command or real services, or kill processes, again and again."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes seconds, or a lab; `./dev check` leaves it out")
    if lvm.INSIDE or nfs.INSIDE:
        lvm.start_quickly()
    config.addinivalue_line("markers", "lvm: runs inside the lab of LVM alone, where tests/test_lvm_lab.py has it run")
    config.addinivalue_line("markers", "nfs: runs inside the lab of NFS alone, where tests/test_nfs_lab.py has it run")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for lab, name in ((lvm, "lvm"), (nfs, "nfs")):
        inside = [item for item in items if not lab.FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))]
        for item in inside:
            item.add_marker(name)
        if inside and not lab.INSIDE:
            items[:] = [item for item in items if item not in inside]
            config.hook.pytest_deselected(items=inside)
    items.sort(
        key=lambda item: item.path.name not in ("test_lvm_lab.py", "test_nfs_lab.py")
    )  # minutes each: else they are waited for at the end
    for item in items:
        slow = any(name.startswith(_LABS) for name in getattr(item, "fixturenames", ()))
        if slow or any(item.path.is_relative_to(_HERE / folder) for folder in _SLOW):
            item.add_marker("slow")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[leaks.FAILED] = item.stash.get(leaks.FAILED, False) or report.failed
    return report


@pytest.fixture(autouse=True)
def _nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that passes leaves no child process, no thread and no descriptor."""
    before = leaks.Held.now()
    yield
    if request.node.stash.get(leaks.FAILED, False):
        return
    left = leaks.left_since(before)
    if left:
        pytest.fail("the test left behind: " + "; ".join(left), pytrace=False)


@pytest.fixture
def instances(tmp_path: Path) -> Path:
    """An empty ``instances_path``."""
    path = tmp_path / "instances"
    path.mkdir(mode=0o711)
    return path


@pytest.fixture(scope="session")
def _xfs_mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield from _mount("xfs", tmp_path_factory)


@pytest.fixture(scope="session")
def _btrfs_mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield from _mount("btrfs", tmp_path_factory)


@pytest.fixture
def xfs(_xfs_mount: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty folder on XFS with reflinks, 600 MiB in all."""
    yield from _emptied(_xfs_mount / request.node.name)


@pytest.fixture
def btrfs(_btrfs_mount: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty folder on btrfs, 600 MiB in all."""
    yield from _emptied(_btrfs_mount / request.node.name)


@pytest.fixture
def small_tmpfs(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes file systems that are full after so many bytes: ``small_tmpfs(4 * Mi)``."""
    with contextlib.ExitStack() as stack:
        made = 0

        def make(size: int) -> Path:
            nonlocal made
            made += 1
            try:
                return stack.enter_context(mounts.tmpfs(tmp_path / f"tmpfs{made}", size))
            except mounts.MountError as error:
                require("tmpfs", str(error))

        yield make


def _mount(kind: Literal["xfs", "btrfs"], factory: pytest.TempPathFactory) -> Iterator[Path]:
    with contextlib.ExitStack() as stack:
        try:
            place = stack.enter_context(mounts.loop(kind, factory.mktemp(kind), 600 * Mi))
        except mounts.MountError as error:
            require(kind, str(error))
        yield place


def _emptied(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)
