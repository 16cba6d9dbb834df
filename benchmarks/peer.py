"""The peer's virtual environment, and its process, which does one call when it is told to."""

import contextlib
import itertools
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.measuring import Call, Taken
from benchmarks.results import Skipped
from benchmarks.workshop import flush

_PROGRAM: Final = Path(__file__).with_name("nova_peer.py")
_LAB: Final = Path(__file__).parents[1] / "tests" / "labs" / "nova.sh"
_NUMBERS: Final = itertools.count()


class Peer:
    """The real Nova, waiting for requests."""

    def __init__(self, python: Path, process: "subprocess.Popen[str]", instances: Path) -> None:
        self.python = python
        """Of its virtual environment."""
        self._process, self._instances = process, instances
        self.version = str(self._answer()["nova"])
        self.programs = 0
        """Programs executed by the last call: a process may run several, one after the other."""

    def disk(self, kind: str, source: Path | str, name: str, size: int, *, first: bool = False) -> Call:
        """A call that makes a disk of a new instance, and removes it.

        ``source`` is a raw file, or, for the kind ``clone``, a location; ``first``: with its
        base removed before.
        """
        request = {"kind": kind, "source": str(source), "name": name, "size": size, "first": first}

        def call() -> Taken:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer = self._answer()
            flush(self._instances)
            self.programs = int(answer["programs"])
            return Taken(seconds=answer["seconds"], cpu=answer["cpu"], processes=answer["processes"])

        return call

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Skipped("the peer has ended; its last words are above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def prepared() -> Path:
    """The Python of a virtual environment that has Nova, made once.

    :raises Skipped: if it cannot be installed.
    """
    try:
        done = subprocess.run([_LAB, "install"], check=True, stdout=subprocess.PIPE, text=True, timeout=1800)
    except (OSError, subprocess.SubprocessError) as exc:
        raise Skipped(f"Nova cannot be installed: {exc}") from exc
    return Path(done.stdout.strip()) / "bin" / "python"


@contextlib.contextmanager
def running(
    python: Path, folder: Path, settings: Mapping[str, str] | None = None, *, quickly: bool = False
) -> Iterator[Peer]:
    """The peer, with an ``instances_path`` of its own in ``folder``.

    ``settings`` are those of its group libvirt; ``quickly``: it starts processes without a fork.
    """
    instances = folder / f"instances-of-the-peer-{next(_NUMBERS)}"
    instances.mkdir()
    with subprocess.Popen(
        [
            *(str(python), "-W", "ignore", str(_PROGRAM), str(instances), json.dumps(dict(settings or {}))),
            *([str(_LAB.parents[1])] if quickly else []),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": ""},
    ) as process:
        try:
            yield Peer(python, process, instances)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
