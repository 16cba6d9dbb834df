"""The shipped rules for sudo and rootwrap allow what the driver runs on its group, and nothing else."""

import functools
import importlib.resources
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from oslo_rootwrap import filters as rootwrap
from oslo_rootwrap import wrapper

from imgbackend import errors
from imgbackend.types import Mi
from imgbackend_lvm import wipe
from imgbackend_lvm.lvm2 import MOST_TAGS, Lvm2
from imgbackend_lvm.lvm2_errors import TOOLS
from imgbackend_lvm.lvm2_run import Lvm2Commands
from labs.lvm import Group

_USER: Final = "imgbackend"
_ODD: Final = "a#b!c&d:e=f/g+h.i_j-k"
"""A tag of all that lvm2 allows in one."""


def _shipped(kind: str, group: str) -> str:
    text = (importlib.resources.files("imgbackend_lvm") / "etc" / f"imgbackend-lvm.{kind}").read_text()
    return text.replace("@GROUP@", re.sub(r"([.+])", r"\\\1", group)).replace("@USER@", _USER)


_COUNTS: Final = range(MOST_TAGS + 1)


def _everything(
    lvm: Lvm2, group: str, pool: str, counts: Sequence[int] = _COUNTS
) -> "Iterator[functools.partial[Any]]":
    """Every method, with every option, and with as many tags as ``counts`` says; in an order that works."""
    call = functools.partial
    tags = [_ODD, *(f"tag{number}" for number in range(1, MOST_TAGS))]
    yield call(lvm.vgs, group)
    yield call(lvm.lvs, group)
    yield call(lvm.lvcreate, group, "thick", 4 * Mi, wipe=False)
    yield call(lvm.lvs, group, "thick")
    for count in counts:
        yield call(lvm.lvcreate, group, f"t{count}", 4 * Mi, tags=tags[:count])
        yield call(lvm.lvcreate_thin, group, pool, f".v{count}", 4 * Mi, tags=tags[:count])
        yield call(
            lvm.lvcreate_snapshot, group, ".v0", f"s{count}", tags=tags[:count], permission="r" if count else "rw"
        )
        yield call(lvm.lvchange, group, "s0", addtag=tags[:count])
    yield call(lvm.lvchange, group, "s0", deltag=tags, addtag=["more"], permission="r", activate=False)
    yield call(lvm.lvchange, group, "s0", permission="rw", activate=True, ignoreactivationskip=True)
    yield call(lvm.lvextend, group, "s0", 8 * Mi)
    yield call(lvm.lvcreate_snapshot, group, ".v0", "off", activate=False)
    yield call(lvm.lvchange, group, "off", setactivationskip=False)
    yield call(lvm.lvremove, group, "off")
    yield call(lvm.pe_ranges, group, "thick")
    yield call(_extended_there, lvm, group)
    yield call(lvm.lvrename, group, "s0", "i-1_disk.eph0")
    yield call(wipe.zero, lvm.commands, group, "thick", 0, 4 * Mi, _whole)
    yield call(wipe.shred, lvm.commands, group, "thick", 512, 1024, _whole)
    yield call(
        lvm.lvremove, group, "thick", "i-1_disk.eph0", *(f"t{n}" for n in counts), *(f"s{n}" for n in counts if n)
    )
    for start, stop in ((0, 1), (1, 3), (3, 6), (6, 10)):  # one to four names
        yield call(lvm.lvremove, group, *[f".v{count}" for count in counts][start:stop])


def _extended_there(lvm: Lvm2, group: str) -> None:
    lvm.lvcreate(group, "tail", 4 * Mi)
    extents = lvm.pe_ranges(group, "tail")
    lvm.lvremove(group, "tail")
    lvm.lvextend(group, "thick", 8 * Mi, extents=extents[0])


def _whole(done: int, total: int) -> None:
    assert done <= total


