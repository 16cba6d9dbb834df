"""The real command, as a process of its own, on folders of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS = 180
"""No command of these tests takes longer, on any machine."""


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)


@dataclass(slots=True)
class Cli:
    """Runs ``imgbackend`` with its home, instances and images in one temporary folder."""

    root: Path
    cache: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def instances(self) -> Path:
        return self.root / "instances"

    @property
    def images(self) -> Path:
        return self.root / "images"

    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR", "PYTHONPATH") if name in os.environ}
        ours = {
            "HOME": str(self.root),
            "XDG_STATE_HOME": str(self.root / "state"),
            "XDG_CACHE_HOME": str(self.cache),
            "OS_DEFAULT__INSTANCES_PATH": str(self.instances),
            "OS_SOURCES__FOLDER_PATH": str(self.images),
        }
        return kept | ours | self.env

    def argv(self, *words: str | Path) -> list[str]:
        return [sys.executable, "-m", "imgbackend.cli", *(str(word) for word in words)]

    def __call__(self, *words: str | Path) -> Done:
        return self.run(self.argv(*words))

    def run(self, argv: list[str]) -> Done:
        done = subprocess.run(
            argv, env=self.environment(), capture_output=True, text=True, timeout=SECONDS, cwd=self.root
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *words: str | Path) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.argv(*words),
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.root,
        )

    def files(self) -> set[str]:
        """Every file of the instances' folder but locks, records and finished bases."""
        found = {str(path.relative_to(self.instances)) for path in self.instances.rglob("*") if path.is_file()}
        return {name for name in found if not name.startswith("locks/")}


def qemu_img(*words: str | Path) -> str:
    """What a real qemu-img prints."""
    argv = ["qemu-img", *(str(word) for word in words)]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=SECONDS).stdout


def assert_one_line(done: Done, status: int, *words: str) -> None:
    """An error is one line on stderr that names ``words``, and no traceback."""
    assert done.status == status, done
    assert done.err.count("\n") == 1, done.err
    assert done.err.startswith("imgbackend: "), done.err
    assert "Traceback" not in done.err
    for word in words:
        assert word in done.err
    assert done.out == ""
