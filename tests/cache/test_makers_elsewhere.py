"""What a process of another host or container is making stays: though the two have one name, or one kernel."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from imgbackend import errors
from imgbackend.system import promises
from imgbackend.system.locks import Locks
from imgbackend.system.process_identity import ProcessIdentity, machine_id
from imgbackend.system.space import Space
from imgbackend.types import Mi, base_name
from labs.hosts import SharedFolder, SharingHost, shared_folder

__all__ = ["shared_folder"]

pytestmark = pytest.mark.slow

_PROMISE = """
import sys
from pathlib import Path
from imgbackend.system.locks import Locks
from imgbackend.system.space import Space
locks, host, target = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
with Space(locks, Locks(locks), host).reserved(target, 3 << 20):
    print("promised", flush=True)
    sys.stdin.read()
"""
_PROMISES_LEFT = """
import sys
from pathlib import Path
from imgbackend.system.locks import Locks
from imgbackend.system.space import Space
locks, host, target = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
with Space(locks, Locks(locks), host).reserved(target, 1):
    print(len(list(locks.glob("*.reserved"))) - 1)
"""

Pair = tuple[SharingHost, SharingHost]
MakePair = Callable[[SharedFolder], Pair]


def containers(shared: SharedFolder) -> Pair:
    """Two containers of one kernel and one name; the machine id is the host's, as it is where that is handed in."""
    return shared.host("same", boot=None, machine=None), shared.host("same", boot=None, machine=None)


def namesakes(shared: SharedFolder) -> Pair:
    """Two hosts that both are called localhost."""
    return shared.host("localhost"), shared.host("localhost")


both = pytest.mark.parametrize("pair", [containers, namesakes])


def folders(shared: SharedFolder) -> tuple[Path, Path]:
    """Those of the locks and of the bases."""
    made = shared.instances / "locks", shared.instances / "_base"
    for folder in made:
        folder.mkdir(exist_ok=True)
    return made


@both
def test_promise_of_a_living_process_of_another_host_of_that_name_or_another_container_counts(
    shared_folder: SharedFolder, pair: MakePair
) -> None:
    (maker, other), (locks, bases) = pair(shared_folder), folders(shared_folder)
    with maker.running(_PROMISE, locks, maker.name, bases / "a"):
        assert other.evaluate(_PROMISES_LEFT, locks, other.name, bases / "b") == "1\n"
        assert promises.note_of(locks, bases / "a").exists()


@both
def test_leftovers_of_a_living_process_of_another_host_of_that_name_or_another_container_stay(
    shared_folder: SharedFolder, pair: MakePair
) -> None:
    (maker, other), (locks, bases) = pair(shared_folder), folders(shared_folder)
    part = bases / f"{base_name('image')}.part"
    part.write_bytes(b"being fetched")
    with maker.running(_PROMISE, locks, maker.name, part):
        options = ["--set", f"instances_path={shared_folder.instances}", "--set", f"host={other.name}"]
        done = other.run("cache", "leftovers", "--remove", "-f", "json", options=options)
        assert done.returncode == 0, done.stderr
        found = {row["kind"]: row["state"] for row in json.loads(done.stdout)}
        assert found == {"fetch": "kept", "room": "kept"}
        assert part.exists()
        assert promises.note_of(locks, part).exists()


def test_promise_of_a_killed_process_of_another_container_counts_no_more(shared_folder: SharedFolder) -> None:
    """Its number means nothing here; that the kernel let its claim go does."""
    (maker, other), (locks, bases) = containers(shared_folder), folders(shared_folder)
    with maker.running(_PROMISE, locks, maker.name, bases / "a"):
        pass
    assert other.evaluate(_PROMISES_LEFT, locks, other.name, bases / "b") == "0\n"


def test_promise_of_a_killed_process_of_a_namesake_counts_until_its_leftovers_are_removed(
    shared_folder: SharedFolder,
) -> None:
    """That its claim is not seen may be for want of locks that reach us."""
    (maker, other), (locks, bases) = namesakes(shared_folder), folders(shared_folder)
    with maker.running(_PROMISE, locks, maker.name, bases / "a"):
        pass
    assert other.evaluate(_PROMISES_LEFT, locks, other.name, bases / "b") == "1\n"


def test_promise_of_a_host_before_its_restart_counts_no_more(shared_folder: SharedFolder) -> None:
    (maker, locks_and_bases) = shared_folder.host("one"), folders(shared_folder)
    if machine_id() is None:
        pytest.skip("this machine has no machine id, so that none can be seen in its place")
    locks, bases = locks_and_bases
    with maker.running(_PROMISE, locks, maker.name, bases / "a"):
        pass
    restarted = dataclasses.replace(maker, boot="00000000-0000-4000-8000-000000000000")
    assert restarted.evaluate(_PROMISES_LEFT, locks, restarted.name, bases / "b") == "0\n"


# Notes of an older version


def noted(maker: ProcessIdentity) -> ProcessIdentity:
    """A process as an older version noted it: without the machine and the namespace."""
    fields = {name: value for name, value in maker.note().items() if name in ("host", "boot", "pid", "started")}
    return ProcessIdentity.noted(fields)


def test_process_of_an_older_note_is_alive_only_where_it_is_seen_and_never_gone() -> None:
    me = ProcessIdentity.me("here")
    assert noted(me).state("here") == "alive"
    assert noted(dataclasses.replace(me, started="1")).state("here") == "elsewhere"
    assert noted(dataclasses.replace(me, boot="another")).state("here") == "elsewhere"


def test_process_of_this_boot_and_namespace_is_gone_once_its_number_is_another_s() -> None:
    me = ProcessIdentity.me("here")
    assert me.state("here") == "alive"
    assert dataclasses.replace(me, started="1").state("here") == "gone"
    assert dataclasses.replace(me, pid=os.getpid(), pid_namespace=1).state("here") == "elsewhere"


def test_two_threads_that_promise_claim_each_their_own_note(tmp_path: Path) -> None:
    """A claim is the open file's, so that the end of one promise lets no other go."""
    space = Space(tmp_path, Locks(tmp_path), "here")
    with space.reserved(tmp_path / "a", 1):
        with space.reserved(tmp_path / "b", 1):
            pass
        promise = promises.read(promises.note_of(tmp_path, tmp_path / "a"), "here")
        assert promise is not None
        assert promise.state == "alive"
    assert promises.read(promises.note_of(tmp_path, tmp_path / "a"), "here") is None


def test_promise_that_grows_stays_claimed(tmp_path: Path) -> None:
    space = Space(tmp_path, Locks(tmp_path), "here")
    with space.growing(tmp_path / "a") as grow:
        for size in (Mi, 3 * Mi):
            (tmp_path / "a").write_bytes(b"x" * size)
            grow()
            promise = promises.read(promises.note_of(tmp_path, tmp_path / "a"), "here")
            assert promise is not None
            assert promise.state == "alive"
            assert promise.size > size


def test_refused_promise_leaves_no_note(tmp_path: Path) -> None:
    space = Space(tmp_path, Locks(tmp_path), "here")
    with contextlib.suppress(errors.StorageFull), space.reserved(tmp_path / "a", 1 << 60):
        pytest.fail("it was promised")
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith((".reserved", ".tmp"))] == []
