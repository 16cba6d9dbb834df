"""What every call goes through: help, version, wrong usage, and what is not imported for it."""

import importlib
import os
import pty
import shlex
import subprocess
import sys

import pytest

from cli.harness import SECONDS, Cli, assert_one_line
from imgbackend.cli.app import App
from imgbackend.cli.base import Command
from imgbackend.cli.commands import GROUP, TABLE
from imgbackend.cli.signals import Signals

HEAVY = ("oslo_config", "rich", "glanceclient", "keystoneauth1", "libvirt", "rbd", "blake3", "requests", "cmd2", "yaml")
OURS = sorted(name for name, (target, _) in TABLE.items() if target)


def test_without_arguments_it_prints_help_not_a_shell(cli: Cli) -> None:
    done = cli()
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("usage: imgbackend ")
    assert all(f"  {name}" in done.out for name in TABLE)


def test_version_is_that_of_the_package(cli: Cli) -> None:
    from pathlib import Path

    import imgbackend

    version = Path(imgbackend.__file__).with_name("VERSION").read_text().strip()
    assert cli("--version").out == f"imgbackend {version}\n"


@pytest.mark.parametrize("words", [["--help"], ["--version"], [], ["disk", "--help"], ["help", "cache"]])
def test_help_and_version_import_nothing_heavy(cli: Cli, words: list[str]) -> None:
    script = (
        "import sys\n"
        "from imgbackend.cli.main import main\n"
        "try:\n"
        f"    main({words!r})\n"
        "except SystemExit:\n"
        "    pass\n"
        f"found = set({HEAVY!r}) & set(sys.modules)\n"
        "found |= {name for name in sys.modules if name.startswith('imgbackend.cli.') and name.split('.')[-1] in\n"
        "          ('backend', 'image', 'disk', 'snapshot', 'cache', 'doctor', 'progress')}\n"
        "print(*sorted(found), file=sys.stderr, end='')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=cli.environment(), capture_output=True, text=True, timeout=SECONDS
    )
    assert (done.returncode, done.stderr) == (0, "")


WITHOUT_COLUMNS = frozenset({"instance console", "cache run"})
"""Commands that print what somebody else said, or nothing."""


@pytest.mark.parametrize("name", OURS)
def test_the_table_says_what_the_class_says(name: str) -> None:
    target, line = TABLE[name]
    module, _, cls = target.partition(":")
    found = getattr(importlib.import_module(f"{GROUP}.{module}"), cls)
    assert issubclass(found, Command)
    assert (found.__doc__ or "").strip().splitlines()[0].rstrip(".") == line


@pytest.mark.parametrize("name", OURS)
def test_every_command_has_help_and_no_option_of_its_own_hides_a_global_one(name: str) -> None:
    app = App(Signals())
    factory, _, _ = app.command_manager.find_command(name.split())
    parser = factory(app, None).get_parser(f"imgbackend {name}")
    own = {option for action in parser._actions for option in action.option_strings}
    shared = {option for action in app.parser._actions for option in action.option_strings}
    assert own & shared == {"-h", "--help"}
    assert "-f" in own or name in WITHOUT_COLUMNS
    described = [action for action in parser._actions if action.help]
    assert len(described) == len(parser._actions)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["bogus"], "'bogus' is no command"),
        (["disk", "lst"], "disk list"),
        (["bckend", "list"], "backend list"),
        (["disk"], "disk create"),
        (["--bogus"], "no such option: --bogus"),
        (["-f", "json", "disk", "list"], "no such option: -f"),
        (["disk", "list", "-f", "json", "-c", "bogus"], "no such column: bogus"),
        (["disk", "create", "web1", "--image", "x", "-c", "bogus"], "no such column: bogus"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(cli: Cli, words: list[str], told: str) -> None:
    assert_one_line(cli(*words), 2, told)
    assert not cli.instances.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["disk", "create"],
        ["disk", "create", "web1"],
        ["disk", "create", "web1", "--image", "x", "--size", "0"],
        ["disk", "create", "web1", "--image", "x", "--size=-1G"],
        ["disk", "create", "web1", "--image", "x", "--size", "lots"],
        ["disk", "resize", "web1", "0"],
        ["disk", "resize", "web1", "junk"],
        ["disk", "export", "web1", "there"],
        ["disk", "list", "-f", "bogus"],
        ["disk", "list", "--bogus"],
        ["--set", "images_type", "disk", "list"],
        ["cache", "show"],
    ],
)
def test_wrong_arguments_are_status_2_with_the_usage(cli: Cli, words: list[str]) -> None:
    done = cli(*words)
    assert done.status == 2
    assert done.err.startswith("usage: imgbackend")
    assert "Traceback" not in done.err
    assert not cli.instances.exists()


@pytest.mark.parametrize("words", [["disk", "create", "--help"], ["help", "disk", "create"], ["disk", "cre", "-h"]])
def test_help_of_one_command(cli: Cli, words: list[str]) -> None:
    done = cli(*words)
    assert done.status == 0
    assert done.out.startswith("usage: imgbackend disk cre")
    assert "--explain" in done.out


def test_completion_is_a_script_that_bash_reads(cli: Cli) -> None:
    done = cli("complete")
    assert done.status == 0
    checked = subprocess.run(["bash", "-n"], input=done.out, text=True, capture_output=True, timeout=SECONDS)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "cmds_disk='create delete export flatten list resize show snapshot'" in done.out
    assert "--images-type" in done.out
    assert done.out.rstrip().endswith("complete -F _imgbackend imgbackend")


def test_a_stdout_that_was_closed_is_no_fault(cli: Cli) -> None:
    words = " ".join(shlex.quote(word) for word in cli.argv("disk", "list"))
    done = cli.run(["sh", "-c", f"{words} >&-"])
    assert (done.status, done.err) == (0, "")


def test_rich_is_not_imported_for_quick_work_on_a_terminal(cli: Cli) -> None:
    script = (
        "import sys\n"
        "from imgbackend.cli.progress import reporter\n"
        "from imgbackend.cli.signals import Signals\n"
        "assert sys.stderr.isatty()\n"
        "with reporter(Signals(), quiet=False) as report:\n"
        "    report('copy', 1, 2)\n"
        "print('rich' in sys.modules)\n"
    )
    master, slave = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", script], env=cli.environment(), stdout=subprocess.PIPE, stderr=slave, timeout=SECONDS
        )
    finally:
        os.close(slave)
        os.close(master)
    assert (done.returncode, done.stdout) == (0, b"False\n")
