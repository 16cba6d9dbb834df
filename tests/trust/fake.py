"""A qemu-img that stands before the real one in PATH: it writes down how it was started, or misbehaves."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_RECORDER = """#!/bin/sh
exec 9>>"{log}"
{{
    printf 'argv'; printf '\\t%s' "$@"; echo
    sed -n 's/^\\(Uid\\|Gid\\|Groups\\|NoNewPrivs\\|CapEff\\):/\\1/p' /proc/self/status
    sed -n 's/  \\+/\\t/gp' /proc/self/limits
    echo end
}} | flock "{log}" cat >&9
exec 9>&-
exec "{real}" "$@"
"""


@dataclass(frozen=True, slots=True)
class Call:
    """One qemu-img, as it was started."""

    argv: list[str]
    facts: dict[str, list[str]]
    """``Uid`` ... of /proc/self/status, and the names of /proc/self/limits."""

    @property
    def specs(self) -> list[dict[str, Any]]:
        """The block devices that it was given."""
        return [json.loads(word.removeprefix("json:")) for word in self.argv if word.startswith("json:")]


class FakeQemuImg:
    """A folder that everybody may enter, with a ``qemu-img`` in it; to be first in PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = folder / "log"
        real = shutil.which("qemu-img")
        assert real is not None
        self.real = real

    def records(self) -> None:
        """Have each call written down; then it is the real one's."""
        self._log.touch()
        self._log.chmod(0o666)
        self.does(_RECORDER.format(log=self._log, real=self.real))

    def does(self, script: str) -> None:
        """Have it do something else."""
        path = self.folder / "qemu-img"
        path.write_text(script)
        path.chmod(0o755)

    @property
    def calls(self) -> list[Call]:
        made: list[Call] = []
        for line in self._log.read_text().splitlines():
            name, *words = line.split("\t")
            if name == "argv":
                made.append(Call(words, {}))
            elif name != "end":
                made[-1].facts[name] = words
        return made


@contextlib.contextmanager
def fake_qemu_img() -> Iterator[FakeQemuImg]:
    """First in PATH while this lasts; outside pytest's own folder, which others may not enter."""
    before = os.environ["PATH"]
    with tempfile.TemporaryDirectory(prefix="imgbackend-fake-") as folder:
        Path(folder).chmod(0o755)
        made = FakeQemuImg(Path(folder))
        os.environ["PATH"] = f"{folder}:{before}"
        try:
            yield made
        finally:
            os.environ["PATH"] = before