class _Recorded(Lvm2Commands):
    """Keeps what would be run, and says that there is nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[list[str]] = []

    def run(self, tool: str, *args: str, fine: re.Pattern[str] | None = None) -> str:
        self.lines.append(self.line(tool, *args))
        group = dict.fromkeys(("vg_size", "vg_free", "vg_extent_size"), "1")
        group |= {"vg_name": "vms", "vg_uuid": "g", "vg_tags": ""}
        volume = {"seg_pe_ranges": "/dev/disk/by-id/x_1+2.3:70-70"}
        return json.dumps({"report": [{"vg": [group], "lv": [volume] if "seg_pe_ranges" in args else []}]})


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """All that is run on a group ``vms``, once for each form of it."""
    monkeypatch.setattr(wipe, "device", lambda group, name: Path("/dev", group, name))
    lvm, recorded = Lvm2(), _Recorded()
    lvm.commands = recorded
    for call in _everything(lvm, "vms", "pool"):
        call()
    return recorded.lines


def _sudo_patterns(group: str) -> list[re.Pattern[str]]:
    rules = re.findall(r"^    (/\S+) \^(.*)\$(?:, \\)?$", _shipped("sudoers", group), re.MULTILINE)
    return [re.compile(rf"{re.escape(command)} {arguments}".replace(r"\#", "#")) for command, arguments in rules]


def _rootwrap_filters(folder: Path, group: str) -> list[rootwrap.CommandFilter]:
    (folder / "imgbackend-lvm.filters").write_text(_shipped("filters", group))
    return [found for found in wrapper.load_filters([str(folder)]) if found.name != "privsep-helper"]


def _as_sudo_sees_it(line: list[str]) -> str:
    return " ".join([f"/usr/bin/{line[0]}", *line[1:]])


def test_every_method_and_every_tool_is_tried(lines: list[list[str]]) -> None:
    methods = {name for name, _ in inspect.getmembers(Lvm2, inspect.isfunction) if not name.startswith("_")}
    tried = {call.func.__name__ for call in _everything(Lvm2(), "vms", "pool")}
    assert tried == methods | {"zero", "shred", "_extended_there"}
    assert {Path(line[3]).name for line in lines} == set(TOOLS)


def test_sudo_allows_each_line_and_each_rule_is_needed(lines: list[list[str]]) -> None:
    patterns = _sudo_patterns("vms")
    matched = {pattern for line in lines for pattern in patterns if pattern.fullmatch(_as_sudo_sees_it(line))}
    unmatched = [line for line in lines if not any(p.fullmatch(_as_sudo_sees_it(line)) for p in patterns)]
    assert unmatched == []
    assert matched == set(patterns)


def test_rootwrap_allows_each_line_and_each_filter_is_needed(lines: list[list[str]], tmp_path: Path) -> None:
    found = _rootwrap_filters(tmp_path, "vms")
    unmatched = [line for line in lines if not any(one.match(line) for one in found)]
    assert unmatched == []
    assert [one.name for one in found if not any(one.match(line) for line in lines)] == []


def _bent(line: list[str]) -> Iterator[list[str]]:
    """What is close to an allowed line, and must not be allowed."""
    command = line[3]
    yield [*line[:3], "/tmp/" + Path(command).name, *line[4:]]
    yield [*line, "/dev/sda"]
    yield [*line[:4], "--config", "global/x=1", *line[4:]]
    yield [arg.replace("vms", "vmsx") for arg in line]
    yield [arg.replace("vms", "other") for arg in line]
    yield [arg.replace("vms/", "vms/../other/") for arg in line] if any("vms/" in arg for arg in line) else [*line, "x"]
    yield line[3:]


def test_neither_allows_what_is_close_to_it(lines: list[list[str]], tmp_path: Path) -> None:
    patterns, found = _sudo_patterns("vms"), _rootwrap_filters(tmp_path, "vms")
    bent = [line for allowed in lines for line in _bent(allowed)]
    assert [line for line in bent if any(p.fullmatch(_as_sudo_sees_it(line)) for p in patterns)] == []
    assert [line for line in bent if any(one.match(line) for one in found)] == []


def test_dot_in_the_groups_name_is_a_dot(lines: list[list[str]], tmp_path: Path) -> None:
    patterns, found = _sudo_patterns("v.s"), _rootwrap_filters(tmp_path, "v.s")
    renamed = [[arg.replace("vms", "v.s") for arg in line] for line in lines]
    assert all(any(p.fullmatch(_as_sudo_sees_it(line)) for p in patterns) for line in renamed)
    assert [line for line in lines if any(p.fullmatch(_as_sudo_sees_it(line)) for p in patterns)] == []
    assert [line for line in lines if any(one.match(line) for one in found)] == []


def test_sudoers_file_parses(tmp_path: Path) -> None:
    visudo = shutil.which("visudo") or "/usr/sbin/visudo"
    if not os.path.exists(visudo):
        pytest.skip("sudo is not installed")
    path = tmp_path / "imgbackend-lvm"
    path.write_text(_shipped("sudoers", "vms"))
    done = subprocess.run([visudo, "-cf", path], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


class _Unprivileged:
    """Work done in child processes as a user of the lab's own, who is no root."""

    def __init__(self) -> None:
        assert os.environ["LVM_LAB"], "no user is added to a real machine"
        subprocess.run(["useradd", "--system", _USER], check=True, timeout=60, capture_output=True)
        told = subprocess.run(["id", "-u", _USER], check=True, timeout=60, capture_output=True, text=True)
        self.uid = int(told.stdout)

    def do(self, work: Callable[[], Any]) -> str:
        """Run ``work`` as the user; what it raised, in words, or an empty text."""
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.setgroups([])
                os.setgid(self.uid)
                os.setuid(self.uid)
                work()
            except BaseException as exc:  # the parent is told
                os.write(write, f"{type(exc).__name__}: {exc}".encode())
            finally:
                os._exit(0)
        os.close(write)
        with open(read) as pipe:
            said = pipe.read()
        os.waitpid(pid, 0)
        return said


