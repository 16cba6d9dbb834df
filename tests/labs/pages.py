"""What pages of the documentation tell their readers to type, run as they type it."""

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_SOURCE: Final = Path(__file__).parents[2] / "doc" / "source"
_COMMAND: Final = Path(sys.executable).with_name("imgbackend")
_SECONDS: Final = 300


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page, such as ``admin/lvm``, in one language."""
    text = (_SOURCE / page).with_suffix(".rst").read_text()
    found = re.findall(rf"^\.\. code-block:: {language}\n\n((?:(?: {{3,}}.*)?\n)+)", text, re.MULTILINE)
    assert found, f"{page} has no block of {language}"
    return [textwrap.dedent(block) for block in found]


class Reader:
    """Who follows a page, on a host whose sizes, devices and places are others."""

    def __init__(self, folder: Path, configuration: str, instead: Mapping[str, str], env: Mapping[str, str]) -> None:
        """``instead``: what they type where the page has something else; ``folder`` is where they are."""
        self._folder, self._instead = folder, instead
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        self.configure(configuration)
        script = bin_folder / "imgbackend"
        script.write_text(f'#!/bin/sh\nexec {_COMMAND} --quiet --config-file {folder}/imgbackend.conf "$@"\n')
        script.chmod(0o755)
        self._env = {**os.environ, **env, "PATH": f"{bin_folder}:{os.environ['PATH']}:/usr/sbin:/sbin"}

    def configure(self, configuration: str) -> None:
        """Write imgbackend's configuration."""
        (self._folder / "imgbackend.conf").write_text(self._told(configuration))

    def _told(self, text: str) -> str:
        for here, there in self._instead.items():
            text = text.replace(here, there)
        return text

    def types(self, block: str) -> str:
        """Run the lines of a block that are commands; what they print.  Each has to succeed."""
        lines = [line.removeprefix("# ") for line in self._told(block).splitlines() if line.startswith("# ")]
        assert lines, f"there is no command in {block!r}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join(lines)],
            cwd=self._folder,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{lines}: {done.stderr}"
        return done.stdout