@pytest.fixture
def user(lvm_group: Group) -> Iterator[_Unprivileged]:
    """A user of its own, gone after the test; the lab's /etc is thrown away with it."""
    assert lvm_group.pool, "the tests of this file want a pool"
    user = _Unprivileged()
    yield user
    subprocess.run(["userdel", _USER], check=True, timeout=60, capture_output=True)


@pytest.fixture
def sudoers(lvm_group: Group) -> Iterator[Callable[[str], None]]:
    """Writes a file of sudo's, for the test, in the lab."""
    path = Path("/etc/sudoers.d/imgbackend-lvm")

    def write(text: str) -> None:
        path.write_text(text)
        path.chmod(0o440)

    yield write
    path.unlink(missing_ok=True)


def _try_everything(user: _Unprivileged, lvm: Lvm2, group: Group, counts: Sequence[int]) -> list[str]:
    said = [(call, user.do(call)) for call in _everything(lvm, group.name, str(group.pool), counts)]
    return [f"{call.func.__name__}: {words}" for call, words in said if words]


def test_user_does_everything_through_sudo(
    lvm_group: Group, user: _Unprivileged, sudoers: Callable[[str], None]
) -> None:
    sudoers(_shipped("sudoers", lvm_group.name))
    assert _try_everything(user, Lvm2(), lvm_group, (0, MOST_TAGS)) == []
    assert lvm_group.volumes() == set()
    assert "install the rules for sudo" in user.do(lambda: Lvm2().vgs("other"))
    assert "install the rules for sudo" in user.do(lambda: Lvm2Commands().run("dd", "if=/dev/null", "of=/dev/null"))


def test_user_without_rules_is_told_to_install_them(lvm_group: Group, user: _Unprivileged) -> None:
    said = user.do(lambda: Lvm2().vgs(lvm_group.name))
    assert said.startswith(errors.ConfigError.__name__)
    assert "install the rules for sudo" in said


def test_user_does_everything_through_rootwrap(
    lvm_group: Group, user: _Unprivileged, sudoers: Callable[[str], None], tmp_path: Path
) -> None:
    (tmp_path / "rootwrap.d").mkdir()
    (tmp_path / "rootwrap.d/imgbackend-lvm.filters").write_text(_shipped("filters", lvm_group.name))
    conf = tmp_path / "rootwrap.conf"
    conf.write_text(f"[DEFAULT]\nfilters_path={tmp_path}/rootwrap.d\nexec_dirs=/usr/sbin,/usr/bin\n")
    command = Path(sys.executable).parent / "oslo-rootwrap"
    sudoers(f"{_USER} ALL = (root) NOPASSWD: {command} {conf} *\n")
    helper = f"sudo -n {command} {conf}"
    assert _try_everything(user, Lvm2(root_helper=helper), lvm_group, (0,)) == []
    assert lvm_group.volumes() == set()
    assert "rootwrap does not run vgs" in user.do(lambda: Lvm2(root_helper=helper).vgs("other"))


def test_helper_that_gives_no_privilege_is_named(lvm_group: Group, user: _Unprivileged) -> None:
    said = user.do(lambda: Lvm2(root_helper="env").vgs(lvm_group.name))
    assert said.startswith(errors.ConfigError.__name__)
    assert "root_helper" in said
